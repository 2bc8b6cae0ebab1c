//! HTTP/3: requests over QUIC, on the port of an entry point with `http3`.
//!
//! It has separate threads, and a task for each connection and each request, so that its failures do not affect HTTP/1
//! and HTTP/2. `mod` listens, `session` selects the TLS options, `connection` serves a connection, and `request` a
//! request. `tidegate_wire::http3` parses, `upload` and `answer` stream bodies. From
//! [`crate::entrypoint::http::respond`] on, requests are handled like those of other versions.

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
use tokio::runtime::{Handle, Runtime};

use super::listener::{Handshaking, Listener};
use crate::entrypoint::shutdown::Phase;
use crate::worker;
use session::Sessions;

/// Flow-control window of a request body, in bytes.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Flow-control window of all request bodies of a connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Maximum number of unacknowledged bytes of all responses of a connection.
const SEND_WINDOW: u64 = 4 * 1024 * 1024;
/// Maximum number of a client's unidirectional streams: three that it needs, and some of unknown types.
const OTHER_STREAMS: u32 = 16;
/// Number of handshakes in progress from which on clients must prove their address.
const RETRY_FROM: usize = 64;
/// Maximum number of handshakes in progress.
const MAX_HANDSHAKES: usize = 1024;
/// Maximum number of buffered bytes of a connection before it is accepted.
const INCOMING_BUFFER: u64 = 64 * 1024;
/// Maximum number of buffered bytes of all such connections.
const INCOMING_BUFFERS: u64 = 16 * 1024 * 1024;
/// Size of the socket's buffers in bytes, if the system allows it.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;
/// Timeout for sending a control frame.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// Minimum idle timeout of QUIC. Connections with open requests send more often than that; those without are closed
/// gracefully after `idleTimeout`.
const MIN_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before a failed endpoint is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How long connections may take to send their close frames when the gateway stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The threads of HTTP/3, shared by all entry points.
pub(super) struct Http3 {
    runtime: Option<Runtime>,
}

impl Http3 {
    /// Returns its runtime.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.runtime.as_ref().map(|runtime| runtime.handle().clone())
    }

    /// Starts `threads` threads, which use the per-worker state of the worker `index`.
    pub(super) fn start(threads: usize, index: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("http3")
            .on_thread_start(move || worker::set_index(index))
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Serves an entry point on a socket.
    pub(super) fn serve(&self, listener: Arc<Listener>, socket: UdpSocket) -> Result<(), BuildError> {
        let local = socket.local_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip());
        let sessions = Sessions::new(listener.snapshots.clone(), listener.index, local)?;
        let config = server_config(&listener, &sessions)?;
        if let Some(runtime) = &self.runtime {
            runtime.spawn(keep_serving(listener, socket, Tls { config, sessions }));
        }
        Ok(())
    }

    /// Stops all threads and drops their tasks.
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

/// Prepares a passed socket.
pub(super) fn adopt(socket: UdpSocket) -> UdpSocket {
    let buffers = SockRef::from(&socket);
    let _ = (buffers.set_recv_buffer_size(SOCKET_BUFFER), buffers.set_send_buffer_size(SOCKET_BUFFER));
    socket
}

/// Binds the UDP port that matches the TCP port of the entry point. `share` if other processes may bind it, too.
pub(super) fn bind(address: SocketAddr, share: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    // The system may limit the size; smaller buffers hold fewer packets.
    let _ = (socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER));
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Returns the `Alt-Svc` of responses over TCP (RFC 7838).
pub(super) fn alternative(port: u16) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("h3=\":{port}\"; ma=2592000")).ok()
}

/// The configuration of new connections.
#[derive(Clone)]
struct Tls {
    config: ServerConfig,
    sessions: Sessions,
}

impl Tls {
    /// Returns the configuration for a client that connects to this address.
    fn at(&self, local: IpAddr) -> Arc<ServerConfig> {
        let mut config = self.config.clone();
        config.crypto = Arc::new(self.sessions.at(local));
        Arc::new(config)
    }
}

fn server_config(listener: &Listener, sessions: &Sessions) -> Result<ServerConfig, BuildError> {
    let mut transport = TransportConfig::default();
    let idle = listener.limits.idle.map(|idle| IdleTimeout::try_from(idle.max(MIN_IDLE_TIMEOUT)));
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
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFERS);
    Ok(config)
}

/// Serves until the listener drains, and starts a failed endpoint again.
///
/// Until the first configuration is complete, packets wait in the socket's buffer. Clients repeat those that do not
/// fit.
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
            Ok(Ok(())) => "the endpoint ended".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(entry_point = %listener.name, error, "HTTP/3 failed: restarting");
        tokio::time::sleep(RESTART_DELAY).await;
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
    // Connections that arrived before are served.
    while let Some(Some(incoming)) = endpoint.accept().now_or_never() {
        admit(&listener, incoming, local, &tls, &handshakes);
    }
    endpoint.set_server_config(None);
    listener.connections.drained().await;
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
    Ok(())
}

/// Accepts a connection if the limits allow it.
fn admit(
    listener: &Arc<Listener>,
    incoming: Incoming,
    local: SocketAddr,
    tls: &Tls,
    handshakes: &Arc<AtomicUsize>,
) {
    if handshakes.load(Ordering::Relaxed) >= RETRY_FROM && incoming.may_retry() {
        // This only fails if the client was already asked.
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
