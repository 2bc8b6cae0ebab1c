//! The servers behind the gateway, which are replaced like containers: the new one starts at another address, the
//! routes change, and the old one finishes what it has. The same server runs in real containers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::pattern::{Check, Pattern};

/// Where a server in this process listens: on a port that the system chooses.
pub const ADDRESS: &str = "127.0.0.1:0";
/// How long a server may take to finish its requests.
const MAX_STOP: Duration = Duration::from_secs(60);

/// How long echoes go on when the server is stopped: connections and sessions that were on their way end well.
const ECHO_DELAY: Duration = Duration::from_secs(1);

type Reply = Response<BoxBody<Bytes, io::Error>>;

/// A server.
pub struct Server {
    /// Where it listens for HTTP.
    pub address: SocketAddr,
    /// Where it returns what it receives over TCP and UDP.
    pub echo: SocketAddr,
    stop: watch::Sender<bool>,
    done: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts it at this address for HTTP.
    pub async fn start(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (tcp, udp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await?;
            if let Ok(tcp) = TcpListener::bind(udp.local_addr()?).await {
                break (tcp, udp);
            }
        };
        let (address, echo) = (listener.local_addr()?, udp.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let done = tokio::spawn(async move {
            tokio::join!(accept(listener, stopped.clone()), return_all(tcp, udp, stopped));
        });
        Ok(Self { address, echo, stop, done })
    }

    /// Runs one until SIGTERM, as the program of a container. Returns whether its requests have ended.
    pub async fn run(address: &str) -> io::Result<bool> {
        let mut terminated = signal(SignalKind::terminate())?;
        let server = Self::start(address).await?;
        terminated.recv().await;
        Ok(server.stop().await)
    }

    /// Stops it as on SIGTERM. Returns false if its requests do not end.
    pub async fn stop(self) -> bool {
        let _ = self.stop.send(true);
        tokio::time::timeout(MAX_STOP, self.done).await.is_ok()
    }
}

async fn accept(listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, stopped.clone()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Returns what it receives, on each connection and from each address.
async fn return_all(tcp: TcpListener, udp: UdpSocket, mut stopped: watch::Receiver<bool>) {
    let stopped = async move {
        let _ = stopped.changed().await;
        tokio::time::sleep(ECHO_DELAY).await;
    };
    tokio::pin!(stopped);
    let (mut connections, mut datagram) = (JoinSet::new(), vec![0; 64 << 10]);
    loop {
        tokio::select! {
            Ok((mut stream, _)) = tcp.accept() => {
                let _ = stream.set_nodelay(true);
                connections.spawn(async move {
                    let (source, mut sink) = stream.split();
                    let mut source = BufReader::with_capacity(64 << 10, source);
                    let _ = tokio::io::copy_buf(&mut source, &mut sink).await;
                });
            }
            Ok((size, client)) = udp.recv_from(&mut datagram) => {
                let _ = udp.send_to(&datagram[..size], client).await;
            }
            Some(_) = connections.join_next() => {}
            () = &mut stopped => break,
        }
    }
    drop(tcp);
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| async { Ok::<_, io::Error>(answer(request).await) });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>) -> Reply {
    if request.headers().contains_key(SEC_WEBSOCKET_KEY) {
        return socket(request);
    }
    if request.method() == Method::GET {
        let mut parts = request.uri().path().rsplit('/');
        let length = parts.next().and_then(|length| length.parse().ok()).unwrap_or(0);
        let body =
            if parts.next() == Some("chunked") { Pattern::chunked(length) } else { Pattern::sized(length) };
        return Response::new(body.boxed());
    }
    let (mut check, mut body) = (Check::default(), request.into_body());
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => check.read(frame.data_ref().map_or(&[], |data| data)),
            // The client has gone.
            Err(_) => return status(StatusCode::BAD_REQUEST),
        }
    }
    if check.is_wrong {
        return status(StatusCode::UNPROCESSABLE_ENTITY);
    }
    Response::new(whole(check.length.to_string()))
}

fn whole(text: String) -> BoxBody<Bytes, io::Error> {
    Full::from(text).map_err(|never| match never {}).boxed()
}

fn status(status: StatusCode) -> Reply {
    let mut reply = Reply::new(whole(String::new()));
    *reply.status_mut() = status;
    reply
}

/// Echoes the messages of a WebSocket.
fn socket(mut request: Request<Incoming>) -> Reply {
    let key = derive_accept_key(request.headers()[SEC_WEBSOCKET_KEY].as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let (mut sink, mut source) = socket.split();
        while let Some(Ok(message)) = source.next().await {
            let is_content = message.is_text() || message.is_binary();
            if message.is_close() || is_content && sink.send(message).await.is_err() {
                break;
            }
        }
        let _ = sink.flush().await;
    });
    let reply = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let reply =
        reply.header(CONNECTION, "Upgrade").header(UPGRADE, "websocket").header(SEC_WEBSOCKET_ACCEPT, key);
    reply.body(whole(String::new())).unwrap()
}
