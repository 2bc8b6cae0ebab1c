//! Interim answers of servers (103 Early Hints): they reach HTTP/1.1 clients at once (HTTP/3: http3.rs), and nobody else.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::{Backend, Client, Gateway, eventually, get, raw};

const HINT: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nKeep-Alive: 5\r\nX-A: 1\r\n\r\n";
const FINE: &str = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn hints_come_before_the_answer_is_there() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::with(move |_, stream| {
        stream.write_all(HINT.as_bytes()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(HINT.as_bytes()).is_ok() && stream.write_all(FINE.as_bytes()).is_ok()
    });
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let hint = client.head().unwrap();
        assert!(hint.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hint}");
        assert!(
            hint.contains("\r\nlink: </a.css>; rel=preload\r\n") && hint.contains("\r\nx-a: 1\r\n"),
            "{hint}"
        );
        assert!(!hint.to_lowercase().contains("keep-alive"), "{hint}");
        go.send(()).unwrap();
        assert!(client.head().unwrap().starts_with("HTTP/1.1 103 "));
        let answer = client.read().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    assert_eq!(backend.connections(), 1, "the connection to the server is kept");
}

#[test]
fn hints_that_come_with_the_answer_are_in_order() {
    let backend = Backend::bytes(format!("{HINT}HTTP/1.1 102 Processing\r\n\r\n{FINE}"));
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    for requests in [1, 3] {
        // The second time they come in a row.
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(requests));
        for _ in 0..requests {
            assert!(client.head().unwrap().starts_with("HTTP/1.1 103 Early Hints\r\n"));
            assert_eq!(client.head().unwrap(), "HTTP/1.1 102 Processing\r\n\r\n");
            assert!(client.head().unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
            assert_eq!(client.take(2).unwrap(), b"ok");
        }
    }
}

#[test]
fn hints_for_http_1_0_clients_and_of_mirrors_and_guards_are_dropped() {
    let (main, other) = (Backend::bytes(FINE), Backend::bytes(format!("{HINT}{FINE}")));
    let routes = format!(
        "http:
  routers:
    old: {{rule: 'Path(`/old`)', service: other}}
    mirrored: {{rule: 'Path(`/mirrored`)', service: mirrored}}
    asked: {{rule: 'Path(`/asked`)', service: main, middlewares: [auth]}}
  middlewares:
    auth: {{forwardAuth: {{address: '{}'}}}}
  services:
    mirrored: {{mirroring: {{service: main, mirrors: [{{name: other, percent: 100}}]}}}}
    main: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    other: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        other.url(),
        main.url(),
        other.url()
    );
    let gateway = Gateway::serve(&routes);
    let mut client = Client::connect(gateway.web());
    client.send("GET /old HTTP/1.0\r\nHost: h\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.0 200 OK\r\n"), "HTTP/1.0 knows no interim answers");
    let mut client = Client::connect(gateway.web());
    for path in ["/mirrored", "/asked", "/mirrored"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200 OK\r\n"), "{path}");
        assert_eq!(client.take(2).unwrap(), b"ok");
    }
    eventually("mirrors have been asked", || {
        other.seen().iter().filter(|seen| seen.target() == "/mirrored").count() == 2
    });
    assert_eq!(get(gateway.web(), "h", "/asked").status, 200);
}

#[test]
fn a_body_that_looks_like_a_hint_is_a_body() {
    let body = format!("{HINT}{HINT}");
    let backend = Backend::bytes(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let answer = raw(gateway.web(), "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.text()), (200, body));
}
