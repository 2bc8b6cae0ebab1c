//! Logging out: started here (OpenID Connect RP-Initiated Logout), or by the provider, over the back channel or the
//! front channel.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use serde_json::Value;
use tidegate_core::{AuditEvent, Reason, Request, Response, reply};
use url::form_urlencoded;

use super::login::{add_cookies, redirect};
use super::page;
use super::party::Party;
use super::session::{Live, provider_session_mark, subject_mark};
use super::target::{Asked, parameter};

/// Maximum length of a logout request's body in bytes.
const MAX_BODY: u64 = 128 * 1024;

impl Party {
    /// Ends the session of the request, here and at the provider.
    pub(super) async fn logout(&self, request: &Asked) -> Response {
        let headers = &request.headers;
        let live = match self.find(headers).await {
            Ok(live) => live,
            Err(error) => return self.store_failed(&error),
        };
        let origin = &request.origin;
        let after = match (&self.places.after_logout, origin) {
            (Some(place), Some(origin)) => Some(place.absolute(origin)),
            _ => None,
        };
        let mut url = after.clone();
        if let Some(live) = &live {
            if let Err(error) = self.end(&live.session).await {
                return self.store_failed(&error);
            }
            tracing::info!(middleware = &*self.name, user = live.identity.subject, "oidc: signed out");
            request.exchange.note(AuditEvent::SignedOut, &live.identity.subject);
            url = self.end_session_url(live, after.as_deref()).or(url);
        }
        let mut response = match url {
            Some(url) => redirect(&url),
            None => page::message(StatusCode::OK, "Signed out", "You are signed out.", None, Reason::SignIn),
        };
        add_cookies(&mut response, self.removal(headers));
        response
    }

    /// Returns the URL at which the provider ends its session.
    fn end_session_url(&self, live: &Live, after: Option<&str>) -> Option<String> {
        let provider = self.provider_of(&live.session)?;
        let mut url = provider.metadata()?.end_session.clone()?;
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("client_id", &provider.client_id);
            if let Some(token) = &live.session.id_token {
                query.append_pair("id_token_hint", token);
            }
            if let Some(after) = after {
                query.append_pair("post_logout_redirect_uri", after);
            }
        }
        Some(url.into())
    }

    /// Answers a request of the provider that ends sessions (OpenID Connect Back-Channel Logout section 2.5).
    pub(super) async fn back_channel(&self, request: Request) -> Response {
        let mut response = match self.end_by_token(request).await {
            Ok(()) => reply::empty(StatusCode::OK, Reason::SignIn),
            Err(Failure::Store(error)) => self.store_failed(&error),
            Err(Failure::Request(description)) => {
                tracing::warn!(
                    middleware = &*self.name,
                    reason = description,
                    "oidc: back-channel logout refused"
                );
                let json =
                    format!("{{\"error\":\"invalid_request\",\"error_description\":\"{description}\"}}");
                let mut response = reply::bare(StatusCode::BAD_REQUEST, json, Reason::SignInRefused);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
        };
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    async fn end_by_token(&self, request: Request) -> Result<(), Failure> {
        let (body, exchange) = (request.body, request.context.exchange);
        if request.head.method != Method::POST {
            return Err(Failure::Request("the method is not POST"));
        }
        let body = body.collect(MAX_BODY).await.map_err(|_| Failure::Request("the body is not readable"))?;
        let mut tokens = form_urlencoded::parse(&body.bytes).filter(|(name, _)| name == "logout_token");
        let token = tokens.next().ok_or(Failure::Request("no logout token"))?.1;
        let mut reason = "the logout token is invalid";
        for provider in &self.providers {
            let claims = match provider.verify_logout_token(&token, &self.clock).await {
                Ok(claims) => claims,
                Err(error) => {
                    tracing::debug!(middleware = &*self.name, provider = provider.name, %error, "oidc: logout token refused");
                    continue;
                }
            };
            let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
            let mark = match (text("sid"), text("sub")) {
                (Some(session), _) => provider_session_mark(&provider.key, session),
                (None, Some(subject)) if !self.sessions_required => subject_mark(&provider.key, subject),
                _ => {
                    reason = "the logout token names no session";
                    continue;
                }
            };
            let Some(id) = text("jti") else { return Err(Failure::Request("the logout token has no jti")) };
            if !self.kept.use_once(&format!("logout {} {id}", provider.key)) {
                return Err(Failure::Request("the logout token was used before"));
            }
            self.end_all(mark).await.map_err(Failure::Store)?;
            tracing::info!(
                middleware = &*self.name,
                provider = provider.name,
                "oidc: sessions ended by the provider"
            );
            exchange.note(AuditEvent::SignedOut, text("sub").unwrap_or_default());
            return Ok(());
        }
        Err(Failure::Request(reason))
    }

    /// Answers the frame with which the provider ends the session of this browser (OpenID Connect Front-Channel Logout
    /// section 2). Only the browser's own session ends: anyone can send such a request.
    pub(super) async fn front_channel(&self, request: &Asked) -> Response {
        let headers = &request.headers;
        let live = match self.find(headers).await {
            Ok(live) => live,
            Err(error) => return self.store_failed(&error),
        };
        let query = &*request.query;
        let (issuer, session) = (parameter(query, "iss"), parameter(query, "sid"));
        let mut response =
            page::message(StatusCode::OK, "Signed out", "You are signed out.", None, Reason::SignIn);
        // The provider shows it in a frame.
        response.headers_mut().remove(http::header::CONTENT_SECURITY_POLICY);
        let Some(live) = live else { return response };
        let own = self.provider_of(&live.session).and_then(super::provider::Provider::metadata);
        let is_meant = issuer.is_none_or(|issuer| own.is_some_and(|own| own.issuer == Some(issuer)))
            && session.is_none_or(|session| live.session.provider_session == Some(session));
        if is_meant {
            if let Err(error) = self.end(&live.session).await {
                return self.store_failed(&error);
            }
            request.exchange.note(AuditEvent::SignedOut, &live.identity.subject);
            add_cookies(&mut response, self.removal(headers));
        }
        response
    }
}

enum Failure {
    Request(&'static str),
    Store(tidegate_core::store::StoreError),
}
