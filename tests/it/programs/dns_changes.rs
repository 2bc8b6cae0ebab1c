//! Servers that are names: who has an address may change at any moment, whatever lifetime the name server gives it.
//!
//! The gateway is a process with an `/etc/resolv.conf` of its own, and so a name server of ours.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::name_server::NameServer;
use crate::support::outside::Redis;
use crate::support::process::Process;
use crate::support::{Backend, Client, eventually, get, pause_for};

/// The time within which a change of a name must have its effect.
const SOON: Duration = Duration::from_secs(1);
/// How long an answer to a datagram is waited for before it counts as lost.
const LOST: Duration = Duration::from_millis(300);
/// Where the servers are before and after they have changed places.
const OLD: &str = "127.0.0.2";
const NEW: &str = "127.0.0.3";

/// Starts a name server, and a gateway that asks it.
fn start(flags: &[&str], routes: &str) -> (NameServer, Process) {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let id = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    let names = NameServer::start(&format!("127.{}.{}.{last}:53", 100 + id[2] % 100, id[3]));
    names.set("api.test", &[OLD]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {}\n", names.address().ip())).unwrap();
    let shell = format!(
        "exec unshare -m sh -c 'mount --bind {} /etc/resolv.conf && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        file.display()
    );
    let gateway = Process::start_by(&shell, flags, routes);
    (names, gateway)
}

/// Two listeners at the same port.
fn two() -> ([TcpListener; 2], u16) {
    loop {
        let old = TcpListener::bind((OLD, 0)).unwrap();
        let port = old.local_addr().unwrap().port();
        if let Ok(new) = TcpListener::bind((NEW, port)) {
            return ([old, new], port);
        }
    }
}

/// Two servers at the same port that answer with their names.
fn backends() -> ([Backend; 2], u16) {
    let ([old, new], port) = two();
    let named = |listener, name: &'static str| {
        Backend::on(listener, move |_, stream| {
            let length = name.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
            stream.write_all(answer.as_bytes()).is_ok()
        })
    };
    ([named(old, "old"), named(new, "new")], port)
}

fn route(url: &str) -> String {
    format!(
        "http:\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: a}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
    )
}

/// Asks until the answer is `wanted`, and makes sure that this was soon and that it stays so.
fn soon(wanted: &str, mut ask: impl FnMut() -> String) {
    let begun = Instant::now();
    eventually(wanted, || ask() == wanted);
    let waited = begun.elapsed();
    assert!(waited < SOON, "`{wanted}` after {waited:?}");
    for _ in 0..20 {
        assert_eq!(ask(), wanted);
    }
}

fn text(gateway: &Process, path: &str) -> String {
    let answer = get(gateway.web(), "h", path);
    if answer.status == 200 { answer.text() } else { answer.status.to_string() }
}

/// Asks on one connection, again and again.
fn asking(gateway: &Process) -> impl FnMut() -> String + use<> {
    let mut client = Client::connect(gateway.web());
    move || {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.read().unwrap().text()
    }
}

#[test]
#[ignore = "needs root and unshare"]
fn kept_connections_follow_the_name() {
    let ([old, _new], port) = backends();
    let (names, gateway) = start(&[], &route(&format!("http://api.test:{port}")));
    let mut ask = asking(&gateway);
    for _ in 0..50 {
        assert_eq!(ask(), "old");
    }
    assert_eq!(old.connections(), 1, "the connection is kept");
    let begun = (Instant::now(), names.questions());
    while begun.0.elapsed() < SOON {
        assert_eq!(ask(), "old");
    }
    // One for each family in each tenth of a second.
    let questions = names.questions() - begun.1;
    assert!((2..=30).contains(&questions), "{questions} questions in {:?}", begun.0.elapsed());
    names.set("api.test", &[NEW]);
    soon("new", &mut ask);
    // Nobody asks for longer than an answer is good for: the first request goes to the right server all the same.
    pause_for(SOON);
    names.set("api.test", &[OLD]);
    assert_eq!(ask(), "old");
    assert_eq!(old.connections(), 2, "the connection of before was closed");
}

#[test]
#[ignore = "needs root and unshare"]
fn shared_connections_follow_the_name() {
    let ([old, new], port) = two();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for (listener, name) in [(old, "old"), (new, "new")] {
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(move |_| async move {
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(name))))
                });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
    }
    let (names, gateway) = start(&[], &route(&format!("h2c://api.test:{port}")));
    assert_eq!(text(&gateway, "/"), "old");
    names.set("api.test", &[NEW]);
    soon("new", || text(&gateway, "/"));
    pause_for(SOON);
    names.set("api.test", &[OLD]);
    assert_eq!(text(&gateway, "/"), "old");
}

#[test]
#[ignore = "needs root and unshare"]
fn a_name_is_found_as_soon_as_it_exists() {
    let (_backends, port) = backends();
    let (names, gateway) = start(&[], &route(&format!("http://later.test:{port}")));
    for _ in 0..3 {
        assert_eq!(text(&gateway, "/"), "502");
    }
    names.set("later.test", &[NEW]);
    soon("new", || text(&gateway, "/"));
    names.set("later.test", &[]);
    soon("502", || text(&gateway, "/"));
    names.set("later.test", &[OLD]);
    soon("old", || text(&gateway, "/"));
}

#[test]
#[ignore = "needs root and unshare"]
fn a_failing_name_server_does_not_affect_idle_connections() {
    let ([old, _new], port) = backends();
    let (names, gateway) = start(&[], &route(&format!("http://api.test:{port}")));
    // One connection, so that one worker serves it: another one would have to look the name up first.
    let mut ask = asking(&gateway);
    assert_eq!(ask(), "old");
    names.fail(true);
    let end = Instant::now() + 2 * SOON;
    while Instant::now() < end {
        assert_eq!(ask(), "old");
    }
    pause_for(2 * SOON);
    assert_eq!(ask(), "old");
    assert_eq!(old.connections(), 1);
    names.fail(false);
    names.set("api.test", &[NEW]);
    soon("new", ask);
}

#[test]
#[ignore = "needs root and unshare"]
fn a_lost_question_is_repeated() {
    let (_backends, port) = backends();
    let (names, gateway) = start(&[], &route(&format!("http://api.test:{port}")));
    names.silence(true);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| text(&gateway, "/"));
        pause_for(SOON / 5);
        names.silence(false);
        assert_eq!(asked.join().unwrap(), "old");
    });
    assert!(begun.elapsed() < 2 * SOON, "{:?}", begun.elapsed());
}

/// A source of routes that is a name: a kept connection to it follows the name, as one to a server does.
#[test]
#[ignore = "needs root and unshare"]
fn providers_follow_the_name() {
    let ([old, new], port) = two();
    let source = |listener, service: &str| {
        let routes = format!(
            r#"{{"http": {{"routers": {{"moved": {{"rule": "Path(`/moved`)", "service": "{service}@internal"}}}}}}}}"#
        );
        Backend::on(listener, move |_, stream| {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{routes}", routes.len());
            stream.write_all(answer.as_bytes()).is_ok()
        })
    };
    let _sources = (source(old, "noop"), source(new, "ping"));
    let endpoint = format!("--providers.http.endpoint=http://api.test:{port}/");
    let flags = [endpoint.as_str(), "--providers.http.pollInterval=100ms", "--ping=true"];
    let (names, gateway) = start(&flags, "http: {}\n");
    eventually("routes of the old source", || text(&gateway, "/moved") == "418");
    names.set("api.test", &[NEW]);
    soon("OK", || text(&gateway, "/moved"));
}

#[test]
#[ignore = "needs root and unshare"]
fn all_addresses_are_used_within_one_request() {
    let (_backends, port) = backends();
    let (names, gateway) = start(&[], &route(&format!("http://many.test:{port}")));
    let refusing: Vec<String> = (10..30).map(|last| format!("127.0.0.{last}")).collect();
    let mut all: Vec<&str> = refusing.iter().map(String::as_str).collect();
    all.extend(["2001:db8::1", NEW]);
    names.set("many.test", &all);
    assert_eq!(text(&gateway, "/"), "new");
}

/// A server that lets everybody in, and one that lets nobody in.
fn guards() -> ([Backend; 2], u16) {
    let ([old, new], port) = two();
    let guard = |listener, line: &'static str| {
        Backend::on(listener, move |_, stream| {
            stream.write_all(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").as_bytes()).is_ok()
        })
    };
    ([guard(old, "200 OK"), guard(new, "401 Unauthorized")], port)
}

#[test]
#[ignore = "needs root and unshare"]
fn guards_error_pages_mirrors_and_checks_follow_the_name() {
    let (_guards, guards) = guards();
    let (pages, port) = backends();
    let app = Backend::echo("app");
    let failing = Backend::bytes("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let routes = format!(
        r"
http:
  routers:
    guarded: {{rule: 'Path(`/guarded`)', service: app, middlewares: [guard]}}
    failing: {{rule: 'Path(`/failing`)', service: failing, middlewares: [pages]}}
    mirrored: {{rule: 'Path(`/mirrored`)', service: mirrored}}
    checked: {{rule: 'Path(`/checked`)', service: checked}}
  middlewares:
    guard: {{forwardAuth: {{address: 'http://api.test:{guards}/'}}}}
    pages: {{errors: {{status: ['503'], service: api, query: /page}}}}
  services:
    app: {{loadBalancer: {{servers: [{{url: '{app}'}}]}}}}
    failing: {{loadBalancer: {{servers: [{{url: '{failing}'}}]}}}}
    api: {{loadBalancer: {{servers: [{{url: 'http://api.test:{port}'}}]}}}}
    mirrored: {{mirroring: {{service: app, mirrors: [{{name: api, percent: 100}}]}}}}
    checked: {{loadBalancer: {{servers: [{{url: 'http://api.test:{port}'}}], healthCheck: {{path: /health, interval: 50ms}}}}}}
",
        app = app.url(),
        failing = failing.url(),
    );
    let (names, gateway) = start(&[], &routes);
    let status = || get(gateway.web(), "h", "/guarded").status.to_string();
    let page = || get(gateway.web(), "h", "/failing").text();
    let reached = |backend: &Backend, target: &str| {
        backend.seen().iter().filter(|seen| seen.target() == target).count()
    };
    for _ in 0..5 {
        assert_eq!((status(), page()), ("200".into(), "old".into()));
        get(gateway.web(), "h", "/mirrored");
    }
    eventually("the old server is mirrored to and checked", || {
        reached(&pages[0], "/mirrored") == 5 && reached(&pages[0], "/health") > 2
    });
    names.set("api.test", &[NEW]);
    soon("401", status);
    soon("new", page);
    pause_for(SOON);
    let (mirrored, checked) = (reached(&pages[0], "/mirrored"), reached(&pages[0], "/health"));
    for _ in 0..5 {
        get(gateway.web(), "h", "/mirrored");
    }
    eventually("the new server is mirrored to and checked", || {
        reached(&pages[1], "/mirrored") == 5 && reached(&pages[1], "/health") > 5
    });
    assert_eq!((reached(&pages[0], "/mirrored"), reached(&pages[0], "/health")), (mirrored, checked));
}

#[test]
#[ignore = "needs root and unshare"]
fn streams_and_datagrams_follow_the_name() {
    let ([old, new], port) = two();
    for (listener, name) in [(old, "old"), (new, "new")] {
        let datagrams = UdpSocket::bind(listener.local_addr().unwrap()).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(name.as_bytes());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, peer)) = datagrams.recv_from(&mut buffer) {
                let _ = datagrams.send_to(&[name.as_bytes(), &buffer[..length]].concat(), peer);
            }
        });
    }
    let routes = format!(
        "tcp:\n  routers:\n    r: {{entryPoints: [tcp], rule: 'HostSNI(`*`)', service: s}}\n  services:\n    s: {{loadBalancer: {{servers: [{{address: 'api.test:{port}'}}]}}}}\nudp:\n  routers:\n    r: {{entryPoints: [udp], service: s}}\n  services:\n    s: {{loadBalancer: {{servers: [{{address: 'api.test:{port}'}}]}}}}\n"
    );
    let (names, gateway) = start(
        &[
            "--entryPoints.tcp.address=127.0.0.1:0",
            "--entryPoints.udp.address=127.0.0.1:0/udp",
            // The session never ends by its silence.
            "--entryPoints.udp.udp.timeout=10m",
        ],
        &routes,
    );
    let stream = || {
        let mut told = String::new();
        let _ = TcpStream::connect(gateway.address("tcp")).unwrap().read_to_string(&mut told);
        told
    };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(gateway.address("udp")).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut number = 0;
    // Late answers to earlier datagrams are passed over.
    let mut datagram = || {
        number += 1;
        let question = format!(" {number}");
        client.send(question.as_bytes()).unwrap();
        let mut buffer = [0; 64];
        while let Ok(length) = client.recv(&mut buffer) {
            if let Some(name) = buffer[..length].strip_suffix(question.as_bytes()) {
                return String::from_utf8_lossy(name).into_owned();
            }
        }
        String::new()
    };
    assert_eq!((stream(), datagram()), ("old".into(), "old".into()));
    names.set("api.test", &[NEW]);
    // What is on its way while a session ends is lost.
    client.set_read_timeout(Some(LOST)).unwrap();
    soon("new", &mut datagram);
    soon("new", stream);
    // After a silence the first datagram waits for the name to be looked up.
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    pause_for(SOON);
    names.set("api.test", &[OLD]);
    assert_eq!(datagram(), "old");
    names.set("api.test", &["127.0.0.9", NEW]);
    soon("new", stream);
    // Datagrams to an address where nobody listens are lost, and the next session tries the next address.
    client.set_read_timeout(Some(LOST)).unwrap();
    eventually("the other address is used", || datagram() == "new");
}

#[test]
#[ignore = "needs root, unshare and redis-server"]
fn limits_in_redis_follow_the_name() {
    let ([old, new], port) = two();
    drop((old, new));
    let redis = [OLD, NEW].map(|address| {
        let address = format!("{address}:{port}").parse().unwrap();
        Redis::start_in(tempfile::tempdir().unwrap(), address, &[])
    });
    let backend = Backend::echo("app");
    let routes = format!(
        r"
http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: app, middlewares: [limit]}}
  middlewares:
    limit: {{rateLimit: {{average: 1, period: 1h, burst: 3, redis: {{endpoints: ['api.test:{port}'], deadline: 20s}}}}}}
  services:
    app: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    );
    let (names, gateway) = start(&[], &routes);
    let status = || get(gateway.web(), "h", "/").status;
    assert_eq!([status(), status(), status(), status()], [200, 200, 200, 429]);
    // Both are up: only the name says which one counts.
    names.set("api.test", &[NEW]);
    let begun = Instant::now();
    eventually("the new server counts", || status() == 200);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(redis[1].command(&["KEYS", "*"]).contains("limit@file"));
}
