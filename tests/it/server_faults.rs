//! Faults of servers, and what ends up in logs, each named after its number in the catalogue (docs/security.md).

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::backend::unused_address;
use crate::support::process::Process;
use crate::support::{Backend, Client, Gateway, eventually, get, get_with, pause_for, raw};

#[test]
fn case_26_credentials_are_in_no_log() {
    let backend = Backend::echo("a");
    let process = Process::start(
        &["--accessLog=true", "--accessLog.format=json"],
        &format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}
    down: {{rule: 'Path(`/down`)', service: down}}
  middlewares:
    m: {{basicAuth: {{users: ['u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    down: {{loadBalancer: {{servers: [{{url: 'http://{}'}}]}}}}
",
            backend.url(),
            unused_address()
        ),
    );
    for (path, secret) in [("/", "dTp0ZXN0"), ("/", "dTp3cm9uZw=="), ("/down", "dTp0ZXN0")] {
        get_with(process.web(), "h", path, &format!("Authorization: Basic {secret}\r\n"));
    }
    raw(process.web(), "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Basic dTp0ZXN0\r\nBroken\r\n\r\n")
        .unwrap();
    eventually("requests are logged", || process.log().matches("\"RequestPath\"").count() >= 3);
    let log = process.log();
    assert!(!log.contains("dTp0ZXN0") && !log.contains("dTp3cm9uZw"), "{log}");
}

#[test]
fn case_76_requests_cannot_forge_log_lines() {
    let backend = Backend::echo("a");
    for format in ["common", "genericCLF", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("access.log");
        let flags = [
            format!("--accessLog.filePath={}", file.display()),
            format!("--accessLog.format={format}"),
            "--accessLog.fields.headers.defaultMode=keep".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let routes = format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
    guarded: {{rule: 'PathPrefix(`/guarded`)', service: a, middlewares: [m]}}
  middlewares:
    m: {{basicAuth: {{users: ['u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            backend.url()
        );
        let gateway = Gateway::with(&flags, &routes);
        let requests = [
            ("/a%0A127.0.0.1%20-%20admin", "X: y\r\n"),
            ("/a%0D%0A%1B[31m", "X: y\r\n"),
            ("/a?q=%0Aevil", "X: y\r\n"),
            ("/a%22%20200%200%20%22", "User-Agent: \" 200 0 \"evil\\\r\n"),
            ("/a", "User-Agent: a\tb\r\nReferer: \"\\\"\r\n"),
            ("/a", "User-Agent: \u{9b}31m\u{85}\u{2028}\r\nReferer: \u{202e}x\r\n"),
            // A user name of `u LF 6.6.6.6 - admin`.
            ("/guarded", "Authorization: Basic dQo2LjYuNi42IC0gYWRtaW46eA==\r\n"),
        ];
        for (path, headers) in requests {
            get_with(gateway.web(), "h", path, headers);
        }
        let text = || std::fs::read(&file).unwrap_or_default();
        eventually("requests are logged", || {
            text().iter().filter(|byte| **byte == b'\n').count() >= requests.len()
        });
        let text = text();
        let shown = String::from_utf8_lossy(&text);
        assert_eq!(shown.lines().count(), requests.len(), "{shown}");
        assert!(
            text.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f || *byte == b'\n'),
            "{format}: {shown:?}"
        );
        assert!(!shown.chars().any(|char| ('\u{80}'..'\u{a0}').contains(&char)), "{format}: {shown:?}");
        for line in shown.lines().filter(|_| format == "json") {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["RequestPath"].is_string());
        }
    }
}

/// Two servers, checked every 100 ms.
fn checked_pair(first: &str, second: &str) -> Gateway {
    Gateway::serve(&format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a:
      loadBalancer:
        servers: [{{url: '{first}'}}, {{url: '{second}'}}]
        healthCheck: {{path: /health, interval: 100ms, timeout: 100ms}}
"
    ))
}

#[test]
fn case_78_a_server_that_dies_is_replaced_within_an_interval() {
    let dead = Arc::new(AtomicBool::new(false));
    let dies = dead.clone();
    let one = Backend::with(move |_, stream| {
        !dies.load(Ordering::SeqCst)
            && stream.write_all(b"HTTP/1.1 200 OK\r\nX-Backend: one\r\nContent-Length: 0\r\n\r\n").is_ok()
    });
    let two = Backend::echo("two");
    let gateway = checked_pair(&one.url(), &two.url());
    let names = || get(gateway.web(), "h", "/").header("x-backend").map(str::to_owned);
    eventually("both are used", || names().as_deref() == Some("one") && names().as_deref() == Some("two"));
    dead.store(true, Ordering::SeqCst);
    drop(one);
    eventually("only the other is used", || (0..6).all(|_| names().as_deref() == Some("two")));
    for _ in 0..50 {
        assert_eq!(names().as_deref(), Some("two"));
    }
}

#[test]
fn case_78_a_server_that_dies_within_its_answer_breaks_that_answer_only() {
    let backend = Backend::with(|seen, stream| {
        if seen.target() == "/dies" {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
            // Unread bytes make the close a reset.
            return false;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    for _ in 0..5 {
        let broken = raw(gateway.web(), "GET /dies HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert!(!broken.complete, "{broken:?}");
        assert_eq!(get(gateway.web(), "h", "/").text(), "ok");
    }
    // A request that may have been acted on is not sent twice.
    let silent = Backend::closing("");
    gateway.write("routes.yml", &Gateway::one_service(&silent.url()));
    eventually("the other server is used", || get(gateway.web(), "h", "/").status == 502);
    let (before, seen) = (backend.seen().len(), silent.seen().len());
    assert_eq!(
        raw(gateway.web(), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").unwrap().status,
        502
    );
    assert_eq!((silent.seen().len() - seen, backend.seen().len()), (1, before));
}

#[test]
fn case_79_a_server_that_has_stopped_answering_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: 'http://{}'}}], serversTransport: short}}}}
  serversTransports:
    short: {{forwardingTimeouts: {{responseHeaderTimeout: 300ms}}}}
",
        listener.local_addr().unwrap()
    ));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let start = Instant::now();
                assert_eq!(get(gateway.web(), "h", "/").status, 504);
                assert!(start.elapsed() < Duration::from_secs(50));
            });
        }
    });
}

#[test]
fn case_80_without_servers_the_answer_comes_at_once_and_with_them_again() {
    let (one, two) = (unused_address(), unused_address());
    let gateway = checked_pair(&format!("http://{one}"), &format!("http://{two}"));
    eventually("both are known to be down", || get(gateway.web(), "h", "/").status == 503);
    for _ in 0..20 {
        assert_eq!(get(gateway.web(), "h", "/").status, 503);
    }
    let _back = Backend::on(TcpListener::bind(one).unwrap(), |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    eventually("it is used again", || get(gateway.web(), "h", "/").status == 200);
    for _ in 0..20 {
        assert_eq!(get(gateway.web(), "h", "/").status, 200);
    }
}

#[test]
fn case_82_a_shutdown_under_load_loses_no_request() {
    let backend = Backend::with(|_, stream| {
        pause_for(Duration::from_millis(2));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let web = gateway.web();
    let (stopped, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (stopped, answered) = (&stopped, &answered);
            scope.spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    let Ok(stream) = std::net::TcpStream::connect(web) else { return };
                    let mut client = Client::over(stream);
                    // Half of the clients keep their connection as long as they may.
                    for turn in 0.. {
                        let last = number % 2 == 0;
                        let close = if last { "Connection: close\r\n" } else { "" };
                        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{close}\r\n"));
                        match client.read() {
                            Ok(answer) => {
                                assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
                                answered.fetch_add(1, Ordering::SeqCst);
                                if last || answer.header("connection") == Some("close") {
                                    break;
                                }
                            }
                            // A kept connection may be closed between two requests.
                            Err(error) => {
                                assert!(turn > 0, "a new connection was cut: {error}");
                                break;
                            }
                        }
                    }
                }
            });
        }
        eventually("there is load", || answered.load(Ordering::SeqCst) > 200);
        gateway.shutdown();
        stopped.store(true, Ordering::SeqCst);
    });
}
