//! Requires a session that users begin by signing in at an OpenID Connect or OAuth 2.0 provider.

mod cookies;
mod handler;
mod login;
mod logout;
mod options;
mod page;
mod party;
mod presets;
mod provider;
mod refresh;
mod refusal;
mod seal;
mod session;
mod sessions;
mod target;

use std::sync::Arc;
use std::time::Duration as StdDuration;

use http::{HeaderName, Uri};
use tidegate_core::building::Task;
use tidegate_core::values::{Duration, Secret};
use tidegate_core::word::Word;
use tidegate_core::{Access, Build, BuildContext, BuildError, BuildErrors, Middleware};
use url::{Url, form_urlencoded};

use crate::api_client::ApiClient;
use crate::jwt::claims::Expression;
use crate::jwt::remote::Remote;
use crate::jwt::{ClientConfig, known, parse_url};
use crate::rate_limit::Redis;
use crate::{auth, forward_auth};
use cookies::{Attributes, CookieStyle};
use handler::Handler;
pub use options::{Csrf, Oidc, Preset, Provider, SameSite, Session, SessionRedis, StateCookie, Store};
use party::{Kept, Party, Places};
use provider::{Discovery, Metadata, Source};
use seal::KeyRing;
use session::Lifetime;
use target::Place;

/// Maximum number of providers.
const MAX_PROVIDERS: usize = 16;
/// Maximum leeway: more makes the expiry meaningless.
const MAX_LEEWAY: StdDuration = StdDuration::from_mins(10);
/// Maximum time that a request waits for Redis.
const MAX_TIMEOUT: StdDuration = StdDuration::from_mins(1);
/// The longest session: browsers keep cookies no longer than 400 days.
const MAX_EXPIRY: StdDuration = StdDuration::from_hours(400 * 24);

/// The cookies of a middleware.
struct Cookies {
    session: CookieStyle,
    state: CookieStyle,
    /// With the header that repeats it.
    csrf: Option<(CookieStyle, HeaderName)>,
}

impl Build for Oidc {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        Ok(Arc::new(Handler(Arc::new(self.party(context)?))))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        let names: Vec<HeaderName> =
            self.forward_headers.keys().filter_map(|name| name.parse().ok()).collect();
        let vouched = move |header: &HeaderName| names.iter().any(|name| auth::is_same(name, header));
        let names = [self.session.name.clone(), self.state_cookie.name.clone()];
        let is_own = move |name: &str| {
            let plain =
                name.strip_prefix("__Host-").or_else(|| name.strip_prefix("__Secure-")).unwrap_or(name);
            let is_named = |own: &String| {
                let suffix = plain.strip_prefix(own.as_str());
                !own.is_empty() && suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('-'))
            };
            plain.starts_with(cookies::PREFIX) || names.iter().any(is_named)
        };
        let conceal = move |headers: &mut http::HeaderMap| cookies::remove(headers, &is_own);
        Some(Access::by_head().vouching(vouched).concealing(conceal))
    }
}

impl Oidc {
    fn party(&self, context: &BuildContext<'_>) -> Result<Party, BuildError> {
        let texts = BuildErrors::both(self.expression(), self.header_names());
        let limits = BuildErrors::both(self.lifetimes(), self.client(context));
        let places = BuildErrors::both(self.places(), self.check_names());
        let ((texts, limits), (places, ())) = BuildErrors::both(BuildErrors::both(texts, limits), places)?;
        let ((claims, headers), ((lifetime, state_lifetime, leeway), client)) = (texts, limits);
        let kept = context.try_state("sessions", Kept::new);
        let kept = kept.map_err(|error| BuildError::new(format!("session: {error}")))?;
        let (ring, is_own) = self.key_ring(&kept, context)?;
        let providers = self.all_providers();
        let providers = BuildErrors::collect(
            providers.iter().map(|provider| self.provider(provider, &client, leeway, context)),
        )?;
        let scope = self.scope(&providers, if is_own { context.name } else { "" });
        let cookies = self.cookies(&scope)?;
        Ok(Party {
            name: context.name.into(),
            clock: context.clock(),
            consumers: context.consumers(),
            ring: Arc::new(ring),
            providers,
            places,
            disable_login: self.disable_login,
            sessions_required: self.backchannel_logout_sessions_required,
            claims,
            headers,
            session_cookie: cookies.session,
            state_cookie: cookies.state,
            has_own_secret: is_own,
            domain: self.session.domain.to_ascii_lowercase(),
            is_secure: self.session.secure || self.state_cookie.secure,
            csrf: cookies.csrf,
            state_lifetime,
            lifetime,
            refreshes: self.session.refresh,
            store: self.store(context)?,
            kept,
            cache: party::cache(),
        })
    }

    fn expression(&self) -> Result<Option<Expression>, BuildError> {
        let claims = Some(&self.claims).filter(|text| !text.is_empty());
        let claims = claims.map(|text| Expression::parse(text)).transpose();
        claims.map_err(|error| error.map(|text| format!("claims: {text}")))
    }

    fn header_names(&self) -> Result<Vec<(HeaderName, String)>, BuildError> {
        BuildErrors::collect(self.forward_headers.iter().map(|(name, claim)| match name.parse() {
            Ok(parsed) => Ok((parsed, claim.clone())),
            Err(_) => Err(BuildError::new(format!("forwardHeaders: invalid header name `{name}`"))),
        }))
    }

    /// Returns how long sessions last, how long a login may take, in seconds, and the leeway in seconds.
    fn lifetimes(&self) -> Result<(Lifetime, u64, f64), BuildError> {
        let mut errors = BuildErrors::default();
        let leeway = StdDuration::from(self.leeway);
        if leeway > MAX_LEEWAY {
            errors.add(format!("leeway: {}: the maximum is 10m", self.leeway));
        }
        let mut millis = |option: &str, duration: Duration, maximum: StdDuration| {
            let own = StdDuration::from(duration);
            if own < StdDuration::from_secs(1) || own > maximum {
                errors.add(format!("{option}: {duration}: expected 1s to {}", Duration(maximum)));
            }
            u64::try_from(own.as_millis()).unwrap_or(u64::MAX)
        };
        let expiry = millis("session.expiry", self.session.expiry, MAX_EXPIRY);
        let absolute = millis("session.absoluteExpiry", self.session.absolute_expiry, MAX_EXPIRY);
        let state = millis("stateCookie.maxAge", self.state_cookie.max_age, StdDuration::from_hours(24));
        let lifetime = Lifetime { expiry, absolute, is_sliding: self.session.sliding };
        errors.made(Some((lifetime, state / 1_000, leeway.as_secs_f64())))
    }

    fn client(&self, context: &BuildContext<'_>) -> Result<ApiClient, BuildError> {
        let ClientConfig { tls, timeout_seconds } = self.client_config.clone().unwrap_or_default();
        if !(1..=60).contains(&timeout_seconds) {
            return Err(BuildError::new(format!(
                "clientConfig.timeoutSeconds: {timeout_seconds}: expected 1 to 60"
            )));
        }
        let tls = tls.unwrap_or_default();
        forward_auth::check_tls(&tls, context)?;
        let timeout = StdDuration::from_secs(timeout_seconds);
        Ok(ApiClient { client: context.client(), tls, timeout })
    }

    fn places(&self) -> Result<Places, BuildError> {
        let place = |option: &str, text: &str| {
            Place::parse(text).ok_or_else(|| {
                BuildError::new(format!(
                    "{option}: invalid URL `{text}`: expected an absolute http or https URL, or a path"
                ))
            })
        };
        let optional = |option: &str, text: &str| match text.is_empty() {
            true => Ok(None),
            false => place(option, text).map(Some),
        };
        let mut errors = BuildErrors::default();
        let places = (|| {
            Some(Places {
                redirect: errors.check(place("redirectUrl", &self.redirect_url))?,
                login: errors.check(optional("loginUrl", &self.login_url))?,
                logout: errors.check(optional("logoutUrl", &self.logout_url))?,
                after_login: errors.check(optional("postLoginRedirectUrl", &self.post_login_redirect_url))?,
                after_logout: errors
                    .check(optional("postLogoutRedirectUrl", &self.post_logout_redirect_url))?,
                back_channel: errors.check(optional("backchannelLogoutUrl", &self.backchannel_logout_url))?,
                front_channel: errors
                    .check(optional("frontchannelLogoutUrl", &self.frontchannel_logout_url))?,
            })
        })();
        let places = errors.made(places)?;
        if let (Place::Url(url), false) = (&places.redirect, self.session.domain.is_empty()) {
            let domain = &self.session.domain;
            let is_within =
                url.host_str().is_some_and(|host| host == domain || host.ends_with(&format!(".{domain}")));
            if !is_within {
                return Err(BuildError::new(format!(
                    "redirectUrl: `{url}` is not within session.domain `{domain}`"
                )));
            }
        }
        Ok(places)
    }

    /// Checks what can be checked without the context.
    fn check_names(&self) -> Result<(), BuildError> {
        let mut errors = BuildErrors::default();
        if self.pkce == Some(false) {
            errors.add("pkce: cannot be switched off: providers without it ignore it".to_owned());
        }
        if !self.providers.is_empty() && self.describes_provider() {
            errors.add(
                "providers: not possible with preset, issuer and clientId, which describe one".to_owned(),
            );
        }
        if self.providers.len() > MAX_PROVIDERS {
            errors.add(format!("providers: the maximum is {MAX_PROVIDERS}"));
        }
        for (index, provider) in self.providers.iter().enumerate() {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if provider.name.is_empty() || !provider.name.bytes().all(is_name) {
                errors.add(format!(
                    "providers[{index}].name: `{}`: expected letters, digits, `-`, `_` and `.`",
                    provider.name
                ));
            } else if self.providers.iter().take(index).any(|other| other.name == provider.name) {
                errors.add(format!("providers[{index}].name: `{}` is listed twice", provider.name));
            }
        }
        let domain = &self.session.domain;
        if domain.starts_with('.')
            || !domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        {
            errors.add(format!("session.domain: `{domain}`: expected a domain such as `example.com`"));
        }
        errors.finish()
    }

    fn state_domain(&self) -> &str {
        if self.state_cookie.domain.is_empty() { &self.session.domain } else { &self.state_cookie.domain }
    }

    /// Returns the key ring, and whether its secret is this gateway's own.
    fn key_ring(&self, kept: &Kept, context: &BuildContext<'_>) -> Result<(KeyRing, bool), BuildError> {
        let mut secrets: Vec<Vec<u8>> = Vec::new();
        let listed = self.session.secrets.iter().map(Secret::expose);
        let file = match self.session.secrets_file.as_str() {
            "" => String::new(),
            path => String::from_utf8_lossy(&context.file(path)?).into_owned(),
        };
        let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for secret in listed.chain(lines) {
            if secret.len() < seal::MIN_SECRET {
                return Err(BuildError::new(format!(
                    "session.secrets: a secret has {} bytes: expected at least {}, such as those of `openssl rand -hex 32`",
                    secret.len(),
                    seal::MIN_SECRET
                )));
            }
            secrets.push(secret.as_bytes().to_vec());
        }
        if secrets.len() > seal::MAX_SECRETS {
            return Err(BuildError::new(format!("session.secrets: the maximum is {}", seal::MAX_SECRETS)));
        }
        let is_own = secrets.is_empty();
        if is_own {
            if !self.session.secrets_file.is_empty() {
                return Err(BuildError::new("session.secretsFile: the file has no secret"));
            }
            tracing::warn!(
                middleware = context.name,
                "oidc: session.secrets is not set, using a generated key: sessions end with the process, and other replicas do not accept them"
            );
            secrets.push(kept.secret.clone());
        }
        let ring = KeyRing::new(secrets.iter().map(Vec::as_slice));
        ring.map(|ring| (ring, is_own)).ok_or_else(|| BuildError::new("session.secrets: no usable secret"))
    }

    fn provider(
        &self,
        options: &Provider,
        client: &ApiClient,
        leeway: f64,
        context: &BuildContext<'_>,
    ) -> Result<provider::Provider, BuildError> {
        let place = match self.providers.is_empty() {
            true => String::new(),
            false => format!("providers `{}`: ", options.name),
        };
        let wrong = |text: String| BuildError::new(format!("{place}{text}"));
        options.preset.meaning().map_err(|error| wrong(format!("preset: {error}")))?;
        let options = presets::complete(options.clone());
        if options.client_id.is_empty() {
            return Err(wrong("clientId: required".to_owned()));
        }
        if let Some(name) = options.auth_params.keys().find(|name| login::PARAMETERS.contains(&name.as_str()))
        {
            return Err(wrong(format!("authParams: `{name}` is set by the gateway")));
        }
        let client_secret = match (options.client_secret.is_empty(), options.client_secret_file.as_str()) {
            (_, "") => options.client_secret.clone(),
            (true, path) => Secret::from(String::from_utf8_lossy(&context.file(path)?).trim()),
            (false, _) => {
                return Err(wrong("only one of clientSecret, clientSecretFile is possible".to_owned()));
            }
        };
        let (source, task) =
            source(&options, client, context).map_err(|error| error.map(|text| format!("{place}{text}")))?;
        let issuer =
            if options.issuer.is_empty() { &options.authorization_endpoint } else { &options.issuer };
        let key = seal::sha256(&format!("{issuer}\0{}", options.client_id));
        Ok(provider::Provider {
            key: key.get(..16).unwrap_or(&key).to_owned(),
            name: options.name,
            title: options.title,
            client_id: options.client_id,
            client_secret,
            scopes: options.scopes.join(" "),
            auth_params: options.auth_params.into_iter().collect(),
            asks_user_info: options.user_info == Some(true) || matches!(source, Source::Fixed(_)),
            username_claim: known(&options.username_claim),
            groups_claim: options.groups_claim,
            client: client.clone(),
            leeway,
            source,
            _task: task,
        })
    }

    /// Returns what distinguishes the default names of cookies: middlewares with the same providers and secrets share
    /// sessions, and others do not disturb each other.
    fn scope(&self, providers: &[provider::Provider], own: &str) -> String {
        let keys: Vec<&str> = providers.iter().map(|provider| &*provider.key).collect();
        let hash = seal::sha256(&format!("{}\0{own}", keys.join(" ")));
        hash.bytes().filter(u8::is_ascii_alphanumeric).take(8).map(char::from).collect()
    }

    fn cookies(&self, scope: &str) -> Result<Cookies, BuildError> {
        let name = |option: &str, own: &str, usual: String| {
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            match own {
                "" => Ok(usual),
                own if own.bytes().all(is_token) => Ok(own.to_owned()),
                own => Err(BuildError::new(format!("{option}: invalid cookie name `{own}`"))),
            }
        };
        let (session, state) = (&self.session, &self.state_cookie);
        let session_name = name("session.name", &session.name, format!("{}-{scope}", cookies::PREFIX))?;
        let state_name = name("stateCookie.name", &state.name, format!("{}-state-{scope}", cookies::PREFIX))?;
        if session_name == state_name {
            return Err(BuildError::new("stateCookie.name: the same as session.name"));
        }
        let (of_session, of_state) = self.attributes()?;
        let csrf = self.csrf.as_ref().map(|csrf| {
            let header = csrf.header_name.parse().map_err(|_| {
                BuildError::new(format!("csrf.headerName: invalid header name `{}`", csrf.header_name))
            })?;
            let name = format!("{}-csrf-{scope}", cookies::PREFIX);
            let attributes = Attributes { secure: csrf.secure, http_only: false, ..of_session };
            Ok((CookieStyle::new(&name, &attributes), header))
        });
        Ok(Cookies {
            session: CookieStyle::new(&session_name, &of_session),
            state: CookieStyle::new(&state_name, &of_state),
            csrf: csrf.transpose()?,
        })
    }

    /// Returns the attributes of the session's cookie and of the state's.
    fn attributes(&self) -> Result<(Attributes<'_>, Attributes<'_>), BuildError> {
        let (session, state) = (&self.session, &self.state_cookie);
        let same_site = |option: &str, word: &Word<SameSite>| {
            let known = word.meaning().map_err(|error| BuildError::new(format!("{option}: {error}")))?;
            Ok(known.unwrap_or(SameSite::Lax))
        };
        let path = |option: &str, path: &str| match target::is_safe_path(path) && !path.contains([';', '?']) {
            true => Ok(()),
            false => Err(BuildError::new(format!("{option}: invalid path `{path}`"))),
        };
        path("session.path", &session.path)?;
        path("stateCookie.path", &state.path)?;
        let of_state = Attributes {
            path: &state.path,
            domain: self.state_domain(),
            secure: state.secure,
            http_only: state.http_only,
            same_site: same_site("stateCookie.sameSite", &state.same_site)?,
        };
        if of_state.same_site == SameSite::Strict {
            return Err(BuildError::new(
                "stateCookie.sameSite: browsers do not send a `strict` cookie when the provider sends the user back: expected `lax` or `none`",
            ));
        }
        let of_session = Attributes {
            path: &session.path,
            domain: &session.domain,
            secure: session.secure,
            http_only: session.http_only,
            same_site: same_site("session.sameSite", &session.same_site)?,
        };
        for (option, cookie) in [("session", &of_session), ("stateCookie", &of_state)] {
            if cookie.same_site == SameSite::None && !cookie.secure {
                return Err(BuildError::new(format!("{option}.sameSite: `none` requires `secure`")));
            }
        }
        Ok((of_session, of_state))
    }

    fn store(&self, context: &BuildContext<'_>) -> Result<Option<party::Store>, BuildError> {
        let Some(redis) = self.session.store.as_ref().and_then(|store| store.redis.as_ref()) else {
            return Ok(None);
        };
        let deadline = StdDuration::from(redis.timeout);
        if deadline.is_zero() || deadline > MAX_TIMEOUT {
            return Err(BuildError::new(format!(
                "session.store.redis.timeout: {}: expected up to 1m",
                redis.timeout
            )));
        }
        let connection = Redis {
            endpoints: redis.endpoints.clone(),
            tls: redis.tls.clone(),
            username: redis.username.clone(),
            password: redis.password.clone(),
            db: redis.database,
            sentinel: redis.sentinel.clone(),
            ..Redis::default()
        };
        let options = connection.store_options(context);
        let options = options.map_err(|error| error.map(|text| format!("session.store.{text}")))?;
        Ok(Some(party::Store { store: context.store(&options)?, deadline }))
    }
}

/// Returns where a provider's endpoints are known from, and the task that keeps them fresh.
fn source(
    options: &Provider,
    client: &ApiClient,
    context: &BuildContext<'_>,
) -> Result<(Source, Option<Task>), BuildError> {
    if options.issuer.is_empty() {
        let wrong = |option: &str, text: &str| {
            BuildError::new(match text.is_empty() {
                true => "issuer: required".to_owned(),
                false => format!("{option}: invalid URL `{text}`: expected an absolute http or https URL"),
            })
        };
        let uri = |option: &str, text: &str| parse_url(option, text).map_err(|_| wrong(option, text));
        let authorization = Url::parse(&options.authorization_endpoint)
            .map_err(|_| wrong("authorizationEndpoint", &options.authorization_endpoint))?;
        return Ok((
            Source::Fixed(Arc::new(Metadata {
                issuer: None,
                authorization,
                token: uri("tokenEndpoint", &options.token_endpoint)?,
                user_info: Some(uri("userInfoEndpoint", &options.user_info_endpoint)?),
                end_session: None,
                keys: None,
                posts_secret: true,
                names_issuer: false,
                text: Vec::new(),
            })),
            None,
        ));
    }
    let mut metadata = format!("{}/.well-known/openid-configuration", options.issuer.trim_end_matches('/'));
    if !options.discovery_params.is_empty() {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&options.discovery_params);
        metadata = format!("{metadata}?{}", query.finish());
    }
    let uri: Uri = parse_url("issuer", &metadata).map_err(|_| {
        BuildError::new(format!(
            "issuer: invalid URL `{}`: expected an absolute http or https URL",
            options.issuer
        ))
    })?;
    // What was fetched without verifying the server does not count once it is verified.
    let key = format!("metadata of {metadata}, verified: {}", !client.tls.insecure_skip_verify);
    let remote = context.state(&key, Remote::new);
    let discovery = Discovery { client: client.clone(), issuer: options.issuer.clone(), metadata: uri };
    let task = context.spawn("metadata", remote.clone().keep_fresh(discovery, context.clock()));
    Ok((Source::Discovered(remote), Some(task)))
}
