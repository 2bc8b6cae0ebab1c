//! Lets requests with active tokens pass.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::Value;
use tidegate_core::{
    AuthMethod, BoxFuture, Clock, Consumers, ConsumersHandle, Identity, Middleware, Next, Prediction,
    Request, Response, boxed,
};

use super::answer::{Answer, Rules};
use super::refusal::Refusal;
use super::server::Server;
use crate::auth;
use crate::auth::source::{Found, Source};
use crate::dpop::{self, Dpop, Proof, ProofError, Scheme};
use crate::jwt::claims::{self, Expression, Thumbprint};
use crate::jwt::token::Claims;

/// Maximum size of the cache of active tokens, in bytes of what is known about them.
const MAX_ACTIVE: u64 = 16 * 1024 * 1024;
/// Maximum number of refused tokens that are remembered.
const MAX_REFUSED: usize = 16 * 1024;
/// Maximum length of a token with the scheme `DPoP`, in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// How long no question is asked again about a token for which there was no answer.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of groups and of scopes of an identity.
const MAX_GROUPS: usize = 256;

/// The SHA-256 of a token.
type Hash = [u8; 32];

/// Lets requests with active tokens pass.
pub(super) struct Authenticator {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) source: Source,
    pub(super) server: Server,
    pub(super) rules: Rules,
    pub(super) claims: Option<Expression>,
    /// Scopes that a token must have, all of them.
    pub(super) scopes: Vec<String>,
    /// Claim with the client's name; `sub` if it is there by default.
    pub(super) username: Option<String>,
    /// Claim with the client's groups.
    pub(super) groups: String,
    pub(super) consumers: ConsumersHandle,
    /// Headers for the service, with their claims.
    pub(super) headers: Vec<(HeaderName, String)>,
    /// Checks proofs of tokens that are bound to a key; without it, such tokens are refused.
    pub(super) dpop: Option<Dpop>,
    pub(super) is_optional: bool,
    pub(super) strips_token: bool,
    /// How long an answer counts at most.
    pub(super) ttl: Duration,
    /// How long it counts that a token is not active.
    pub(super) negative_ttl: Duration,
    pub(super) known: Known,
}

/// What is known about tokens. Those that strangers invent do not displace active ones.
pub(super) struct Known {
    active: Cache<Hash, Arc<Active>, BySize>,
    refused: Cache<Hash, Refused>,
}

impl Default for Known {
    fn default() -> Self {
        Self { active: Cache::with_weighter(1024, MAX_ACTIVE, BySize), refused: Cache::new(MAX_REFUSED) }
    }
}

/// Weighs active tokens by what is known about them.
#[derive(Clone)]
struct BySize;

impl Weighter<Hash, Arc<Active>> for BySize {
    fn weight(&self, _: &Hash, active: &Arc<Active>) -> u64 {
        active.weight
    }
}

/// What is known about an active token.
#[derive(Clone)]
struct Active {
    claims: Arc<Claims>,
    identity: Option<Arc<Identity>>,
    /// Whether its consumer is broken.
    is_broken: bool,
    /// Version of the directory in which its consumer was looked up.
    directory: u64,
    /// Values of the forwarded headers, in their order.
    headers: Vec<Option<HeaderValue>>,
    /// The key that its clients must have.
    key: Option<Thumbprint>,
    /// Why it does not permit the request.
    denied: Option<Refusal>,
    /// Until when this counts.
    until: Until,
    weight: u64,
}

/// A token that does not let requests pass.
#[derive(Clone, Copy)]
struct Refused {
    refusal: Refusal,
    /// Uptime.
    until: Duration,
}

/// The end of a token, or of what is known about it.
#[derive(Clone, Copy)]
struct Until {
    /// Uptime.
    age: Duration,
    /// Seconds since 1970.
    expiry: f64,
}

impl Middleware for Authenticator {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let looked_up = match self.token(self.find(&request, self.source.take_note(&request))) {
            Ok(None) => Ok(Ok(None)),
            Ok(Some(token)) => {
                let hash = hash(&token);
                self.look_up(&hash).map(|known| known.map(Some)).ok_or_else(|| (hash, token.into_owned()))
            }
            Err(refusal) => Ok(Err(refusal)),
        };
        let (hash, token) = match looked_up {
            Ok(known) => return self.finish(request, known, next),
            Err(unknown) => unknown,
        };
        boxed(move || async move {
            let known = tokio::time::timeout(self.server.client.timeout, self.learn(hash, &token)).await;
            let known = known.unwrap_or(Err(Refusal::Unavailable));
            self.finish(request, known.map(Some), next).await
        })
    }

    fn predict(&self, mut request: Request) -> Prediction {
        let known = match self.token(self.find(&request, self.source.find(&request))) {
            Ok(None) => Ok(None),
            Ok(Some(token)) => match self.look_up(&hash(&token)) {
                Some(known) => known.map(Some),
                None => return Prediction::depends(request, format!("asks {}", self.server.shown())),
            },
            Err(refusal) => Err(refusal),
        };
        let note = if matches!(known, Ok(Some(_))) { "the token is active" } else { "a token is optional" };
        let proven = known.map_err(Stop::Refused).and_then(|active| {
            let proof = self.prove(&request, active.as_deref())?;
            let unused = self.dpop.as_ref().zip(proof).map(|(dpop, proof)| dpop.peek(&proof));
            unused.transpose().map_err(Stop::Proof).map(|_| active)
        });
        let permitted = proven.and_then(|active| Ok(self.permit(&mut request, active.as_deref())?));
        match permitted {
            Ok(()) => Prediction::passes(request).note(note),
            Err(stop) => Prediction::responds(self.refuse(&request, stop)).note(stop.description()),
        }
    }
}

/// Why a request does not pass.
#[derive(Clone, Copy)]
enum Stop {
    Refused(Refusal),
    Proof(ProofError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Stop {
    fn description(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.description(),
            Self::Proof(error) => error.description(),
        }
    }
}

fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

impl Authenticator {
    fn finish<'a>(
        &'a self,
        request: Request,
        known: Result<Option<Arc<Active>>, Refusal>,
        next: &'a Next,
    ) -> BoxFuture<'a, Response> {
        let proven = known.map_err(Stop::Refused).and_then(|active| {
            let proof = self.prove(&request, active.as_deref())?;
            Ok((active, proof))
        });
        match proven {
            Ok((active, proof)) => match self.dpop.as_ref().zip(proof) {
                Some((dpop, proof)) => dpop.pass_on(proof, move || self.pass_on(request, active, next)),
                None => self.pass_on(request, active, next),
            },
            Err(stop) => crate::ready(self.refuse(&request, stop)),
        }
    }

    fn pass_on<'a>(
        &'a self,
        mut request: Request,
        active: Option<Arc<Active>>,
        next: &'a Next,
    ) -> BoxFuture<'a, Response> {
        match self.permit(&mut request, active.as_deref()) {
            Ok(()) => next.run(request),
            Err(refusal) => crate::ready(self.refuse(&request, refusal.into())),
        }
    }

    /// Checks that the client may use its token. Not part of what is remembered: another client may present the same.
    fn prove(&self, request: &Request, active: Option<&Active>) -> Result<Option<Proof>, Stop> {
        let Some((dpop, active)) = self.dpop.as_ref().zip(active) else { return Ok(None) };
        let found = self.find(request, self.source.find(request));
        let token = self.token(found)?.unwrap_or_default();
        let scheme = Scheme::of(&request.head.headers);
        dpop.check(request, token.as_bytes(), scheme, active.key.as_ref()).map_err(Stop::Proof)
    }

    /// Returns the response to a request that does not pass.
    fn refuse(&self, request: &Request, stop: Stop) -> Response {
        let code = match stop {
            Stop::Refused(refusal) => refusal.code(),
            Stop::Proof(error) => error.code(),
        };
        match &self.dpop {
            Some(dpop) => dpop.refusal(code, stop.description(), Scheme::of(&request.head.headers)),
            None => auth::bearer::refusal(code, stop.description()),
        }
    }

    /// Returns the token with the scheme `DPoP`, or what was found elsewhere.
    fn find<'a>(&self, request: &'a Request, found: Found<'a>) -> Found<'a> {
        let bound = self.dpop.as_ref().and_then(|_| dpop::token(&request.head.headers));
        let Some(token) = bound else { return found };
        let is_only = request.head.headers.get_all(AUTHORIZATION).iter().nth(1).is_none();
        let is_usable = found == Found::None && is_only && token.len() <= MAX_TOKEN;
        if is_usable { Found::One(Cow::Borrowed(token)) } else { Found::Unusable }
    }

    /// Tells the following middlewares and the service who the client is.
    fn permit(&self, request: &mut Request, active: Option<&Active>) -> Result<(), Refusal> {
        if let Some(identity) = active.and_then(|active| active.identity.as_ref()) {
            request.context.exchange.claim(&identity.subject);
        }
        if let Some(refusal) = active.and_then(|active| active.denied) {
            return Err(refusal);
        }
        if active.is_some_and(|active| active.is_broken) {
            return Err(Refusal::Consumer);
        }
        for (index, (name, _)) in self.headers.iter().enumerate() {
            let value = active.and_then(|active| active.headers.get(index)).cloned().flatten();
            auth::replace_exclusively(&mut request.head.headers, name, value);
        }
        if self.strips_token && active.is_some() {
            self.source.remove(request);
            if self.dpop.is_some() && dpop::token(&request.head.headers).is_some() {
                dpop::remove(&mut request.head.headers);
            }
        }
        if let Some(identity) = active.and_then(|active| active.identity.clone()) {
            request.context.identify(identity);
        }
        Ok(())
    }

    /// Returns the token; `None` if there is none and none is needed.
    fn token<'a>(&self, found: Found<'a>) -> Result<Option<Cow<'a, str>>, Refusal> {
        let text = match found {
            Found::None if self.is_optional => return Ok(None),
            Found::None => return Err(Refusal::Missing),
            Found::Unusable => return Err(Refusal::Unusable),
            Found::One(Cow::Borrowed(bytes)) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Found::One(Cow::Owned(bytes)) => String::from_utf8(bytes).ok().map(Cow::Owned),
        };
        // The characters of access tokens (RFC 6749 appendix A.12), without spaces.
        let is_token =
            |text: &Cow<'_, str>| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        text.filter(is_token).map(Some).ok_or(Refusal::Malformed)
    }

    fn seconds(&self) -> f64 {
        self.clock.wall().duration_since(UNIX_EPOCH).map_or(f64::INFINITY, |since| since.as_secs_f64())
    }

    /// Returns what is known about a token.
    fn look_up(&self, hash: &Hash) -> Option<Result<Arc<Active>, Refusal>> {
        if let Some(active) = self.known.active.get(hash) {
            if self.clock.uptime() < active.until.age && self.seconds() < active.until.expiry {
                return Some(self.current(hash, active));
            }
            self.known.active.remove_if(hash, |held| Arc::ptr_eq(held, &active));
        }
        let refused = self.known.refused.get(hash)?;
        (self.clock.uptime() < refused.until).then_some(Err(refused.refusal))
    }

    /// Looks its consumer up again if the directory has changed.
    fn current(&self, hash: &Hash, active: Arc<Active>) -> Result<Arc<Active>, Refusal> {
        let directory = self.consumers.load();
        if active.directory == directory.version() {
            return Ok(active);
        }
        let (identity, is_broken) =
            auth::holder(self.identity(&active.claims, &directory), Refusal::Consumer)?;
        let (active, directory) = (Active::clone(&active), directory.version());
        let active = Arc::new(Active { identity, is_broken, directory, ..active });
        self.known.active.insert(*hash, active.clone());
        Ok(active)
    }

    /// Asks about a token that is not known. Requests with the same token wait for one answer.
    async fn learn(&self, hash: Hash, token: &str) -> Result<Arc<Active>, Refusal> {
        if self.ttl.is_zero() {
            let result = self.ask(token).await;
            if let Err(refusal) = result {
                self.known.refused.insert(hash, self.refused(refusal));
            }
            return result;
        }
        let guard = loop {
            match self.known.refused.get_value_or_guard_async(&hash).await {
                Ok(refused) if self.clock.uptime() < refused.until => return Err(refused.refusal),
                Ok(refused) => {
                    self.known.refused.remove_if(&hash, |held| held.until == refused.until);
                }
                Err(guard) => break guard,
            }
        };
        // Another request has learned it meanwhile.
        if let Some(active) = self.known.active.get(&hash)
            && self.clock.uptime() < active.until.age
            && self.seconds() < active.until.expiry
        {
            return self.current(&hash, active);
        }
        let result = self.ask(token).await;
        match &result {
            Ok(active) => self.known.active.insert(hash, active.clone()),
            Err(refusal) => drop(guard.insert(self.refused(*refusal))),
        }
        result
    }

    async fn ask(&self, token: &str) -> Result<Arc<Active>, Refusal> {
        match self.server.ask(token).await {
            Some(Answer::Active(claims)) => self.active(claims).map(Arc::new),
            Some(Answer::Inactive) => Err(Refusal::Inactive),
            None => Err(Refusal::Unavailable),
        }
    }

    fn refused(&self, refusal: Refusal) -> Refused {
        let pause = if refusal == Refusal::Unavailable { FAILURE_PAUSE } else { self.negative_ttl };
        Refused { refusal, until: self.clock.uptime() + pause }
    }

    fn active(&self, claims: Claims) -> Result<Active, Refusal> {
        let (expiry, key) = self.rules.check(&claims, self.seconds())?;
        if key.is_some() && self.dpop.is_none() {
            return Err(Refusal::Type);
        }
        let expiry = expiry.unwrap_or(f64::INFINITY);
        let headers = self.headers.iter().map(|(_, claim)| claims::header_value(&claims, claim));
        let headers = headers.collect::<Result<_, _>>().map_err(|_| Refusal::Unsendable)?;
        let directory = self.consumers.load();
        let has_scopes = self.scopes.iter().all(|scope| scopes(&claims).any(|one| one == scope));
        let denied = match &self.claims {
            _ if !has_scopes => Some(Refusal::Scope),
            Some(condition) if !condition.holds(&claims) => Some(Refusal::Claims),
            _ => None,
        };
        let weight = size(&claims) + 512;
        let claims = Arc::new(claims);
        let (identity, is_broken) = auth::holder(self.identity(&claims, &directory), Refusal::Consumer)?;
        Ok(Active {
            identity,
            is_broken,
            directory: directory.version(),
            headers,
            key,
            denied,
            until: Until { age: self.clock.uptime() + self.ttl, expiry },
            weight,
            claims,
        })
    }

    /// Returns who the client is; `None` if the answer does not say.
    fn identity(&self, claims: &Arc<Claims>, directory: &Consumers) -> Result<Option<Identity>, Refusal> {
        let claim = self.username.as_deref().unwrap_or("sub");
        let name = claims::claim(claims, claim).and_then(claims::scalar).filter(|name| !name.is_empty());
        if name.is_none() && self.username.is_some() {
            return Err(Refusal::NoName);
        }
        let issuer = claims.get("iss").and_then(Value::as_str).or(self.rules.issuer.as_deref());
        let text = |name: &str| claims::claim(claims, name).and_then(Value::as_str);
        let consumer = directory.by_token(issuer.unwrap_or_default(), text).map_err(|_| Refusal::Consumer)?;
        let name = name.or_else(|| consumer.as_ref().map(|consumer| Cow::Borrowed(consumer.short_name())));
        let Some(name) = name else { return Ok(None) };
        let mut identity = Identity::new(name, AuthMethod::Introspection, self.name.clone());
        if let Some(groups) = claims::claim(claims, &self.groups) {
            identity.groups = claims::texts(groups).take(MAX_GROUPS).map(str::to_owned).collect();
        }
        identity.scopes = scopes(claims).take(MAX_GROUPS).map(str::to_owned).collect();
        if let Some(issuer) = issuer {
            identity.labels.insert("iss".to_owned(), issuer.to_owned());
        }
        identity.claims = Some(claims.clone());
        identity.consumer = consumer;
        Ok(Some(identity))
    }
}

/// Returns the scopes of a token: a text with spaces in between (RFC 7662 section 2.2), or a list.
fn scopes(claims: &Claims) -> impl Iterator<Item = &str> {
    let found = claims.get("scope").into_iter().flat_map(claims::texts);
    found.flat_map(|text| text.split(' ')).filter(|scope| !scope.is_empty())
}

/// Returns about how many bytes claims take.
fn size(claims: &Claims) -> u64 {
    fn of(value: &Value) -> usize {
        32 + match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(of).sum(),
            Value::Object(values) => values.iter().map(|(name, value)| name.len() + of(value)).sum(),
            _ => 0,
        }
    }
    claims.iter().map(|(name, value)| (name.len() + of(value)) as u64).sum()
}
