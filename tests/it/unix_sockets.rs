//! Servers behind sockets in the file system: `unix:///path` and `unix+h2c:///path`.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{Client, Gateway, eventually, get, raw};

/// A server on a socket: answers with the head that it was sent; 503 for checks while `up` is false. It keeps its
/// connections.
fn serve(path: &Path, up: &Arc<AtomicBool>, connections: &Arc<AtomicUsize>) {
    let listener = UnixListener::bind(path).unwrap();
    let (up, connections) = (up.clone(), connections.clone());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            connections.fetch_add(1, Ordering::SeqCst);
            let up = up.clone();
            std::thread::spawn(move || {
                let mut buffer = Vec::new();
                loop {
                    while !buffer.ends_with(b"\r\n\r\n") {
                        let mut chunk = [0; 4096];
                        match stream.read(&mut chunk) {
                            Ok(length @ 1..) => buffer.extend_from_slice(&chunk[..length]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8(std::mem::take(&mut buffer)).unwrap();
                    let down = head.starts_with("GET /health") && !up.load(Ordering::SeqCst);
                    let status = if down { "503 Down" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn counters() -> (Arc<AtomicBool>, Arc<AtomicUsize>) {
    (Arc::new(AtomicBool::new(true)), Arc::default())
}

#[test]
fn requests_go_over_a_socket_and_connections_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let (up, connections) = counters();
    serve(&path, &up, &connections);
    let routes = Gateway::one_service(&format!("unix://{}", path.display()));
    let gateway = Gateway::serve(&routes);
    let mut client = Client::connect(gateway.web());
    for _ in 0..3 {
        client.send("GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        let answer = client.read().unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.text().starts_with("GET /a?b=c HTTP/1.1\r\n"), "{}", answer.text());
        assert!(answer.text().contains("\r\nHost: shop.test\r\n"), "{}", answer.text());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert!(
        gateway.api("/api/http/services/a@file").contains(&format!("\"unix://{}\":\"UP\"", path.display()))
    );
    gateway.write("routes.yml", &routes.replace("servers:", "passHostHeader: false, servers:"));
    eventually("the server's own name is sent", || {
        get(gateway.web(), "shop.test", "/").text().contains("\r\nHost: localhost\r\n")
    });
}

#[test]
fn a_socket_is_health_checked_and_a_missing_one_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.sock"), folder.path().join("two.sock"));
    let (up, connections) = counters();
    serve(&one, &up, &connections);
    let routes = |check: &str| {
        format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: 'unix://{}'}}, {{url: 'unix://{}'}}]{check}}}}}
",
            one.display(),
            two.display()
        )
    };
    let gateway = Gateway::serve(&routes(""));
    for _ in 0..6 {
        assert_eq!(get(gateway.web(), "h", "/").status, 200, "a socket that is not there refuses");
    }
    gateway.write("routes.yml", &routes(", healthCheck: {path: /health, interval: 20ms}"));
    let status = |what: &str| gateway.api("/api/http/services/a@file").matches(what).count();
    eventually("one of them is up", || (status("\"UP\""), status("\"DOWN\"")) == (1, 1));
    up.store(false, Ordering::SeqCst);
    eventually("none of them is up", || status("\"DOWN\"") == 2);
    assert_eq!(get(gateway.web(), "h", "/").status, 503);
}

#[test]
fn http2_is_spoken_over_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grpc.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&path).unwrap() });
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let answer = [authority.as_bytes(), b" ", &body].concat();
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(answer))))
                });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    let gateway = Gateway::serve(&Gateway::one_service(&format!("unix+h2c://{}", path.display())));
    let post = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    assert_eq!(raw(gateway.web(), post).unwrap().text(), "shop.test hello");
}

#[test]
fn an_invalid_path_is_reported_and_answers_503() {
    let gateway = Gateway::serve(&Gateway::one_service("unix://run/app.sock"));
    assert_eq!(get(gateway.web(), "h", "/").status, 503);
    let problems = gateway.problems().join("\n");
    assert!(problems.contains("`unix://run/app.sock`: expected an absolute path of a socket"), "{problems}");
}
