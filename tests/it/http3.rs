//! HTTP/3 from outside: the same routes, middlewares, bodies and certificates as over TCP.

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

use crate::support::http3::{Http3, quic, quic_with, receive, runtime};
use crate::support::tls::client_config;
use crate::support::{Backend, Gateway, eventually};

const FLAG: &str = "--entryPoints.web.http3=true";

/// Everything, over TLS, to one server.
pub fn secure(url: &str) -> String {
    format!(
        "http:\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: a, tls: {{}}}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
    )
}

fn serve(backend: &Backend) -> Gateway {
    Gateway::with(&[FLAG], &secure(&backend.url()))
}

#[test]
fn informational_responses_arrive_before_the_response() {
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nKeep-Alive: 5\r\n\r\n";
    let backend = Backend::with(move |_, stream| {
        stream.write_all(hint.as_bytes()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        let rest = format!("{hint}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        stream.write_all(rest.as_bytes()).is_ok()
    });
    let gateway = serve(&backend);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h").await;
        for _ in 0..2 {
            let mut stream = client.begin(Request::get("https://h/").body(()).unwrap()).await.unwrap();
            stream.finish().await.unwrap();
            let early = stream.recv_response().await.unwrap();
            assert_eq!(early.status(), StatusCode::EARLY_HINTS);
            assert_eq!(early.headers()["link"], "</a.css>; rel=preload");
            assert_eq!(early.headers().len(), 1, "nothing that concerns one connection");
            go.send(()).unwrap();
            assert_eq!(stream.recv_response().await.unwrap().status(), StatusCode::EARLY_HINTS);
            let answer = receive(&mut stream).await.unwrap();
            assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok"[..]));
        }
    });
    assert_eq!(backend.connections(), 1, "the connection to the server is kept");
}

#[test]
fn requests_take_the_same_way_as_others() {
    let backend = Backend::echo("a");
    let url = backend.url();
    let gateway = Gateway::with(
        &[FLAG],
        &format!(
            "http:
  routers:
    shop: {{rule: 'Host(`shop.test`) && PathPrefix(`/api`)', service: a, middlewares: [strip], tls: {{}}}}
    slow: {{rule: 'Host(`slow.test`)', service: a, middlewares: [few], tls: {{}}}}
    plain: {{rule: 'Host(`plain.test`)', service: a}}
  middlewares:
    strip: {{stripPrefix: {{prefixes: [/api]}}}}
    few: {{rateLimit: {{average: 1, period: 1h, burst: 2}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
        ),
    );
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "shop.test").await;
        let request =
            Request::get("https://shop.test/api/x?q=1").header("cookie", "a=1").header("cookie", "b=2");
        let answer = client.send(request.body(()).unwrap(), b"").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.headers.contains_key("date") && !answer.headers.contains_key("alt-svc"));
        let seen = backend.last();
        assert_eq!((seen.method(), seen.target()), ("GET", "/x?q=1"));
        assert_eq!(seen.headers("host"), ["shop.test"]);
        assert_eq!(seen.headers("cookie"), ["a=1; b=2"]);
        assert_eq!(seen.headers("x-forwarded-proto"), ["https"]);
        assert_eq!(seen.headers("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.headers("x-forwarded-prefix"), ["/api"]);
        assert_eq!(client.get("https://other.test/").await.status, StatusCode::NOT_FOUND);
        assert_eq!(client.get("https://plain.test/").await.status, StatusCode::NOT_FOUND);
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(client.get("https://slow.test/").await.status.as_u16());
        }
        assert_eq!(statuses, [200, 200, 429]);
        // Many at once.
        let many = (0..100).map(|n| client.get_owned(format!("https://shop.test/api/{n}")));
        for answer in futures_util::future::join_all(many).await {
            assert_eq!(answer.status, StatusCode::OK);
        }
    });
}

#[test]
fn bodies_and_trailers_go_both_ways() {
    let backend = Backend::with(|seen, stream| {
        let length = seen.body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Length\r\n\r\n{length:x}\r\n"
        );
        stream.write_all(answer.as_bytes()).unwrap();
        stream.write_all(&seen.body).unwrap();
        stream.write_all(format!("\r\n0\r\nX-Length: {length}\r\n\r\n").as_bytes()).is_ok()
    });
    let gateway = serve(&backend);
    let body: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        let announced =
            Request::post("https://h.test/").header("content-length", body.len()).body(()).unwrap();
        let open = Request::post("https://h.test/").body(()).unwrap();
        for request in [announced, open] {
            let answer = client.send(request, &body).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert!(answer.body == body, "{} bytes", answer.body.len());
            assert_eq!(answer.trailers.unwrap()["x-length"], "3000000");
        }
        let mut stream = client
            .begin(Request::post("https://h.test/").header("trailer", "x-end").body(()).unwrap())
            .await
            .unwrap();
        stream.send_data(Bytes::from_static(b"some")).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "yes".parse().unwrap());
        stream.send_trailers(trailers).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(receive(&mut stream).await.unwrap().body, b"some");
    });
    assert_eq!(backend.last().trailers, ["X-End: yes"]);
}

#[test]
fn answers_without_a_body_pass_over_http3() {
    let backend = Backend::with(|seen, stream| {
        let answer = match (seen.method(), seen.target()) {
            ("HEAD", _) => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            (_, "/204") => "HTTP/1.1 204 No Content\r\n\r\n",
            _ => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 99\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let gateway = serve(&backend);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        let answer = client.send(Request::head("https://h.test/").body(()).unwrap(), b"").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
        assert_eq!(answer.headers["content-length"], "1234");
        for (path, status) in [("204", 204), ("304", 304)] {
            let answer = client.get(&format!("https://h.test/{path}")).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
        }
    });
}

#[test]
fn unsupported_requests_over_http3_are_refused() {
    let backend = Backend::echo("a");
    let gateway = serve(&backend);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        let connect = Request::builder().method("CONNECT").uri("h.test:443").header("host", "h.test:443");
        let answer = client.send(connect.body(()).unwrap(), b"").await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
        let star = Request::options("https://h.test/").body(()).unwrap();
        assert_eq!(client.send(star, b"").await.unwrap().status, StatusCode::OK);
    });
    assert_eq!(backend.seen().len(), 1, "only OPTIONS is passed on");
}

#[test]
fn an_upload_that_the_client_cancels_is_cancelled_at_the_server() {
    let (told, ended) = channel();
    let told = std::sync::Mutex::new(told);
    // It is called when a whole request has come, which this one must not be.
    let backend = Backend::with(move |seen, stream| {
        if seen.target() == "/up" {
            told.lock().unwrap().send(()).unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok()
    });
    let gateway = serve(&backend);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        let mut stream = client.begin(Request::post("https://h.test/up").body(()).unwrap()).await.unwrap();
        stream.send_data(Bytes::from(vec![b'x'; 100_000])).await.unwrap();
        eventually("the server is connected", || backend.connections() == 1);
        stream.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED);
        assert!(stream.recv_response().await.is_err());
        assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "no request was complete");
        assert_eq!(client.get("https://h.test/").await.status, StatusCode::OK, "the connection lives");
    });
}

#[test]
fn a_download_that_the_client_cancels_is_cancelled_at_the_server() {
    let (told, ended) = channel();
    let told = std::sync::Mutex::new(told);
    let backend = Backend::with(move |seen, stream| {
        if seen.target() == "/small" {
            return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
        told.lock().unwrap().send(()).unwrap();
        false
    });
    let gateway = serve(&backend);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        let mut stream =
            client.begin(Request::get("https://h.test/endless").body(()).unwrap()).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), StatusCode::OK);
        assert!(stream.recv_data().await.unwrap().is_some());
        stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
        ended.recv_timeout(Duration::from_secs(20)).expect("the server notices");
        assert_eq!(client.get("https://h.test/small").await.body, b"ok");
        // The same when the whole connection goes.
        let mut stream =
            client.begin(Request::get("https://h.test/endless").body(()).unwrap()).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), StatusCode::OK);
        client.quic.close(0u32.into(), b"");
        ended.recv_timeout(Duration::from_secs(20)).expect("the server notices");
    });
}

#[test]
fn a_response_truncated_by_the_server_is_visibly_incomplete() {
    let backend = Backend::closing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let gateway = serve(&backend);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        let broken = client.send(Request::get("https://h.test/").body(()).unwrap(), b"").await;
        assert!(broken.is_err(), "{broken:?}");
    });
}

#[test]
fn an_unreachable_server_gives_502_and_keeps_the_connection() {
    // A server that is not there gives 502; what matters is that the connection goes on.
    let gateway =
        Gateway::with(&[FLAG], &secure(&format!("http://{}", crate::support::backend::unused_address())));
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        for _ in 0..3 {
            assert_eq!(client.get("https://h.test/").await.status, StatusCode::BAD_GATEWAY);
        }
    });
}

#[test]
fn routes_and_certificates_change_under_open_connections() {
    let (first, second) = (Backend::echo("first"), Backend::echo("second"));
    let certificate = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (old, new) = (certificate("h.test"), certificate("h.test"));
    let gateway = Gateway::with(&[FLAG], &secure(&first.url()));
    let folder = tempfile::tempdir().unwrap();
    let put = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    };
    put(&old);
    let place = folder.path().display();
    let before = gateway.generation();
    gateway.write(
        "tls.yml",
        &format!("tls: {{certificates: [{{certFile: '{place}/cert.pem', keyFile: '{place}/key.pem'}}]}}\n"),
    );
    eventually("the certificate is used", || gateway.generation() > before);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        assert_eq!(client.certificate(), *old.cert.der());
        assert_eq!(client.get("https://h.test/").await.headers["x-backend"], "first");
        let before = gateway.generation();
        gateway.write("routes.yml", &secure(&second.url()));
        eventually("the routes change", || gateway.generation() > before);
        assert_eq!(client.get("https://h.test/").await.headers["x-backend"], "second");
        put(&new);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while Http3::connect(gateway.web(), "h.test").await.certificate() != *new.cert.der() {
            assert!(std::time::Instant::now() < end, "the new certificate is not shown");
        }
        assert_eq!(client.get("https://h.test/").await.headers["x-backend"], "second");
    });
}

#[test]
fn case_43_clients_show_certificates_where_options_ask_for_them() {
    let backend = Backend::echo("a");
    let own = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(vec!["stranger".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, own.cert.pem()).unwrap();
    let gateway = Gateway::with(
        &[FLAG],
        &format!(
            "http:
  routers:
    mutual: {{rule: 'Host(`m.test`)', service: a, middlewares: [tell], tls: {{options: mutual}}}}
    old: {{rule: 'Host(`old.test`)', service: a, tls: {{options: old}}}}
    open: {{rule: 'Host(`open.test`)', service: a, tls: {{}}}}
  middlewares:
    tell: {{passTLSClientCert: {{info: {{subject: {{commonName: true}}}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls:
  options:
    mutual: {{clientAuth: {{caFiles: ['{}'], clientAuthType: RequireAndVerifyClientCert}}}}
    old: {{maxVersion: VersionTLS12}}
",
            backend.url(),
            ca.display()
        ),
    );
    let web = gateway.web();
    runtime().block_on(async {
        let open = Http3::connect(web, "open.test").await;
        assert_eq!(open.get("https://open.test/").await.status, StatusCode::OK);
        for host in ["m.test", "M.test", "m.test:443"] {
            let evading = open.get(&format!("https://{host}/")).await;
            assert_eq!(evading.status, StatusCode::MISDIRECTED_REQUEST, "{host}");
        }
        let admitted = Http3::over(quic(web, "m.test", Some(&own)).await.unwrap()).await;
        assert_eq!(admitted.get("https://m.test/").await.status, StatusCode::OK);
        assert!(backend.last().header("x-forwarded-tls-client-cert-info").unwrap().contains("CN%3D"));
        let before = backend.seen().len();
        for who in [None, Some(&stranger)] {
            // In TLS 1.3 the client believes in the handshake until the server has seen its certificate.
            if let Ok((_endpoint, refused)) = quic(web, "m.test", who).await {
                assert!(matches!(refused.closed().await, quinn::ConnectionError::ConnectionClosed(_)));
            }
        }
        assert!(quic(web, "old.test", None).await.is_err(), "QUIC has no TLS 1.2");
        let other = client_config(&["hq-interop"], None).try_into().unwrap();
        assert!(quic_with(web, "open.test", other).await.is_err(), "another protocol");
        let none = client_config(&[], None).try_into().unwrap();
        assert!(quic_with(web, "open.test", none).await.is_err(), "no protocol");
        assert_eq!(backend.seen().len(), before);
    });
}

#[test]
fn a_drain_sends_goaway_and_loses_no_request() {
    let (dictate, words) = channel::<()>();
    let words = std::sync::Mutex::new(words);
    let backend = Backend::with(move |seen, stream| {
        if seen.target() == "/busy" {
            words.lock().unwrap().recv().unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").is_ok()
    });
    let gateway = serve(&backend);
    let web = gateway.web();
    let runtime = runtime();
    let (idle, busy) = runtime.block_on(async {
        let idle = Http3::connect(web, "h.test").await;
        assert_eq!(idle.get("https://h.test/").await.body, b"done");
        (idle, Http3::connect(web, "h.test").await)
    });
    let (busy_quic, pending) =
        (busy.quic.clone(), runtime.spawn(async move { busy.get("https://h.test/busy").await }));
    eventually("the server is asked", || backend.seen().len() == 2);
    let stopping = std::thread::spawn(move || gateway.shutdown());
    runtime.block_on(async {
        let closed = tokio::time::timeout(Duration::from_secs(20), idle.quic.closed()).await.unwrap();
        assert!(
            matches!(&closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == 0x100u32.into()),
            "{closed}"
        );
        assert!(busy_quic.close_reason().is_none());
        dictate.send(()).unwrap();
        assert_eq!(pending.await.unwrap().body, b"done");
    });
    stopping.join().unwrap();
}
