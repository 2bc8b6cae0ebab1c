//! The login: the authorization code flow (OpenID Connect Core section 3.1) with PKCE (RFC 7636), state and nonce.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_core::{AuditEvent, Reason, Response, reply};

use super::cookies;
use super::page;
use super::party::{KeepError, Party};
use super::provider::{Metadata, Provider, ProviderError, Tokens};
use super::refusal::Refusal;
use super::seal;
use super::session::{Session, Unusable, kept};
use super::target::{Asked, Origin, Place, is_safe_path, parameter};
use crate::jwt::claims::scalar;
use crate::jwt::token::Claims;

/// Query parameter that chooses one of several providers.
pub(super) const CHOICE: &str = "tidegate-login";
/// Query parameter of `loginUrl` with the path that users return to.
pub(super) const RETURN: &str = "return";
/// Parameters of the authorization request that are not options.
pub(super) const PARAMETERS: [&str; 8] = [
    "response_type",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
];
/// Length of the part of a state that its cookie's name has.
const STATE_NAME: usize = 8;
/// Maximum number of logins that have begun in a browser; the oldest are given up.
const MAX_PENDING: usize = 4;

/// A login that has begun, as its cookie says.
#[derive(Serialize, Deserialize)]
struct Pending {
    #[serde(rename = "s")]
    state: String,
    #[serde(rename = "n")]
    nonce: String,
    #[serde(rename = "v")]
    verifier: String,
    #[serde(rename = "p")]
    provider: String,
    /// Where the user goes afterwards.
    #[serde(rename = "u")]
    target: String,
    #[serde(rename = "r")]
    redirect_uri: String,
    /// In milliseconds since 1970.
    #[serde(rename = "e")]
    expiry: u64,
}

/// Returns a redirect that browsers do not keep.
pub(super) fn redirect(url: &str) -> Response {
    let mut response = reply::empty(StatusCode::FOUND, Reason::SignIn);
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_str(url).unwrap_or(HeaderValue::from_static("/")));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Adds cookies to a response.
pub(super) fn add_cookies(response: &mut Response, cookies: impl IntoIterator<Item = HeaderValue>) {
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

impl Party {
    /// Answers a request without a session.
    pub(super) async fn request_login(&self, request: &Asked) -> Response {
        let is_elsewhere = self.places.login.is_some();
        let mut response = match self.may_start(request) {
            Ok(_) if self.disable_login || is_elsewhere => Refusal::NoSession.response(None),
            Ok(origin) => {
                let target = match &self.places.after_login {
                    Some(place) => place.absolute(&origin),
                    None => request.url(&origin, CHOICE),
                };
                self.start(request, &origin, target).await
            }
            Err(refusal) => refusal.response(None),
        };
        // A session that does not count is of no use.
        add_cookies(&mut response, self.removal(&request.headers));
        response
    }

    /// Answers a request for `loginUrl`.
    pub(super) async fn login_page(&self, request: &Asked) -> Response {
        let origin = match self.may_start(request) {
            Ok(origin) => origin,
            Err(refusal) => return refusal.response(None),
        };
        let query = &*request.query;
        let path = parameter(query, RETURN).filter(|path| is_safe_path(path)).map(Place::Path);
        let place = path.or_else(|| self.places.after_login.clone()).unwrap_or(Place::Path("/".to_owned()));
        let target = place.absolute(&origin);
        match self.find(&request.headers).await {
            Ok(Some(_)) => redirect(&target),
            Ok(None) => self.start(request, &origin, target).await,
            Err(error) => self.store_failed(&error),
        }
    }

    /// Logs that the store failed.
    pub(super) fn store_failed(&self, error: &dyn std::fmt::Display) -> Response {
        tracing::error!(middleware = &*self.name, %error, "oidc: the store of sessions is unavailable");
        Refusal::NoStore.response(None)
    }

    /// Returns the origin of a request that can start a login.
    fn may_start(&self, request: &Asked) -> Result<Origin, Refusal> {
        if !request.is_navigation {
            return Err(Refusal::NoSession);
        }
        let origin = request.origin.clone().ok_or(Refusal::Host)?;
        if self.is_secure && !origin.keeps_secure_cookies() {
            return Err(Refusal::Insecure);
        }
        // Cookies must reach both this host and that of the provider's answer.
        let is_reached = match self.domain.as_str() {
            "" => self.places.redirect.is_on(&origin),
            domain => origin.is_within(domain),
        };
        if !is_reached {
            return Err(Refusal::OtherDomain);
        }
        Ok(origin)
    }

    /// Starts a login, after which the user goes to `target`.
    async fn start(&self, request: &Asked, origin: &Origin, target: String) -> Response {
        let query = &*request.query;
        let chosen = parameter(query, CHOICE);
        let provider = match (self.providers.as_slice(), chosen) {
            ([only], _) => Some(only),
            (several, Some(name)) => several.iter().find(|provider| provider.name == name),
            _ => None,
        };
        let Some(provider) = provider else {
            let url = request.url(origin, CHOICE);
            let path = url.strip_prefix(&origin.to_string()).unwrap_or("/").to_owned();
            let separator = if path.contains('?') { '&' } else { '?' };
            let link = |provider: &Provider| format!("{origin}{path}{separator}{CHOICE}={}", provider.name);
            return page::chooser(self.providers.iter().map(|provider| (&*provider.title, link(provider))));
        };
        let Some(metadata) = provider.confirmed(&self.clock).await else {
            tracing::warn!(
                middleware = &*self.name,
                provider = provider.name,
                "oidc: no login, the provider is unavailable"
            );
            return Refusal::Unavailable.response(None);
        };
        self.authorize(&request.headers, origin, provider, &metadata, target)
            .unwrap_or_else(|_| Refusal::Unavailable.response(None))
    }

    /// Sends the user to the provider.
    fn authorize(
        &self,
        request: &HeaderMap,
        origin: &Origin,
        provider: &Provider,
        metadata: &Metadata,
        target: String,
    ) -> Result<Response, seal::NoRandomness> {
        let pending = Pending {
            state: seal::random::<32>()?,
            nonce: seal::random::<32>()?,
            verifier: seal::random::<32>()?,
            provider: provider.key.clone(),
            target,
            redirect_uri: self.places.redirect.absolute(origin),
            expiry: self.now().saturating_add(self.state_lifetime.saturating_mul(1_000)),
        };
        let mut url = metadata.authorization.clone();
        let values = [
            "code",
            &provider.client_id,
            &pending.redirect_uri,
            &provider.scopes,
            &pending.state,
            &pending.nonce,
            &seal::sha256(&pending.verifier),
            "S256",
        ];
        url.query_pairs_mut()
            .extend_pairs(PARAMETERS.into_iter().zip(values))
            .extend_pairs(&provider.auth_params);
        let plain = serde_json::to_vec(&pending).map_err(|_| seal::NoRandomness)?;
        let sealed = self.ring.seal(&self.purpose("state"), &plain)?;
        let mut response = redirect(url.as_str());
        add_cookies(&mut response, self.oldest_pending(request));
        add_cookies(
            &mut response,
            self.state_cookie.field(&state_suffix(&pending.state), &sealed, self.state_lifetime),
        );
        Ok(response)
    }

    /// Returns the removal of logins that were not completed, so that they do not fill the requests.
    fn oldest_pending(&self, request: &HeaderMap) -> Vec<HeaderValue> {
        let prefix = &self.state_cookie.name;
        let suffixes: Vec<&str> = cookies::pairs(request)
            .filter_map(|(name, _)| name.strip_prefix(prefix.as_str()))
            .filter(|suffix| suffix.starts_with('-'))
            .collect();
        let surplus = (suffixes.len() + 1).saturating_sub(MAX_PENDING);
        suffixes.iter().take(surplus).filter_map(|suffix| self.state_cookie.field(suffix, "", 0)).collect()
    }

    /// Answers the request with which the provider sends the user back.
    pub(super) async fn callback(&self, request: &Asked) -> Response {
        let query = &*request.query;
        let again = request.origin.as_ref().map(|origin| format!("{origin}/"));
        let pending = match self.pending(request, query) {
            Ok(pending) => pending,
            Err(refusal) => return self.refused(refusal, again.as_deref()),
        };
        let done = self.complete(&pending, query, request).await;
        let mut response = match done {
            Ok(cookies) => {
                let mut response = redirect(&pending.target);
                add_cookies(&mut response, cookies);
                response
            }
            Err(refusal) => self.refused(refusal, Some(&pending.target)),
        };
        add_cookies(&mut response, self.state_cookie.field(&state_suffix(&pending.state), "", 0));
        response
    }

    fn refused(&self, refusal: Refusal, again: Option<&str>) -> Response {
        tracing::warn!(middleware = &*self.name, reason = refusal.description(), "oidc: sign-in refused");
        refusal.response(again)
    }

    /// Returns the login that has begun in this browser with the request's state. It can be completed once.
    fn pending(&self, request: &Asked, query: &str) -> Result<Pending, Refusal> {
        if request.method != Method::GET {
            return Err(Refusal::State);
        }
        let state = parameter(query, "state").ok_or(Refusal::State)?;
        if !state.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return Err(Refusal::State);
        }
        let name = format!("{}{}", self.state_cookie.name, state_suffix(&state));
        let mut found = cookies::pairs(&request.headers).filter(|(own, _)| *own == name);
        let plain = found.next().and_then(|(_, value)| self.ring.open(&self.purpose("state"), value));
        let pending = plain.and_then(|plain| serde_json::from_slice::<Pending>(&plain).ok());
        let pending = pending.ok_or(Refusal::State)?;
        if !seal::is_equal(&pending.state, &state) || self.now() >= pending.expiry {
            return Err(Refusal::State);
        }
        if !self.kept.use_once(&state) {
            return Err(Refusal::Replayed);
        }
        Ok(pending)
    }

    /// Completes a login, and returns the cookies of the session.
    async fn complete(
        &self,
        pending: &Pending,
        query: &str,
        request: &Asked,
    ) -> Result<Vec<HeaderValue>, Refusal> {
        let provider = self.providers.iter().find(|provider| provider.key == pending.provider);
        let provider = provider.ok_or(Refusal::State)?;
        let metadata = match provider.metadata() {
            Some(metadata) => metadata,
            None => provider.confirmed(&self.clock).await.ok_or(Refusal::Unavailable)?,
        };
        // RFC 9207: another provider must not answer for this one.
        let named = parameter(query, "iss");
        if named.is_some() && named != metadata.issuer || named.is_none() && metadata.names_issuer {
            return Err(Refusal::OtherProvider);
        }
        match parameter(query, "error").as_deref() {
            Some("access_denied") => return Err(Refusal::Denied),
            Some(_) => return Err(Refusal::ProviderError),
            None => {}
        }
        let code = parameter(query, "code").filter(|code| code.len() <= 4096).ok_or(Refusal::Code)?;
        let tokens = provider.redeem(&metadata, &code, &pending.verifier, &pending.redirect_uri).await;
        let tokens = tokens.map_err(|error| self.failed(provider, &error))?;
        let session = self.session(provider, &metadata, tokens, &pending.nonce).await?;
        let live = self.live(session).map_err(|unusable| match unusable {
            Unusable::NoName => Refusal::NoName,
            Unusable::Unsendable => Refusal::Unsendable,
        })?;
        let cookies = self.keep(&live.session, &request.headers).await.map_err(|error| {
            tracing::error!(middleware = &*self.name, %error, "oidc: the session cannot be kept");
            if matches!(error, KeepError::Store(_)) { Refusal::NoStore } else { Refusal::TooLong }
        })?;
        tracing::info!(
            middleware = &*self.name,
            provider = provider.name,
            user = live.identity.subject,
            "oidc: signed in"
        );
        request.exchange.note(AuditEvent::SignedIn, &live.identity.subject);
        Ok(cookies)
    }

    /// Logs a failure of the provider.
    pub(super) fn failed(&self, provider: &Provider, error: &ProviderError) -> Refusal {
        tracing::warn!(middleware = &*self.name, provider = provider.name, %error, "oidc: the provider's answer is of no use");
        match error {
            ProviderError::Unavailable(_) | ProviderError::Unknown => Refusal::Unavailable,
            ProviderError::Refused(_) => Refusal::Code,
            ProviderError::Invalid(_) => Refusal::Token,
        }
    }

    /// Returns the session that the tokens of a login establish. Its identifier is new, whatever the browser has sent.
    async fn session(
        &self,
        provider: &Provider,
        metadata: &Arc<Metadata>,
        tokens: Tokens,
        nonce: &str,
    ) -> Result<Session, Refusal> {
        let failed = |error| self.failed(provider, &error);
        let mut claims = match (&metadata.issuer, &tokens.id_token) {
            (Some(_), Some(token)) => {
                provider.verify_id_token(token, Some(nonce), &self.clock).await.map_err(failed)?
            }
            (Some(_), None) => return Err(failed(ProviderError::Invalid("no ID token"))),
            (None, _) => Claims::new(),
        };
        if provider.asks_user_info {
            let more =
                self.user_info(provider, metadata, &tokens.access_token, &claims).await.map_err(failed)?;
            merge(&mut claims, more);
        }
        let subject = ["sub", "id"].iter().find_map(|name| claims.get(*name)).and_then(scalar);
        let subject = subject.filter(|subject| !subject.is_empty()).ok_or(Refusal::NoName)?.into_owned();
        let now = self.now();
        Ok(Session {
            id: seal::random::<16>().map_err(|_| Refusal::Unavailable)?,
            provider: provider.key.clone(),
            subject,
            provider_session: claims.get("sid").and_then(|sid| sid.as_str()).map(str::to_owned),
            login: now,
            extended: now,
            access_expiry: tokens.lifetime().map(|seconds| now.saturating_add(seconds.saturating_mul(1_000))),
            refresh_token: tokens.refresh_token.filter(|_| self.refreshes),
            generation: 0,
            id_token: tokens.id_token.filter(|_| metadata.end_session.is_some()),
            claims: kept(claims),
        })
    }

    /// Returns the claims that the provider adds. They must be of the same user.
    pub(super) async fn user_info(
        &self,
        provider: &Provider,
        metadata: &Metadata,
        access_token: &str,
        claims: &Claims,
    ) -> Result<Claims, ProviderError> {
        let Some(uri) = &metadata.user_info else { return Ok(Claims::new()) };
        let more = provider.user_info(uri, access_token).await?;
        if claims.get("sub").is_some_and(|subject| more.get("sub") != Some(subject)) {
            return Err(ProviderError::Invalid("claims of another user"));
        }
        Ok(more)
    }
}

/// Adds claims that are missing. What is signed stays as it is.
pub(super) fn merge(claims: &mut Claims, more: Claims) {
    for (name, value) in more {
        claims.entry(name).or_insert(value);
    }
}

/// The end of the name of a state's cookie, so that logins in several tabs do not disturb each other.
fn state_suffix(state: &str) -> String {
    format!("-{}", state.get(..STATE_NAME).unwrap_or(state))
}
