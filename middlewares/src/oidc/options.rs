//! The options of `oidc`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::building::ClientTls;
use tidegate_core::store::StoreSentinel;
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::word::{Vocabulary, Word};

use crate::jwt::ClientConfig;

/// Traefik Hub's `oidc`. The options from `preset` to `groupsClaim` describe the provider, unless `providers` does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Oidc {
    /// Defaults for a well-known provider. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub preset: Word<Preset>,
    /// URL of the provider, as in its tokens.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Identifier of the client at the provider.
    #[serde(rename = "clientId", skip_serializing_if = "String::is_empty")]
    pub client_id: String,
    /// Secret of the client. Clients without one are public.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub client_secret: Secret,
    /// File with the secret. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_secret_file: String,
    /// Requested scopes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Further parameters of the authorization request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auth_params: BTreeMap<String, String>,
    /// Parameters of the request for the provider's metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub discovery_params: BTreeMap<String, String>,
    /// Authorization endpoint of an OAuth 2.0 provider without discovery. Not in Traefik Hub, like the next three.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub authorization_endpoint: String,
    /// Token endpoint of such a provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token_endpoint: String,
    /// URL of the user's claims at such a provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_info_endpoint: String,
    /// Whether claims that the ID token lacks are requested from the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_info: Option<bool>,
    /// Claim with the user's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username_claim: String,
    /// Claim with the user's groups. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub groups_claim: String,
    /// Several providers, between which users choose. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<Provider>,
    /// URL or path at which the provider's answers arrive.
    pub redirect_url: String,
    /// Always on; `false` is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pkce: Option<bool>,
    /// A condition on the claims. Users whose claims do not satisfy it get 403.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub claims: String,
    /// Request headers by name, each with the claim that it carries to the service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub forward_headers: BTreeMap<String, String>,
    /// Answers 401 instead of starting a login.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_login: bool,
    /// URL or path that starts a login. If it is set, others answer 401.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub login_url: String,
    /// URL or path that ends the session.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub logout_url: String,
    /// Where users are sent after a login instead of the URL that they requested.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub post_login_redirect_url: String,
    /// Where users are sent after logging out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub post_logout_redirect_url: String,
    /// URL or path for back-channel logout.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub backchannel_logout_url: String,
    /// Whether back-channel logouts must name a session.
    #[serde(skip_serializing_if = "is_default")]
    pub backchannel_logout_sessions_required: bool,
    /// URL or path for front-channel logout. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub frontchannel_logout_url: String,
    /// Allowed difference between clocks. Not in Traefik Hub.
    pub leeway: Duration,
    /// The cookie of a login that has begun.
    #[serde(skip_serializing_if = "is_default")]
    pub state_cookie: StateCookie,
    /// The session.
    #[serde(skip_serializing_if = "is_default")]
    pub session: Session,
    /// Protects requests that change something by a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csrf: Option<Csrf>,
    /// How the provider is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_config: Option<ClientConfig>,
}

impl Default for Oidc {
    fn default() -> Self {
        Self {
            preset: Word::EMPTY,
            issuer: String::new(),
            client_id: String::new(),
            client_secret: Secret::default(),
            client_secret_file: String::new(),
            scopes: Vec::new(),
            auth_params: BTreeMap::new(),
            discovery_params: BTreeMap::new(),
            authorization_endpoint: String::new(),
            token_endpoint: String::new(),
            user_info_endpoint: String::new(),
            user_info: None,
            username_claim: String::new(),
            groups_claim: String::new(),
            providers: Vec::new(),
            redirect_url: "/oidc/callback".into(),
            pkce: None,
            claims: String::new(),
            forward_headers: BTreeMap::new(),
            disable_login: false,
            login_url: String::new(),
            logout_url: String::new(),
            post_login_redirect_url: String::new(),
            post_logout_redirect_url: String::new(),
            backchannel_logout_url: String::new(),
            backchannel_logout_sessions_required: false,
            frontchannel_logout_url: String::new(),
            leeway: Duration::from_secs(30),
            state_cookie: StateCookie::default(),
            session: Session::default(),
            csrf: None,
            client_config: None,
        }
    }
}

/// One of several providers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Provider {
    /// Name in URLs: letters, digits, `-`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Name for users.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// Defaults for a well-known provider.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub preset: Word<Preset>,
    /// URL of the provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// Identifier of the client.
    #[serde(rename = "clientId", skip_serializing_if = "String::is_empty")]
    pub client_id: String,
    /// Secret of the client.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub client_secret: Secret,
    /// File with the secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_secret_file: String,
    /// Requested scopes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Further parameters of the authorization request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auth_params: BTreeMap<String, String>,
    /// Parameters of the request for the metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub discovery_params: BTreeMap<String, String>,
    /// Authorization endpoint of a provider without discovery.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub authorization_endpoint: String,
    /// Token endpoint of such a provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token_endpoint: String,
    /// URL of the user's claims at such a provider.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_info_endpoint: String,
    /// Whether claims that the ID token lacks are requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_info: Option<bool>,
    /// Claim with the user's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username_claim: String,
    /// Claim with the user's groups.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub groups_claim: String,
}

impl Oidc {
    /// Returns the providers, of which the options themselves may describe one.
    pub(super) fn all_providers(&self) -> Vec<Provider> {
        if !self.providers.is_empty() {
            return self.providers.clone();
        }
        vec![Provider {
            name: "default".to_owned(),
            title: String::new(),
            preset: self.preset.clone(),
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone(),
            client_secret_file: self.client_secret_file.clone(),
            scopes: self.scopes.clone(),
            auth_params: self.auth_params.clone(),
            discovery_params: self.discovery_params.clone(),
            authorization_endpoint: self.authorization_endpoint.clone(),
            token_endpoint: self.token_endpoint.clone(),
            user_info_endpoint: self.user_info_endpoint.clone(),
            user_info: self.user_info,
            username_claim: self.username_claim.clone(),
            groups_claim: self.groups_claim.clone(),
        }]
    }

    /// Returns true if the options themselves describe a provider.
    pub(super) fn describes_provider(&self) -> bool {
        !(self.issuer.is_empty() && self.client_id.is_empty() && self.preset.is_empty())
    }
}

/// A well-known provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Keycloak.
    Keycloak,
    /// Authentik.
    Authentik,
    /// Authelia.
    Authelia,
    /// Pocket ID.
    PocketId,
    /// Google.
    Google,
    /// GitHub, which is OAuth 2.0 only.
    GitHub,
    /// Microsoft Entra ID.
    Entra,
}

impl Vocabulary for Preset {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("keycloak", Self::Keycloak),
        ("authentik", Self::Authentik),
        ("authelia", Self::Authelia),
        ("pocketId", Self::PocketId),
        ("google", Self::Google),
        ("github", Self::GitHub),
        ("entra", Self::Entra),
    ];
    const IGNORES_CASE: bool = true;
}

/// `stateCookie`: the cookie of a login that has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StateCookie {
    /// Name, without its prefix.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How long a login may take.
    pub max_age: Duration,
    /// `lax` or `none`.
    pub same_site: Word<SameSite>,
    /// Whether scripts cannot read it.
    pub http_only: bool,
    /// Whether it is sent over TLS only.
    pub secure: bool,
    /// Path below which it is sent.
    pub path: String,
    /// Domain; that of the session by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
}

impl Default for StateCookie {
    fn default() -> Self {
        Self {
            name: String::new(),
            max_age: Duration::from_secs(600),
            same_site: SameSite::Lax.into(),
            http_only: true,
            secure: true,
            path: "/".into(),
            domain: String::new(),
        }
    }
}

/// `session`: the session and its cookie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Session {
    /// Name of the cookie, without its prefix.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// How long it lasts, or with `sliding`, how long without a request.
    pub expiry: Duration,
    /// How long it lasts at most. Not in Traefik Hub.
    pub absolute_expiry: Duration,
    /// Whether requests extend it.
    pub sliding: bool,
    /// Whether tokens are refreshed when they expire.
    pub refresh: bool,
    /// `lax`, `strict` or `none`.
    pub same_site: Word<SameSite>,
    /// Whether scripts cannot read it.
    pub http_only: bool,
    /// Whether it is sent over TLS only.
    pub secure: bool,
    /// Path below which it is sent.
    pub path: String,
    /// Parent domain whose hosts share the session.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Secrets of at least 32 bytes: the first encrypts, all decrypt. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    /// File with a secret per line. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secrets_file: String,
    /// Where sessions are, if not in cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            name: String::new(),
            expiry: Duration::from_secs(86_400),
            absolute_expiry: Duration::from_secs(7 * 86_400),
            sliding: true,
            refresh: true,
            same_site: SameSite::Lax.into(),
            http_only: true,
            secure: true,
            path: "/".into(),
            domain: String::new(),
            secrets: Vec::new(),
            secrets_file: String::new(),
            store: None,
        }
    }
}

/// When browsers send a cookie with requests of other sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `lax`: only when the user follows a link.
    Lax,
    /// `strict`: never.
    Strict,
    /// `none`: always.
    None,
}

impl Vocabulary for SameSite {
    const WORDS: &'static [(&'static str, Self)] =
        &[("lax", Self::Lax), ("strict", Self::Strict), ("none", Self::None)];
    const IGNORES_CASE: bool = true;
}

/// `session.store`: where sessions are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Store {
    /// Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<SessionRedis>,
}

/// `session.store.redis`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SessionRedis {
    /// Servers as `host:port`: nodes of one Redis Cluster, or alternatives for failover. With `sentinel`, the
    /// sentinels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// TLS for the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// User name.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub username: Secret,
    /// Password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// Database number.
    #[serde(skip_serializing_if = "is_default")]
    pub database: i64,
    /// Uses sentinels to find the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<StoreSentinel>,
    /// Maximum time that a request waits for Redis.
    pub timeout: Duration,
}

impl Default for SessionRedis {
    fn default() -> Self {
        Self {
            endpoints: vec!["localhost:6379".into()],
            tls: None,
            username: Secret::default(),
            password: Secret::default(),
            database: 0,
            sentinel: None,
            timeout: Duration::from_secs(1),
        }
    }
}

/// `csrf`: a header that scripts of the page must send with requests that change something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Csrf {
    /// Whether the cookie with the token is sent over TLS only.
    pub secure: bool,
    /// The header.
    pub header_name: String,
}

impl Default for Csrf {
    fn default() -> Self {
        Self { secure: true, header_name: "TraefikHub-Csrf-Token".into() }
    }
}
