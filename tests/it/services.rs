//! Services from outside: health, balancing, failures and retries, as clients see them.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::backend::{switchable, unused_address, who};
use crate::support::{Backend, Client, Gateway, eventually, get, get_with, raw};

/// One router to the service `a`, and these services.
fn services(text: &str) -> String {
    format!("http:\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: a}}\n  services:\n{text}")
}

fn balancer(name: &str, urls: &[&str], more: &str) -> String {
    let servers: Vec<String> = urls.iter().map(|url| format!("{{url: '{url}'}}")).collect();
    format!("    {name}: {{loadBalancer: {{servers: [{}]{more}}}}}\n", servers.join(", "))
}

const CHECK: &str = ", healthCheck: {path: /health, interval: 20ms, timeout: 500ms}";

#[test]
fn an_active_check_takes_a_server_out_and_back_and_survives_a_reload() {
    let (up, yes) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (one, two) = (switchable("one", &up), switchable("two", &yes));
    let text = services(&balancer("a", &[&one.url(), &two.url()], CHECK));
    let gateway = Gateway::serve(&text);
    let both = || {
        let seen: Vec<String> = (0..4).map(|_| who(gateway.web())).collect();
        seen.contains(&"one".to_owned()) && seen.contains(&"two".to_owned())
    };
    eventually("both serve", both);
    up.store(false, Ordering::SeqCst);
    eventually("the check has found it down", || gateway.api("/api/http/services").contains("DOWN"));
    assert!((0..10).all(|_| who(gateway.web()) == "two"));
    gateway.write("other.yml", "http: {routers: {other: {rule: 'Host(`o`)', service: a@file}}}");
    eventually("the change is live", || {
        assert_eq!(who(gateway.web()), "two", "a reload brings nobody back");
        gateway.api("/api/http/routers").contains("other@file")
    });
    assert!((0..10).all(|_| who(gateway.web()) == "two"));
    up.store(true, Ordering::SeqCst);
    eventually("it is back", both);
}

#[test]
fn a_new_server_gets_no_traffic_before_its_first_success() {
    let (up, yes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (new, old) = (switchable("new", &up), switchable("old", &yes));
    let gateway = Gateway::serve(&services(&balancer("a", &[&old.url()], CHECK)));
    eventually("the old one is proven", || old.seen().iter().any(|seen| seen.target() == "/health"));
    gateway.write("routes.yml", &services(&balancer("a", &[&old.url(), &new.url()], CHECK)));
    eventually("the new one is checked", || {
        assert_eq!(who(gateway.web()), "old");
        !new.seen().is_empty()
    });
    assert!((0..10).all(|_| who(gateway.web()) == "old"));
    assert!(new.seen().iter().all(|seen| seen.target() == "/health"));
    up.store(true, Ordering::SeqCst);
    eventually("the new one serves", || who(gateway.web()) == "new");
}

#[test]
fn a_passive_check_ejects_a_failing_server() {
    let (up, yes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (bad, good) = (switchable("bad", &up), switchable("good", &yes));
    let passive = ", passiveHealthCheck: {failureWindow: 1s, maxFailedAttempts: 2}";
    let gateway = Gateway::serve(&services(&balancer("a", &[&bad.url(), &good.url()], passive)));
    let failed = (0..20).filter(|_| who(gateway.web()) == "bad").count();
    assert_eq!(failed, 2, "two failures, then the other server only");
    up.store(true, Ordering::SeqCst);
    eventually("it is tried again after the window", || who(gateway.web()) == "bad");
}

#[test]
fn a_sticky_cookie_holds_through_a_reload() {
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let text = services(&balancer("a", &[&one.url(), &two.url()], ", sticky: {cookie: {name: st}}"));
    let gateway = Gateway::serve(&text);
    let first = get(gateway.web(), "h", "/");
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let mine = first.header("x-backend").unwrap().to_owned();
    let again = || {
        let answer = get_with(gateway.web(), "h", "/", &format!("Cookie: {cookie}\r\n"));
        assert!(answer.header("set-cookie").is_none());
        answer.header("x-backend").unwrap().to_owned()
    };
    assert!((0..6).all(|_| again() == mine));
    let third = Backend::echo("three");
    let urls = [&*third.url(), &*two.url(), &*one.url()].map(str::to_owned);
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    gateway.write("routes.yml", &services(&balancer("a", &urls, ", sticky: {cookie: {name: st}}")));
    eventually("the third server serves", || who(gateway.web()) == "three");
    assert!((0..6).all(|_| again() == mine));
}

#[test]
fn weights_are_kept_exactly() {
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let weighted = "    a: {weighted: {services: [{name: x, weight: 3}, {name: y, weight: 1}]}}\n";
    let text = format!("{weighted}{}{}", balancer("x", &[&one.url()], ""), balancer("y", &[&two.url()], ""));
    let gateway = Gateway::serve(&services(&text));
    let ones = (0..40).filter(|_| who(gateway.web()) == "one").count();
    assert_eq!(ones, 30);
}

#[test]
fn a_request_that_could_not_leave_goes_to_another_server() {
    let good = Backend::echo("good");
    let gateway = Gateway::serve(&services(&balancer(
        "a",
        &[&format!("http://{}", unused_address()), &good.url()],
        "",
    )));
    for _ in 0..10 {
        let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        assert_eq!(raw(gateway.web(), post).unwrap().status, 200);
    }
    assert!(good.seen().iter().all(|seen| seen.body == b"hello"));
    assert_eq!(good.seen().len(), 10);
}

#[test]
fn a_retry_goes_to_another_server() {
    let bad = Backend::closing("");
    let good = Backend::echo("good");
    let text = services(&balancer("a", &[&bad.url(), &good.url()], ""))
        .replace("service: a}", "service: a, middlewares: [r]}")
        + "  middlewares:\n    r: {retry: {attempts: 2}}\n";
    let gateway = Gateway::serve(&text);
    let request = "DELETE / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert!((0..6).all(|_| raw(gateway.web(), request).unwrap().header("x-backend") == Some("good")));
    assert!(!bad.seen().is_empty(), "it was tried");
}

#[test]
fn a_get_is_retried_when_a_server_closes_and_a_post_is_not() {
    let stopping = Backend::closing("");
    let good = Backend::echo("good");
    let gateway = Gateway::serve(&services(&balancer("a", &[&stopping.url(), &good.url()], "")));
    assert!((0..6).all(|_| who(gateway.web()) == "good"));
    let asked = stopping.seen().len();
    assert!(asked > 0, "it was tried");
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
    eventually("it is its turn", || {
        let status = raw(gateway.web(), post).unwrap().status;
        assert!(status == 200 || status == 502);
        status == 502
    });
    assert_eq!(stopping.seen().len(), asked + 1, "what may have been done is not done twice");
    // Nobody else is there: it is told.
    let alone = Gateway::serve(&Gateway::one_service(&stopping.url()));
    assert_eq!(get(alone.web(), "h", "/").status, 502);
}

#[test]
fn a_get_is_repeated_when_a_kept_connection_died() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    // Answers as if it would keep the connection, then hangs up on the second request of each.
    let backend = Backend::with(move |_, stream| {
        count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2)
            && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().status, 200);
    }
    assert_eq!(served.load(Ordering::SeqCst), 3, "asked, hung up on, and asked again");
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.read().unwrap().status, 502, "what may have been done is not done twice");
    assert_eq!(served.load(Ordering::SeqCst), 4);
}

#[test]
fn failures_have_traefiks_forms() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    let text = format!(
        "http:\n  routers:\n    refused: {{rule: 'Path(`/refused`)', service: refused}}\n    slow: {{rule: 'Path(`/slow`)', service: slow}}\n    none: {{rule: 'Path(`/none`)', service: none}}\n  serversTransports:\n    hasty: {{forwardingTimeouts: {{responseHeaderTimeout: 100ms}}}}\n  services:\n{}{}{}",
        balancer("refused", &[&format!("http://{}", unused_address())], ""),
        balancer("slow", &[&hanging], ", serversTransport: hasty"),
        balancer("none", &[], ""),
    );
    let gateway = Gateway::serve(&text);
    let form = |path: &str| {
        let answer = get(gateway.web(), "h", path);
        (answer.status, answer.text(), answer.header("content-type").map(str::to_owned))
    };
    assert_eq!(form("/refused"), (502, "Bad Gateway".into(), None));
    assert_eq!(form("/slow"), (504, "Gateway Timeout".into(), None));
    let plain = Some("text/plain; charset=utf-8".to_owned());
    assert_eq!(form("/none"), (503, "no available server\n".into(), plain.clone()));
    assert_eq!(form("/nothing"), (404, "404 page not found\n".into(), plain));
}

#[test]
fn mirrors_get_copies_and_their_answers_are_dropped() {
    let (main, mirror) =
        (Backend::echo("main"), Backend::bytes("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"));
    let text = format!(
        "    a: {{mirroring: {{service: x, mirrors: [{{name: y, percent: 50}}]}}}}\n{}{}",
        balancer("x", &[&main.url()], ""),
        balancer("y", &[&mirror.url()], "")
    );
    let gateway = Gateway::serve(&services(&text));
    for _ in 0..10 {
        let post = "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        assert_eq!(raw(gateway.web(), post).unwrap().header("x-backend"), Some("main"));
    }
    eventually("half of them were copied", || mirror.seen().len() == 5);
    assert!(mirror.seen().iter().all(|seen| seen.body == b"hello" && seen.target() == "/p"));
    assert_eq!(main.seen().len(), 10);
}

#[test]
fn a_failover_follows_the_health_of_the_first() {
    let up = Arc::new(AtomicBool::new(true));
    let (main, spare) = (switchable("main", &up), Backend::echo("spare"));
    let text = format!(
        "    a: {{failover: {{service: x, fallback: y, healthCheck: {{}}}}}}\n{}{}",
        balancer("x", &[&main.url()], CHECK),
        balancer("y", &[&spare.url()], CHECK)
    );
    let gateway = Gateway::serve(&services(&text));
    eventually("the first serves", || who(gateway.web()) == "main");
    up.store(false, Ordering::SeqCst);
    eventually("the fallback serves", || who(gateway.web()) == "spare");
    up.store(true, Ordering::SeqCst);
    eventually("the first serves again", || who(gateway.web()) == "main");
}
