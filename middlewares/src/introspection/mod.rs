//! Accepts requests with a token for which an authorization server vouches (RFC 7662, RFC 6750).

mod answer;
mod authenticator;
mod refusal;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration as StdDuration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tidegate_core::building::ClientTls;
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{Access, Build, BuildContext, BuildError, BuildErrors, Middleware};
use tokio::sync::Semaphore;

use crate::api_client::{self, ApiClient};
use crate::auth::source::{KeySource, Source, SourceKind};
use crate::dpop::DpopOptions;
use crate::jwt::claims::Expression;
use crate::{auth, forward_auth, jwt};
use answer::Rules;
use authenticator::{Authenticator, Known};
use server::Server;

/// Maximum leeway: more makes the expiry meaningless.
const MAX_LEEWAY: StdDuration = StdDuration::from_mins(10);
/// Maximum time for which answers count.
const MAX_TTL: StdDuration = StdDuration::from_hours(1);
/// Minimum time for which it counts that a token is not active.
const MIN_NEGATIVE_TTL: StdDuration = StdDuration::from_secs(1);
/// Where tokens are.
const SOURCE: SourceKind =
    SourceKind { option: "tokenSource", header: "Authorization", scheme: "Bearer", max_length: 16 * 1024 };

/// Traefik Hub's `oAuthIntrospection`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Introspection {
    /// Where clients put their tokens. By default, `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_source: Option<KeySource>,
    /// The server, and how it is asked.
    pub client_config: ClientConfig,
    /// A condition on the claims. Clients whose claims do not satisfy it get 403.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claims: String,
    /// Scopes that a token must have, all of them. Clients whose tokens lack one get 403. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Values of which `aud` must have one. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// The value of `iss`, also for answers without it. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Claim with the client's name. By default, `sub`, which may be missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username_claim: String,
    /// Claim with the client's groups, a list or one text; `groups` by default. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub groups_claim: String,
    /// Request headers by name, each with the claim that it carries to the service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub forward_headers: BTreeMap<String, String>,
    /// Allowed difference between clocks. Not in Traefik Hub.
    pub leeway: Duration,
    /// Accepts tokens that are bound to a key, with proofs (RFC 9449). Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpop: Option<DpopOptions>,
    /// Lets requests without a token pass. Not in Traefik Hub.
    #[serde(skip_serializing_if = "is_default")]
    pub optional: bool,
    /// Removes the token before the request reaches the service. Not in Traefik Hub.
    #[serde(skip_serializing_if = "is_default")]
    pub strip_token: bool,
    /// How long an answer counts at most. Not in Traefik Hub.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Duration,
    /// How long it counts that a token is not active. Not in Traefik Hub.
    #[serde(rename = "negativeCacheTTL")]
    pub negative_cache_ttl: Duration,
}

/// The introspection server, and how it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientConfig {
    /// URL of the introspection endpoint.
    pub url: String,
    /// Credentials of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<ClientAuth>,
    /// Further headers of questions, whose values may be credentials.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// What tokens are: `access_token`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token_type_hint: String,
    /// Timeout in seconds for an answer, including retries.
    pub timeout_seconds: u64,
    /// How often a question is asked again if the server cannot be reached, or answers with 5xx.
    pub max_retries: u32,
    /// Maximum number of questions at a time. Not in Traefik Hub.
    pub max_concurrent: usize,
    /// TLS for the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

/// Credentials of the gateway at the introspection server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientAuth {
    /// `basic`, `bearer` or `header`.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub kind: Word<AuthKind>,
    /// `clientId:clientSecret`, the token, or the value of the header.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub secret: Secret,
    /// Name of the header, for the kind `header`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header: String,
}

/// How the gateway authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthKind {
    /// A client identifier and its secret (RFC 6749 section 2.3.1).
    Basic,
    /// A token.
    Bearer,
    /// A header with any name.
    Header,
}

impl Vocabulary for AuthKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("basic", Self::Basic), ("bearer", Self::Bearer), ("header", Self::Header)];
    const IGNORES_CASE: bool = true;
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            auth: None,
            headers: BTreeMap::new(),
            token_type_hint: String::new(),
            timeout_seconds: 5,
            max_retries: 3,
            max_concurrent: 64,
            tls: None,
        }
    }
}

impl Default for Introspection {
    fn default() -> Self {
        Self {
            token_source: None,
            client_config: ClientConfig::default(),
            claims: String::new(),
            scopes: Vec::new(),
            audience: Vec::new(),
            issuer: String::new(),
            username_claim: String::new(),
            groups_claim: String::new(),
            forward_headers: BTreeMap::new(),
            leeway: Duration::from_secs(30),
            dpop: None,
            optional: false,
            strip_token: false,
            cache_ttl: Duration::from_secs(60),
            negative_cache_ttl: Duration::from_secs(5),
        }
    }
}

impl Build for Introspection {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let claims = Some(&self.claims).filter(|text| !text.is_empty());
        let claims = claims.map(|text| Expression::parse(text)).transpose();
        let claims = claims.map_err(|error| error.map(|text| format!("claims: {text}")));
        let server = self.client_config.server(context);
        let places = BuildErrors::both(self.source(), self.headers());
        let limits = BuildErrors::both(self.rules(), self.check_times());
        let ((server, claims), ((source, headers), (rules, ()))) =
            BuildErrors::both(BuildErrors::both(server, claims), BuildErrors::both(places, limits))?;
        let dpop = self.dpop.as_ref().map(|dpop| dpop.build(self.leeway.into(), context)).transpose()?;
        Ok(Arc::new(Authenticator {
            name: context.name.into(),
            clock: context.clock(),
            source,
            server,
            rules,
            claims,
            scopes: self.scopes.clone(),
            username: jwt::known(&self.username_claim),
            groups: jwt::known(&self.groups_claim).unwrap_or_else(|| "groups".to_owned()),
            consumers: context.consumers(),
            headers,
            dpop,
            is_optional: self.optional,
            strips_token: self.strip_token,
            ttl: self.cache_ttl.into(),
            negative_ttl: StdDuration::from(self.negative_cache_ttl).max(MIN_NEGATIVE_TTL),
            known: Known::default(),
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        let names: Vec<HeaderName> =
            self.forward_headers.keys().filter_map(|name| name.parse().ok()).collect();
        // If another member of `anyOf` admits a request, the token is still not for the service.
        let own = self.source().ok()?.own_header().cloned();
        let vouched = move |header: &HeaderName| {
            own.as_ref() == Some(header) || names.iter().any(|name| auth::is_same(name, header))
        };
        Some(Access::by_head().vouching(vouched))
    }
}

impl Introspection {
    fn source(&self) -> Result<Source, BuildError> {
        Source::new(&self.token_source.clone().unwrap_or_default(), SOURCE)
    }

    fn headers(&self) -> Result<Vec<(HeaderName, String)>, BuildError> {
        BuildErrors::collect(self.forward_headers.iter().map(|(name, claim)| match name.parse() {
            Ok(parsed) => Ok((parsed, claim.clone())),
            Err(_) => Err(BuildError::new(format!("forwardHeaders: invalid header name `{name}`"))),
        }))
    }

    fn rules(&self) -> Result<Rules, BuildError> {
        let leeway = StdDuration::from(self.leeway);
        if leeway > MAX_LEEWAY {
            return Err(BuildError::new(format!("leeway: {}: the maximum is 10m", self.leeway)));
        }
        Ok(Rules {
            audiences: self.audience.clone(),
            issuer: jwt::known(&self.issuer),
            leeway: leeway.as_secs_f64(),
        })
    }

    fn check_times(&self) -> Result<(), BuildError> {
        let mut errors = BuildErrors::default();
        for (option, value) in [("cacheTTL", self.cache_ttl), ("negativeCacheTTL", self.negative_cache_ttl)] {
            if StdDuration::from(value) > MAX_TTL {
                errors.add(format!("{option}: {value}: the maximum is 1h"));
            }
        }
        errors.finish()
    }
}

impl ClientConfig {
    fn server(&self, context: &BuildContext<'_>) -> Result<Server, BuildError> {
        let mut errors = BuildErrors::default();
        let url = match self.url.is_empty() {
            true => Err(BuildError::new("clientConfig.url: required: the URL of the introspection endpoint")),
            false => jwt::parse_url("clientConfig.url", &self.url),
        };
        let url = errors.check(url);
        let headers = errors.check(self.request_headers());
        if !(1..=60).contains(&self.timeout_seconds) {
            let given = self.timeout_seconds;
            errors.add(format!("clientConfig.timeoutSeconds: {given}: expected 1 to 60"));
        }
        if self.max_retries > 10 {
            errors.add(format!("clientConfig.maxRetries: {}: the maximum is 10", self.max_retries));
        }
        if !(1..=10_000).contains(&self.max_concurrent) {
            let given = self.max_concurrent;
            errors.add(format!("clientConfig.maxConcurrent: {given}: expected 1 to 10000"));
        }
        let tls = self.tls.clone().unwrap_or_default();
        errors.check(forward_auth::check_tls(&tls, context));
        let (url, headers) = errors.made(url.zip(headers))?;
        let timeout = StdDuration::from_secs(self.timeout_seconds);
        Ok(Server {
            client: ApiClient { client: context.client(), tls, timeout },
            url,
            headers,
            type_hint: self.token_type_hint.clone(),
            max_retries: self.max_retries,
            permits: Semaphore::new(self.max_concurrent),
            waiting: AtomicUsize::new(0),
            is_failing: AtomicBool::new(false),
            name: context.name.into(),
        })
    }

    /// Returns the headers of questions. Messages contain no value.
    fn request_headers(&self) -> Result<HeaderMap, BuildError> {
        let mut errors = BuildErrors::default();
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            if value.expose().contains("{{") {
                errors.add(format!("clientConfig.headers.{name}: templates are not supported"));
            }
            match (name.parse::<HeaderName>(), HeaderValue::from_str(value.expose())) {
                (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
                (Err(_), _) => errors.add(format!("clientConfig.headers: invalid header name `{name}`")),
                (_, Err(_)) => errors.add(format!("clientConfig.headers.{name}: invalid value")),
            }
        }
        if let Some(auth) = &self.auth
            && let Some((name, value)) = errors.check(auth.header())
        {
            headers.insert(name, value);
        }
        errors.made(Some(headers))
    }
}

impl ClientAuth {
    fn header(&self) -> Result<(HeaderName, HeaderValue), BuildError> {
        let wrong = |option: &str, text: &str| BuildError::new(format!("clientConfig.auth.{option}: {text}"));
        let kind = self.kind.meaning().map_err(|error| wrong("kind", &error.to_string()))?;
        let kind = kind.ok_or_else(|| wrong("kind", "required: basic, bearer or header"))?;
        if self.secret.is_empty() {
            return Err(wrong("secret", "required"));
        }
        if (kind == AuthKind::Header) == self.header.is_empty() {
            return Err(wrong("header", "required for the kind `header`, and only for it"));
        }
        let secret = self.secret.expose();
        let invalid = || wrong("secret", "characters that are not allowed in a header");
        match kind {
            AuthKind::Basic => {
                let (id, secret) = secret
                    .split_once(':')
                    .ok_or_else(|| wrong("secret", "expected `clientId:clientSecret`"))?;
                Ok((AUTHORIZATION, api_client::basic(id, secret).ok_or_else(invalid)?))
            }
            AuthKind::Bearer => {
                let value = HeaderValue::from_str(&format!("Bearer {secret}")).map_err(|_| invalid())?;
                Ok((AUTHORIZATION, value))
            }
            AuthKind::Header => {
                let name =
                    self.header.parse().map_err(|_| wrong("header", "this is not the name of a header"))?;
                Ok((name, HeaderValue::from_str(secret).map_err(|_| invalid())?))
            }
        }
    }
}
