//! What happens to requests.

use std::sync::Arc;

use http::header::HeaderValue;
use http::{Method, StatusCode};
use tidegate_core::sessions::Sessions;
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
        if self.0.store.is_none() {
            let now = self.0.now();
            if let Some(live) = self.0.local(&request.head.headers, now)
                && !self.is_due(&live, now)
            {
                return self.pass(request, &live, Vec::new(), next);
            }
        }
        boxed(move || self.check(request, next))
    }

    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(&*self.0)
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
        if let Some(live) = self.0.local(&request.head.headers, self.0.now()) {
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
        let predicted = Prediction::responds(reply::empty(StatusCode::FOUND, Reason::SignIn))
            .note(format!("starts a sign-in with {}", names.join(" or ")));
        match self.0.has_own_secret {
            true => predicted.note("session.secrets is not set: other replicas do not accept the session"),
            false => predicted,
        }
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
    fn is_due(&self, live: &Live, now: u64) -> bool {
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
        let identity = self.0.identity(live).map_err(|_| Refusal::Consumer)?;
        let headers = &mut request.head.headers;
        cookies::remove(headers, |name| self.0.is_own_cookie(name));
        for ((name, _), value) in self.0.headers.iter().zip(&live.headers) {
            auth::replace_exclusively(headers, name, value.clone());
        }
        request.context.identify(identity);
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tidegate_core::building::ClientTls;
    use tidegate_core::{Body, BuildContext, HttpClient, UpstreamError, Verdict};

    use super::*;
    use crate::oidc::Oidc;
    use crate::oidc::session::Session;
    use crate::testing::{Service, World, block_on, get, request, run};

    struct NoClient;

    impl HttpClient for NoClient {
        fn send(
            &self,
            _: Request,
            _: &ClientTls,
            _: Duration,
        ) -> BoxFuture<'_, Result<Response, UpstreamError>> {
            Box::pin(std::future::ready(Err(UpstreamError::NoServer)))
        }
    }

    /// A party of a provider without discovery, which needs no task.
    fn party(options: Oidc) -> Party {
        party_in(World::default(), options)
    }

    fn party_in(world: World, options: Oidc) -> Party {
        let world = World { client: Some(Arc::new(NoClient)), ..world };
        let options = Oidc {
            preset: super::super::Preset::GitHub.into(),
            client_id: "c".into(),
            forward_headers: [("X-User".to_owned(), "login".to_owned())].into(),
            ..options
        };
        options.party(&BuildContext::new("m@file", &world)).unwrap()
    }

    /// Cookies of a session with some claims.
    fn cookies(party: &Party) -> String {
        let claims =
            serde_json::json!({"login": "ann", "groups": ["ops", "dev"], "iss": "https://login.test/"});
        let session = Session {
            id: "0123456789abcdef012345".into(),
            provider: party.providers[0].key.clone(),
            subject: "7".into(),
            provider_session: None,
            login: party.now(),
            extended: party.now(),
            claims: claims.as_object().unwrap().clone(),
            access_expiry: None,
            refresh_token: None,
            generation: 0,
            id_token: Some("x".repeat(1_000)),
        };
        let fields = block_on(party.keep(&session, &http::HeaderMap::new())).unwrap();
        let pairs = fields.iter().map(|field| field.to_str().unwrap().split(';').next().unwrap());
        pairs.collect::<Vec<_>>().join("; ")
    }

    fn with_cookies(cookies: &str) -> Request {
        request(http::Request::get("https://app.test/").header("cookie", cookies))
    }

    #[test]
    fn predictions_say_what_happens_and_do_nothing() {
        let party = party(Oidc { logout_url: "/logout".into(), ..Oidc::default() });
        let cookies = cookies(&party);
        let handler = Handler(Arc::new(party));
        let notes = |request| {
            let prediction = handler.predict(request);
            let status = match prediction.verdict {
                Verdict::Responds(response) => response.status().as_u16(),
                _ => 200,
            };
            (status, prediction.notes)
        };
        assert_eq!(notes(with_cookies(&cookies)), (200, vec!["the session is valid".to_owned()]));
        assert_eq!(notes(get("https://app.test/")), (401, vec!["a session is required".to_owned()]));
        let page = request(http::Request::get("https://app.test/").header("accept", "text/html"));
        let (status, own) = notes(page);
        assert_eq!((status, &*own[0]), (302, "starts a sign-in with default"));
        assert!(own[1].contains("other replicas"));
        assert_eq!(notes(get("https://app.test/logout")).1, ["ends the session"]);
        assert!(
            handler.0.local(&with_cookies(&cookies).head.headers, handler.0.now()).is_some(),
            "it goes on"
        );
    }

    #[test]
    fn requests_extend_a_session_up_to_its_absolute_end() {
        let (world, clock) = World::stopped();
        let party = party_in(world, Oidc::default());
        let first = cookies(&party);
        let middleware: Arc<dyn Middleware> = Arc::new(Handler(Arc::new(party)));
        // Returns the status, and the cookies that the client has then.
        let send = |cookies: &str| {
            let service = Service(|_| Response::new(Body::empty()));
            let response = block_on(run(&middleware, with_cookies(cookies), &service));
            let set = response.headers().get("set-cookie").map(|field| field.to_str().unwrap());
            let own =
                set.filter(|field| !field.contains("Max-Age=0")).and_then(|field| field.split(';').next());
            (response.status().as_u16(), own.unwrap_or(cookies).to_owned())
        };
        let hours = |hours| clock.advance(Duration::from_hours(hours));
        hours(2);
        assert_eq!(send(&first), (200, first.clone()), "a tenth has not passed");
        hours(21);
        let (status, mut latest) = send(&first);
        assert!(status == 200 && latest != first);
        hours(2);
        assert_eq!(send(&first).0, 401, "it was not extended");
        // 25 hours are over, of 168.
        for _ in 0..6 {
            hours(21);
            let (status, next) = send(&latest);
            assert_eq!(status, 200);
            latest = next;
        }
        hours(16);
        assert_eq!(send(&latest).0, 200);
        hours(1);
        assert_eq!(send(&latest).0, 401, "it lasts seven days at most");
    }

    /// The cost of the check for a request with a session, printed in microseconds.
    #[test]
    #[ignore = "measures time"]
    fn a_session_costs_little() {
        const REQUESTS: u32 = 20_000;
        let party = party(Oidc::default());
        let cookies = cookies(&party);
        let middleware: Arc<dyn Middleware> = Arc::new(Handler(Arc::new(party)));
        let service = Service(|_| Response::new(Body::empty()));
        let measured = |middleware: Option<&Arc<dyn Middleware>>| {
            let requests: Vec<Request> = (0..REQUESTS).map(|_| with_cookies(&cookies)).collect();
            let begun = Instant::now();
            block_on(async {
                for request in requests {
                    let response = match middleware {
                        Some(middleware) => run(middleware, request, &service).await,
                        None => tidegate_core::Handler::call(&service, request).await,
                    };
                    assert_eq!(response.status(), 200);
                }
            });
            begun.elapsed() / REQUESTS
        };
        let (with, without) = (measured(Some(&middleware)), measured(None));
        let cost = with.saturating_sub(without);
        println!("{cost:?} for a session of {} bytes in cookies", cookies.len());
        assert!(cost < Duration::from_micros(200), "{cost:?}");
    }
}
