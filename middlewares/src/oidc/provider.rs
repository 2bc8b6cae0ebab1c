//! A provider: what it publishes, and the requests that it answers.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};
use serde::Deserialize;
use serde_json::Value;
use tidegate_core::Clock;
use tidegate_core::building::Task;
use tidegate_core::values::Secret;
use url::{Url, form_urlencoded};

use crate::api_client::{self, ApiClient, ApiError, ApiResponse};
use crate::jwt::keys::{KeySet, Verdict};
use crate::jwt::remote::{Fetch, FetchError, Fetched, Remote, fetch_keys, published};
use crate::jwt::token::{Claims, Rules, Token};

/// Maximum length of a token in bytes.
const MAX_TOKEN: usize = 64 * 1024;
/// A provider that has answered within this time is not asked again before users are sent to it.
const CONFIRMED: Duration = Duration::from_secs(10);
/// The event of a logout token (OpenID Connect Back-Channel Logout section 2.4).
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A provider.
pub(super) struct Provider {
    /// Name in URLs and cookies.
    pub(super) name: String,
    /// Name for users.
    pub(super) title: String,
    /// Identifies issuer and client, for sessions.
    pub(super) key: String,
    pub(super) client_id: String,
    pub(super) client_secret: Secret,
    pub(super) scopes: String,
    pub(super) auth_params: Vec<(String, String)>,
    /// Whether claims are requested that the ID token lacks.
    pub(super) asks_user_info: bool,
    /// Claim with the user's name; `sub` by default.
    pub(super) username_claim: Option<String>,
    pub(super) groups_claim: String,
    pub(super) client: ApiClient,
    pub(super) leeway: f64,
    pub(super) source: Source,
    pub(super) _task: Option<Task>,
}

/// Where a provider's endpoints are known from.
pub(super) enum Source {
    /// From the options. Such a provider has no ID tokens.
    Fixed(Arc<Metadata>),
    /// From what it publishes.
    Discovered(Arc<Remote<Metadata>>),
}

/// What is known of a provider.
pub(super) struct Metadata {
    /// The value of `iss`; `None` without discovery.
    pub(super) issuer: Option<String>,
    pub(super) authorization: Url,
    pub(super) token: Uri,
    pub(super) user_info: Option<Uri>,
    pub(super) end_session: Option<Url>,
    pub(super) keys: Option<KeySet>,
    /// Whether the client's secret must be sent in the body.
    pub(super) posts_secret: bool,
    /// Whether answers name the issuer (RFC 9207).
    pub(super) names_issuer: bool,
    /// What was published.
    pub(super) text: Vec<u8>,
}

/// Fetches the metadata of an issuer with its keys.
pub(super) struct Discovery {
    pub(super) client: ApiClient,
    pub(super) issuer: String,
    pub(super) metadata: Uri,
}

/// The metadata as published (OpenID Connect Discovery section 3).
#[derive(Deserialize)]
struct Published {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    end_session_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Fetch for Discovery {
    type Value = Metadata;

    async fn fetch(&self) -> Result<Fetched<Metadata>, FetchError> {
        let timeout = self.client.timeout;
        tokio::time::timeout(timeout, self.discover()).await.unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    fn is_same(&self, one: &Metadata, other: &Metadata) -> bool {
        let is_same_key = match (&one.keys, &other.keys) {
            (Some(one), Some(other)) => one.is_same(other),
            _ => false,
        };
        one.text == other.text && is_same_key
    }

    fn shown(&self) -> String {
        crate::api_client::without_query(&self.metadata)
    }
}

impl Discovery {
    async fn discover(&self) -> Result<Fetched<Metadata>, FetchError> {
        let response = self.client.get(&self.metadata).await?;
        let found: Published = serde_json::from_slice(&response.body).map_err(FetchError::Metadata)?;
        if found.issuer != self.issuer {
            return Err(FetchError::OtherIssuer(found.issuer.chars().take(200).collect()));
        }
        let uri = |name, text: &str| published(name, text, &self.metadata);
        let url = |name, text: &str| {
            uri(name, text)?;
            Url::parse(text).map_err(|_| FetchError::Url(name, text.chars().take(200).collect()))
        };
        let keys = fetch_keys(&self.client, &uri("jwks_uri", &found.jwks_uri)?).await?;
        let methods = found.token_endpoint_auth_methods_supported.unwrap_or_default();
        let supports = |method: &str| methods.iter().any(|known| known == method);
        let user_info = found.userinfo_endpoint.map(|text| uri("userinfo_endpoint", &text)).transpose()?;
        let end_session =
            found.end_session_endpoint.map(|text| url("end_session_endpoint", &text)).transpose()?;
        let metadata = Metadata {
            issuer: Some(found.issuer),
            authorization: url("authorization_endpoint", &found.authorization_endpoint)?,
            token: uri("token_endpoint", &found.token_endpoint)?,
            user_info,
            end_session,
            keys: Some(keys.value),
            posts_secret: supports("client_secret_post") && !supports("client_secret_basic"),
            names_issuer: found.authorization_response_iss_parameter_supported,
            text: response.body.to_vec(),
        };
        Ok(Fetched { value: metadata, lifetime: keys.lifetime })
    }
}

/// The provider's answer to a code or a refresh token.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) access_token: String,
    #[serde(default)]
    pub(super) id_token: Option<String>,
    #[serde(default)]
    pub(super) refresh_token: Option<String>,
    #[serde(default)]
    pub(super) expires_in: Option<Value>,
}

impl Tokens {
    /// Returns how long the access token is valid, in seconds.
    pub(super) fn lifetime(&self) -> Option<u64> {
        match self.expires_in.as_ref()? {
            Value::Number(seconds) => seconds.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// Why a provider's answer is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProviderError {
    /// The provider is not available.
    #[error("{0}")]
    Unavailable(ApiError),
    /// Its metadata is not known.
    #[error("its metadata is not known")]
    Unknown,
    /// The provider refuses the code, the token or the client.
    #[error("it refuses: `{0}`")]
    Refused(String),
    /// Its answer is not what it must be.
    #[error("invalid answer: {0}")]
    Invalid(&'static str),
}

impl From<ApiError> for ProviderError {
    fn from(error: ApiError) -> Self {
        Self::Unavailable(error)
    }
}

impl Provider {
    /// Returns what is known of it.
    pub(super) fn metadata(&self) -> Option<Arc<Metadata>> {
        match &self.source {
            Source::Fixed(metadata) => Some(metadata.clone()),
            Source::Discovered(remote) => remote.current(),
        }
    }

    /// Returns what is known of it, if it answers.
    pub(super) async fn confirmed(&self, clock: &Clock) -> Option<Arc<Metadata>> {
        match &self.source {
            Source::Fixed(metadata) => Some(metadata.clone()),
            Source::Discovered(remote) => remote.confirmed(clock, CONFIRMED, self.client.timeout).await,
        }
    }

    /// Redeems a code.
    pub(super) async fn redeem(
        &self,
        metadata: &Metadata,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
    ) -> Result<Tokens, ProviderError> {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        self.tokens(metadata, &form).await
    }

    /// Refreshes the tokens.
    pub(super) async fn refresh(&self, metadata: &Metadata, token: &str) -> Result<Tokens, ProviderError> {
        self.tokens(metadata, &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    async fn tokens(&self, metadata: &Metadata, form: &[(&str, &str)]) -> Result<Tokens, ProviderError> {
        let (authorization, body) = self.token_request(metadata, form);
        let response = self.client.post_form(&metadata.token, authorization, body).await?;
        let tokens: Tokens = read(&response)?;
        if tokens.access_token.is_empty() {
            return Err(ProviderError::Invalid("no access token"));
        }
        Ok(tokens)
    }

    fn token_request(&self, metadata: &Metadata, form: &[(&str, &str)]) -> (Option<HeaderValue>, String) {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let secret = self.client_secret.expose();
        let authorization = if secret.is_empty() || metadata.posts_secret {
            body.append_pair("client_id", &self.client_id);
            if !secret.is_empty() {
                body.append_pair("client_secret", secret);
            }
            None
        } else {
            api_client::basic(&self.client_id, secret)
        };
        (authorization, body.finish())
    }

    /// Requests the user's claims.
    pub(super) async fn user_info(&self, uri: &Uri, access_token: &str) -> Result<Claims, ProviderError> {
        let authorization = HeaderValue::from_str(&format!("Bearer {access_token}"));
        let authorization =
            authorization.map_err(|_| ProviderError::Invalid("an access token with control characters"))?;
        let response = self.client.get_as(uri, authorization).await?;
        serde_json::from_slice(&response.body).map_err(|_| ProviderError::Invalid("claims that are not JSON"))
    }

    /// Verifies an ID token (OpenID Connect Core section 3.1.3.7) and returns its claims.
    pub(super) async fn verify_id_token(
        &self,
        text: &str,
        nonce: Option<&str>,
        clock: &Clock,
    ) -> Result<Claims, ProviderError> {
        let token = self.verify(text, None, clock).await?;
        if let Some(nonce) = nonce
            && !token
                .get("nonce")
                .and_then(Value::as_str)
                .is_some_and(|own| super::seal::is_equal(own, nonce))
        {
            return Err(ProviderError::Invalid("another nonce"));
        }
        let is_shared = token.get("aud").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
        match token.get("azp") {
            None if is_shared => return Err(ProviderError::Invalid("several audiences and no azp")),
            Some(azp) if azp != self.client_id.as_str() => return Err(ProviderError::Invalid("another azp")),
            _ => {}
        }
        match token.get("sub").and_then(Value::as_str) {
            Some(sub) if !sub.is_empty() && sub.len() <= 255 => Ok(token),
            _ => Err(ProviderError::Invalid("no sub")),
        }
    }

    /// Verifies a logout token (OpenID Connect Back-Channel Logout section 2.6) and returns its claims.
    pub(super) async fn verify_logout_token(
        &self,
        text: &str,
        clock: &Clock,
    ) -> Result<Claims, ProviderError> {
        let types = ["logout+jwt", "JWT"].map(str::to_owned).to_vec();
        let claims = self.verify(text, Some(types), clock).await?;
        let is_logout =
            claims.get("events").and_then(|events| events.get(LOGOUT_EVENT)).is_some_and(Value::is_object);
        if !is_logout {
            return Err(ProviderError::Invalid("not a logout"));
        }
        if claims.contains_key("nonce") {
            return Err(ProviderError::Invalid("a nonce"));
        }
        Ok(claims)
    }

    /// Verifies signature, issuer, audience, times and type.
    async fn verify(
        &self,
        text: &str,
        types: Option<Vec<String>>,
        clock: &Clock,
    ) -> Result<Claims, ProviderError> {
        if text.len() > MAX_TOKEN {
            return Err(ProviderError::Invalid("the token is too long"));
        }
        let token = Token::parse(text).map_err(|refusal| ProviderError::Invalid(refusal.description()))?;
        let mut metadata = self.metadata().ok_or(ProviderError::Unknown)?;
        if metadata.issuer.is_none() || token.issuer() != metadata.issuer.as_deref() {
            return Err(ProviderError::Invalid("the issuer of the token is not trusted"));
        }
        let verdict = |metadata: &Metadata| match &metadata.keys {
            Some(keys) => {
                keys.verify(token.key_id.as_deref(), token.algorithm, token.message, token.signature)
            }
            None => Verdict::Unknown,
        };
        let mut found = verdict(&metadata);
        if let (Verdict::Unknown, Source::Discovered(remote)) = (found, &self.source) {
            remote.wait(clock, self.client.timeout).await;
            metadata = self.metadata().ok_or(ProviderError::Unknown)?;
            found = verdict(&metadata);
        }
        match found {
            Verdict::Valid => {}
            Verdict::Invalid => return Err(ProviderError::Invalid("the signature of the token is invalid")),
            Verdict::OtherAlgorithm => {
                return Err(ProviderError::Invalid("the algorithm of the token is not allowed"));
            }
            Verdict::Unknown => return Err(ProviderError::Invalid("the key of the token is unknown")),
        }
        let rules = Rules {
            audiences: vec![self.client_id.clone()],
            types: types.filter(|_| token.typ.is_some()).unwrap_or_default(),
            leeway: self.leeway,
            requires_expiry: true,
        };
        rules
            .check(&token, super::session::seconds(clock))
            .map_err(|refusal| ProviderError::Invalid(refusal.description()))?;
        Ok(token.claims)
    }
}

/// Reads the answer of a token endpoint. GitHub reports errors with status 200.
fn read<T: serde::de::DeserializeOwned>(response: &ApiResponse) -> Result<T, ProviderError> {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    if response.status.is_server_error() || response.status.as_u16() == 429 {
        return Err(ProviderError::Unavailable(ApiError::Status(response.status)));
    }
    if let Ok(refused) = serde_json::from_slice::<Refused>(&response.body) {
        let plain = |c: &char| c.is_ascii_alphanumeric() || "_-. ".contains(*c);
        return Err(ProviderError::Refused(refused.error.chars().filter(plain).take(100).collect()));
    }
    if !response.status.is_success() {
        return Err(ProviderError::Refused(format!("status {}", response.status.as_u16())));
    }
    serde_json::from_slice(&response.body).map_err(|_| ProviderError::Invalid("tokens that are not JSON"))
}
