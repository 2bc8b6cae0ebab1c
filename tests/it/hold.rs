//! Requests that wait while their service has no usable server (`loadBalancer.hold`).

use std::thread::JoinHandle;

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
