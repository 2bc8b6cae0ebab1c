//! HTTP/3: requests over QUIC, on the port of an entry point with `http3`.
//!
//! Each worker has its own socket and endpoint, and a task for each connection and each request. `mod` listens, `socket`
//! brings datagrams to the worker that owns their connection (`ids`), or to the process (`siblings`), `session` selects the TLS options, `connection`
//! serves a connection, and `request` a request. `tidegate_wire::http3` parses, `upload` and `answer` stream bodies.
//! From [`crate::entrypoint::http::respond`] on, requests are handled like those of other versions.

mod answer;
mod connection;
mod hints;
mod ids;
mod request;
mod session;
mod siblings;
mod socket;
mod tunnel;
mod upload;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::HeaderValue;
use futures_util::FutureExt;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, Runtime, ServerConfig, TokioRuntime, TransportConfig,
    VarInt,
};
use socket2::SockRef;
use tidegate_core::BuildError;

use super::listener::{Handshaking, Listener};
use crate::entrypoint::shutdown::Phase;
use crate::udp;
use crate::worker::{self, Workers};
use ids::Generator;
use session::Sessions;
use siblings::Siblings;
use socket::{Steering, WorkerSocket};

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

/// Sockets of an entry point for HTTP/3.
pub(super) struct Sockets {
    /// One for each worker. Those of a supervisor are used by several.
    sockets: Vec<UdpSocket>,
    /// How many of them are different sockets.
    different: usize,
    /// Whether other processes may bind the port, too.
    is_shared: bool,
}

/// Uses the sockets of a supervisor for `workers` workers.
pub(super) fn adopt(passed: &[UdpSocket], workers: usize) -> io::Result<Sockets> {
    for socket in passed {
        set_buffers(socket);
    }
    let sockets: io::Result<Vec<UdpSocket>> =
        (0..workers).map(|worker| passed[worker % passed.len()].try_clone()).collect();
    Ok(Sockets { sockets: sockets?, different: passed.len().min(workers), is_shared: false })
}

/// Binds the UDP port that matches the TCP port of the entry point, once for each of `workers` workers. `share` if
/// other processes may bind it, too.
pub(super) fn bind(address: SocketAddr, workers: usize, share: bool) -> io::Result<Sockets> {
    let sockets = udp::bind(address, workers, share)?;
    for socket in &sockets {
        set_buffers(socket);
    }
    Ok(Sockets { sockets, different: workers, is_shared: share })
}

/// Requests large buffers. The system may limit their size; smaller ones hold fewer packets.
fn set_buffers(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let _ = (socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER));
}

/// Serves an entry point on the workers.
pub(super) fn serve(listener: &Arc<Listener>, sockets: Sockets, workers: &Workers) -> Result<(), BuildError> {
    let local = sockets.sockets.first().and_then(|socket| socket.local_addr().ok());
    let Some(local) = local else { return Err(BuildError::new("no socket")) };
    let sessions = Sessions::new(listener.snapshots.clone(), listener.index, local.ip())?;
    let config = server_config(listener, &sessions, workers.len())?;
    let siblings = if sockets.is_shared { meet_siblings(listener, local) } else { None };
    let steering = Steering::new(workers.len(), sockets.different, siblings);
    workers.handle(0).spawn(steering.clone().receive_from_siblings(local.is_ipv6()));
    let handshakes = Arc::<AtomicUsize>::default();
    for (index, socket) in sockets.sockets.into_iter().enumerate() {
        let point = Point {
            listener: listener.clone(),
            local,
            tls: Tls { config: config.clone(), sessions: sessions.clone() },
            handshakes: handshakes.clone(),
            steering: steering.clone(),
            reads: index < sockets.different,
        };
        let serving = listener.endpoints.track_future(keep_serving(Arc::new(point), socket));
        workers.handle(index).spawn(serving);
    }
    Ok(())
}

/// Returns the other processes on a shared port.
fn meet_siblings(listener: &Listener, local: SocketAddr) -> Option<Siblings> {
    let met = Siblings::meet(local);
    met.inspect_err(|error| {
        tracing::warn!(
            entry_point = %listener.name, %error,
            "HTTP/3 connections may be lost when another process joins or leaves the port"
        );
    })
    .ok()
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

/// Returns the configuration of the endpoints of all workers. They have one key for tokens, so that any of them accepts
/// what another has issued.
fn server_config(
    listener: &Listener,
    sessions: &Sessions,
    workers: usize,
) -> Result<ServerConfig, BuildError> {
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
        .incoming_buffer_size_total(INCOMING_BUFFERS / workers as u64);
    Ok(config)
}

/// What serving on a worker needs.
struct Point {
    listener: Arc<Listener>,
    local: SocketAddr,
    tls: Tls,
    /// Handshakes in progress on all workers.
    handshakes: Arc<AtomicUsize>,
    steering: Arc<Steering>,
    /// Whether this worker reads its socket.
    reads: bool,
}

/// Serves on this worker until the listener drains, and starts a failed endpoint again.
///
/// Until the first configuration is complete, packets wait in the socket's buffer. Clients repeat those that do not
/// fit.
async fn keep_serving(point: Arc<Point>, socket: UdpSocket) {
    let listener = point.listener.clone();
    tokio::select! {
        () = listener.shutdown.reached(Phase::Draining) => return,
        () = listener.opening.opened() => {}
    }
    loop {
        let served = match socket.try_clone() {
            Ok(socket) => tokio::spawn(point.clone().serve(socket)).await,
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

impl Point {
    async fn serve(self: Arc<Self>, socket: UdpSocket) -> io::Result<()> {
        let listener = &self.listener;
        let endpoint = self.endpoint(socket)?;
        loop {
            let incoming = tokio::select! {
                biased;
                () = listener.shutdown.reached(Phase::Draining) => break,
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return Ok(()) };
            self.admit(incoming);
        }
        // Connections that arrived before are served.
        while let Some(Some(incoming)) = endpoint.accept().now_or_never() {
            self.admit(incoming);
        }
        self.steering.drain();
        endpoint.set_server_config(None);
        listener.connections.drained().await;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
        Ok(())
    }

    /// Returns an endpoint whose tasks run on this worker.
    fn endpoint(&self, socket: UdpSocket) -> io::Result<Endpoint> {
        let (worker, ids) = (worker::index(), self.steering.ids.clone());
        let mut config = EndpointConfig::default();
        config.cid_generator(move || Box::new(Generator { ids: ids.clone(), worker }));
        let buffers = SockRef::from(&socket);
        let (receive, send) = (buffers.recv_buffer_size(), buffers.send_buffer_size());
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        tracing::debug!(
            entry_point = %self.listener.name, worker,
            segments_per_send = socket.max_transmit_segments(),
            segments_per_receive = socket.max_receive_segments(),
            receive_buffer = receive.unwrap_or(0), send_buffer = send.unwrap_or(0),
            "serving HTTP/3"
        );
        let socket = WorkerSocket::new(socket, self.steering.clone(), worker, self.reads);
        let server = Some(self.tls.config.clone());
        Endpoint::new_with_abstract_socket(config, server, Arc::new(socket), Arc::new(TokioRuntime))
    }

    /// Accepts a connection if the limits allow it.
    fn admit(&self, incoming: Incoming) {
        let listener = &self.listener;
        if self.handshakes.load(Ordering::Relaxed) >= RETRY_FROM && incoming.may_retry() {
            // This only fails if the client was already asked.
            let _ = incoming.retry();
            return;
        }
        if !listener.connections.is_below_limit() {
            listener.connections.close_idle();
            incoming.refuse();
            return;
        }
        let Some(handshaking) = Handshaking::begin(&self.handshakes, MAX_HANDSHAKES) else {
            incoming.ignore();
            return;
        };
        let open = listener.count(worker::index());
        let config = incoming.local_ip().map(|local| self.tls.at(local));
        tokio::spawn(connection::serve(listener.clone(), (incoming, config), self.local, handshaking, open));
    }
}
