//! Proof of possession for tokens that are bound to a key (DPoP, RFC 9449): for `jwt` and `oAuthIntrospection`.

mod nonce;
mod proof;
mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration as StdDuration, UNIX_EPOCH};

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use serde::{Deserialize, Serialize};
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::{BoxFuture, BuildContext, BuildError, BuildErrors, Clock, Request, Response, boxed};

use crate::auth::DEFAULT_REALM;
use crate::auth::bearer::{self, Code};
use crate::auth::remembered::{Mark, Remembered, RememberedError, SharedMarks};
use crate::rate_limit::Redis;
use nonce::{Age, Nonces};
use proof::Algorithms;
pub(crate) use proof::{ProofError, Thumbprint};
use target::Target;

/// The header with the proof.
const DPOP: HeaderName = HeaderName::from_static("dpop");
/// The header with a nonce for the client's next proof.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// The scheme of bound tokens.
const SCHEME: &str = "DPoP";
/// Maximum age of proofs that can be configured.
const MAX_AGE: StdDuration = StdDuration::from_mins(10);
/// Keys of used proofs in Redis.
const PREFIX: &str = "tidegate:dpop:";

/// Accepts tokens that are bound to a key, from clients that prove to have it. Not in Traefik Hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DpopOptions {
    /// Accepts only such tokens.
    #[serde(skip_serializing_if = "is_default")]
    pub required: bool,
    /// Algorithms of proofs; by default, all that are supported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<String>,
    /// Maximum age of a proof, besides `leeway`.
    pub max_age: Duration,
    /// Origin and path under which clients know the services, if another proxy changes them.
    #[serde(rename = "publicURL", skip_serializing_if = "String::is_empty")]
    pub public_url: String,
    /// Maximum number of used proofs that are remembered.
    pub max_remembered: usize,
    /// Remembers used proofs in Redis, for several gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// Requires proofs to contain a nonce of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<NonceOptions>,
}

/// Nonces of the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NonceOptions {
    /// How long a nonce is the current one. It is accepted for as long again.
    pub lifetime: Duration,
    /// What nonces are made of, equal on all gateways. By default, a random value.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub secret: Secret,
}

impl Default for NonceOptions {
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(300), secret: Secret::default() }
    }
}

impl Default for DpopOptions {
    fn default() -> Self {
        Self {
            required: false,
            algorithms: Vec::new(),
            max_age: Duration::from_secs(60),
            public_url: String::new(),
            max_remembered: 500_000,
            redis: None,
            nonce: None,
        }
    }
}

/// Checks proofs.
pub(crate) struct Dpop {
    is_required: bool,
    algorithms: Algorithms,
    /// Seconds.
    max_age: f64,
    leeway: f64,
    public_url: Option<Target>,
    used: Used,
    nonces: Option<Nonces>,
    clock: Clock,
}

/// Proofs that have been used, for as long as they could be used again.
struct Used {
    place: Place,
    window: StdDuration,
}

enum Place {
    Memory { remembered: Arc<Remembered>, capacity: usize },
    Redis { shared: SharedMarks, remembered: Arc<Remembered>, capacity: usize },
}

/// A valid proof, which is not used yet.
#[derive(Debug)]
pub(crate) struct Proof {
    mark: Mark,
    /// Whether the client should use another nonce from now on.
    needs_nonce: bool,
}

/// How a token was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    Dpop,
}

impl Scheme {
    /// Returns the scheme of the request's `Authorization` field.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if token(headers).is_some() { Self::Dpop } else { Self::Bearer }
    }
}

impl From<RememberedError> for ProofError {
    fn from(error: RememberedError) -> Self {
        match error {
            RememberedError::Known => Self::Replayed,
            RememberedError::Full | RememberedError::Unavailable => Self::Unavailable,
        }
    }
}

impl DpopOptions {
    /// Checks the options. `leeway` is the allowed difference between clocks.
    pub(crate) fn build(&self, leeway: StdDuration, context: &BuildContext<'_>) -> Result<Dpop, BuildError> {
        self.checked(leeway, context).map_err(|error| error.map(|text| format!("dpop.{text}")))
    }

    fn checked(&self, leeway: StdDuration, context: &BuildContext<'_>) -> Result<Dpop, BuildError> {
        let mut errors = BuildErrors::default();
        let max_age = StdDuration::from(self.max_age);
        if max_age.is_zero() || max_age > MAX_AGE {
            errors.add(format!("maxAge: {}: expected more than 0 and at most 10m", self.max_age));
        }
        if self.max_remembered == 0 {
            errors.add("maxRemembered: expected at least 1".to_owned());
        }
        let algorithms = errors.check(Algorithms::new(&self.algorithms));
        let public_url = match self.public_url.as_str() {
            "" => Some(None),
            text => match Target::parse(text).filter(|_| !text.contains(['?', '#'])) {
                Some(target) => Some(Some(target)),
                None => {
                    errors.add(format!("publicURL: invalid URL `{text}`: expected an http or https URL"));
                    None
                }
            },
        };
        let nonces = self.nonce.as_ref().map(|options| Nonces::new(options, context)).transpose();
        let nonces = errors.check(nonces);
        let (remembered, capacity) = (context.state("proofs", Remembered::new), self.max_remembered);
        let place =
            match &self.redis {
                Some(redis) => SharedMarks::new(PREFIX.to_owned(), redis, context)
                    .map(|shared| Place::Redis { shared, remembered, capacity }),
                None => Ok(Place::Memory { remembered, capacity }),
            };
        let place = errors.check(place);
        let parts = algorithms.zip(public_url).zip(nonces).zip(place);
        let (((algorithms, public_url), nonces), place) = errors.made(parts)?;
        Ok(Dpop {
            is_required: self.required,
            algorithms,
            max_age: max_age.as_secs_f64(),
            leeway: leeway.as_secs_f64(),
            public_url,
            // From the first moment at which a proof is accepted to the last.
            used: Used { place, window: max_age + leeway * 2 },
            nonces,
            clock: context.clock(),
        })
    }
}

impl Dpop {
    /// Checks a request with an accepted token, which may be bound to a key, and was presented with this scheme.
    pub(crate) fn check(
        &self,
        request: &Request,
        token: &[u8],
        scheme: Scheme,
        key: Option<&Thumbprint>,
    ) -> Result<Option<Proof>, ProofError> {
        let Some(key) = key else {
            return match scheme {
                Scheme::Bearer if !self.is_required => Ok(None),
                _ => Err(ProofError::NotBound),
            };
        };
        if scheme != Scheme::Dpop {
            return Err(ProofError::Downgrade);
        }
        let mut fields = request.head.headers.get_all(&DPOP).iter();
        let field = fields.next().ok_or(ProofError::Missing)?;
        if fields.next().is_some() {
            return Err(ProofError::Several);
        }
        let text = field.to_str().map_err(|_| ProofError::Malformed)?;
        let proof = proof::Parsed::new(text, &self.algorithms)?;
        let target = Target::of(request, self.public_url.as_ref()).ok_or(ProofError::Target)?;
        proof.check_request(request.head.method.as_str(), &target)?;
        let now = self.seconds();
        proof.check_time(now, self.max_age, self.leeway)?;
        proof.check_token(token)?;
        proof.verify(key)?;
        let needs_nonce = match &self.nonces {
            None => false,
            Some(nonces) => match proof.nonce().and_then(|nonce| nonces.age(nonce, now)) {
                Some(age) => age == Age::Previous,
                None => return Err(ProofError::Nonce),
            },
        };
        Ok(Some(Proof { mark: proof.mark(key), needs_nonce }))
    }

    /// Returns an error if a proof has been used, without using it.
    pub(crate) fn peek(&self, proof: &Proof) -> Result<(), ProofError> {
        match &self.used.place {
            Place::Memory { remembered, .. } if remembered.contains(&proof.mark) => Err(ProofError::Replayed),
            _ => Ok(()),
        }
    }

    /// Uses a proof, unless only others can say whether it has been used: then [`Self::spend_shared`] does.
    fn spend(&self, proof: &Proof) -> Option<Result<(), ProofError>> {
        let Place::Memory { remembered, capacity } = &self.used.place else { return None };
        Some(self.spend_here(proof, remembered, *capacity))
    }

    /// Uses a proof in this process.
    fn spend_here(&self, proof: &Proof, remembered: &Remembered, capacity: usize) -> Result<(), ProofError> {
        Ok(remembered.add(proof.mark, self.clock.uptime(), self.used.window, capacity)?)
    }

    /// Uses a proof in the store of all gateways.
    async fn spend_shared(&self, proof: &Proof) -> Result<(), ProofError> {
        let Place::Redis { shared, remembered, capacity } = &self.used.place else {
            return self.spend(proof).unwrap_or(Err(ProofError::Unavailable));
        };
        if shared.add(&proof.mark, self.used.window).await? {
            return Ok(());
        }
        self.spend_here(proof, remembered, *capacity)
    }

    /// Uses a proof and passes the request on, or refuses it.
    pub(crate) fn pass_on<'a>(
        &'a self,
        proof: Proof,
        go_on: impl FnOnce() -> BoxFuture<'a, Response> + Send + 'a,
    ) -> BoxFuture<'a, Response> {
        match self.spend(&proof) {
            Some(Ok(())) if !proof.needs_nonce => go_on(),
            spent => boxed(move || async move {
                let spent = match spent {
                    Some(spent) => spent,
                    None => self.spend_shared(&proof).await,
                };
                if let Err(error) = spent {
                    return self.refusal(error.code(), error.description(), Scheme::Dpop);
                }
                let mut response = go_on().await;
                if let Some(nonce) = self.next_nonce(&proof) {
                    response.headers_mut().insert(DPOP_NONCE, nonce);
                }
                response
            }),
        }
    }

    /// Returns the nonce for the client's next proof, if it should use another one.
    fn next_nonce(&self, proof: &Proof) -> Option<HeaderValue> {
        self.nonces.as_ref().filter(|_| proof.needs_nonce)?.current(self.seconds())
    }

    /// Returns the response to a refused request, with the challenges of both schemes.
    pub(crate) fn refusal(&self, code: Code, description: &'static str, scheme: Scheme) -> Response {
        let mut response = bearer::refusal(code, description);
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            return response;
        }
        let algorithms = self.algorithms.names();
        let plain = format!("{SCHEME} realm=\"{DEFAULT_REALM}\", algs=\"{algorithms}\"");
        let first = response.headers_mut().remove(WWW_AUTHENTICATE);
        let challenges = match (scheme, code) {
            (_, Code::Missing) if !self.is_required => [first, HeaderValue::from_str(&plain).ok()],
            (_, Code::Missing) => [HeaderValue::from_str(&plain).ok(), None],
            (Scheme::Bearer, _) => [first, HeaderValue::from_str(&plain).ok()],
            (Scheme::Dpop, _) => {
                let error = first.as_ref().and_then(|first| first.to_str().ok());
                let error = error.and_then(|error| error.strip_prefix("Bearer ")).unwrap_or_default();
                let text = format!("{SCHEME} {error}, algs=\"{algorithms}\"");
                [HeaderValue::from_str(&text).ok(), None]
            }
        };
        for challenge in challenges.into_iter().flatten() {
            response.headers_mut().append(WWW_AUTHENTICATE, challenge);
        }
        let nonce = self.nonces.as_ref().and_then(|nonces| nonces.current(self.seconds()));
        if let Some(nonce) = nonce {
            response.headers_mut().insert(DPOP_NONCE, nonce);
        }
        response
    }

    fn seconds(&self) -> f64 {
        self.clock.wall().duration_since(UNIX_EPOCH).map_or(f64::INFINITY, |since| since.as_secs_f64())
    }
}

/// Returns the token of the request's `Authorization` field if its scheme is `DPoP`. The caller refuses requests with
/// several such fields.
pub(crate) fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes().trim_ascii_start();
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    let is_scheme = scheme.eq_ignore_ascii_case(SCHEME.as_bytes())
        && rest.first().is_none_or(|byte| matches!(byte, b' ' | b'\t'));
    is_scheme.then(|| rest.trim_ascii())
}

/// Removes the token and its proof.
pub(crate) fn remove(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(&DPOP);
}
