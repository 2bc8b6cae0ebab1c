//! Checks the keys of requests.

use std::sync::{Arc, Weak};
use std::time::UNIX_EPOCH;

use http::header::{HeaderName, HeaderValue};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq as _;
use tidegate_core::client_ip::ClientIp;
use tidegate_core::consumer::{ApiKey as StoredKey, KeyHash, KeyState};
use tidegate_core::consumers::ConsumerBroken;
use tidegate_core::consumers::{Consumers, ConsumersHandle};
use tidegate_core::{
    AuthMethod, BoxFuture, Clock, Identity, Middleware, Next, Prediction, Request, Response, boxed,
};

use super::foreign::{ForeignKeys, MAX_WORK};
use super::key::{ApiKey, KeyFormatError, SecretHash, sha256};
use super::refusal::Refusal;
use crate::auth::password::Hash;
use crate::auth::slow;
use crate::auth::source::{Found, Source};

/// Tells clients that their key has been replaced.
pub(super) const DEPRECATION: HeaderName = HeaderName::from_static("x-api-key-deprecation");
/// When a replaced key expires.
pub(super) const SUNSET: HeaderName = HeaderName::from_static("x-api-key-sunset");
/// Label of the identity with the key's label.
const LABEL: &str = "apiKey";
/// Maximum number of results of slow checks that are kept, for valid and for unknown keys each.
const MAX_CACHED: usize = 4096;
/// Maximum time of slow checks for a prediction, in microseconds.
const MAX_PREDICTED_WORK: u64 = 1_000_000;

/// Lets requests with valid keys pass.
pub(super) struct Authenticator {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) source: Source,
    pub(super) challenge: HeaderValue,
    /// Keys of the options.
    pub(super) foreign: ForeignKeys,
    /// Whose keys are accepted, too.
    pub(super) consumers: Option<ConsumersHandle>,
    /// How to determine the client's address.
    pub(super) client_ip: ClientIp,
    pub(super) scopes: Vec<String>,
    pub(super) checked: Checked,
}

/// Results of slow checks, by the SHA-256 of the key.
pub(super) struct Checked {
    valid: Cache<SecretHash, Holder>,
    /// With the directory in which they were not found.
    unknown: Cache<SecretHash, Weak<Consumers>>,
}

impl Default for Checked {
    fn default() -> Self {
        Self { valid: Cache::new(MAX_CACHED), unknown: Cache::new(MAX_CACHED) }
    }
}

/// Whose key it is.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    /// One of a consumer's.
    Consumer(Arc<StoredKey>),
    /// One of the options'.
    Options(Arc<Identity>),
    /// One of several consumers', or of one with a mistake.
    Broken(Arc<StoredKey>),
}

/// What is known about a key.
#[derive(Debug)]
pub(super) enum LookUp {
    Known(Holder),
    Unknown(Refusal),
    /// Slow hashes have to be tried.
    Slow(SecretHash),
}

/// The operations whose number must not depend on whether a key exists.
pub(super) trait Operations {
    fn sha256(&mut self, text: &[u8]) -> SecretHash;
    fn is_equal(&mut self, one: &SecretHash, other: &SecretHash) -> bool;
}

/// Performs them.
struct Performing;

impl Operations for Performing {
    fn sha256(&mut self, text: &[u8]) -> SecretHash {
        sha256(text)
    }

    fn is_equal(&mut self, one: &SecretHash, other: &SecretHash) -> bool {
        one.ct_eq(other).into()
    }
}

impl Middleware for Authenticator {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let looked_up = match self.source.take_note(&request) {
            Found::One(text) => match self.look_up(&text, &mut Performing) {
                LookUp::Slow(hash) => Err((text.into_owned(), hash)),
                LookUp::Known(holder) => Ok(Ok(holder)),
                LookUp::Unknown(refusal) => Ok(Err(refusal)),
            },
            Found::None => Ok(Err(Refusal::Missing)),
            Found::Unusable => Ok(Err(Refusal::Malformed)),
        };
        match looked_up {
            Ok(result) => self.finish(request, result, next),
            Err((text, hash)) => boxed(move || async move {
                match self.check_slowly(&text, hash).await {
                    Some(result) => self.finish(request, result, next).await,
                    None => slow::too_busy(),
                }
            }),
        }
    }

    fn predict(&self, mut request: Request) -> Prediction {
        let result = match self.source.find(&request) {
            Found::One(text) => match self.look_up(&text, &mut Performing) {
                LookUp::Known(holder) => Ok(holder),
                LookUp::Unknown(refusal) => Err(refusal),
                LookUp::Slow(_) => {
                    let trial = self.trial(&text);
                    if trial.work() > MAX_PREDICTED_WORK {
                        return Prediction::depends(request, "the API key takes too long to check");
                    }
                    trial.run().ok_or(Refusal::Unknown)
                }
            },
            Found::None => Err(Refusal::Missing),
            Found::Unusable => Err(Refusal::Malformed),
        };
        match result.and_then(|holder| self.permit(&mut request, &holder, self.now()).map(|()| holder)) {
            Ok(holder) => {
                let mut prediction = Prediction::passes(request).note(holder.description());
                if let Holder::Consumer(key) = &holder
                    && key.state == KeyState::Grace
                {
                    prediction = prediction.note("the API key has been replaced");
                    prediction.response_headers.push(DEPRECATION);
                }
                prediction
            }
            Err(refusal) => {
                Prediction::responds(refusal.response(&self.challenge)).note(refusal.description())
            }
        }
    }
}

impl Authenticator {
    fn finish<'a>(
        &'a self,
        mut request: Request,
        result: Result<Holder, Refusal>,
        next: &'a Next,
    ) -> BoxFuture<'a, Response> {
        let holder = match result {
            Ok(holder) => holder,
            Err(refusal) => return crate::ready(refusal.response(&self.challenge)),
        };
        let now = self.now();
        if let Err(refusal) = self.permit(&mut request, &holder, now) {
            return crate::ready(refusal.response(&self.challenge));
        }
        let Holder::Consumer(key) = holder else { return next.run(request) };
        key.last_used.record(now);
        if key.state != KeyState::Grace {
            return next.run(request);
        }
        boxed(move || async move {
            let mut response = next.run(request).await;
            response.headers_mut().insert(DEPRECATION, HeaderValue::from_static("true"));
            if let Some(sunset) = key.expires.and_then(http_date) {
                response.headers_mut().insert(SUNSET, sunset);
            }
            response
        })
    }

    /// Checks whether the holder of a key may use it here and now, removes the key, and records who the client is.
    fn permit(&self, request: &mut Request, holder: &Holder, now: i64) -> Result<(), Refusal> {
        let identity = match holder {
            Holder::Options(identity) => {
                request.context.exchange.claim(&identity.subject);
                identity.clone()
            }
            Holder::Broken(_) => return Err(Refusal::Consumer),
            Holder::Consumer(key) => {
                request.context.exchange.claim(key.consumer.short_name());
                self.check_validity(request, key, now)?;
                Arc::new(self.identity(key))
            }
        };
        if !self.scopes.iter().all(|scope| identity.has_scope(scope)) {
            return Err(Refusal::Scope);
        }
        self.source.remove(request);
        request.context.identify(identity);
        Ok(())
    }

    fn check_validity(&self, request: &Request, key: &StoredKey, now: i64) -> Result<(), Refusal> {
        if key.state == KeyState::Revoked {
            return Err(Refusal::Revoked);
        }
        if key.expires.is_some_and(|expires| now >= expires) {
            return Err(Refusal::Expired);
        }
        if key.not_before.is_some_and(|start| now < start) {
            return Err(Refusal::NotYetValid);
        }
        if let Some(allowed) = &key.allowed
            && !self.client_ip.address(request).is_some_and(|address| allowed.contains(address))
        {
            return Err(Refusal::Address);
        }
        Ok(())
    }

    fn identity(&self, key: &StoredKey) -> Identity {
        let subject = if key.id.is_empty() { key.consumer.short_name() } else { &*key.id };
        let mut identity = Identity::new(subject, AuthMethod::ApiKey, self.name.clone());
        identity.scopes = key.scopes.iter().map(|scope| String::from(&**scope)).collect();
        if !key.label.is_empty() {
            identity.labels.insert(LABEL.to_owned(), String::from(&*key.label));
        }
        identity.of_consumer(Some(key.consumer.clone()))
    }

    /// Returns the time in seconds since 1970.
    fn now(&self) -> i64 {
        let since = self.clock.wall().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// Finds out whose key this is, by hashes that need no trying. Unknown keys and wrong secrets take the same work.
    pub(super) fn look_up(&self, text: &[u8], operations: &mut impl Operations) -> LookUp {
        let directory = self.consumers.as_ref().map(ConsumersHandle::load);
        let directory = directory.as_deref().map(|directory| &**directory);
        let parsed = std::str::from_utf8(text).map_err(|_| KeyFormatError::Form).and_then(ApiKey::parse);
        if let (Ok(key), Some(directory)) = (parsed, directory)
            && let Some(holder) = issued(&key, directory, operations)
        {
            return LookUp::Known(holder);
        }
        let hash = operations.sha256(text);
        match directory.map_or(Ok(None), |directory| directory.foreign_key(&hash)) {
            Ok(None) => {}
            Ok(Some(key)) => return LookUp::Known(Holder::Consumer(key.clone())),
            Err(ConsumerBroken) => return LookUp::Unknown(Refusal::Consumer),
        }
        let sent = if self.foreign.is_empty() { None } else { self.foreign.text(text) };
        if let Some(identity) = sent.as_deref().and_then(|text| self.foreign.find(text)) {
            return LookUp::Known(Holder::Options(identity.clone()));
        }
        let has_slow = directory.is_some_and(|directory| {
            directory.password_keys().next().is_some() || !directory.broken_password_keys().is_empty()
        });
        if has_slow || (sent.is_some() && !self.foreign.slow().is_empty()) {
            return self.recall(hash, directory);
        }
        let is_malformed = match parsed {
            Ok(_) => false,
            Err(KeyFormatError::Checksum) => true,
            Err(KeyFormatError::Form) => self.foreign.is_empty(),
        };
        LookUp::Unknown(if is_malformed { Refusal::Malformed } else { Refusal::Unknown })
    }

    /// Returns what is known from an earlier slow check.
    fn recall(&self, hash: SecretHash, directory: Option<&Consumers>) -> LookUp {
        if let Some(holder) = self.checked.valid.get(&hash) {
            let is_current = match &holder {
                Holder::Options(_) => true,
                Holder::Consumer(key) => directory.is_some_and(|directory| {
                    directory.password_keys().any(|current| Arc::ptr_eq(current, key))
                }),
                Holder::Broken(key) => directory.is_some_and(|directory| {
                    directory.broken_password_keys().iter().any(|current| Arc::ptr_eq(current, key))
                }),
            };
            if is_current {
                return LookUp::Known(holder);
            }
            self.checked.valid.remove(&hash);
        }
        let current = directory.map_or(std::ptr::null(), std::ptr::from_ref);
        match self.checked.unknown.get(&hash) {
            Some(at) if std::ptr::eq(at.as_ptr(), current) || directory.is_none() => {
                LookUp::Unknown(Refusal::Unknown)
            }
            _ => LookUp::Slow(hash),
        }
    }

    /// Tries the slow hashes on another thread. Returns `None` when too many checks are queued, or one takes too long.
    async fn check_slowly(&self, text: &[u8], hash: SecretHash) -> Option<Result<Holder, Refusal>> {
        let directory = self.consumers.as_ref().map(|consumers| Arc::downgrade(&*consumers.load()));
        // Concurrent requests with the same key share one check.
        match self.checked.valid.get_value_or_guard_async(&hash).await {
            Ok(holder) => Some(Ok(holder)),
            Err(place) => {
                let trial = self.trial(text);
                if trial.work() > MAX_WORK {
                    return None;
                }
                let found = slow::run(move || trial.run()).await?;
                match found {
                    Some(holder) => {
                        let _ = place.insert(holder.clone());
                        Some(Ok(holder))
                    }
                    None => {
                        self.checked.unknown.insert(hash, directory.unwrap_or_default());
                        Some(Err(Refusal::Unknown))
                    }
                }
            }
        }
    }

    /// Returns what has to be tried for a key.
    fn trial(&self, text: &[u8]) -> Trial {
        let directory = self.consumers.as_ref().map(ConsumersHandle::load);
        let sound = directory.iter().flat_map(|directory| directory.password_keys());
        let broken = directory.iter().flat_map(|directory| directory.broken_password_keys());
        let sound = sound.map(|key| (&key.hash, Holder::Consumer(key.clone())));
        let holders = sound.chain(broken.map(|key| (&key.hash, Holder::Broken(key.clone()))));
        let hash = |(hash, holder): (&KeyHash, Holder)| match hash {
            KeyHash::Password(hash) => Some((Hash::parse(hash), holder)),
            KeyHash::Sha256(_) => None,
        };
        Trial {
            sent: text.to_owned(),
            consumers: holders.filter_map(hash).collect(),
            text: self.foreign.text(text).map(std::borrow::Cow::into_owned),
            options: self.foreign.slow().clone(),
        }
    }
}

/// Finds a key by its identifier and compares its secret.
fn issued(key: &ApiKey<'_>, directory: &Consumers, operations: &mut impl Operations) -> Option<Holder> {
    /// Compared with the secrets of unknown keys. It has no known preimage.
    const NO_HASH: SecretHash = [0; 32];
    let hash = operations.sha256(key.secret().as_bytes());
    let stored = directory.key(key.id());
    let expected = match stored.map(|stored| &stored.hash) {
        Some(KeyHash::Sha256(expected)) => expected,
        Some(KeyHash::Password(_)) | None => &NO_HASH,
    };
    let is_equal = operations.is_equal(expected, &hash);
    if let Some(stored) = stored.filter(|_| is_equal) {
        return Some(Holder::Consumer(stored.clone()));
    }
    // Only those who have one of the keys learn that something is wrong with it.
    let has_hash = |key: &&Arc<StoredKey>| match &key.hash {
        KeyHash::Sha256(expected) => operations.is_equal(expected, &hash),
        KeyHash::Password(_) => false,
    };
    directory.broken_keys(key.id()).iter().find(has_hash).cloned().map(Holder::Broken)
}

/// A key and the slow hashes to try.
struct Trial {
    /// As the client sent it, for keys of consumers.
    sent: Vec<u8>,
    consumers: Vec<(Hash, Holder)>,
    /// For keys of the options.
    text: Option<Vec<u8>>,
    options: Arc<[(Hash, Arc<Identity>)]>,
}

impl Trial {
    /// Returns the time it takes, roughly in microseconds.
    fn work(&self) -> u64 {
        let all =
            self.consumers.iter().map(|(hash, _)| hash).chain(self.options.iter().map(|(hash, _)| hash));
        all.fold(0, |sum, hash| sum.saturating_add(hash.work()))
    }

    fn run(&self) -> Option<Holder> {
        let consumer = self.consumers.iter().find(|(hash, _)| hash.matches(&self.sent));
        if let Some((_, holder)) = consumer {
            return Some(holder.clone());
        }
        let text = self.text.as_ref()?;
        let option = self.options.iter().find(|(hash, _)| hash.matches(text));
        option.map(|(_, identity)| Holder::Options(identity.clone()))
    }
}

impl Holder {
    fn description(&self) -> String {
        match self {
            Self::Options(identity) => format!("the API key `{}` is valid", identity.subject),
            Self::Broken(_) => Refusal::Consumer.description().to_owned(),
            Self::Consumer(key) if key.id.is_empty() => {
                format!("an API key of consumer `{}` is valid", key.consumer.name)
            }
            Self::Consumer(key) => {
                format!("the API key `{}` of consumer `{}` is valid", key.id, key.consumer.name)
            }
        }
    }
}

/// Returns a time in seconds since 1970 as HTTP writes it.
fn http_date(seconds: i64) -> Option<HeaderValue> {
    let since = std::time::Duration::from_secs(u64::try_from(seconds).ok()?);
    let at = UNIX_EPOCH.checked_add(since)?;
    // Later years have five digits, which the format does not allow.
    (seconds < 253_402_300_800).then(|| HeaderValue::from_str(&httpdate::fmt_http_date(at)).ok()).flatten()
}
