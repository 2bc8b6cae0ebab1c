//! WebSocket over HTTP/2 and HTTP/3: extended CONNECT (RFC 8441, RFC 9220), translated to the upgrade that servers
//! understand.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::http3::{self, Http3};
use crate::support::tls::client_config;
use crate::support::websocket::{close, echo, talk};
use crate::support::{Backend, Gateway, eventually, get};

type Sender = http2::SendRequest<Empty<Bytes>>;
type Socket<S = TokioIo<hyper::upgrade::Upgraded>> = WebSocketStream<S>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn over<S>(stream: S) -> Sender
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // With the answer the settings have come.
    let request = Request::get("http://h/settings").body(Empty::new()).unwrap();
    let _ = sender.send_request(request).await.unwrap().into_body().collect().await;
    sender
}

async fn plain(gateway: &Gateway) -> Sender {
    over(TcpStream::connect(gateway.web()).await.unwrap()).await
}

fn connect(uri: &str, protocol: &'static str) -> Request<Empty<Bytes>> {
    Request::connect(uri)
        .extension(hyper::ext::Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .body(Empty::new())
        .unwrap()
}

async fn open(sender: &mut Sender, uri: &str) -> Socket {
    let mut response = sender.send_request(connect(uri, "websocket")).await.unwrap();
    assert_eq!(response.status(), 200);
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

#[test]
fn a_fallback_takes_over_an_upgrade_unchanged() {
    let runtime = runtime();
    let busy = Backend::bytes("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let routes = format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: both, middlewares: [hide, pages]}}
  middlewares:
    hide: {{headers: {{customResponseHeaders: {{Upgrade: '', X-Added: '1'}}}}}}
    pages: {{errors: {{status: ['100-199'], service: busy, query: /page}}}}
  services:
    both: {{failover: {{service: busy, fallback: chat, errors: {{status: ['500-599']}}}}}}
    busy: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    chat: {{loadBalancer: {{servers: [{{url: 'http://{}'}}]}}}}
",
        busy.url(),
        echo(&runtime)
    );
    let gateway = Gateway::serve(&routes);
    runtime.block_on(async {
        let stream = TcpStream::connect(gateway.web()).await.unwrap();
        let (mut socket, answer) = tokio_tungstenite::client_async("ws://h/chat", stream).await.unwrap();
        assert!(!answer.headers().contains_key("x-added"));
        talk(&mut socket).await;
        close(socket).await;
        let mut socket = open(&mut plain(&gateway).await, "http://h/chat").await;
        talk(&mut socket).await;
        close(socket).await;
    });
    assert!(busy.seen().iter().any(|seen| seen.header("upgrade") == Some("websocket")), "it was asked first");
}

#[test]
fn several_websockets_and_requests_share_a_connection() {
    let runtime = runtime();
    let gateway = Gateway::serve(&Gateway::one_service(&format!("http://{}", echo(&runtime))));
    runtime.block_on(async {
        let mut sender = plain(&gateway).await;
        let mut first = open(&mut sender, "http://shop.test/chat").await;
        let mut second = open(&mut sender, "http://shop.test/chat").await;
        talk(&mut second).await;
        talk(&mut first).await;
        close(first).await;
        let other = sender.send_request(Request::get("http://h/").body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(other.status(), 502, "the server hangs up on what is no handshake");
        talk(&mut second).await;
        close(second).await;
    });
}

#[test]
fn a_websocket_over_tls_and_its_end_when_the_connection_ends() {
    let runtime = runtime();
    let routes = Gateway::one_service(&format!("http://{}", echo(&runtime)))
        .replace("service: a}", "service: a, tls: {}, middlewares: [limit]}")
        + "  middlewares:\n    limit: {inFlightReq: {amount: 1}}\n";
    let gateway = Gateway::with(&["--entryPoints.websecure.address=127.0.0.1:0"], &routes);
    runtime.block_on(async {
        let config = client_config(&["h2"], None);
        let secure = || async {
            let stream = TcpStream::connect(gateway.address("websecure")).await.unwrap();
            let name = ServerName::try_from("shop.test").unwrap();
            over(
                tokio_rustls::TlsConnector::from(Arc::new(config.clone()))
                    .connect(name, stream)
                    .await
                    .unwrap(),
            )
            .await
        };
        let mut sender = secure().await;
        let mut socket = open(&mut sender, "https://shop.test/chat").await;
        talk(&mut socket).await;
        // The limit counts the tunnel for as long as it is open.
        let refused = sender.send_request(connect("https://shop.test/chat", "websocket")).await.unwrap();
        assert_eq!(refused.status(), 429);
        drop((socket, sender));
        loop {
            let mut sender = secure().await;
            let answer = sender.send_request(connect("https://shop.test/chat", "websocket")).await.unwrap();
            if answer.status() == 200 {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn the_server_sees_an_upgrade_and_its_refusal_is_passed_on() {
    let runtime = runtime();
    let backend = Backend::with(|seen, stream| {
        let status = if seen.target() == "/fine" { "200 OK" } else { "403 Forbidden" };
        let answer = format!("HTTP/1.1 {status}\r\nX-Seen: 1\r\nContent-Length: 2\r\n\r\nno");
        std::io::Write::write_all(stream, answer.as_bytes()).is_ok()
    });
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let flags = ["--accesslog=true", &format!("--accesslog.filepath={}", log.display())];
    let gateway = Gateway::with(&flags, &Gateway::one_service(&backend.url()));
    runtime.block_on(async {
        let mut sender = plain(&gateway).await;
        let refused = sender.send_request(connect("http://shop.test/no?x=1", "websocket")).await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key("x-seen")), (403, true));
        assert_eq!(refused.into_body().collect().await.unwrap().to_bytes(), "no");
        let head = backend.last().head;
        assert!(head.starts_with("GET /no?x=1 HTTP/1.1\r\n"), "{head}");
        for line in ["Upgrade: websocket", "Host: shop.test", "X-Forwarded-Proto: ws", "Sec-WebSocket-Key: "]
        {
            assert!(head.contains(&format!("\r\n{line}")), "{line} in {head}");
        }
        // A success without a change of protocol would look like a tunnel.
        let fine = sender.send_request(connect("http://shop.test/fine", "websocket")).await.unwrap();
        assert_eq!(fine.status(), 502);
    });
    eventually("it is logged as it was answered", || {
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        lines.contains("/no?x=1 HTTP/2.0\" 403 2 ") && lines.contains("/fine HTTP/2.0\" 502 ")
    });
    eventually("the gateway serves on", || get(gateway.web(), "h", "/fine").status == 200);
}

#[test]
fn other_connects_are_refused() {
    let runtime = runtime();
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    runtime.block_on(async {
        let mut sender = plain(&gateway).await;
        let before = backend.seen().len();
        let other = sender.send_request(connect("http://shop.test/x", "connect-udp")).await.unwrap();
        assert_eq!(other.status(), 501);
        let request = Request::connect("shop.test:443").body(Empty::new()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 501);
        assert_eq!(backend.seen().len(), before);
    });
}

/// Reads a number as QUIC writes it.
async fn number(stream: &mut quinn::RecvStream) -> Option<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes[..1]).await.ok()?;
    let length = 1 << (bytes[0] >> 6);
    bytes[0] &= 0x3f;
    stream.read_exact(&mut bytes[1..length]).await.ok()?;
    Some(bytes[..length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Reads a frame: its kind and payload.
async fn frame(stream: &mut quinn::RecvStream) -> Option<(u64, Vec<u8>)> {
    let (kind, length) = (number(stream).await?, number(stream).await?);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((kind, payload))
}

/// Opens a tunnel over HTTP/3, frame by frame: what is written to the stream becomes data, and the other way.
async fn open3(quic: &quinn::Connection, path: &str) -> DuplexStream {
    let (mut send, mut receive) = quic.open_bi().await.unwrap();
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "shop.test"),
        (":path", path),
        ("sec-websocket-version", "13"),
    ];
    send.write_all(&http3::head(&fields)).await.unwrap();
    let (kind, block) = frame(&mut receive).await.unwrap();
    // Index 25 of the static table is `:status: 200`.
    assert_eq!((kind, block[2]), (1, 0xc0 | 25), "{block:?}");
    let (near, far) = tokio::io::duplex(1 << 16);
    let (mut reading, mut writing) = tokio::io::split(far);
    tokio::spawn(async move {
        let mut buffer = vec![0; 5000];
        while let Ok(length @ 1..) = reading.read(&mut buffer).await {
            if send.write_all(&http3::frame(0, &buffer[..length])).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    });
    tokio::spawn(async move {
        while let Some((0, data)) = frame(&mut receive).await {
            if writing.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = writing.shutdown().await;
    });
    near
}

#[test]
fn websockets_pass_over_http3() {
    let runtime = runtime();
    let routes = Gateway::one_service(&format!("http://{}", echo(&runtime)))
        .replace("service: a}", "service: a, tls: {}, middlewares: [limit]}")
        + "  middlewares:\n    limit: {inFlightReq: {amount: 2}}\n";
    let gateway = Gateway::with(&["--entryPoints.web.http3=true"], &routes);
    runtime.block_on(async {
        let (_endpoint, quic) = http3::quic(gateway.web(), "shop.test", None).await.unwrap();
        let mut control = quic.open_uni().await.unwrap();
        control.write_all(b"\x00\x04\x00").await.unwrap();
        let mut settings = quic.accept_uni().await.unwrap();
        assert_eq!(number(&mut settings).await, Some(0));
        let (_, settings) = frame(&mut settings).await.unwrap();
        assert!(settings.ends_with(&[8, 1]), "CONNECT may say what for: {settings:?}");
        let of = |stream| WebSocketStream::from_raw_socket(stream, Role::Client, None);
        let mut first = of(open3(&quic, "/chat").await).await;
        let mut second = of(open3(&quic, "/chat?x").await).await;
        talk(&mut second).await;
        talk(&mut first).await;
        close(first).await;
        talk(&mut second).await;
        // A client that goes away without a word frees its place, too.
        drop(second);
        for _ in 0..20 {
            close(of(open3(&quic, "/chat").await).await).await;
        }
    });
}

#[test]
fn other_connects_over_http3_are_refused() {
    let runtime = runtime();
    let backend = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let routes = Gateway::one_service(&backend.url()).replace("service: a}", "service: a, tls: {}}");
    let gateway = Gateway::with(&["--entryPoints.web.http3=true"], &routes);
    runtime.block_on(async {
        let client = Http3::connect(gateway.web(), "shop.test").await;
        let asks = |protocol: h3::ext::Protocol| {
            Request::connect("https://shop.test/x").extension(protocol).body(()).unwrap()
        };
        let answer = client.send(asks(h3::ext::Protocol::CONNECT_UDP), b"").await.unwrap();
        assert_eq!(answer.status, 501);
        assert!(backend.seen().is_empty());
        // The server has no WebSocket: a success would look like a tunnel.
        let (mut send, mut receive) = client.quic.open_bi().await.unwrap();
        let fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":authority", "shop.test"),
            (":path", "/x"),
        ];
        send.write_all(&http3::head(&fields)).await.unwrap();
        let (_, block) = frame(&mut receive).await.unwrap();
        assert!(block.windows(3).any(|part| part == b"502"), "{block:?}");
    });
}
