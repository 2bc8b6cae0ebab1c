//! A router's timeouts, the lowest rate of bodies and `bodyLimit`, over HTTP/1.1, HTTP/2 and HTTP/3.

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use crate::support::frames::{self, Frames, Outcome};
use crate::support::http3::{self, Http3, runtime};
use crate::support::{Backend, Client, Gateway, pause_for, pause_for_async};

/// Routers by the first part of the path, in plain text and over TLS; more is YAML at the level of their entries.
fn routes(url: &str, routers: &[(&str, &str)], more: &str) -> String {
    let mut text = "http:\n  routers:\n".to_owned();
    for (name, options) in routers {
        for (suffix, tls) in [("", ""), ("-tls", ", tls: {}")] {
            text += &format!(
                "    {name}{suffix}: {{rule: 'PathPrefix(`/{name}`)', service: a, {options}{tls}}}\n"
            );
        }
    }
    text + &format!("{more}  services:\n    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n")
}

fn gateway(flags: &[&str], routes: &str) -> Gateway {
    let gateway = Gateway::with(&[&["--entryPoints.web.http3=true"], flags].concat(), routes);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    gateway
}

/// Sends one byte, then nothing for a while, then another one. The status, or `None` when there is no answer.
fn pause_http1(gateway: &Gateway, path: &str, pause: Duration) -> Option<u16> {
    let mut client = Client::connect(gateway.web());
    client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx"));
    pause_for(pause);
    client.send("y");
    client.read().ok().map(|answer| answer.status)
}

fn post_http2(gateway: &Gateway, path: &str) -> Frames {
    let mut client = Frames::connect(gateway.web());
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "h")];
    client.send(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&fields));
    client
}

fn pause_http2(gateway: &Gateway, path: &str, pause: Duration) -> Option<u16> {
    let mut client = post_http2(gateway, path);
    client.send(frames::DATA, 0, 1, b"x");
    pause_for(pause);
    client.send(frames::DATA, frames::END_STREAM, 1, b"y");
    match client.outcome(1) {
        Outcome::Status(status) => Some(status),
        _ => None,
    }
}

fn pause_http3(gateway: &Gateway, path: &str, pause: Duration) -> Option<u16> {
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        let request = Request::post(format!("https://h.test{path}")).body(()).unwrap();
        let mut stream = client.begin(request).await.unwrap();
        stream.send_data(Bytes::from_static(b"x")).await.unwrap();
        pause_for_async(pause).await;
        let _ = stream.send_data(Bytes::from_static(b"y")).await;
        let _ = stream.finish().await;
        http3::receive(&mut stream).await.ok().map(|answer| answer.status.as_u16())
    })
}

type Upload = fn(&Gateway, &str, Duration) -> Option<u16>;
const UPLOADS: [(&str, Upload); 3] =
    [("HTTP/1.1", pause_http1), ("HTTP/2", pause_http2), ("HTTP/3", pause_http3)];

#[test]
fn a_router_may_have_a_longer_timeout_than_its_entry_point() {
    let backend = Backend::echo("a");
    let routers = [("patient", "timeouts: {requestBody: 1m}"), ("plain", "priority: 1")];
    let gateway = gateway(
        &["--entryPoints.web.transport.respondingTimeouts.readTimeout=600ms"],
        &routes(&backend.url(), &routers, ""),
    );
    for (version, upload) in UPLOADS {
        assert_eq!(upload(&gateway, "/patient", Duration::from_millis(2500)), Some(200), "{version}");
        let status = upload(&gateway, "/plain", Duration::from_millis(2500));
        assert!(status.is_none_or(|status| status == 408), "{version}: {status:?}");
    }
    assert_eq!(backend.seen().len(), 3);
}

#[test]
fn a_router_may_have_a_shorter_body_timeout_and_answers_408() {
    let backend = Backend::echo("a");
    let routers = [("hasty", "timeouts: {requestBody: 300ms}")];
    let gateway = gateway(&[], &routes(&backend.url(), &routers, ""));
    for (version, upload) in UPLOADS {
        assert_eq!(upload(&gateway, "/hasty", Duration::from_secs(2)), Some(408), "{version}");
    }
    assert!(backend.seen().is_empty());
}

/// Sends a byte each 100 ms. How long it was borne, and the last of the answer.
fn dribble_http1(gateway: &Gateway, path: &str) -> (Duration, Option<u16>) {
    let start = Instant::now();
    let mut writer = std::net::TcpStream::connect(gateway.web()).unwrap();
    let _ = writer
        .write_all(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n").as_bytes());
    writer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut got = Vec::new();
    while start.elapsed() < Duration::from_secs(40) {
        let mut room = [0; 4096];
        match std::io::Read::read(&mut writer, &mut room) {
            Ok(0) => break,
            Ok(length) => got.extend_from_slice(&room[..length]),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                if writer.write_all(b"x").is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    let status = std::str::from_utf8(&got).ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
    (start.elapsed(), status)
}

#[test]
fn a_body_below_the_minimum_rate_is_aborted() {
    let backend = Backend::echo("a");
    let routers = [
        ("own", "timeouts: {requestBody: 5s, minBodyRate: 1000}"),
        ("free", "timeouts: {minBodyRate: 0}"),
        ("plain", "priority: 1"),
    ];
    let gateway = gateway(
        &[
            "--entryPoints.web.transport.respondingTimeouts.readTimeout=5s",
            "--entryPoints.web.transport.respondingTimeouts.minBodyRate=1000",
        ],
        &routes(&backend.url(), &routers, ""),
    );
    std::thread::scope(|scope| {
        let own = scope.spawn(|| dribble_http1(&gateway, "/own"));
        let plain = scope.spawn(|| dribble_http1(&gateway, "/plain"));
        let framed = scope.spawn(|| {
            let mut client = post_http2(&gateway, "/plain");
            let start = Instant::now();
            // As long as it is borne: an error ends the stream.
            while start.elapsed() < Duration::from_secs(8) {
                client.send(frames::DATA, 0, 1, b"x");
                pause_for(Duration::from_millis(100));
            }
            client.outcome(1)
        });
        let free = scope.spawn(|| {
            let mut client = Client::connect(gateway.web());
            client.send("POST /free HTTP/1.1\r\nHost: h\r\nContent-Length: 75\r\n\r\n");
            for _ in 0..75 {
                client.send("x");
                pause_for(Duration::from_millis(100));
            }
            client.read().map(|answer| answer.status)
        });
        let (borne, status) = own.join().unwrap();
        assert!(borne < Duration::from_secs(39) && status == Some(408), "{borne:?} {status:?}");
        let (borne, _) = plain.join().unwrap();
        assert!(borne < Duration::from_secs(39), "{borne:?}");
        assert!(matches!(framed.join().unwrap(), Outcome::Status(408) | Outcome::Reset(_)));
        assert_eq!(free.join().unwrap().unwrap(), 200, "it moves, and needs no rate");
    });
}

#[test]
fn the_response_timeout_starts_at_the_end_of_the_request() {
    let backend = Backend::with(|seen, stream| {
        if seen.target().ends_with("slow") {
            pause_for(Duration::from_millis(1500));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let routers = [("answer", "timeouts: {response: 500ms}"), ("whole", "timeouts: {request: 500ms}")];
    let gateway = gateway(&[], &routes(&backend.url(), &routers, ""));
    let ask = |path: &str| crate::support::get(gateway.web(), "h", path);
    for path in ["/answer/slow", "/whole/slow"] {
        let answer = ask(path);
        assert_eq!((answer.status, answer.text().as_str()), (504, "Gateway Timeout"), "{path}");
    }
    assert_eq!(ask("/answer/fast").status, 200);
    for (version, upload) in UPLOADS {
        let pause = Duration::from_millis(1200);
        assert_eq!(
            upload(&gateway, "/answer/fast", pause),
            Some(200),
            "{version}: the time for the answer begins later"
        );
        assert_eq!(upload(&gateway, "/whole/fast", pause), Some(408), "{version}: the client is late");
    }
}

#[test]
fn a_stalled_response_is_truncated() {
    let backend = Backend::with(|seen, stream| {
        let mut fine = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun").is_ok();
        // One goes on in small steps, the other has stopped.
        for _ in 0..100 {
            pause_for(Duration::from_millis(100));
            fine = fine && (seen.target() == "/stall" || stream.write_all(b"x").is_ok());
        }
        false
    });
    let routers = [
        ("stall", "timeouts: {responseBody: 500ms}"),
        ("whole", "timeouts: {request: 1s, responseBody: 1m}"),
    ];
    let gateway = gateway(&[], &routes(&backend.url(), &routers, ""));
    for path in ["/stall", "/whole"] {
        let mut client = Client::connect(gateway.web());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200"), "{path}");
        let rest = client.rest();
        assert!(rest.starts_with(b"begun") && rest.len() < 60, "{path}: {}", rest.len());
    }
}

#[test]
fn bodies_beyond_the_limit_are_refused_without_buffering() {
    let backend = Backend::echo("a");
    let middlewares = "  middlewares:\n    small: {bodyLimit: {maxRequestBodyBytes: 1000}}\n    again: {retry: {attempts: 3}}\n";
    let routers = [("limited", "middlewares: [small]"), ("retried", "middlewares: [again, small]")];
    let gateway = gateway(&[], &routes(&backend.url(), &routers, middlewares));
    for path in ["/limited", "/retried"] {
        let before = backend.seen().len();
        // Announced: refused before the body is sent, also to those who wait for leave to send it.
        for more in ["", "Expect: 100-continue\r\n"] {
            let mut client = Client::connect(gateway.web());
            client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\n{more}Content-Length: 1001\r\n\r\n"));
            let answer = client.read().unwrap();
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (413, "Request Entity Too Large"),
                "{path} {more}"
            );
        }
        assert_eq!(backend.seen().len(), before);
        // Of unknown length: cut on the way.
        let chunks = |number: usize| format!("64\r\n{}\r\n", "x".repeat(100)).repeat(number) + "0\r\n\r\n";
        let post = |body: String| {
            let mut client = Client::connect(gateway.web());
            client
                .send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
            client.read().unwrap().status
        };
        assert_eq!((post(chunks(11)), post(chunks(10))), (413, 200), "{path}");
        let sent = |number: usize| {
            let mut client = post_http2(&gateway, path);
            for _ in 0..number {
                client.send(frames::DATA, 0, 1, &[b'x'; 100]);
            }
            client.send(frames::DATA, frames::END_STREAM, 1, b"");
            client.outcome(1)
        };
        assert_eq!((sent(11), sent(10)), (Outcome::Status(413), Outcome::Status(200)), "{path}");
        runtime().block_on(async {
            let client = Http3::connect(gateway.web(), "h.test").await;
            for (length, status) in [(1100, 413), (1000, 200)] {
                let request = Request::post(format!("https://h.test{path}")).body(()).unwrap();
                let answer = client.send(request, &vec![b'x'; length]).await.unwrap();
                assert_eq!(answer.status, status, "{path}");
            }
        });
        let whole: Vec<usize> = backend.seen().iter().map(|seen| seen.body.len()).collect();
        assert_eq!(whole[whole.len() - 3..], [1000, 1000, 1000], "{path}");
    }
}
