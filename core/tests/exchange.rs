//! What an exchange says of a request, seen by those who read it when the request is over.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, Version};
use tidegate_core::{
    AuthMethod, Body, BoxFuture, Connection, Context, Exchange, Handler, Identity, Member, Middleware,
    MiddlewareInfo, Next, Origin, Reason, Request, Response, RouteInfo, ServerInfo, UpstreamError, reply,
};

/// Lets everybody pass, or nobody.
struct Guards(bool);

impl Middleware for Guards {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if self.0 {
            return next.run(request);
        }
        Box::pin(std::future::ready(reply::status_text(StatusCode::FORBIDDEN, Reason::Forbidden)))
    }
}

/// Consists of others.
struct Both(Vec<Member>);

impl Middleware for Both {
    fn handle<'a>(&'a self, _: Request, _: &'a Next) -> BoxFuture<'a, Response> {
        unreachable!("its members are in the chain")
    }

    fn members(&self) -> Option<&[Member]> {
        Some(&self.0)
    }
}

struct Service;

impl Handler for Service {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        request.context.exchange.reach_service();
        Box::pin(std::future::ready(Response::new(Body::empty())))
    }
}

fn connection() -> Arc<Connection> {
    Arc::new(Connection::plain(([127, 0, 0, 1], 4000).into()))
}

fn exchange() -> Exchange {
    let mut exchange = Exchange::begin(connection(), Version::HTTP_11);
    exchange.set_route(Arc::new(RouteInfo {
        router: "r@file".into(),
        service: "s@file".into(),
        ..RouteInfo::default()
    }));
    exchange
}

fn server(id: u64) -> Arc<ServerInfo> {
    let name = format!("10.0.0.{id}:80");
    Arc::new(ServerInfo { id, url: format!("http://{name}").into(), address: name.into() })
}

/// The response to a request that passes `guards`, and its exchange.
async fn pass(guards: Vec<(&str, Arc<dyn Middleware>)>) -> (Response, Arc<Exchange>) {
    let guards = guards.into_iter().map(|(name, guard)| (name.into(), guard));
    let (chain, middlewares) = Next::route(guards.collect::<Vec<_>>(), Next::service(Arc::new(Service)));
    let mut exchange = exchange();
    exchange.set_route(Arc::new(RouteInfo {
        router: "r@file".into(),
        service: "s@file".into(),
        middlewares,
        ..RouteInfo::default()
    }));
    let exchange = Arc::new(exchange);
    let (head, ()) = http::Request::new(()).into_parts();
    let request = Request::new(head, Body::empty(), Context::of(exchange.clone()));
    let response = chain.run(request).await;
    exchange.answer(response.status().as_u16(), response.reason);
    (response, exchange)
}

fn guard(open: bool) -> Arc<dyn Middleware> {
    Arc::new(Guards(open))
}

#[tokio::test]
async fn it_says_which_middleware_has_answered_and_why() {
    let both = Arc::new(Both(vec![("first@file".into(), guard(true)), ("second@file".into(), guard(false))]));
    let (response, exchange) =
        pass(vec![("a@file", guard(true)), ("b@file", both), ("c@file", guard(true))]).await;
    assert_eq!((response.origin(), exchange.origin()), (Origin::Middleware, Some(Origin::Middleware)));
    assert_eq!((exchange.status(), exchange.reason()), (403, Some(Reason::Forbidden)));
    assert_eq!(exchange.middleware().map(|name| &**name), Some("second@file"), "the member of `b@file`");
    let of_route = |middleware: &MiddlewareInfo| (middleware.name.to_string(), middleware.via.len());
    let all: Vec<_> = exchange.route().unwrap().middlewares.iter().map(of_route).collect();
    let expected = [("a@file", 0), ("first@file", 1), ("second@file", 1), ("c@file", 0)];
    assert_eq!(all, expected.map(|(name, via)| (name.to_owned(), via)));
    assert_eq!((exchange.router(), exchange.summary().service), ("r@file", None));
    assert!(exchange.routed().unwrap() <= exchange.answered().unwrap());
}

#[tokio::test]
async fn it_says_that_a_server_has_answered() {
    let (response, exchange) = pass(vec![("a@file", guard(true)), ("b@file", guard(true))]).await;
    assert_eq!((response.origin(), exchange.origin()), (Origin::Server, Some(Origin::Server)));
    assert_eq!((exchange.status(), exchange.reason()), (200, None));
    assert_eq!(exchange.middleware().map(|name| &**name), Some("b@file"));
    assert_eq!(exchange.summary().service, Some("s@file"));
}

#[test]
fn an_exchange_without_an_answer_has_no_origin() {
    let exchange = exchange();
    assert_eq!((exchange.origin(), exchange.reason(), exchange.answered()), (None, None, None));
    assert!(exchange.middleware().is_none() && exchange.summary().server.is_none());
}

#[test]
fn attempts_are_told_apart_from_the_answer() {
    let exchange = exchange();
    let service = Arc::from("s@file");
    exchange.reach_service();
    exchange.attempt(&service, Some(&server(1))).unwrap().end();
    exchange.retry(502);
    exchange.reach_service();
    let second = exchange.attempt(&service, Some(&server(2))).unwrap();
    second.answer(503, Some(7));
    exchange.retry(503);
    // Nobody to ask: the service itself is the attempt.
    exchange.reach_service();
    exchange.retry(503);
    exchange.reach_service();
    let last = exchange.attempt(&service, Some(&server(3))).unwrap();
    last.answer(200, None);
    last.keep_headers(&HeaderMap::from_iter([(http::header::AGE, http::HeaderValue::from_static("3"))]));
    last.add_received(5);
    last.add_received(6);

    let summary = exchange.summary();
    assert_eq!(summary.server.map(|server| server.id), Some(3));
    assert_eq!((summary.origin_status, summary.origin_size, summary.retries), (Some(200), Some(11), 3));
    assert_eq!(summary.origin_headers.unwrap()["age"], "3");
    let failed = summary.failed.iter().map(|one| (one.server.map_or(0, |server| server.id), one.status));
    assert_eq!(failed.collect::<Vec<_>>(), [(1, 502), (2, 503), (0, 503)]);
    assert!([1, 2, 3].into_iter().all(|id| exchange.has_tried(id)) && !exchange.has_tried(4));
}

#[test]
fn a_page_stands_beside_the_answer_that_it_replaces() {
    let exchange = exchange();
    exchange.reach_service();
    exchange.attempt(&"s@file".into(), Some(&server(1))).unwrap().end();
    let page = exchange.begin_page("pages@file".into(), 502, Some(11));
    page.attempt(&"pages@file".into(), Some(&server(2))).unwrap().answer(200, Some(4));

    let summary = exchange.summary();
    assert_eq!((summary.service, summary.origin_status), (Some("s@file"), Some(502)));
    let shown = summary.page.unwrap();
    assert_eq!(
        (shown.service, shown.origin_status, shown.origin_size),
        (Some("pages@file"), Some(200), Some(4))
    );
    assert!(summary.failed.is_empty());

    // A page that nobody sends.
    let exchange_without_page = self::exchange();
    let page = exchange_without_page.begin_page("pages@file".into(), 404, None);
    page.answer(503, Some(Reason::NoServer));
    assert_eq!(exchange_without_page.summary().page.unwrap().origin_status, Some(503));

    // A page in place of the page.
    let other = exchange.begin_page("plain@file".into(), 500, None);
    let summary = exchange.summary();
    assert_eq!(summary.page.unwrap().service, Some("plain@file"));
    let failed = summary.failed.iter().map(|one| (one.service, one.status));
    assert_eq!(failed.collect::<Vec<_>>(), [("pages@file", 200)]);
    drop(other);

    // When the request is sent again, the page is gone with the answer.
    exchange.retry(502);
    let summary = exchange.summary();
    assert!(summary.page.is_none() && summary.service.is_none());
    assert_eq!(summary.failed.first().map(|one| (one.service, one.status)), Some(("s@file", 502)));
}

#[test]
fn routes_below_a_route_count_from_where_they_begin() {
    let exchange = exchange();
    exchange.reach_service();
    exchange.enter_route(Arc::new(RouteInfo {
        router: "r@file -> inner@file".into(),
        service: "inner@file".into(),
        ..RouteInfo::default()
    }));
    assert_eq!((exchange.router(), exchange.summary().service), ("r@file -> inner@file", None));
    exchange.reach_service();
    assert_eq!(exchange.summary().service, Some("inner@file"));
}

#[test]
fn whoever_authenticates_last_says_who_the_client_is() {
    let certificate = Identity::new("CN=a", AuthMethod::Certificate, "mtls@file".into());
    let plain = Connection::plain(([127, 0, 0, 1], 4000).into());
    let connection = Connection { identity: Some(Arc::new(certificate)), ..plain };
    let mut context = Context::new(Arc::new(connection));
    let exchange = context.exchange.clone();
    assert_eq!(exchange.identity().unwrap().subject, "CN=a");
    exchange.claim("mallory");
    context.identify(Identity::new("jane", AuthMethod::Basic, "users@file".into()));
    exchange.claim("jane");
    assert_eq!((&*exchange.identity().unwrap().subject, exchange.user()), ("jane", Some("jane")));
    assert_eq!(context.identity.as_ref().unwrap().subject, "jane");
    assert!(!Arc::ptr_eq(&context.aside().exchange, &exchange));
}

#[test]
fn many_attempts_are_bounded() {
    let exchange = exchange();
    let service = Arc::from("s@file");
    let kept = (0..1000).filter(|id| {
        let kept = exchange.attempt(&service, Some(&server(*id))).is_some();
        exchange.retry(502);
        kept
    });
    assert_eq!(kept.count(), 64);
    let summary = exchange.summary();
    assert_eq!((summary.failed.len(), summary.retries), (16, 1000));
}

#[test]
fn each_thread_may_add_to_it() {
    let exchange = Arc::new(exchange());
    let service: Arc<str> = "s@file".into();
    std::thread::scope(|scope| {
        for id in 0..8 {
            let (exchange, service) = (&exchange, &service);
            scope.spawn(move || {
                exchange.attempt(service, Some(&server(id))).unwrap();
                exchange.add_sent(2);
                exchange.add_received(3);
            });
        }
    });
    assert!((0..8).all(|id| exchange.has_tried(id)));
    assert_eq!((exchange.attempts().count(), exchange.sent(), exchange.received()), (8, 16, 24));
}

#[test]
fn every_reason_has_a_name_of_its_own_and_survives_the_exchange() {
    let exchange = exchange();
    let mut names = std::collections::BTreeSet::new();
    for reason in Reason::ALL {
        assert!(names.insert(reason.name()), "{} stands twice", reason.name());
        exchange.answer(503, Some(*reason));
        assert_eq!(exchange.reason(), Some(*reason));
    }
}

#[test]
fn a_failure_travels_with_its_response() {
    let failure = UpstreamError::ConnectTimeout { server: "10.0.0.1:80".into() };
    let response = reply::upstream_failure(failure).map(|_| Body::empty());
    assert_eq!(
        (response.status(), response.reason),
        (StatusCode::GATEWAY_TIMEOUT, Some(Reason::ConnectTimeout))
    );
    assert!(matches!(response.failure.as_deref(), Some(UpstreamError::ConnectTimeout { .. })));
}
