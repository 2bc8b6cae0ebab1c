//! Tests of services with servers on the loopback interface.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidegate_config::service::{
    Failover, FailoverErrors, HealthCheck, LoadBalancer, Mirroring, PassiveHealthCheck, Server,
    ServerHealthCheck, Sticky, StickyCookie,
};
use tidegate_core::values::Duration;
use tidegate_core::{Body, BodyError, BuildError, Connection, Context, Request, Response, UpstreamError};
use tokio::net::TcpListener;

use super::{Counters, Draft, Registry, Service};
use crate::upstream::Transport;

/// A server that responds with its name, the target and the `Host`, and a configurable status.
struct Backend {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
    /// The `User-Agent` of the last request.
    agent: Arc<Mutex<String>>,
}

impl Backend {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, requests) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
        let agent = Arc::new(Mutex::new(String::new()));
        let backend =
            Self { address, status: status.clone(), requests: requests.clone(), agent: agent.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (status, requests, agent) = (status.clone(), requests.clone(), agent.clone());
                let service =
                    hyper::service::service_fn(move |incoming: http::Request<hyper::body::Incoming>| {
                        let status = status.load(Ordering::SeqCst);
                        requests.fetch_add(1, Ordering::SeqCst);
                        let called =
                            incoming.headers().get("user-agent").map_or("", |name| name.to_str().unwrap());
                        called.clone_into(&mut agent.lock());
                        async move {
                            let (head, body) = incoming.into_parts();
                            let body =
                                Body::incoming(body).collect(1 << 20).await.map_err(BodyError::from)?.bytes;
                            let host = head.headers["host"].to_str().unwrap();
                            let body = String::from_utf8_lossy(&body);
                            let text = format!("{name} {} {host} {body}", head.uri);
                            let response = http::Response::builder().status(status);
                            Ok::<_, BodyError>(response.body(Body::full(text)).unwrap())
                        }
                    });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        backend
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Returns a URL that refuses connections.
async fn nowhere() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap())
}

fn registry() -> Arc<Registry> {
    Registry::new(1, tokio::runtime::Handle::current())
}

fn transport() -> Arc<Transport> {
    Transport::build(&Default::default(), &mut |_| unreachable!()).unwrap()
}

fn options(urls: &[&str]) -> LoadBalancer {
    let server = |url: &&str| Server { url: (*url).to_owned(), ..Default::default() };
    LoadBalancer { servers: urls.iter().map(server).collect(), ..Default::default() }
}

fn build(registry: &Arc<Registry>, options: &LoadBalancer) -> Arc<dyn Service> {
    serve(registry, |draft| draft.load_balancer("s@file", options, transport(), &Counters::default()))
}

/// Builds a service and makes it live.
fn serve(
    registry: &Arc<Registry>,
    build: impl FnOnce(&Draft) -> Result<Arc<dyn Service>, BuildError>,
) -> Arc<dyn Service> {
    let draft = Draft::new(registry.clone());
    let service = build(&draft).unwrap();
    draft.finish().apply();
    service
}

fn request(path: &str) -> Request {
    let (head, ()) =
        http::Request::builder().uri(path).header("host", "h.test").body(()).unwrap().into_parts();
    let context = Context::new(Arc::new(Connection::plain(([127, 0, 0, 1], 9).into())));
    Request::new(head, Body::empty(), context)
}

fn post(body: &'static str) -> Request {
    let mut request = request("/");
    request.head.method = http::Method::POST;
    request.body = Body::full(body);
    request
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect(1 << 20).await.unwrap().bytes.to_vec()).unwrap()
}

/// Returns the name of the backend, the first word of the response.
async fn who(service: &Arc<dyn Service>, request: Request) -> String {
    text(service.call(request).await).await.split(' ').next().unwrap().to_owned()
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.unwrap();
}

#[tokio::test]
async fn requests_are_distributed_by_weight() {
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    let mut options = options(&[&a.url(), &b.url(), &c.url()]);
    options.servers[0].weight = Some(2);
    options.servers[2].weight = Some(0);
    let registry = registry();
    let service = build(&registry, &options);
    let mut got = Vec::new();
    for _ in 0..6 {
        got.push(who(&service, request("/")).await);
    }
    assert_eq!(got.iter().filter(|name| *name == "a").count(), 4, "{got:?}");
    assert_eq!(c.count(), 0, "weight 0 gets no requests");
    assert_eq!(service.server_status().len(), 3, "the API still lists it");
}

#[tokio::test]
async fn host_and_path_of_the_server_url_are_used_if_configured() {
    let a = Backend::start("a").await;
    let mut options = options(&[&format!("{}/some%20base/", a.url())]);
    let registry = registry();
    let plain = build(&registry, &options);
    assert_eq!(text(plain.call(request("/x?y=2")).await).await, "a /x?y=2 h.test ");
    options.servers[0].preserve_path = true;
    options.pass_host_header = false;
    let changed = build(&registry, &options);
    let expected = format!("a /some%20base/x?y=2 {} ", a.address);
    assert_eq!(text(changed.call(request("/x?y=2")).await).await, expected);
}

#[tokio::test]
async fn a_service_without_servers_responds_like_traefik() {
    let service = build(&registry(), &options(&[]));
    assert!(!service.is_up());
    let response = service.call(request("/")).await;
    assert_eq!(response.status(), 503);
    assert!(matches!(response.failure.as_deref(), Some(UpstreamError::NoServer)));
    assert_eq!(text(response).await, "no available server\n");
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_goes_to_another_server() {
    let a = Backend::start("a").await;
    let service = build(&registry(), &options(&[&nowhere().await, &a.url()]));
    for _ in 0..4 {
        assert_eq!(text(service.call(post("data")).await).await, "a / h.test data");
    }
    let alone = build(&registry(), &options(&[&nowhere().await]));
    let response = alone.call(request("/")).await;
    assert_eq!(response.status(), 502);
    assert_eq!(text(response).await, "Bad Gateway");
    assert!(alone.is_up(), "a refused connection does not mark it down");
}

#[tokio::test]
async fn a_retry_goes_to_another_server() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let service = build(&registry(), &options(&[&a.url(), &b.url()]));
    let context = request("/").context;
    let mut names = Vec::new();
    for _ in 0..2 {
        let request = Request { context: context.clone(), ..request("/") };
        names.push(who(&service, request).await);
    }
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(context.exchange.attempts().count(), 2);
}

fn with_cookie(mut request: Request, cookie: &str) -> Request {
    request.head.headers.insert("cookie", cookie.split(';').next().unwrap().parse().unwrap());
    request
}

#[tokio::test]
async fn a_cookie_keeps_a_client_on_its_server() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let gone = nowhere().await;
    let mut options = options(&[&a.url(), &b.url(), &gone]);
    options.sticky = Some(Sticky { cookie: Some(StickyCookie::default()) });
    let registry = registry();
    let service = build(&registry, &options);
    let first = service.call(request("/")).await;
    let cookie = first.headers()["set-cookie"].to_str().unwrap().to_owned();
    let name = text(first).await.split(' ').next().unwrap().to_owned();
    for _ in 0..3 {
        let response = service.call(with_cookie(request("/"), &cookie)).await;
        assert!(!response.headers().contains_key("set-cookie"), "the client already has it");
        assert!(text(response).await.starts_with(&name));
    }
    // If the server is gone, the client gets another one and its cookie.
    options.servers.truncate(2);
    let only = |url: &str| {
        let mut only = options.clone();
        only.servers = vec![Server { url: url.into(), ..Default::default() }];
        only
    };
    let response = build(&registry, &only(&gone)).call(request("/")).await;
    assert_eq!(response.status(), 502);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    options.servers.push(Server { url: gone, ..Default::default() });
    let response = build(&registry, &options).call(with_cookie(request("/"), &cookie)).await;
    assert_eq!(response.status(), 200);
    assert!(response.headers().contains_key("set-cookie"));
}

#[tokio::test]
async fn passive_checks_eject_a_failing_server() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    a.status.store(500, Ordering::SeqCst);
    let mut options = options(&[&a.url(), &b.url()]);
    options.passive_health_check = Some(PassiveHealthCheck { max_failed_attempts: 2, ..Default::default() });
    let service = build(&registry(), &options);
    for _ in 0..10 {
        text(service.call(request("/")).await).await;
    }
    assert_eq!(a.count(), 2);
    assert_eq!(service.server_status()[&a.url()], "DOWN");
    assert!(service.is_up());
}

fn check() -> ServerHealthCheck {
    ServerHealthCheck {
        path: "/health".into(),
        interval: Duration::from_millis(5),
        timeout: Duration::from_millis(500),
        ..Default::default()
    }
}

#[tokio::test]
async fn active_checks_track_a_server_across_reloads() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut options = options(&[&a.url(), &b.url()]);
    options.health_check = Some(check());
    let registry = registry();
    let service = build(&registry, &options);
    until(|| a.count() > 0 && b.count() > 0).await;
    a.status.store(503, Ordering::SeqCst);
    until(|| service.server_status()[&a.url()] == "DOWN").await;
    for _ in 0..4 {
        assert_eq!(who(&service, request("/")).await, "b");
    }
    options.pass_host_header = false;
    let again = build(&registry, &options);
    assert_eq!(again.server_status()[&a.url()], "DOWN", "a reload keeps the state");
    drop(service);
    b.status.store(404, Ordering::SeqCst);
    until(|| !again.is_up()).await;
    assert_eq!(again.call(request("/")).await.status(), 503);
    a.status.store(302, Ordering::SeqCst);
    until(|| again.server_status()[&a.url()] == "UP").await;
}

#[tokio::test]
async fn a_dropped_draft_does_not_change_live_servers() {
    let a = Backend::start("a").await;
    a.status.store(503, Ordering::SeqCst);
    let mut options = options(&[&a.url()]);
    options.health_check = Some(check());
    let registry = registry();
    let service = build(&registry, &options);
    until(|| !service.is_up()).await;
    options.health_check = None;
    let draft = Draft::new(registry.clone());
    let drafted = draft.load_balancer("s@file", &options, transport(), &Counters::default()).unwrap();
    drop(draft.finish());
    assert!(!drafted.is_up() && !service.is_up(), "they share the server, whose check continues");
    a.status.store(200, Ordering::SeqCst);
    until(|| service.is_up()).await;
}

#[tokio::test]
async fn a_drafted_server_is_unproven_and_not_contacted() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut options = options(&[&a.url()]);
    options.health_check = Some(check());
    let registry = registry();
    let _service = build(&registry, &options);
    // By the start of the third check, the result of the first has been recorded.
    until(|| a.count() > 3).await;
    options.servers.push(Server { url: b.url(), ..Default::default() });
    let draft = Draft::new(registry.clone());
    let drafted = draft.load_balancer("s@file", &options, transport(), &Counters::default()).unwrap();
    for _ in 0..4 {
        assert_eq!(who(&drafted, request("/")).await, "a");
    }
    assert_eq!(b.count(), 0);
    draft.finish().apply();
    until(|| b.count() > 0).await;
}

#[tokio::test]
async fn health_checks_send_a_user_agent() {
    for (given, seen) in [(None, "Go-http-client/1.1"), (Some("prober/2"), "prober/2")] {
        let backend = Backend::start("a").await;
        let mut options = options(&[&backend.url()]);
        let headers = given.map(|name| ("user-agent".to_owned(), name.to_owned()));
        options.health_check = Some(ServerHealthCheck { headers: headers.into_iter().collect(), ..check() });
        let _service = build(&registry(), &options);
        until(|| backend.count() > 0).await;
        assert_eq!(*backend.agent.lock(), seen);
    }
}

#[tokio::test]
async fn a_new_server_gets_no_requests_before_its_first_successful_check() {
    let a = Backend::start("a").await;
    let mut options = options(&[&a.url()]);
    options.health_check = Some(check());
    let registry = registry();
    let service = build(&registry, &options);
    assert_eq!(who(&service, request("/")).await, "a", "unproven, but the only server");
    // By the start of the third check, the result of the first has been recorded.
    until(|| a.count() > 3).await;
    // This server accepts connections but never responds, so its check stays open.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    options.servers.push(Server { url, ..Default::default() });
    options.health_check = Some(ServerHealthCheck { timeout: Duration::from_secs(600), ..check() });
    let service = build(&registry, &options);
    for _ in 0..4 {
        assert_eq!(who(&service, request("/")).await, "a");
    }
}

#[tokio::test]
async fn balances_and_connections_survive_reloads() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let options = options(&[&a.url(), &b.url()]);
    let registry = registry();
    let mut service = build(&registry, &options);
    for _ in 0..4 {
        text(service.call(request("/")).await).await;
        // A new snapshot replaces the old one after each request.
        service = build(&registry, &options);
    }
    assert_eq!((a.count(), b.count()), (2, 2));
}

#[tokio::test]
async fn exchanges_record_which_server_responded() {
    let a = Backend::start("a").await;
    let service = build(&registry(), &options(&[&a.url()]));
    let request = request("/");
    let exchange = request.context.exchange.clone();
    text(service.call(request).await).await;
    let summary = exchange.summary();
    assert_eq!(summary.service, Some("s@file"));
    assert_eq!(&*summary.server.unwrap().url, a.url().as_str());
    assert_eq!(&*summary.server.unwrap().address, a.address.to_string().as_str());
    assert_eq!((summary.origin_status, summary.origin_size), (Some(200), Some(11)));
    assert!(summary.origin_duration.is_some());
}

#[tokio::test]
async fn weighted_children_that_are_down_get_no_requests() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let registry = registry();
    let child = |url: &str, name: &str| (name.to_owned(), 1, build(&registry, &options(&[url])));
    let empty = ("empty".to_owned(), 9, build(&registry, &options(&[])));
    let children = || vec![child(&a.url(), "a"), child(&b.url(), "b"), empty.clone()];
    let plain = serve(&registry, |draft| draft.weighted("w@file", None, children()));
    for _ in 0..4 {
        who(&plain, request("/")).await;
    }
    assert_eq!((a.count(), b.count()), (2, 2));
    let sticky = Sticky { cookie: Some(StickyCookie { name: "ws".into(), ..Default::default() }) };
    let sticky = serve(&registry, |draft| draft.weighted("w@file", Some(&sticky), children()));
    let response = sticky.call(request("/")).await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    // Recorded with Traefik 3.7.15 for a child written as `a`.
    let name = if text(response).await.starts_with('a') {
        "ws=ca978112ca1bbdca; Path=/"
    } else {
        "ws=3e23e8160039594a; Path=/"
    };
    assert_eq!(cookie, name);
    let hashed = serve(&registry, |draft| draft.highest_random_weight("h@file", children()));
    assert_eq!(who(&hashed, request("/")).await, who(&hashed, request("/")).await);
    assert!(!serve(&registry, |draft| draft.weighted("x@file", None, vec![empty])).is_up());
}

#[tokio::test]
async fn failover_uses_the_fallback_by_health_and_status() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let registry = registry();
    let lb = |url: &str| build(&registry, &options(&[url]));
    let empty = build(&registry, &options(&[]));
    let down = serve(&registry, |draft| draft.failover(&Failover::default(), empty.clone(), lb(&b.url())));
    assert_eq!(who(&down, request("/")).await, "b");
    for (health_check, expected) in
        [(None, "no available server\n"), (Some(HealthCheck {}), "Service Unavailable")]
    {
        let options = Failover { health_check, ..Default::default() };
        let both = serve(&registry, |draft| draft.failover(&options, empty.clone(), empty.clone()));
        let response = both.call(request("/")).await;
        assert_eq!(response.status(), 503);
        assert_eq!(text(response).await, expected);
    }

    let errors = FailoverErrors { status: vec!["500-599".into()], max_request_body_bytes: 4 };
    let options = Failover { errors: Some(errors), ..Default::default() };
    let service = serve(&registry, |draft| draft.failover(&options, lb(&a.url()), lb(&b.url())));
    assert_eq!(who(&service, post("data")).await, "a");
    a.status.store(502, Ordering::SeqCst);
    assert_eq!(text(service.call(post("data")).await).await, "b / h.test data");
    assert_eq!(service.call(post("large")).await.status(), 413);
}

#[tokio::test]
async fn mirrors_receive_their_share_of_copies() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let registry = registry();
    let lb = |url: &str| build(&registry, &options(&[url]));
    let options = Mirroring { max_body_size: 4, ..Default::default() };
    let service = serve(&registry, |draft| draft.mirroring(&options, lb(&a.url()), vec![(50, lb(&b.url()))]));
    for _ in 0..6 {
        assert_eq!(text(service.call(post("data")).await).await, "a / h.test data");
    }
    until(|| b.count() == 3).await;
    for _ in 0..2 {
        assert_eq!(text(service.call(post("larger")).await).await, "a / h.test larger");
    }
    assert_eq!((a.count(), b.count()), (8, 3));
    assert!(
        Draft::new(registry.clone()).mirroring(&options, lb(&a.url()), vec![(101, lb(&b.url()))]).is_err()
    );
}

#[tokio::test]
async fn invalid_options_are_reported() {
    let registry = registry();
    let build = |change: fn(&mut LoadBalancer)| {
        let mut options = options(&["http://127.0.0.1:1"]);
        change(&mut options);
        Draft::new(registry.clone())
            .load_balancer("s@file", &options, transport(), &Counters::default())
            .err()
            .unwrap()
            .to_string()
    };
    assert!(build(|o| o.strategy = "best".into()).contains("\"best\""));
    assert!(build(|o| o.servers[0].url = "ftp://x".into()).contains("`ftp://x`"));
    assert!(build(|o| o.health_check = Some(ServerHealthCheck::default())).contains("path is required"));
    let absolute = |o: &mut LoadBalancer| {
        o.health_check = Some(ServerHealthCheck { path: "http://x/".into(), ..Default::default() });
    };
    assert!(build(absolute).contains("must not name a host"));
    assert!(
        build(|o| o.health_check = Some(ServerHealthCheck { mode: "tcp".into(), ..check() }))
            .contains("`tcp`")
    );
}
