//! Metrics of what the gateway holds: connections by state, limits, endpoints of Consul and Redis, providers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::backend::unused_address;
use crate::support::streams::{Server, connect, take};
use crate::support::{Backend, Client, Gateway, eventually, get, get_with};

/// Returns the value of a series.
fn value(gateway: &Gateway, series: &str) -> Option<f64> {
    let text = get(gateway.address("traefik"), "h", "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

const FLAGS: &[&str] = &["--metrics.prometheus=true", "--metrics.prometheus.addRoutersLabels=true"];

/// Returns a backend whose responses wait until they are let through.
fn holding() -> (Backend, Arc<AtomicBool>) {
    let free = Arc::new(AtomicBool::new(false));
    let let_through = free.clone();
    let backend = Backend::with(move |_, stream| {
        while !free.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        std::io::Write::write_all(stream, b"HTTP/1.1 204 No Content\r\n\r\n").is_ok()
    });
    (backend, let_through)
}

fn limited(url: &str, middleware: &str) -> String {
    format!(
        "http:\n  routers:\n    a: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [m]}}\n  \
         middlewares:\n    m: {{{middleware}}}\n    unused: {{{middleware}}}\n  \
         services:\n    s: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
    )
}

#[test]
fn connections_are_shown_by_state() {
    let (backend, let_through) = holding();
    let gateway = Gateway::with(FLAGS, &Gateway::one_service(&backend.url()));
    let is = |active: f64, idle: f64| {
        let number = |state: &str| {
            value(&gateway, &format!("tidegate_open_connections{{entrypoint=\"web\",state=\"{state}\"}}"))
        };
        let others = ["handshaking", "stalled"].map(number);
        (number("active"), number("idle"), others) == (Some(active), Some(idle), [Some(0.0); 2])
    };
    assert!(is(0.0, 0.0));
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    eventually("a request is handled", || is(1.0, 0.0));
    let_through.store(true, Ordering::SeqCst);
    assert_eq!(client.read().unwrap().status, 204);
    eventually("the connection is idle", || is(0.0, 1.0));
    drop(client);
    eventually("it is closed", || is(0.0, 0.0));
}

#[test]
fn limits_show_what_they_hold() {
    let (backend, let_through) = holding();
    let routes = limited(&backend.url(), "inFlightReq: {amount: 5, sourceCriterion: {requestHost: true}}");
    for (flags, router) in [(FLAGS, ",router=\"a@file\""), (&FLAGS[..1], "")] {
        let_through.store(false, Ordering::SeqCst);
        let gateway = Gateway::with(flags, &routes);
        let held = |middleware: &str| {
            let labels = format!("{{middleware=\"{middleware}@file\"{router},type=\"inFlightReq\"}}");
            ["sources", "in_flight"].map(|what| value(&gateway, &format!("tidegate_limit_{what}{labels}")))
        };
        assert_eq!(held("m"), [Some(0.0); 2]);
        assert_eq!(held("unused"), [None; 2]);
        let clients = ["a.test", "a.test", "b.test"].map(|host| {
            let mut client = Client::connect(gateway.web());
            client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            client
        });
        eventually("three requests of two sources are in flight", || held("m") == [Some(2.0), Some(3.0)]);
        let_through.store(true, Ordering::SeqCst);
        for mut client in clients {
            assert_eq!(client.read().unwrap().status, 204);
        }
        eventually("they have ended", || held("m") == [Some(0.0); 2]);
    }
}

#[test]
fn policies_show_what_they_have_decided() {
    let backend = Backend::echo("a");
    let limit = "rateLimit: {policies: [{name: few, average: 1, period: 1h, burst: 2, key: [host, 'header(X-Key)']}, \
                 {name: trial, average: 1, period: 1h, mode: shadow}]}";
    let gateway = Gateway::with(FLAGS, &limited(&backend.url(), limit));
    let statuses: Vec<u16> = (0..4).map(|_| get(gateway.web(), "h.test", "/").status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    let count = |policy: &str, outcome: &str| {
        let labels =
            format!("{{middleware=\"m@file\",outcome=\"{outcome}\",policy=\"{policy}\",router=\"a@file\"}}");
        value(&gateway, &format!("tidegate_rate_limit_requests_total{labels}"))
    };
    assert_eq!((count("few", "admitted"), count("few", "refused")), (Some(2.0), Some(2.0)));
    assert_eq!((count("trial", "admitted"), count("trial", "shadow")), (Some(1.0), Some(3.0)));
    let spoofed = get_with(gateway.web(), "h.test", "/", "X-Key: hunter2\r\nX-Forwarded-For: 10.0.0.1\r\n");
    assert_eq!(spoofed.status, 200, "another key");
    let shown = gateway.api("/api/limits");
    assert!(!shown.contains("hunter2"), "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let policies = &shown[0]["policies"];
    assert_eq!((&policies[0]["name"], &policies[0]["keys"]), (&"few".into(), &2.into()));
    let offenders = serde_json::json!([{"key": "h.test|", "refused": 2}]);
    assert_eq!(policies[0]["offenders"], offenders);
    assert_eq!(policies[1]["offenders"], serde_json::json!([{"key": "127.0.0.1", "refused": 4}]));
}

#[test]
fn limits_show_whom_they_refuse_most() {
    let backend = Backend::echo("a");
    let by_header = "rateLimit: {average: 1, period: 1h, sourceCriterion: {requestHeaderName: X-Key}}";
    for (options, key) in [
        ("rateLimit: {average: 1, period: 1h}", "127.0.0.1"),
        ("rateLimit: {average: 1, period: 1h, sourceCriterion: {requestHost: true}}", "h.test"),
        (by_header, "x-key "),
    ] {
        let gateway = Gateway::with(FLAGS, &limited(&backend.url(), options));
        let ask = || get_with(gateway.web(), "h.test", "/", "X-Key: hunter2\r\n").status;
        assert_eq!([ask(), ask(), ask()], [200, 429, 429]);
        let shown = gateway.api("/api/limits");
        assert!(!shown.contains("hunter2"), "{shown}");
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&shown[0]["refused"], &shown[0]["sources"]), (&2.into(), &1.into()), "{options}");
        let offender = &shown[0]["offenders"][0];
        assert!(offender["key"].as_str().unwrap().starts_with(key), "{offender}");
        assert_eq!(offender["refused"], 2);
    }
}

#[test]
fn limits_of_tcp_connections_show_what_they_hold() {
    let server = Server::greeter("mail");
    let routes = format!(
        "tcp:\n  routers:\n    a: {{entryPoints: [web], rule: 'HostSNI(`*`)', service: s, middlewares: [m]}}\n  \
         middlewares:\n    m: {{inFlightConn: {{amount: 5}}}}\n  \
         services:\n    s: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}\n",
        server.address
    );
    let gateway = Gateway::with(FLAGS, &routes);
    let held = || {
        let labels = "{middleware=\"m@file\",router=\"a@file\",type=\"inFlightConn\"}";
        ["sources", "in_flight"].map(|what| value(&gateway, &format!("tidegate_limit_{what}{labels}")))
    };
    let mut clients = [connect(gateway.web()), connect(gateway.web())];
    for client in &mut clients {
        assert_eq!(take(client, 16), "hello from mail\n");
    }
    assert_eq!(held(), [Some(1.0), Some(2.0)]);
    drop(clients);
    eventually("they are closed", || held() == [Some(0.0); 2]);
}

#[test]
fn an_unreachable_redis_is_down() {
    let backend = Backend::echo("a");
    let redis = unused_address();
    let limit = format!("rateLimit: {{average: 1, redis: {{endpoints: ['{redis}']}}}}");
    let gateway = Gateway::with(FLAGS, &limited(&backend.url(), &limit));
    let value = |what: &str| value(&gateway, &format!("tidegate_redis_{what}{{endpoint=\"{redis}\"}}"));
    assert_eq!((value("up"), value("failures_total")), (None, Some(0.0)), "nobody has tried");
    assert_eq!(get(gateway.web(), "h.test", "/").status, 500);
    assert_eq!(value("up"), Some(0.0));
    assert!(value("failures_total").unwrap() >= 1.0);
    assert!(value("last_failure_timestamp_seconds").unwrap() > 1.7e9);
    assert_eq!(value("last_success_timestamp_seconds"), None);
}

#[test]
fn an_agent_of_consul_is_up_while_it_answers() {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let agent = Backend::with(move |_, stream| {
        let answer: &[u8] = match is_up.load(Ordering::SeqCst) {
            true => b"HTTP/1.1 404 Not Found\r\nX-Consul-Index: 7\r\nContent-Length: 0\r\n\r\n",
            false => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        };
        std::io::Write::write_all(stream, answer).is_ok()
    });
    let address = agent.url().replace("http://", "");
    let flag = format!("--providers.consul.endpoints={address}");
    let flags = [FLAGS, &[flag.as_str(), "--providers.startTimeout=0"]].concat();
    let gateway = Gateway::unready(&flags, "http: {}\n");
    let value = |what: &str| {
        let text = get(gateway.address("traefik"), "h", "/metrics").text();
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("tidegate_consul_{what}{{")));
        let line = lines.find(|line| line.contains(&address))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    eventually("it has failed", || value("up") == Some(0.0));
    let failures = value("failures_total").unwrap();
    assert!(failures >= 1.0 && value("last_success_timestamp_seconds").is_none());
    up.store(true, Ordering::SeqCst);
    eventually("it answers", || value("up") == Some(1.0));
    assert!(value("last_success_timestamp_seconds") >= value("last_failure_timestamp_seconds"));
}

#[test]
fn providers_show_how_long_their_states_took() {
    let gateway = Gateway::with(FLAGS, "http: {}\n");
    let delay = value(&gateway, "tidegate_provider_activation_delay_seconds{provider=\"file\"}");
    assert!(delay.is_some_and(|delay| delay > 0.0), "{delay:?}");
}
