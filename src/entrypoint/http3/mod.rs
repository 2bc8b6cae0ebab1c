//! HTTP/3: requests over QUIC, on the port of an entry point that asks for it (`http3`).
//!
//! It has threads of its own and a task for each connection and each request, so that nothing that goes wrong here
//! reaches HTTP/1 and HTTP/2. `mod` listens, `session` chooses the TLS options, `connection` serves a connection and
//! `request` a request of it; `tidegate_wire::http3` reads, `upload` and `answer` carry bodies. Behind
//! [`crate::entrypoint::http::respond`] it is a request like any other.

mod answer;
mod connection;
mod hints;
mod request;
mod session;
mod tunnel;
mod upload;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::HeaderValue;
use futures_util::FutureExt;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tidegate_core::BuildError;
use tokio::runtime::Runtime;

use super::listener::{Handshaking, Listener};
use crate::entrypoint::shutdown::Phase;
use crate::worker;
use session::Sessions;

/// How much of one request body may be under way, in bytes.
const STREAM_WINDOW: u32 = 512 * 1024;
/// How much of all request bodies of a connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How much of all answers of a connection waits for the client to acknowledge it.
const SEND_WINDOW: u64 = 4 * 1024 * 1024;
/// Streams in one direction that a client may have: three that it needs, and some without meaning.
const OTHER_STREAMS: u32 = 16;
/// Handshakes under way from which on clients have to show that their address is theirs.
const RETRY_FROM: usize = 64;
/// Most handshakes under way.
const MAX_HANDSHAKES: usize = 1024;
/// What may wait of a connection that was not looked at, and of all of them, in bytes.
const WAITING: (u64, u64) = (64 * 1024, 16 * 1024 * 1024);
/// The socket's buffers, in bytes, when the system allows it.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;
/// How long something small may take to reach a client.
const DELIVERY: Duration = Duration::from_secs(10);
/// Shortest time for which QUIC bears silence, which connections with open requests break more often. Connections without
/// requests are closed in order before, when `idleTimeout` says so.
const SHORTEST_SILENCE: Duration = Duration::from_secs(30);
/// Between the death of an endpoint and its return.
const REVIVAL: Duration = Duration::from_secs(1);
/// How long the last words of connections may take when the gateway stops.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The threads of HTTP/3, for all entry points that have it.
pub(super) struct Http3 {
    runtime: Option<Runtime>,
}

impl Http3 {
    /// Starts `threads` threads; what they keep for each worker is that of the worker `index`.
    pub(super) fn start(threads: usize, index: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("http3")
            .on_thread_start(move || worker::set_index(index))
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Serves an entry point over this socket.
    pub(super) fn serve(&self, listener: Arc<Listener>, socket: UdpSocket) -> Result<(), BuildError> {
        let local = socket.local_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip());
        let sessions = Sessions::new(listener.snapshots.clone(), listener.index, local)?;
        let config = server_config(&listener, &sessions)?;
        if let Some(runtime) = &self.runtime {
            runtime.spawn(keep_serving(listener, socket, Tls { config, sessions }));
        }
        Ok(())
    }

    /// Ends all threads. What still runs on them is dropped.
    pub(super) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(100));
        }
    }
}

impl Drop for Http3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Takes a socket that was passed on.
pub(super) fn adopt(socket: UdpSocket) -> UdpSocket {
    let buffers = SockRef::from(&socket);
    let _ = (buffers.set_recv_buffer_size(SOCKET_BUFFER), buffers.set_send_buffer_size(SOCKET_BUFFER));
    socket
}

/// Binds the port that HTTP/1 and HTTP/2 have over TCP. `share`: other processes may have it too.
pub(super) fn bind(address: SocketAddr, share: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    // The system gives what it allows; less only means that fewer packets wait.
    let _ = (socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER));
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// What answers over TCP say of HTTP/3 (RFC 7838).
pub(super) fn alternative(port: u16) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("h3=\":{port}\"; ma=2592000")).ok()
}

/// How connections are begun.
#[derive(Clone)]
struct Tls {
    config: ServerConfig,
    sessions: Sessions,
}

impl Tls {
    /// For a client that has come to this address.
    fn at(&self, local: IpAddr) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.crypto = Arc::new(self.sessions.at(local));
        Arc::new(config)
    }
}

fn server_config(listener: &Listener, sessions: &Sessions) -> Result<ServerConfig, BuildError> {
    let mut transport = TransportConfig::default();
    let idle = listener.limits.idle.map(|idle| IdleTimeout::try_from(idle.max(SHORTEST_SILENCE)));
    let idle = idle.transpose().map_err(|_| BuildError::new("idleTimeout is too long for HTTP/3"))?;
    transport
        .max_idle_timeout(idle)
        .max_concurrent_bidi_streams(VarInt::from_u32(listener.max_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(OTHER_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None);
    let mut config = ServerConfig::with_crypto(Arc::new(sessions.clone()));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(MAX_HANDSHAKES)
        .incoming_buffer_size(WAITING.0)
        .incoming_buffer_size_total(WAITING.1);
    Ok(config)
}

/// Serves until the listener closes. An endpoint that died is made anew: nothing else would notice.
///
/// Until the first configuration is complete, what clients send waits in the socket's buffer. They send it again when it
/// does not fit.
async fn keep_serving(listener: Arc<Listener>, socket: UdpSocket, tls: Tls) {
    tokio::select! {
        () = listener.shutdown.reached(Phase::Draining) => return,
        () = listener.opening.opened() => {}
    }
    loop {
        let served = match socket.try_clone() {
            Ok(socket) => tokio::spawn(serve(listener.clone(), socket, tls.clone())).await,
            Err(error) => Ok(Err(error)),
        };
        if listener.shutdown.has_reached(Phase::Draining) {
            return;
        }
        let error = match served {
            Ok(Ok(())) => "its endpoint ended".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(entry_point = %listener.name, error, "HTTP/3 stopped; it is started again");
        tokio::time::sleep(REVIVAL).await;
    }
}

async fn serve(listener: Arc<Listener>, socket: UdpSocket, tls: Tls) -> io::Result<()> {
    let local = socket.local_addr()?;
    let config = Some(tls.config.clone());
    let endpoint = Endpoint::new(EndpointConfig::default(), config, socket, Arc::new(TokioRuntime))?;
    let handshakes = Arc::new(AtomicUsize::new(0));
    loop {
        let incoming = tokio::select! {
            biased;
            () = listener.shutdown.reached(Phase::Draining) => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return Ok(()) };
        admit(&listener, incoming, local, &tls, &handshakes);
    }
    // Those that have come before are served.
    while let Some(Some(incoming)) = endpoint.accept().now_or_never() {
        admit(&listener, incoming, local, &tls, &handshakes);
    }
    endpoint.set_server_config(None);
    listener.connections.drained().await;
    let _ = tokio::time::timeout(LAST_WORDS, endpoint.wait_idle()).await;
    Ok(())
}

/// Serves a connection that begins, if there is room for it.
fn admit(
    listener: &Arc<Listener>,
    incoming: Incoming,
    local: SocketAddr,
    tls: &Tls,
    handshakes: &Arc<AtomicUsize>,
) {
    if handshakes.load(Ordering::Relaxed) >= RETRY_FROM && incoming.may_retry() {
        // It cannot fail for a client that was not asked before.
        let _ = incoming.retry();
        return;
    }
    if !listener.connections.is_below_limit() {
        listener.connections.close_idle();
        incoming.refuse();
        return;
    }
    let Some(handshaking) = Handshaking::begin(handshakes, MAX_HANDSHAKES) else {
        incoming.ignore();
        return;
    };
    let open = listener.count_elsewhere();
    let config = incoming.local_ip().map(|local| tls.at(local));
    tokio::spawn(connection::serve(listener.clone(), (incoming, config), local, handshaking, open));
}
