//! Requests that wait while their service has no usable server (`loadBalancer.hold`).

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::support::backend::unused_address;
use crate::support::{Answer, Backend, Gateway, eventually, get};

fn routes(hold: &str, servers: &[&str]) -> String {
    let servers: String = servers.iter().map(|url| format!("{{url: '{url}'}}, ")).collect();
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a: {{loadBalancer: {{hold: {hold}, servers: [{servers}]}}}}
"
    )
}

fn ask(gateway: &Gateway) -> JoinHandle<Answer> {
    let address = gateway.web();
    std::thread::spawn(move || get(address, "h", "/"))
}

/// Waits until this many requests wait for a server.
fn waiting(gateway: &Gateway, count: usize) {
    let expected = format!("\"heldRequests\":{count}");
    eventually("the requests wait", || gateway.api("/api/http/services/a@file").contains(&expected));
}

#[test]
fn requests_wait_for_a_server_that_a_new_configuration_brings() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes("1m", &[]));
    let requests: Vec<_> = (0..5).map(|_| ask(&gateway)).collect();
    waiting(&gateway, 5);
    // The routes of a container that is replaced may be gone in between.
    gateway.write("routes.yml", "http: {}");
    eventually("the router is gone", || !gateway.api("/api/http/routers").contains("all@file"));
    assert_eq!(get(gateway.web(), "h", "/").status, 404);
    gateway.write("routes.yml", &routes("1m", &[&backend.url()]));
    for request in requests {
        let answer = request.join().unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (200, None));
    }
    assert!(!gateway.api("/api/http/services/a@file").contains("heldRequests"));
}

#[test]
fn requests_wait_for_a_server_that_restarts() {
    let address = unused_address();
    let gateway = Gateway::serve(&routes("{maxWait: 1m}", &[&format!("http://{address}")]));
    let request = ask(&gateway);
    waiting(&gateway, 1);
    let _backend = Backend::echo_on(std::net::TcpListener::bind(address).unwrap(), "a");
    assert_eq!(request.join().unwrap().status, 200);
}

#[test]
fn the_options_of_a_service_may_change_while_requests_wait() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes("1m", &[]));
    let request = ask(&gateway);
    waiting(&gateway, 1);
    let without = routes("1m", &[&backend.url()]).replace("hold: 1m, ", "");
    gateway.write("routes.yml", &without);
    assert_eq!(request.join().unwrap().status, 200);
}

#[test]
fn those_who_wait_in_vain_or_find_too_many_are_told_when_to_come_back() {
    let gateway = Gateway::serve(&routes("{maxWait: 1m, maxQueue: 2, retryAfter: 7s}", &[]));
    let requests: Vec<_> = (0..2).map(|_| ask(&gateway)).collect();
    waiting(&gateway, 2);
    let answer = get(gateway.web(), "h", "/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    let backend = Backend::echo("a");
    gateway.write("routes.yml", &routes("1m", &[&backend.url()]));
    for request in requests {
        assert_eq!(request.join().unwrap().status, 200);
    }
    let gateway = Gateway::serve(&routes("100ms", &[]));
    let answer = get(gateway.web(), "h", "/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(answer.text(), "no available server\n");
    // Servers that refuse connections are none, either.
    let gateway = Gateway::serve(&routes("100ms", &[&format!("http://{}", unused_address())]));
    let answer = get(gateway.web(), "h", "/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(answer.text(), "no available server\n");
}

#[test]
fn mistakes_are_named() {
    for (hold, expected) in [
        ("soon", "`soon` is not a duration"),
        ("0s", "hold.maxWait: 0s: expected up to 10m"),
        ("{maxWait: 1h}", "hold.maxWait: 1h0m0s: expected up to 10m"),
        ("{maxQueue: 0}", "hold.maxQueue: 0: expected 1 to 100000"),
        ("{wait: 1s}", "unknown key `wait`: expected `maxWait`, `maxQueue` or `retryAfter`"),
    ] {
        let gateway = Gateway::serve(&routes(hold, &[]));
        let problems = gateway.problems();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{hold}: {problems:?}");
        assert_eq!(get(gateway.web(), "h", "/").status, 503);
    }
}

/// The labels of a container, if there is one, and the number of changes.
type Container = (Option<serde_json::Value>, usize);

/// An engine with one container, or none, whose streams of events end at each change.
#[derive(Clone, Default)]
struct Engine(Arc<(Mutex<Container>, Condvar)>);

impl Engine {
    /// Sets the labels of the container; `None` removes it.
    fn set(&self, labels: Option<serde_json::Value>) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        *state = (labels, state.1 + 1);
        changed.notify_all();
    }

    fn labels(&self) -> Option<serde_json::Value> {
        self.0.0.lock().unwrap().0.clone()
    }

    fn wait(&self) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        let before = state.1;
        let _ = changed.wait_timeout_while(state, Duration::from_secs(60), |state| state.1 == before);
    }

    fn listen(&self) -> Backend {
        let engine = self.clone();
        Backend::with(move |seen, stream| {
            let target = seen.target();
            if target.contains("/events") {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                if stream.write_all(head).is_ok() {
                    engine.wait();
                }
                return false;
            }
            let labels = engine.labels();
            let body = match labels {
                Some(labels) if target.ends_with("/containers/web/json") => json!({
                    "Id": "web", "Name": "/web", "State": {"Status": "running"}, "Config": {"Labels": labels},
                }),
                Some(_) if target.contains("/containers/json") => json!([{"Id": "web", "Names": ["/web"]}]),
                _ => json!([]),
            };
            let body = body.to_string();
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).is_ok()
        })
    }
}

#[test]
fn requests_wait_while_the_only_container_of_a_kept_route_is_replaced() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let labels = |server: &str| {
        Some(json!({
            "traefik.http.routers.a.rule": "Host(`h`)",
            "traefik.http.services.a.loadbalancer.server.url": server,
            "traefik.http.services.a.loadbalancer.hold": "1m",
        }))
    };
    let engine = Engine::default();
    engine.set(labels(&old.url()));
    let api = engine.listen();
    let endpoint = format!("--providers.docker.endpoint=tcp://{}", api.address);
    let gateway = Gateway::with(&[&endpoint, "--providers.docker.keepRoutes=10m"], "");
    eventually("the container is served", || get(gateway.web(), "h", "/").header("X-Backend") == Some("old"));
    engine.set(None);
    let router = || gateway.api("/api/http/routers/a@docker");
    eventually("the router is kept", || router().contains("kept until 20"));
    assert!(router().contains("\"status\":\"warning\""), "{}", router());
    assert_eq!(gateway.problems(), [""; 0]);
    let request = ask(&gateway);
    let service = || gateway.api("/api/http/services/a@docker");
    eventually("the request waits", || service().contains("\"heldRequests\":1"));
    let explained: serde_json::Value =
        serde_json::from_str(&gateway.api("/api/explain?entryPoint=web&url=http://h/")).unwrap();
    for object in [&explained["routing"][0]["router"], &explained["service"]] {
        assert!(object["kept"].as_str().unwrap().starts_with("kept until 20"), "{object}");
    }
    assert_eq!(explained["routing"][0]["router"]["errors"], serde_json::Value::Null);
    let hold = json!({"maxWait": "1m0s", "maxQueue": 100, "waiting": 1});
    assert_eq!(explained["service"]["hold"], hold);
    let result = &explained["result"];
    assert_eq!(result["response"]["reason"], "no_server");
    assert_eq!(result["dependsOn"], json!(["a server of a@docker within 1m0s (hold)"]));
    let api = format!("http://{}", gateway.address("traefik"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["explain", "http://h/", "--entry-point", "web", "--api", &api]).env_clear();
    let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for part in [
        "               kept until 20",
        "               requests wait up to 1m0s for one (hold), 1 of 100 do\n",
        "               it depends on a server of a@docker within 1m0s (hold)",
    ] {
        assert!(shown.contains(part), "{part:?} is missing:\n{shown}");
    }
    engine.set(labels(&new.url()));
    let answer = request.join().unwrap();
    assert_eq!((answer.status, answer.header("X-Backend")), (200, Some("new")));
    assert!(!router().contains("kept until"), "{}", router());
    engine.set(None);
}
