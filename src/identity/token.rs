//! Tokens for servers: JSON Web Tokens (RFC 7519), signed with ES256.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::header::{HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, Header};
use quick_cache::sync::Cache;
use serde::Serialize;
use tidegate_core::Identity;

use super::keys::{KeyError, KeyRing, SigningKey};
use crate::settings::IdentityToken;

/// Maximum number of tokens that are kept for further requests.
const MAX_KEPT: usize = 4096;
/// Maximum length of the claims in bytes: servers refuse long headers.
const MAX_CLAIMS: usize = 6 * 1024;
/// Interval at which the key file is checked.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How much longer than its tokens a replaced key is published, for clocks that differ.
const LEEWAY: u64 = 60;
/// Maximum time in seconds that services may cache keys.
const MAX_AGE: u64 = 300;

/// What identifies a client, without times.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: Audience<'a>,
    sub: &'a str,
    /// How the client was authenticated (RFC 8176).
    amr: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    plan: &'a str,
    /// Separated by spaces (RFC 8693 section 4.2).
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
}

/// The claims of a token.
#[derive(Serialize)]
struct TimedClaims<'a> {
    #[serde(flatten)]
    claims: &'a Claims<'a>,
    iat: u64,
    exp: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Audience<'a> {
    Service(&'a str),
    Given(&'a [String]),
}

/// A signed token.
struct Signed {
    key: Arc<str>,
    value: HeaderValue,
    /// When it is replaced, in seconds since 1970.
    renewal: u64,
}

/// Signs tokens.
pub(super) struct Tokens {
    header: HeaderName,
    issuer: String,
    audience: Vec<String>,
    /// In seconds.
    expiry: u64,
    rotation: Duration,
    file: Option<PathBuf>,
    keys: ArcSwap<KeyRing>,
    /// Tokens by their claims, until half of their lifetime is over.
    kept: Cache<String, Arc<Signed>>,
}

impl Tokens {
    pub(super) fn new(options: &IdentityToken) -> Result<Self, KeyError> {
        let file = Some(&options.key_file).filter(|file| !file.is_empty()).map(PathBuf::from);
        let keys = match &file {
            Some(file) => KeyRing::from_file(file)?,
            None => KeyRing::generate()?,
        };
        Ok(Self {
            // The settings have been checked.
            header: options.header.parse().unwrap_or(HeaderName::from_static("x-identity-token")),
            issuer: options.issuer.clone(),
            audience: options.audience.clone(),
            expiry: options.expiry.0.as_secs(),
            rotation: options.rotation.0,
            file,
            keys: ArcSwap::from_pointee(keys),
            kept: Cache::new(MAX_KEPT),
        })
    }

    /// Returns the header for a request to a service; `None` if the identity does not fit into one.
    pub(super) fn header(&self, identity: &Identity, service: &str) -> Option<(&HeaderName, HeaderValue)> {
        let claims = self.claims(identity, service);
        let text = serde_json::to_string(&claims).ok()?;
        if text.len() > MAX_CLAIMS {
            tracing::debug!(
                subject = identity.subject,
                service,
                "identity.token: the identity has more than {MAX_CLAIMS} bytes, so it is not sent"
            );
            return None;
        }
        let (keys, now) = (self.keys.load(), now());
        if let Some(signed) = self.kept.get(&text)
            && now < signed.renewal
            && signed.key == keys.current.id
        {
            return Some((&self.header, signed.value.clone()));
        }
        let value = sign(&claims, &keys.current, now, now + self.expiry)?;
        let signed =
            Signed { key: keys.current.id.clone(), value: value.clone(), renewal: now + self.expiry / 2 };
        self.kept.insert(text, Arc::new(signed));
        Some((&self.header, value))
    }

    fn claims<'a>(&'a self, identity: &'a Identity, service: &'a str) -> Claims<'a> {
        let scopes = identity.scopes.iter().map(String::as_str).filter(|scope| !scope.contains(' '));
        Claims {
            iss: &self.issuer,
            aud: match self.audience.as_slice() {
                [] => Audience::Service(service),
                [one] => Audience::Service(one),
                several => Audience::Given(several),
            },
            sub: &identity.subject,
            amr: [identity.method.name()],
            consumer: identity.consumer.as_ref().map(|consumer| &*consumer.name),
            groups: identity.all_groups().collect(),
            labels: identity.all_labels(),
            plan: identity.plan(),
            scope: scopes.collect::<Vec<_>>().join(" "),
        }
    }

    /// Returns the public keys, and how many seconds they may be cached.
    pub(super) fn public_keys(&self) -> (String, u64) {
        let max_age = match self.file {
            Some(_) => self.expiry,
            // The next key is published for a whole rotation before it signs.
            None => self.rotation.as_secs() / 2,
        };
        (self.keys.load().public(now()).to_string(), max_age.min(MAX_AGE))
    }

    /// Replaces keys that are due, forever.
    pub(super) async fn rotate(&self) {
        loop {
            tokio::time::sleep(if self.file.is_some() { FILE_INTERVAL } else { self.rotation }).await;
            let (keys, now) = (self.keys.load_full(), now());
            let until = now + self.expiry + LEEWAY;
            let next = match &self.file {
                None => keys.rotated(now, until).map(Some),
                Some(file) => {
                    let file = file.clone();
                    let read = tokio::task::spawn_blocking(move || SigningKey::from_file(&file)).await;
                    match read {
                        Ok(read) => read
                            .map(|key| (key.id != keys.current.id).then(|| keys.replaced(key, now, until))),
                        Err(_) => return,
                    }
                }
            };
            match next {
                Ok(Some(next)) => {
                    tracing::info!(key = &*next.current.id, "identity.token: another key signs");
                    self.keys.store(Arc::new(next));
                }
                Ok(None) => {}
                Err(error) => tracing::debug!("identity.token: the known key stays in use: {error}"),
            }
        }
    }
}

/// Signs claims with the times added.
fn sign(claims: &Claims<'_>, key: &SigningKey, iat: u64, exp: u64) -> Option<HeaderValue> {
    let claims = TimedClaims { claims, iat, exp };
    let header = Header { kid: Some(key.id.to_string()), ..Header::new(Algorithm::ES256) };
    let token = jsonwebtoken::encode(&header, &claims, &key.private);
    let token = token.inspect_err(|error| tracing::error!("identity.token: cannot sign: {error}")).ok()?;
    HeaderValue::try_from(token).ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
