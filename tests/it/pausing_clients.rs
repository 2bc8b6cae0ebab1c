//! Clients that pause, keep silent or stall: who is served on, who is cut, and what the access log says of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;

use crate::support::frames::{self, Frames, Outcome};
use crate::support::http3::{Http3, quic_over, runtime};
use crate::support::process::Process;
use crate::support::tls::client_config;
use crate::support::{Backend, Client, Gateway, eventually, get, pause_for, pause_for_async};

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")];

/// A server that begins its answer with the head of the request, and sends back each chunk as it comes.
fn conversation() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || converse(stream));
        }
    });
    address
}

fn converse(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
        line.clear();
    }
    let mut fine =
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").is_ok();
    let mut room = [0; 1000];
    while fine {
        // Chunks are sent back as they are, the last one too.
        fine = match reader.read(&mut room) {
            Ok(length) if length > 0 => stream.write_all(&room[..length]).is_ok(),
            _ => false,
        };
    }
}

/// Longer than `readTimeout` in these tests.
const QUIET: Duration = Duration::from_millis(2500);

fn quiet_http1(address: SocketAddr) {
    let mut client = Client::connect(address);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    for word in ["two", "six"] {
        pause_for(QUIET);
        client.send(format!("3\r\n{word}\r\n"));
    }
    client.send("0\r\n\r\n");
    let rest =
        String::from_utf8(client.take("5\r\nhello\r\n3\r\none\r\n3\r\ntwo\r\n3\r\nsix\r\n".len()).unwrap())
            .unwrap();
    assert!(rest.contains("two") && rest.contains("six"), "{rest}");
}

fn quiet_http2(address: SocketAddr) {
    let mut client = Frames::connect(address);
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "h"),
        ("content-type", "application/grpc"),
    ];
    client.send(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&fields));
    client.send(frames::DATA, 0, 1, b"one");
    assert_eq!(client.outcome(1), Outcome::Status(200));
    for word in [b"two", b"six"] {
        pause_for(QUIET);
        client.send(frames::DATA, 0, 1, word);
    }
    client.send(frames::DATA, frames::END_STREAM, 1, b"");
    let mut got = Vec::new();
    while !got.ends_with(b"six") {
        let (kind, _, stream, payload) = client.read().unwrap();
        assert!(!matches!(kind, frames::RST_STREAM | frames::GOAWAY), "{kind} on {stream}: {payload:?}");
        if kind == frames::DATA {
            got.extend_from_slice(&payload);
        }
    }
}

fn quiet_http3(address: SocketAddr) {
    runtime().block_on(async {
        let client = Http3::connect(address, "h.test").await;
        let mut stream = client.begin(Request::post("https://h.test/").body(()).unwrap()).await.unwrap();
        stream.send_data(Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        for word in ["two", "six"] {
            pause_for_async(QUIET).await;
            stream.send_data(Bytes::from_static(word.as_bytes())).await.unwrap();
        }
        stream.finish().await.unwrap();
        let mut got = Vec::new();
        while let Some(mut piece) = stream.recv_data().await.unwrap() {
            let length = bytes::Buf::remaining(&piece);
            got.extend_from_slice(&bytes::Buf::copy_to_bytes(&mut piece, length));
        }
        assert_eq!(got, b"helloonetwosix");
    });
}

#[test]
fn a_client_may_be_silent_once_its_response_has_started() {
    let routes = |url: &str, more: &str| {
        format!(
            "http:
  routers:
    a: {{rule: 'PathPrefix(`/`)', service: a{more}}}
    b: {{rule: 'PathPrefix(`/`)', service: a, tls: {{}}{more}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
        )
    };
    let url = format!("http://{}", conversation());
    for more in ["", ", timeouts: {requestBody: 600ms}"] {
        let gateway = Gateway::with(
            &[
                "--entryPoints.web.http3=true",
                "--entryPoints.web.transport.respondingTimeouts.readTimeout=800ms",
                "--entryPoints.web.transport.respondingTimeouts.idleTimeout=800ms",
            ],
            &routes(&url, more),
        );
        let address = gateway.web();
        std::thread::scope(|scope| {
            for client in [quiet_http1, quiet_http2, quiet_http3] {
                scope.spawn(move || client(address));
            }
        });
    }
}

/// A server that answers `/slow` in ten steps over two seconds, `/late` after a second, `/large` with 30 MB, `/broken`
/// with half of what it announced, and anything else at once.
fn server() -> Backend {
    Backend::with(|seen, stream| {
        let announce = |stream: &mut TcpStream, length: usize| {
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())
                .is_ok()
        };
        match seen.target() {
            "/slow" => {
                announce(stream, 10)
                    && (0..10).all(|_| {
                        pause_for(Duration::from_millis(200));
                        stream.write_all(b"x").is_ok()
                    })
            }
            "/late" => {
                pause_for(Duration::from_secs(1));
                announce(stream, 0)
            }
            "/large" => announce(stream, 30_000_000) && stream.write_all(&vec![b'x'; 30_000_000]).is_ok(),
            "/broken" => {
                let _ = announce(stream, 10) && stream.write_all(b"half ").is_ok();
                false
            }
            _ => announce(stream, 0),
        }
    })
}

fn log_flags(gateway: &std::path::Path) -> Vec<String> {
    vec![
        "--accessLog=true".into(),
        "--accessLog.format=json".into(),
        format!("--accessLog.filePath={}", gateway.join("access.log").display()),
    ]
}

/// The lines of the access log for a path: how the answers ended.
fn endings(folder: &std::path::Path, path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| line["RequestPath"] == path)
        .map(|line| line["DownstreamAbortedBy"].as_str().unwrap_or("whole").to_owned())
        .collect()
}

#[test]
fn write_timeout_covers_the_whole_response_and_is_logged() {
    let backend = server();
    let folder = tempfile::tempdir().unwrap();
    let flags = log_flags(folder.path());
    let timeout = "--entryPoints.web.transport.respondingTimeouts.writeTimeout=700ms";
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain([timeout]).collect();
    let process = Process::start(&flags, &Gateway::one_service(&backend.url()));
    let http1 = |path: &str| {
        let mut client = Client::connect(process.web());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        (client.head().is_ok(), client.rest().len())
    };
    assert_eq!(get(process.web(), "h", "/fast").status, 200);
    let (answered, length) = http1("/slow");
    assert!(answered && length < 10, "{length}");
    assert!(!http1("/late").0);
    let (answered, length) = http1("/broken");
    assert!(answered && length == 5, "{length}");
    let mut gone = Client::connect(process.web());
    gone.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    gone.head().unwrap();
    drop(gone);
    for (path, expected) in
        [("/fast", "whole"), ("/slow", "timeout"), ("/broken", "server"), ("/large", "client")]
    {
        eventually(path, || endings(folder.path(), path) == [expected]);
    }
    let http2 = |path: &str| {
        let mut client = Frames::connect(process.web());
        client.request(1, &[GET[0], GET[1], (":path", path), GET[3]]);
        client
    };
    let mut slow = http2("/slow");
    assert_eq!(slow.outcome(1), Outcome::Status(200));
    loop {
        let (kind, _, _, _) = slow.read().unwrap();
        if kind == frames::RST_STREAM {
            break;
        }
    }
    assert!(matches!(http2("/late").outcome(1), Outcome::Reset(_)));
    assert_eq!(http2("/fast").outcome(1), Outcome::Status(200));
    eventually("/slow", || endings(folder.path(), "/slow") == ["timeout", "timeout"]);
}

#[test]
fn zero_and_negative_timeouts_are_none() {
    let backend = server();
    for value in ["0s", "0", "-1s", "-1"] {
        let flag = |name: &str| format!("--entryPoints.web.transport.{name}={value}");
        let names = [
            "respondingTimeouts.readTimeout",
            "respondingTimeouts.writeTimeout",
            "respondingTimeouts.idleTimeout",
            "lifeCycle.requestAcceptGraceTimeout",
            "keepAliveMaxTime",
        ];
        let flags = names.map(flag);
        let forwarding = format!(
            "http:
  routers:
    a: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a: {{loadBalancer: {{serversTransport: t, servers: [{{url: '{}'}}]}}}}
  serversTransports:
    t:
      forwardingTimeouts:
        dialTimeout: 0s
        responseHeaderTimeout: '{value}'
        idleConnTimeout: '{value}'
        readIdleTimeout: '{value}'
        pingTimeout: '{value}'
",
            backend.url()
        );
        let gateway = Gateway::with(&flags.each_ref().map(String::as_str), &forwarding);
        assert_eq!(gateway.problems(), Vec::<String>::new(), "{value}");
        for path in ["/slow", "/late"] {
            assert_eq!(get(gateway.web(), "h", path).status, 200, "{value} {path}");
        }
    }
}

#[test]
fn an_idle_connection_without_idle_timeout_has_the_read_timeout() {
    let backend = server();
    let flags = [
        "--entryPoints.web.transport.respondingTimeouts.readTimeout=500ms",
        "--entryPoints.web.transport.respondingTimeouts.idleTimeout=0s",
    ];
    let gateway = Gateway::with(&flags, &Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.read().unwrap().status, 200);
    assert!(client.is_closed());
}

#[test]
fn stalled_clients_are_disconnected_when_others_need_the_capacity() {
    let backend = server();
    let process = Process::start(
        &["--entryPoints.web.transport.maxConnections=16"],
        &Gateway::one_service(&backend.url()),
    );
    let stalled: Vec<Client> = (0..16)
        .map(|_| {
            let mut client = Client::connect(process.web());
            client.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
            client.head().unwrap();
            client
        })
        .collect();
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(get(process.web(), "h", "/").status, 200, "{}", process.log());
    }
    assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
    drop(stalled);
}

/// One service for plain text; routers may follow.
fn routes_to(url: &str) -> String {
    format!(
        "http:
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
  routers:
    a: {{rule: 'PathPrefix(`/`)', service: a}}
"
    )
}

/// A client that says nothing while it pauses, with its windows full and 15 s until QUIC gives a silent peer up.
fn paused_http3(address: SocketAddr) {
    let mut limits = quinn::TransportConfig::default();
    limits
        .receive_window(quinn::VarInt::from_u32(100_000))
        .max_idle_timeout(Some(Duration::from_secs(15).try_into().unwrap()));
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client_config(&["h3"], None)).unwrap();
    let mut config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    config.transport_config(std::sync::Arc::new(limits));
    runtime().block_on(async {
        let client = Http3::over(quic_over(address, "h.test", config).await.unwrap()).await;
        let mut stream = client.begin(Request::get("https://h.test/large").body(()).unwrap()).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        pause_for_async(Duration::from_secs(70)).await;
        let mut got = 0;
        while let Some(piece) = stream.recv_data().await.unwrap() {
            got += bytes::Buf::remaining(&piece);
        }
        assert_eq!(got, 30_000_000);
    });
}

#[test]
#[ignore = "needs 75 s of time"]
fn a_client_may_pause_in_the_middle_of_an_answer() {
    let backend = server();
    let routes =
        format!("{}    b: {{rule: 'PathPrefix(`/`)', service: a, tls: {{}}}}\n", routes_to(&backend.url()));
    let gateway = Gateway::with(&["--entryPoints.web.http3=true"], &routes);
    let http3 = std::thread::spawn({
        let address = gateway.web();
        move || paused_http3(address)
    });
    let mut http1 = Client::connect(gateway.web());
    http1.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    http1.head().unwrap();
    let mut http2 = Frames::connect(gateway.web());
    http2.request(1, &[GET[0], GET[1], (":path", "/large"), GET[3]]);
    assert_eq!(http2.outcome(1), Outcome::Status(200));
    pause_for(Duration::from_secs(70));
    assert_eq!(http1.take(30_000_000).unwrap().len(), 30_000_000);
    http3.join().unwrap();
    let mut got = 0;
    while got < 30_000_000 {
        let (kind, _, _, payload) = http2.read().unwrap();
        assert!(!matches!(kind, frames::RST_STREAM | frames::GOAWAY));
        if kind == frames::DATA && !payload.is_empty() {
            got += payload.len();
            let more = u32::try_from(payload.len()).unwrap().to_be_bytes();
            http2.send(frames::WINDOW_UPDATE, 0, 0, &more);
            http2.send(frames::WINDOW_UPDATE, 0, 1, &more);
        }
    }
}
