//! Verifies the tokens of requests.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::Value;
use tidegate_core::building::Task;
use tidegate_core::{
    AuthMethod, BoxFuture, Clock, Consumers, ConsumersHandle, Identity, Middleware, Next, Prediction,
    Request, Response, boxed,
};
use url::form_urlencoded;

use super::claims::{self, Binding, Expression, Thumbprint};
use super::keys::{KeySet, Verdict};
use super::refusal::Refusal;
use super::remote::{Remote, Source};
use super::token::{Claims, Rules, Token};
use crate::auth;
use crate::dpop::{self, Dpop, Proof, ProofError, Scheme};

/// Maximum length of a token in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Maximum size of the cache of verified tokens, in bytes of their texts.
const MAX_CACHED: u64 = 16 * 1024 * 1024;
/// Maximum number of groups of an identity.
const MAX_GROUPS: usize = 256;

/// Lets requests with valid tokens pass.
pub(super) struct Authenticator {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) issuers: Vec<Issuer>,
    pub(super) rules: Rules,
    pub(super) claims: Option<Expression>,
    /// Claim with the client's name; `sub` if it is there by default.
    pub(super) username: Option<String>,
    /// Claim with the client's groups.
    pub(super) groups: String,
    pub(super) consumers: ConsumersHandle,
    /// Headers for the service, with their claims.
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) is_optional: bool,
    pub(super) query_key: Option<String>,
    pub(super) removes_token: bool,
    /// Whether tokens must be bound to a certificate.
    pub(super) requires_binding: bool,
    /// Checks proofs of tokens that are bound to a key; without it, such tokens are refused.
    pub(super) dpop: Option<Dpop>,
    /// Timeout for keys.
    pub(super) timeout: Duration,
    pub(super) verified: VerifiedTokens,
    pub(super) _tasks: Vec<Task>,
}

/// Whose tokens are accepted, and with which keys.
pub(super) struct Issuer {
    /// The value of `iss`; any if `None`.
    pub(super) issuer: Option<String>,
    pub(super) keys: Keys,
}

/// The keys of an issuer.
pub(super) enum Keys {
    Fixed(Arc<KeySet>),
    Remote { keys: Arc<Remote<KeySet>>, source: Source },
}

impl Keys {
    fn current(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::Fixed(keys) => Some(keys.clone()),
            Self::Remote { keys, .. } => keys.current(),
        }
    }

    fn is_current(&self, set: &Arc<KeySet>) -> bool {
        match self {
            Self::Fixed(keys) => Arc::ptr_eq(keys, set),
            Self::Remote { keys, .. } => keys.is_current(set),
        }
    }
}

/// Verified tokens by the SHA-256 of their texts.
pub(super) type VerifiedTokens = Cache<[u8; 32], Arc<Verified>, ByLength>;

/// Returns an empty cache.
pub(super) fn cache() -> VerifiedTokens {
    Cache::with_weighter(1024, MAX_CACHED, ByLength)
}

/// Weighs verified tokens by the length of their texts.
#[derive(Clone)]
pub(super) struct ByLength;

impl Weighter<[u8; 32], Arc<Verified>> for ByLength {
    fn weight(&self, _: &[u8; 32], verified: &Arc<Verified>) -> u64 {
        verified.weight
    }
}

/// What is known from a token with a valid signature.
#[derive(Clone)]
pub(super) struct Verified {
    identity: Option<Arc<Identity>>,
    /// Whether its consumer is broken.
    is_broken: bool,
    /// Version of the directory in which its consumer was looked up.
    directory: u64,
    /// Values of the forwarded headers, in their order.
    headers: Vec<Option<HeaderValue>>,
    /// Whether the claims permit the request.
    is_permitted: bool,
    /// What its clients must have.
    binding: Binding,
    /// When it expires, in seconds since 1970.
    expiry: f64,
    /// Index of the issuer, and the keys that have verified the token.
    issuer: usize,
    keys: Arc<KeySet>,
    weight: u64,
}

/// A token in a request.
struct Presented<'a> {
    text: Cow<'a, str>,
    scheme: Scheme,
}

/// A request that may pass.
struct Checked {
    /// `None` without a token, if none is needed.
    verified: Option<Arc<Verified>>,
    /// The proof that it uses.
    proof: Option<Proof>,
}

/// Why a request does not pass.
enum Stop {
    Refused(Refusal),
    Proof(ProofError),
    /// The keys of this issuer are not known, or lack the token's key.
    Keys(usize, Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Middleware for Authenticator {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        match self.check(&request) {
            Ok(checked) => self.pass_on(request, checked, next),
            Err(Stop::Keys(issuer, _)) => boxed(move || async move {
                if let Some(Keys::Remote { keys, .. }) = self.issuers.get(issuer).map(|issuer| &issuer.keys) {
                    keys.wait(&self.clock, self.timeout).await;
                }
                match self.check(&request) {
                    Ok(checked) => self.pass_on(request, checked, next).await,
                    Err(stop) => self.refuse(&request, &stop),
                }
            }),
            Err(stop) => crate::ready(self.refuse(&request, &stop)),
        }
    }

    fn predict(&self, mut request: Request) -> Prediction {
        let refused = |request: &Request, stop: Stop| {
            Prediction::responds(self.refuse(request, &stop)).note(stop.description())
        };
        let checked = self.check(&request).and_then(|checked| match self.dpop.as_ref().zip(checked.proof) {
            Some((dpop, proof)) => dpop.peek(&proof).map(|()| checked.verified).map_err(Stop::Proof),
            None => Ok(checked.verified),
        });
        match checked {
            Ok(verified) => {
                let note = if verified.is_some() { "the token is valid" } else { "a token is optional" };
                match self.permit(&mut request, verified.as_deref()) {
                    Ok(()) => Prediction::passes(request).note(note),
                    Err(refusal) => refused(&request, refusal.into()),
                }
            }
            Err(Stop::Keys(issuer, _)) => {
                let note = match self.issuers.get(issuer).map(|issuer| &issuer.keys) {
                    Some(Keys::Remote { source, .. }) => format!("fetches keys from {source}"),
                    _ => "fetches keys".to_owned(),
                };
                Prediction::depends(request, note)
            }
            Err(stop) => refused(&request, stop),
        }
    }
}

impl Stop {
    fn description(&self) -> &'static str {
        match self {
            Self::Refused(refusal) | Self::Keys(_, refusal) => refusal.description(),
            Self::Proof(error) => error.description(),
        }
    }
}

impl Authenticator {
    /// Returns the response to a request that does not pass.
    fn refuse(&self, request: &Request, stop: &Stop) -> Response {
        let Some(dpop) = &self.dpop else {
            return match stop {
                Stop::Refused(refusal) | Stop::Keys(_, refusal) => refusal.response(),
                // Proofs are checked only with the option.
                Stop::Proof(error) => auth::bearer::refusal(error.code(), error.description()),
            };
        };
        let code = match stop {
            Stop::Refused(refusal) | Stop::Keys(_, refusal) => refusal.code(),
            Stop::Proof(error) => error.code(),
        };
        dpop.refusal(code, stop.description(), Scheme::of(&request.head.headers))
    }

    fn pass_on<'a>(&'a self, request: Request, checked: Checked, next: &'a Next) -> BoxFuture<'a, Response> {
        match self.dpop.as_ref().zip(checked.proof) {
            Some((dpop, proof)) => {
                dpop.pass_on(proof, move || self.finish(request, checked.verified.as_deref(), next))
            }
            None => self.finish(request, checked.verified.as_deref(), next),
        }
    }

    fn finish<'a>(
        &'a self,
        mut request: Request,
        verified: Option<&Verified>,
        next: &'a Next,
    ) -> BoxFuture<'a, Response> {
        match self.permit(&mut request, verified) {
            Ok(()) => next.run(request),
            Err(refusal) => crate::ready(self.refuse(&request, &refusal.into())),
        }
    }

    /// Tells the following middlewares and the service who the client is.
    fn permit(&self, request: &mut Request, verified: Option<&Verified>) -> Result<(), Refusal> {
        if let Some(identity) = verified.and_then(|verified| verified.identity.as_ref()) {
            request.context.exchange.claim(&identity.subject);
        }
        if verified.is_some_and(|verified| !verified.is_permitted) {
            return Err(Refusal::Claims);
        }
        if verified.is_some_and(|verified| verified.is_broken) {
            return Err(Refusal::Consumer);
        }
        for (index, (name, _)) in self.headers.iter().enumerate() {
            let value = verified.and_then(|verified| verified.headers.get(index)).cloned().flatten();
            auth::replace_exclusively(&mut request.head.headers, name, value);
        }
        if self.removes_token && verified.is_some() {
            self.remove_token(request);
        }
        if let Some(identity) = verified.and_then(|verified| verified.identity.clone()) {
            request.context.identify(identity);
        }
        Ok(())
    }

    /// Checks the request's token, and whether the client may use it.
    fn check(&self, request: &Request) -> Result<Checked, Stop> {
        let Some(presented) = self.token(request)? else {
            let nothing = Checked { verified: None, proof: None };
            return if self.is_optional { Ok(nothing) } else { Err(Refusal::Missing.into()) };
        };
        let verified = self.recognise(&presented.text)?;
        // Not part of what is remembered: another client may present the same token.
        let key = verified.binding.key.as_ref();
        if key.is_some() && self.dpop.is_none() {
            return Err(Refusal::OtherBinding.into());
        }
        self.check_binding(request, verified.binding.certificate.as_ref())?;
        let proof = match &self.dpop {
            Some(dpop) => dpop.check(request, presented.text.as_bytes(), presented.scheme, key),
            None => Ok(None),
        };
        Ok(Checked { verified: Some(verified), proof: proof.map_err(Stop::Proof)? })
    }

    /// Refuses tokens that are bound to another certificate than that of the connection.
    fn check_binding(&self, request: &Request, binding: Option<&Thumbprint>) -> Result<(), Refusal> {
        let Some(expected) = binding else {
            return if self.requires_binding { Err(Refusal::NotBound) } else { Ok(()) };
        };
        let tls = request.context.connection().tls.as_ref();
        let certificate = tls.and_then(|tls| tls.client_certificates.first());
        match certificate {
            Some(certificate) if thumbprint(certificate) == *expected => Ok(()),
            _ => Err(Refusal::OtherCertificate),
        }
    }

    /// Returns what is known from a token.
    fn recognise(&self, text: &str) -> Result<Arc<Verified>, Stop> {
        if text.len() > MAX_TOKEN {
            return Err(Refusal::TooLong.into());
        }
        let now =
            self.clock.wall().duration_since(UNIX_EPOCH).map_or(f64::INFINITY, |since| since.as_secs_f64());
        let hash = thumbprint(text.as_bytes());
        if let Some(verified) = self.verified.get(&hash) {
            if now < verified.expiry
                && self.issuers.get(verified.issuer).is_some_and(|own| own.keys.is_current(&verified.keys))
            {
                let directory = self.consumers.load();
                if verified.directory == directory.version() {
                    return Ok(verified);
                }
                // The signature is known to be valid.
                let claims = Arc::new(Token::parse(text)?.claims);
                let (identity, is_broken) =
                    auth::holder(self.identity(&claims, &directory), Refusal::Consumer)?;
                let (verified, directory) = (Verified::clone(&verified), directory.version());
                let verified = Arc::new(Verified { identity, is_broken, directory, ..verified });
                self.verified.insert(hash, verified.clone());
                return Ok(verified);
            }
            self.verified.remove(&hash);
        }
        let verified = Arc::new(self.verify(text, now)?);
        self.verified.insert(hash, verified.clone());
        Ok(verified)
    }

    fn verify(&self, text: &str, now: f64) -> Result<Verified, Stop> {
        let token = Token::parse(text)?;
        let issuer = self.issuers.iter().position(|own| match &own.issuer {
            Some(issuer) => token.issuer() == Some(issuer),
            None => true,
        });
        let issuer = issuer.ok_or(Refusal::Issuer)?;
        let keys = self.issuers.get(issuer).and_then(|own| own.keys.current());
        let keys = keys.ok_or(Stop::Keys(issuer, Refusal::Unavailable))?;
        match keys.verify(token.key_id.as_deref(), token.algorithm, token.message, token.signature) {
            Verdict::Valid => {}
            Verdict::Invalid => return Err(Refusal::Signature.into()),
            Verdict::OtherAlgorithm => return Err(Refusal::Algorithm.into()),
            Verdict::Unknown => {
                let is_remote =
                    self.issuers.get(issuer).is_some_and(|own| matches!(own.keys, Keys::Remote { .. }));
                return Err(match is_remote {
                    true => Stop::Keys(issuer, Refusal::UnknownKey),
                    false => Refusal::UnknownKey.into(),
                });
            }
        }
        let expiry = self.rules.check(&token, now)?.unwrap_or(f64::INFINITY);
        let headers = self.headers.iter().map(|(_, claim)| claims::header_value(&token.claims, claim));
        let headers = headers.collect::<Result<_, _>>()?;
        let directory = self.consumers.load();
        let claims = Arc::new(token.claims);
        let (identity, is_broken) = auth::holder(self.identity(&claims, &directory), Refusal::Consumer)?;
        Ok(Verified {
            identity,
            is_broken,
            directory: directory.version(),
            headers,
            binding: claims::binding(&claims)?,
            is_permitted: self.claims.as_ref().is_none_or(|condition| condition.holds(&claims)),
            expiry,
            issuer,
            keys,
            // The text is not kept, but what it says.
            weight: text.len() as u64 * 4 + 512,
        })
    }

    /// Returns who the client is; `None` if the token does not say.
    fn identity(&self, claims: &Arc<Claims>, directory: &Consumers) -> Result<Option<Identity>, Refusal> {
        let claim = self.username.as_deref().unwrap_or("sub");
        let name = claims::claim(claims, claim).and_then(claims::scalar).filter(|name| !name.is_empty());
        if name.is_none() && self.username.is_some() {
            return Err(Refusal::NoName);
        }
        let issuer = claims.get("iss").and_then(Value::as_str);
        let text = |name: &str| claims::claim(claims, name).and_then(Value::as_str);
        let consumer = directory.by_token(issuer.unwrap_or_default(), text).map_err(|_| Refusal::Consumer)?;
        let name = name.or_else(|| consumer.as_ref().map(|consumer| Cow::Borrowed(consumer.short_name())));
        let Some(name) = name else { return Ok(None) };
        let mut identity = Identity::new(name, AuthMethod::Jwt, self.name.clone());
        if let Some(groups) = claims::claim(claims, &self.groups) {
            identity.groups = claims::texts(groups).take(MAX_GROUPS).map(str::to_owned).collect();
        }
        // OAuth 2.0 separates scopes by spaces (RFC 8693 section 4.2); some issuers send a list.
        let scopes = ["scope", "scp"].into_iter().filter_map(|name| claims.get(name)).flat_map(claims::texts);
        let scopes = scopes.flat_map(|text| text.split(' ')).filter(|scope| !scope.is_empty());
        identity.scopes = scopes.take(MAX_GROUPS).map(str::to_owned).collect();
        if let Some(issuer) = issuer {
            identity.labels.insert("iss".to_owned(), issuer.to_owned());
        }
        identity.claims = Some(claims.clone());
        identity.consumer = consumer;
        Ok(Some(identity))
    }

    /// Returns the request's token.
    fn token<'a>(&self, request: &'a Request) -> Result<Option<Presented<'a>>, Refusal> {
        let mut fields = request.head.headers.get_all(AUTHORIZATION).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(Refusal::SeveralTokens);
        }
        let bound = self.dpop.as_ref().and_then(|_| dpop::token(&request.head.headers));
        let bound = bound.map(|token| std::str::from_utf8(token).map_err(|_| Refusal::Malformed));
        let (in_header, scheme) = match bound.transpose()? {
            Some("") => return Err(Refusal::Malformed),
            Some(token) => (Some(token), Scheme::Dpop),
            None => (field.map(bearer).transpose()?.flatten(), Scheme::Bearer),
        };
        let in_header = in_header.map(|text| Presented { text: Cow::Borrowed(text), scheme });
        let Some(key) = &self.query_key else { return Ok(in_header) };
        let query = request.head.uri.query().unwrap_or_default().as_bytes();
        let in_query = form_urlencoded::parse(query)
            .filter(|(name, _)| name == key)
            .map(|(_, text)| Presented { text, scheme: Scheme::Bearer });
        let mut tokens = in_header.into_iter().chain(in_query);
        let token = tokens.next();
        if tokens.next().is_some() {
            return Err(Refusal::SeveralTokens);
        }
        Ok(token)
    }

    fn remove_token(&self, request: &mut Request) {
        let headers = &mut request.head.headers;
        if self.dpop.is_some() && dpop::token(headers).is_some() {
            dpop::remove(headers);
        } else if headers.get(AUTHORIZATION).is_some_and(|field| matches!(bearer(field), Ok(Some(_)))) {
            headers.remove(AUTHORIZATION);
        }
        let (Some(key), Some(query)) = (&self.query_key, request.head.uri.query()) else { return };
        let is_other = |pair: &&str| !form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name == *key);
        let kept: Vec<&str> = query.split('&').filter(is_other).collect();
        let path = request.head.uri.path();
        let target = match kept.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", kept.join("&")),
        };
        // Parts of a valid target are valid.
        if let Ok(target) = PathAndQuery::try_from(target) {
            request.head.uri = target.into();
        }
    }
}

fn thumbprint(bytes: &[u8]) -> Thumbprint {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Returns the token of an `Authorization` field; `None` for other schemes. What a service might read as a token is one,
/// such as a tab instead of a space: it must not pass unverified.
fn bearer(field: &HeaderValue) -> Result<Option<&str>, Refusal> {
    const SCHEME: &[u8] = b"bearer";
    let Some((scheme, token)) = field.as_bytes().split_at_checked(SCHEME.len()) else { return Ok(None) };
    let is_longer =
        token.first().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
    if !scheme.eq_ignore_ascii_case(SCHEME) || is_longer {
        return Ok(None);
    }
    let token = std::str::from_utf8(token).map_err(|_| Refusal::Malformed)?.trim_matches([' ', '\t']);
    if token.is_empty() { Err(Refusal::Malformed) } else { Ok(Some(token)) }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde_json::json;
    use tidegate_core::{Body, Connection, Context, TlsInfo};

    use super::*;
    use crate::jwt::Jwt;
    use crate::testing::{self, Service};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn signed(claims: &serde_json::Value) -> String {
        let part = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(r#"{"alg":"HS256"}"#.into()), part(claims.to_string()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes())))
    }

    /// A request over TLS with this client certificate.
    fn with_certificate(token: &str, certificate: Option<&[u8]>) -> Request {
        let builder =
            http::Request::get("https://h.test/").header("authorization", format!("Bearer {token}"));
        let (head, ()) = builder.body(()).unwrap().into_parts();
        let mut connection = Connection::plain(([127, 0, 0, 1], 4000).into());
        let client_certificates = certificate.map(<[u8]>::to_vec).into_iter().collect();
        connection.tls = Some(TlsInfo { client_certificates, ..TlsInfo::default() });
        Request::new(head, Body::empty(), Context::new(Arc::new(connection)))
    }

    #[test]
    fn a_token_of_a_certificate_is_worthless_without_it() {
        let options = |requires| Jwt {
            signing_secret: SECRET.into(),
            require_certificate_binding: requires,
            ..Jwt::default()
        };
        let claims = |cnf: serde_json::Value| json!({"sub": "ann", "exp": 4_000_000_000_u64, "cnf": cnf});
        let own = BASE64_URL_SAFE_NO_PAD.encode(thumbprint(b"own"));
        let bound = signed(&claims(json!({"x5t#S256": own})));
        let service = Service(|_| Response::new(Body::empty()));
        let ask = |middleware: &Arc<dyn Middleware>, token: &str, certificate: Option<&[u8]>| {
            let response =
                testing::block_on(testing::run(middleware, with_certificate(token, certificate), &service));
            let challenge = response.headers().get("www-authenticate");
            let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), challenge.unwrap_or_default())
        };
        for requires in [false, true] {
            let middleware = testing::build(options(requires));
            // The second time, the token is remembered.
            for _ in 0..2 {
                assert_eq!(ask(&middleware, &bound, Some(b"own")).0, 200);
                for other in [None, Some(&b"other"[..]), Some(b"")] {
                    let (status, challenge) = ask(&middleware, &bound, other);
                    assert_eq!(status, 401);
                    assert!(challenge.contains("the token is bound to another certificate"), "{challenge}");
                }
                let free = signed(&json!({"sub": "ann", "exp": 4_000_000_000_u64}));
                let (status, challenge) = ask(&middleware, &free, Some(b"own"));
                assert_eq!(status, if requires { 401 } else { 200 });
                assert_eq!(challenge.contains("the token is not bound to a certificate"), requires);
            }
            for wrong in [json!(""), json!(5), json!("AAAA"), json!(null), json!([own])] {
                let token = signed(&claims(json!({"x5t#S256": wrong})));
                assert_eq!(ask(&middleware, &token, Some(b"own")).0, 401, "{wrong}");
            }
            for other in [json!({"jkt": own}), json!({}), json!(null), json!("x")] {
                let (status, challenge) = ask(&middleware, &signed(&claims(other)), Some(b"own"));
                assert_eq!(status, 401);
                assert!(challenge.contains("something other than a certificate"), "{challenge}");
            }
        }
    }

    #[test]
    fn tokens_cannot_hide_behind_spellings_of_the_scheme() {
        let of = |text: &str| {
            bearer(&HeaderValue::from_bytes(text.as_bytes()).unwrap()).map(|token| token.map(str::to_owned))
        };
        for text in ["Bearer a.b", "bearer  a.b ", "BEARER\ta.b", "Bearer \t a.b\t"] {
            assert_eq!(of(text), Ok(Some("a.b".into())), "{text}");
        }
        for text in ["Bearer", "Bearer ", "bearer\t"] {
            assert_eq!(of(text), Err(Refusal::Malformed), "{text}");
        }
        assert_eq!(of("Bearer,a.b"), Ok(Some(",a.b".into())));
        for text in ["Basic Bearer", "Bearers a.b", "Bearer-x a.b", "", "Bear"] {
            assert_eq!(of(text), Ok(None), "{text}");
        }
    }
}
