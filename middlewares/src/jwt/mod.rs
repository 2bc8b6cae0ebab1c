//! Accepts requests with a JSON Web Token of a trusted issuer (RFC 7519, RFC 8725, RFC 6750).

mod authenticator;
pub(crate) mod claims;
pub(crate) mod keys;
mod refusal;
pub(crate) mod remote;
pub(crate) mod token;
#[cfg(test)]
mod wycheproof;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderName;
use serde::{Deserialize, Serialize};
use tidegate_core::building::{ClientTls, Task};
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::{Access, Build, BuildContext, BuildError, BuildErrors, Middleware};

use crate::api_client::{self, ApiClient};
use crate::dpop::DpopOptions;
use crate::{auth, forward_auth};
use authenticator::{Authenticator, Issuer, Keys};
use claims::Expression;
use keys::KeySet;
use remote::{Fetcher, Remote, Source};
use token::Rules;

/// Accepts any issuer or audience where one is required.
const ANY: &str = "*";
/// Maximum number of trusted issuers.
const MAX_ISSUERS: usize = 32;
/// Maximum leeway: more makes the expiry meaningless.
const MAX_LEEWAY: StdDuration = StdDuration::from_mins(10);
/// Default timeout for keys, as in Traefik Hub.
const TIMEOUT: u64 = 5;

/// Traefik Hub's `jwt`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Jwt {
    /// Secret for HS256, HS384 and HS512, of at least 32 bytes.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub signing_secret: Secret,
    /// Whether the secret is in base64.
    #[serde(skip_serializing_if = "is_default")]
    pub signing_secret_base64_encoded: bool,
    /// Public keys or certificates in PEM, or the file with them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub public_key: String,
    /// A JSON Web Key Set, or the file with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwks_file: String,
    /// URL of a JSON Web Key Set; a path is relative to `issuer`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwks_url: String,
    /// Issuers with keys of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_issuers: Vec<TrustedIssuer>,
    /// The value that `iss` must have. `*` accepts any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Values of which `aud` must have one. `*` accepts any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// Values of which `typ` must have one; by default, `JWT`, `at+jwt` or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_types: Vec<String>,
    /// A condition on the claims. Clients whose claims do not satisfy it get 403.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claims: String,
    /// Claim with the client's name. By default, `sub`, which may be missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username_claim: String,
    /// Claim with the client's groups, a list or one text; `groups` by default. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub groups_claim: String,
    /// Request headers by name, each with the claim that it carries to the service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub forward_headers: BTreeMap<String, String>,
    /// Allowed difference between clocks.
    pub leeway: Duration,
    /// Whether tokens must have `exp`.
    pub require_expiration: bool,
    /// Lets requests without a token pass.
    #[serde(skip_serializing_if = "is_default")]
    pub optional: bool,
    /// Accepts only tokens that are bound to the client's certificate (RFC 8705). Not in Traefik Hub.
    #[serde(skip_serializing_if = "is_default")]
    pub require_certificate_binding: bool,
    /// Accepts tokens that are bound to a key, with proofs (RFC 9449). Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpop: Option<DpopOptions>,
    /// Query parameter with the token, for clients that cannot send the header.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token_query_key: String,
    /// Removes the token before the request reaches the service.
    #[serde(skip_serializing_if = "is_default")]
    pub strip_authorization_header: bool,
    /// How keys are fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_config: Option<ClientConfig>,
}

/// An issuer and its keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TrustedIssuer {
    /// The value of `iss`, which is a URL unless `jwksUrl` is set.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// URL of its JSON Web Key Set. By default, the issuer's metadata names it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwks_url: String,
}

/// How keys are fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientConfig {
    /// TLS for the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Timeout in seconds.
    pub timeout_seconds: u64,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { tls: None, timeout_seconds: TIMEOUT }
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            signing_secret: Secret::default(),
            signing_secret_base64_encoded: false,
            public_key: String::new(),
            jwks_file: String::new(),
            jwks_url: String::new(),
            trusted_issuers: Vec::new(),
            issuer: String::new(),
            audience: Vec::new(),
            token_types: Vec::new(),
            claims: String::new(),
            username_claim: String::new(),
            groups_claim: String::new(),
            forward_headers: BTreeMap::new(),
            leeway: Duration::from_secs(30),
            require_expiration: true,
            optional: false,
            require_certificate_binding: false,
            dpop: None,
            token_query_key: String::new(),
            strip_authorization_header: false,
            client_config: None,
        }
    }
}

impl Build for Jwt {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let claims = Some(&self.claims).filter(|text| !text.is_empty());
        let claims = claims.map(|text| Expression::parse(text)).transpose();
        let claims = claims.map_err(|error| error.map(|text| format!("claims: {text}")));
        let client = self.client();
        let limits = BuildErrors::both(self.rules(), client);
        let texts = BuildErrors::both(claims, self.headers());
        let keys = BuildErrors::both(self.key_source(), limits);
        let ((source, (rules, client)), (claims, headers)) = BuildErrors::both(keys, texts)?;
        if let Some(tls) = &client.tls {
            forward_auth::check_tls(tls, context)?;
        }
        let dpop = self.dpop.as_ref().map(|dpop| dpop.build(self.leeway.into(), context)).transpose()?;
        let timeout = StdDuration::from_secs(client.timeout_seconds);
        let mut tasks = Vec::new();
        let issuers = match source {
            KeySource::Fixed(read) => {
                let keys = self.fixed(read, context)?;
                vec![Issuer { issuer: known(&self.issuer), keys: Keys::Fixed(Arc::new(keys)) }]
            }
            KeySource::Remote(sources) => {
                let mut remote = |(issuer, source): (Option<String>, Source)| {
                    let (keys, task) = fetched(&source, &client, timeout, context);
                    tasks.push(task);
                    Issuer { issuer, keys: Keys::Remote { keys, source } }
                };
                sources.into_iter().map(&mut remote).collect()
            }
        };
        Ok(Arc::new(Authenticator {
            name: context.name.into(),
            clock: context.clock(),
            issuers,
            rules,
            claims,
            username: known(&self.username_claim),
            groups: known(&self.groups_claim).unwrap_or_else(|| "groups".to_owned()),
            consumers: context.consumers(),
            headers,
            is_optional: self.optional,
            query_key: known(&self.token_query_key),
            removes_token: self.strip_authorization_header,
            requires_binding: self.require_certificate_binding,
            dpop,
            timeout,
            verified: authenticator::cache(),
            _tasks: tasks,
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        let names: Vec<HeaderName> =
            self.forward_headers.keys().filter_map(|name| name.parse().ok()).collect();
        let vouched = move |header: &HeaderName| names.iter().any(|name| auth::is_same(name, header));
        Some(Access::by_head().vouching(vouched))
    }
}

/// Where the keys are.
enum KeySource {
    Fixed(Fixed),
    Remote(Vec<(Option<String>, Source)>),
}

/// The options whose keys do not change.
#[derive(Clone, Copy)]
enum Fixed {
    Secret,
    PublicKey,
    JwksFile,
}

/// Returns a text that is set.
pub(crate) fn known(text: &str) -> Option<String> {
    (!text.is_empty() && text != ANY).then(|| text.to_owned())
}

/// Returns the keys of a source, and the task that keeps them fresh.
fn fetched(
    source: &Source,
    client: &ClientConfig,
    timeout: StdDuration,
    context: &BuildContext<'_>,
) -> (Arc<Remote<KeySet>>, Task) {
    let tls = client.tls.clone().unwrap_or_default();
    // Keys that were fetched without verifying the server do not count once it is verified.
    let key = format!("keys of {source:?}, verified: {}", !tls.insecure_skip_verify);
    let keys = context.state(&key, Remote::new);
    let client = ApiClient { client: context.client(), tls, timeout };
    let fetcher = Fetcher { client, source: source.clone() };
    let task = context.spawn("keys", keys.clone().keep_fresh(fetcher, context.clock()));
    (keys, task)
}

impl Jwt {
    /// Returns the one option that names keys.
    fn key_source(&self) -> Result<KeySource, BuildError> {
        let given = [
            ("signingSecret", !self.signing_secret.is_empty()),
            ("publicKey", !self.public_key.is_empty()),
            ("jwksFile", !self.jwks_file.is_empty()),
            ("jwksUrl", !self.jwks_url.is_empty()),
            ("trustedIssuers", !self.trusted_issuers.is_empty()),
        ];
        let given: Vec<&str> =
            given.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect();
        match given[..] {
            ["signingSecret"] => Ok(KeySource::Fixed(Fixed::Secret)),
            ["publicKey"] => Ok(KeySource::Fixed(Fixed::PublicKey)),
            ["jwksFile"] => Ok(KeySource::Fixed(Fixed::JwksFile)),
            ["jwksUrl"] => self.jwks_source().map(|source| KeySource::Remote(vec![source])),
            ["trustedIssuers"] => self.issuer_sources().map(KeySource::Remote),
            [] => Err(BuildError::new(
                "no keys: expected signingSecret, publicKey, jwksFile, jwksUrl or trustedIssuers",
            )),
            _ => Err(BuildError::new(format!("only one of {} is possible", given.join(", ")))),
        }
    }

    fn jwks_source(&self) -> Result<(Option<String>, Source), BuildError> {
        if self.issuer.is_empty() {
            return Err(BuildError::new(
                "issuer: required with jwksUrl: the value that `iss` must have, or `*` for any",
            ));
        }
        self.require_audience("jwksUrl")?;
        let text = match self.jwks_url.starts_with('/') {
            true => format!("{}{}", self.issuer.trim_end_matches('/'), self.jwks_url),
            false => self.jwks_url.clone(),
        };
        Ok((known(&self.issuer), Source::Keys(parse_url("jwksUrl", &text)?)))
    }

    fn issuer_sources(&self) -> Result<Vec<(Option<String>, Source)>, BuildError> {
        self.require_audience("trustedIssuers")?;
        if !self.issuer.is_empty() {
            return Err(BuildError::new("issuer: not possible with trustedIssuers, which name theirs"));
        }
        if self.trusted_issuers.len() > MAX_ISSUERS {
            return Err(BuildError::new(format!("trustedIssuers: the maximum is {MAX_ISSUERS}")));
        }
        BuildErrors::collect(self.trusted_issuers.iter().enumerate().map(|(index, trusted)| {
            let option = |name: &str| format!("trustedIssuers[{index}].{name}");
            let issuer = known(&trusted.issuer)
                .ok_or_else(|| BuildError::new(format!("{}: required", option("issuer"))))?;
            if self.trusted_issuers.iter().take(index).any(|other| other.issuer == issuer) {
                return Err(BuildError::new(format!("{}: `{issuer}` is listed twice", option("issuer"))));
            }
            let source = if trusted.jwks_url.is_empty() {
                let metadata = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                Source::Issuer { issuer: issuer.clone(), metadata: parse_url(&option("issuer"), &metadata)? }
            } else {
                Source::Keys(parse_url(&option("jwksUrl"), &trusted.jwks_url)?)
            };
            Ok((Some(issuer), source))
        }))
    }

    /// An issuer's keys sign tokens for all its services, so one of them could use its clients' tokens here.
    fn require_audience(&self, option: &str) -> Result<(), BuildError> {
        if !self.audience.is_empty() {
            return Ok(());
        }
        Err(BuildError::new(format!(
            "audience: required with {option}: values of which `aud` must have one, or `*` for any"
        )))
    }

    fn fixed(&self, source: Fixed, context: &BuildContext<'_>) -> Result<KeySet, BuildError> {
        let (option, keys) = match source {
            Fixed::Secret => {
                let text = self.signing_secret.expose();
                let secret = match self.signing_secret_base64_encoded {
                    true => BASE64_STANDARD
                        .decode(text.trim())
                        .map_err(|_| BuildError::new("signingSecret: invalid base64"))?,
                    false => text.as_bytes().to_vec(),
                };
                ("signingSecret", KeySet::secret(&secret))
            }
            Fixed::PublicKey if self.public_key.contains("-----BEGIN") => {
                ("publicKey", KeySet::pem(self.public_key.as_bytes()))
            }
            Fixed::PublicKey => ("publicKey", KeySet::pem(&context.file(self.public_key.trim())?)),
            Fixed::JwksFile if self.jwks_file.trim_start().starts_with('{') => {
                ("jwksFile", KeySet::jwks(self.jwks_file.as_bytes(), true))
            }
            Fixed::JwksFile => ("jwksFile", KeySet::jwks(&context.file(self.jwks_file.trim())?, true)),
        };
        keys.map_err(|error| BuildError::new(format!("{option}: {error}")))
    }

    fn rules(&self) -> Result<Rules, BuildError> {
        let leeway = StdDuration::from(self.leeway);
        if leeway > MAX_LEEWAY {
            return Err(BuildError::new(format!("leeway: {}: the maximum is 10m", self.leeway)));
        }
        let accepts_any = self.audience.iter().any(|audience| audience == ANY);
        Ok(Rules {
            audiences: if accepts_any { Vec::new() } else { self.audience.clone() },
            types: self.token_types.clone(),
            leeway: leeway.as_secs_f64(),
            requires_expiry: self.require_expiration,
        })
    }

    fn headers(&self) -> Result<Vec<(HeaderName, String)>, BuildError> {
        BuildErrors::collect(self.forward_headers.iter().map(|(name, claim)| match name.parse() {
            Ok(parsed) => Ok((parsed, claim.clone())),
            Err(_) => Err(BuildError::new(format!("forwardHeaders: invalid header name `{name}`"))),
        }))
    }

    fn client(&self) -> Result<ClientConfig, BuildError> {
        let client = self.client_config.clone().unwrap_or_default();
        if !(1..=60).contains(&client.timeout_seconds) {
            return Err(BuildError::new(format!(
                "clientConfig.timeoutSeconds: {}: expected 1 to 60",
                client.timeout_seconds
            )));
        }
        Ok(client)
    }
}

pub(crate) fn parse_url(option: &str, text: &str) -> Result<http::Uri, BuildError> {
    api_client::parse_url(text).ok_or_else(|| {
        BuildError::new(format!("{option}: invalid URL `{text}`: expected an absolute http or https URL"))
    })
}
