//! What happens to requests.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Method, StatusCode};
use tidegate_core::{BoxFuture, Middleware, Next, Prediction, Reason, Request, Response, boxed, reply};

use super::cookies;
use super::login::add_cookies;
use super::party::Party;
use super::refresh::Outcome;
use super::refusal::Refusal;
use super::session::Live;
use super::target::{Asked, is_navigation};
use crate::auth;

/// Lets requests with a session pass, and answers those that belong to logins.
pub(super) struct Handler(pub(super) Arc<Party>);

/// What the middleware answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Callback,
    Login,
    Logout,
    BackChannel,
    FrontChannel,
}

impl Middleware for Handler {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if let Some(endpoint) = self.endpoint(&request) {
            return boxed(move || self.serve(endpoint, request));
        }
        if self.0.store.is_none()
            && let Some(live) = self.0.local(&request.head.headers)
            && !self.is_due(&live)
        {
            return self.pass(request, &live, Vec::new(), next);
        }
        boxed(move || self.check(request, next))
    }

    fn owns(&self, request: &Request) -> bool {
        self.endpoint(request).is_some()
    }

    fn predict(&self, mut request: Request) -> Prediction {
        if let Some(endpoint) = self.endpoint(&request) {
            let note = match endpoint {
                Endpoint::Callback => "completes a sign-in",
                Endpoint::Login => "starts a sign-in",
                Endpoint::Logout => "ends the session",
                Endpoint::BackChannel | Endpoint::FrontChannel => "ends sessions for the provider",
            };
            return Prediction::responds(reply::empty(StatusCode::OK, Reason::SignIn)).note(note);
        }
        let has_cookie = self.0.session_cookie.value(&request.head.headers).is_some();
        if self.0.store.is_some() && has_cookie {
            return Prediction::depends(request, "asks Redis for the session");
        }
        if let Some(live) = self.0.local(&request.head.headers) {
            return match self.admit(&mut request, &live) {
                Ok(()) => Prediction::passes(request).note("the session is valid"),
                Err(refusal) => Prediction::responds(refusal.response(None)).note(refusal.description()),
            };
        }
        let is_login = is_navigation(&request) && !self.0.disable_login && self.0.places.login.is_none();
        if !is_login {
            let refusal = Refusal::NoSession;
            return Prediction::responds(refusal.response(None)).note(refusal.description());
        }
        let names: Vec<&str> = self.0.providers.iter().map(|provider| &*provider.name).collect();
        Prediction::responds(reply::empty(StatusCode::FOUND, Reason::SignIn))
            .note(format!("starts a sign-in with {}", names.join(" or ")))
    }
}

impl Handler {
    fn endpoint(&self, request: &Request) -> Option<Endpoint> {
        let places = &self.0.places;
        let optional = [
            (&places.login, Endpoint::Login),
            (&places.logout, Endpoint::Logout),
            (&places.back_channel, Endpoint::BackChannel),
            (&places.front_channel, Endpoint::FrontChannel),
        ];
        if places.redirect.matches(request) {
            return Some(Endpoint::Callback);
        }
        let is_it = |place: &Option<_>| {
            place.as_ref().is_some_and(|place: &super::target::Place| place.matches(request))
        };
        optional.into_iter().find(|(place, _)| is_it(place)).map(|(_, endpoint)| endpoint)
    }

    async fn serve(&self, endpoint: Endpoint, request: Request) -> Response {
        match endpoint {
            Endpoint::Callback => self.0.callback(&Asked::of(&request)).await,
            Endpoint::Login => self.0.login_page(&Asked::of(&request)).await,
            Endpoint::Logout => self.0.logout(&Asked::of(&request)).await,
            Endpoint::BackChannel => self.0.back_channel(request).await,
            Endpoint::FrontChannel => self.0.front_channel(&Asked::of(&request)).await,
        }
    }

    /// Returns true if the session is to be refreshed or extended.
    fn is_due(&self, live: &Live) -> bool {
        let now = self.0.now();
        self.0.refreshes && live.session.is_stale(now) || live.session.is_extensible(&self.0.lifetime, now)
    }

    async fn check(&self, request: Request, next: &Next) -> Response {
        let party = &self.0;
        let mut live = match party.find(&request.head.headers).await {
            Ok(Some(live)) => live,
            Ok(None) => return party.request_login(&Asked::of(&request)).await,
            Err(error) => return party.store_failed(&error),
        };
        let mut session = None;
        if party.refreshes && live.session.is_stale(party.now()) {
            match party.refresh(&live.session).await {
                Outcome::Unchanged => {}
                Outcome::New(new) => session = Some(*new),
                Outcome::Ended => return party.request_login(&Asked::of(&request)).await,
            }
        }
        if session.is_none() && live.session.is_extensible(&party.lifetime, party.now()) {
            let mut extended = live.session.clone();
            extended.extended = party.now();
            session = Some(extended);
        }
        let mut cookies = Vec::new();
        if let Some(session) = session {
            match party.keep(&session, &request.head.headers).await {
                Ok(kept) => cookies = kept,
                // The session that the client has is still valid.
                Err(error) => {
                    tracing::warn!(middleware = &*party.name, %error, "oidc: the session cannot be extended")
                }
            }
            match party.live(session) {
                Ok(new) => live = Arc::new(new),
                Err(_) => return party.request_login(&Asked::of(&request)).await,
            }
        }
        self.pass(request, &live, cookies, next).await
    }

    fn pass<'a>(
        &'a self,
        mut request: Request,
        live: &Live,
        cookies: Vec<HeaderValue>,
        next: &'a Next,
    ) -> BoxFuture<'a, Response> {
        let admitted = self.admit(&mut request, live);
        if cookies.is_empty() {
            return match admitted {
                Ok(()) => next.run(request),
                Err(refusal) => crate::ready(refusal.response(None)),
            };
        }
        boxed(move || async move {
            let mut response = match admitted {
                Ok(()) => next.run(request).await,
                Err(refusal) => refusal.response(None),
            };
            add_cookies(&mut response, cookies);
            response
        })
    }

    /// Tells the following middlewares and the service who the client is.
    fn admit(&self, request: &mut Request, live: &Live) -> Result<(), Refusal> {
        request.context.exchange.claim(&live.identity.subject);
        if !live.is_permitted {
            return Err(Refusal::Claims);
        }
        self.check_csrf(request, live)?;
        let headers = &mut request.head.headers;
        cookies::remove(headers, |name| self.0.is_own_cookie(name));
        for ((name, _), value) in self.0.headers.iter().zip(&live.headers) {
            auth::replace_exclusively(headers, name, value.clone());
        }
        request.context.identify(live.identity.clone());
        Ok(())
    }

    /// Requests that change something must show that they come from a script of the site.
    fn check_csrf(&self, request: &Request, live: &Live) -> Result<(), Refusal> {
        let Some((_, header)) = &self.0.csrf else { return Ok(()) };
        if matches!(request.head.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE) {
            return Ok(());
        }
        let mut tokens = request.head.headers.get_all(header).iter().map(|token| token.to_str());
        match (tokens.next(), tokens.next()) {
            (Some(Ok(token)), None) if self.0.ring.verifies(&Party::csrf_text(&live.session.id), token) => {
                Ok(())
            }
            _ => Err(Refusal::Csrf),
        }
    }
}
