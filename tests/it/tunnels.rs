//! WebSocket over HTTP/2: extended CONNECT (RFC 8441), translated to the upgrade that servers understand.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Bytes as WsBytes, Message};

use crate::support::tls::client_config;
use crate::support::{Backend, Gateway, eventually, get};

type Sender = http2::SendRequest<Empty<Bytes>>;
type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A WebSocket server that sends back what it gets, for connections of all kinds.
fn echo(runtime: &tokio::runtime::Runtime) -> SocketAddr {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
                let (mut sink, mut source) = socket.split();
                while let Some(Ok(message)) = source.next().await {
                    let is_content = message.is_text() || message.is_binary();
                    if message.is_close() || is_content && sink.send(message).await.is_err() {
                        break;
                    }
                }
                let _ = sink.flush().await;
            });
        }
    });
    address
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

async fn talk(socket: &mut Socket) {
    for message in
        [Message::text("hello"), Message::binary(WsBytes::from(vec![7; 1 << 20])), Message::text("")]
    {
        socket.send(message.clone()).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == message);
    }
    socket.send(Message::Ping(WsBytes::from_static(b"p"))).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(WsBytes::from_static(b"p")));
}

async fn close(mut socket: Socket) {
    let frame = CloseFrame { code: CloseCode::Library(4001), reason: "bye".into() };
    socket.close(Some(frame.clone())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(Some(frame)));
    assert!(socket.next().await.is_none());
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
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
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
