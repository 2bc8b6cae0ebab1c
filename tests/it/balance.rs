//! Strategies and outliers from outside: who gets the requests, counted by the servers.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tidegate_config::decode::decode_config;
use tidegate_config::formats::{labels, toml, yaml};
use tidegate_config::{Origin, Provided};

use crate::support::{Backend, Client, Gateway, eventually, get};

/// A backend that counts its requests. Those for `/hold` are answered when `held` is false.
struct Counted {
    backend: Backend,
    count: Arc<AtomicUsize>,
}

impl Counted {
    fn new(held: &Arc<AtomicBool>) -> Self {
        let (count, held) = (Arc::new(AtomicUsize::new(0)), held.clone());
        let counter = count.clone();
        let backend = Backend::with(move |seen, stream| {
            if seen.target() == "/hold" {
                eventually("the test is over", || !held.load(Ordering::SeqCst));
            } else {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok()
        });
        Self { backend, count }
    }

    fn take(&self) -> usize {
        self.count.swap(0, Ordering::SeqCst)
    }
}

fn routes(servers: &[&Backend], more: &str) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("{{url: '{}'}}", server.url())).collect();
    format!(
        "http:\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: a}}\n  services:\n    a: {{loadBalancer: {{servers: [{}]{more}}}}}\n",
        servers.join(", ")
    )
}

fn ask(address: SocketAddr, times: usize) {
    let mut client = Client::connect(address);
    for _ in 0..times {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(client.read().unwrap().status < 600);
    }
}

#[test]
fn with_least_connections_a_busy_server_gets_nothing() {
    let held = Arc::new(AtomicBool::new(true));
    let (one, two) = (Counted::new(&held), Counted::new(&held));
    let gateway = Gateway::serve(&routes(&[&one.backend, &two.backend], ", strategy: leastConnections"));
    let mut holding = Client::connect(gateway.web());
    holding.send("GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
    let holds = |server: &Counted| server.backend.seen().iter().any(|seen| seen.target() == "/hold");
    eventually("a server is busy", || holds(&one) || holds(&two));
    let (busy, idle) = if holds(&one) { (&one, &two) } else { (&two, &one) };
    ask(gateway.web(), 20);
    assert_eq!((busy.take(), idle.take()), (0, 20));
    held.store(false, Ordering::SeqCst);
    assert_eq!(holding.read().unwrap().status, 200);
    eventually("the request is over", || {
        ask(gateway.web(), 1);
        busy.take() == 1
    });
    idle.take();
    ask(gateway.web(), 20);
    assert_eq!((busy.take(), idle.take()), (10, 10), "equals take turns");
}

#[test]
fn a_server_that_comes_later_starts_slowly_also_through_reloads() {
    let held = Arc::new(AtomicBool::new(false));
    let (one, two, late) = (Counted::new(&held), Counted::new(&held), Counted::new(&held));
    let slow = ", slowStart: 24h";
    let gateway = Gateway::serve(&routes(&[&one.backend, &two.backend], slow));
    ask(gateway.web(), 20);
    assert_eq!((one.take(), two.take()), (10, 10), "those that were there from the start do not");
    let all = [&one.backend, &two.backend, &late.backend];
    gateway.write("routes.yml", &routes(&all, slow));
    eventually("the third is there", || {
        gateway.api("/api/http/services/a@file").contains(&late.backend.url())
    });
    ask(gateway.web(), 210);
    assert_eq!(late.take(), 10, "a tenth of what the others get");
    gateway.write("routes.yml", &routes(&all, ", slowStart: 23h"));
    eventually("the change is live", || gateway.api("/api/http/services/a@file").contains("23h"));
    ask(gateway.web(), 210);
    assert_eq!(late.take(), 10, "it is not new again, nor done");
    gateway.write("routes.yml", &routes(&all, ""));
    eventually("the change is live", || !gateway.api("/api/http/services/a@file").contains("23h"));
    // The turn that it has already comes late.
    ask(gateway.web(), 30);
    late.take();
    ask(gateway.web(), 30);
    assert!((9..=11).contains(&late.take()), "without the option it has its share");
}

#[test]
fn only_so_many_failing_servers_are_taken_out_and_stay_out_through_a_reload() {
    let failing = || {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let backend = Backend::with(move |_, stream| {
            counter.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").is_ok()
        });
        Counted { backend, count }
    };
    let servers = [failing(), failing(), failing()];
    let passive = ", passiveHealthCheck: {maxFailedAttempts: 2, ejectionTime: 1h, maxEjectionTime: 3h, maxEjectedPercent: 67}";
    let all = [&servers[0].backend, &servers[1].backend, &servers[2].backend];
    let gateway = Gateway::serve(&routes(&all, passive));
    ask(gateway.web(), 60);
    let counts: Vec<usize> = servers.iter().map(Counted::take).collect();
    assert_eq!(counts.iter().filter(|count| **count == 2).count(), 2, "two of three are out: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 60);
    let states = || {
        let shown = gateway.api("/api/http/services/a@file");
        (shown.matches("\"DOWN\"").count(), shown.matches("\"UP\"").count())
    };
    assert_eq!(states(), (2, 1));
    gateway.write("other.yml", "http: {routers: {other: {rule: 'Host(`o`)', service: a@file}}}");
    eventually("the change is live", || gateway.api("/api/http/routers").contains("other@file"));
    assert_eq!(states(), (2, 1));
    ask(gateway.web(), 10);
    assert_eq!(servers.iter().map(Counted::take).filter(|count| *count == 10).count(), 1);
}

#[test]
fn meaningless_options_are_refused() {
    let backend = Backend::echo("a");
    for (options, said) in [
        (", strategy: leastconn", "unsupported load-balancer strategy \"leastconn\""),
        (", passiveHealthCheck: {ejectionTime: 0s}", "ejectionTime must be greater than zero"),
        (", passiveHealthCheck: {maxEjectionTime: 1s}", "maxEjectionTime must not be shorter"),
        (", passiveHealthCheck: {maxEjectedPercent: 101}", "maxEjectedPercent must be at most 100"),
    ] {
        let gateway = Gateway::serve(&routes(&[&backend], options));
        assert_eq!(get(gateway.web(), "h", "/").status, 503, "{options}");
        let problems = gateway.problems().join("\n");
        assert!(problems.contains(said), "{options}: {problems}");
    }
}

#[test]
fn the_options_are_the_same_in_labels_yaml_and_toml() {
    let read = |provided: Provided| {
        assert_eq!(provided.problems, []);
        provided.config.http.services["a"].clone()
    };
    let yaml = "
http:
  services:
    a:
      loadBalancer:
        servers: [{url: 'unix:///run/a.sock'}]
        strategy: leastConnections
        slowStart: 30s
        passiveHealthCheck: {failureWindow: 5s, maxFailedAttempts: 3, ejectionTime: 20s, maxEjectionTime: 5m, maxEjectedPercent: 50}
";
    let toml = r#"
[http.services.a.loadBalancer]
strategy = "leastConnections"
slowStart = "30s"
servers = [{url = "unix:///run/a.sock"}]
[http.services.a.loadBalancer.passiveHealthCheck]
failureWindow = "5s"
maxFailedAttempts = 3
ejectionTime = "20s"
maxEjectionTime = "5m"
maxEjectedPercent = 50
"#;
    let key = |rest: &str| format!("traefik.http.services.a.loadbalancer.{rest}");
    let pairs = [
        (key("servers[0].url"), "unix:///run/a.sock"),
        (key("strategy"), "leastConnections"),
        (key("slowstart"), "30s"),
        (key("passivehealthcheck.failurewindow"), "5s"),
        (key("passivehealthcheck.maxfailedattempts"), "3"),
        (key("passivehealthcheck.ejectiontime"), "20s"),
        (key("passivehealthcheck.maxejectiontime"), "5m"),
        (key("passivehealthcheck.maxejectedpercent"), "50"),
    ];
    let of_yaml = read(decode_config(&yaml::read("a.yml", yaml.as_bytes()).unwrap()));
    let of_toml = read(decode_config(&toml::read("a.toml", toml.as_bytes()).unwrap()));
    let (node, problems) =
        labels::read(pairs.iter().map(|(key, value)| (key.as_str(), *value)), &["traefik"], |_| {
            Origin::Internal
        });
    assert_eq!(problems, []);
    assert_eq!(of_yaml, of_toml);
    assert_eq!(of_yaml, read(decode_config(&node)));
    let balancer = of_yaml.load_balancer.as_ref().unwrap();
    assert_eq!(balancer.slow_start.0.as_secs(), 30);
    assert_eq!(balancer.passive_health_check.as_ref().unwrap().max_ejected_percent, Some(50));
}
