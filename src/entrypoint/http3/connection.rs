//! One QUIC connection: its handshake, its control streams, and a task for each request.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Incoming, RecvStream, SendStream, ServerConfig, VarInt};
use tidegate_core::Connection;
use tidegate_wire::http3::frame::{self, Fault, Frames, code};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, Sleep};

use super::request::{self, Ended};
use super::session::Outcome;
use super::upload::{Ending, Source, report};
use crate::entrypoint::conn_limit::OpenConnection;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::protocol::Protocol;
use crate::entrypoint::http2::progress::Progress;
use crate::entrypoint::listener::{Handshaking, Listener};
use crate::entrypoint::shutdown::Phase;

/// Types of unidirectional streams (RFC 9114 section 6.2, RFC 9204 section 4.2).
const CONTROL: u64 = 0x0;
const PUSH: u64 = 0x1;
const ENCODER: u64 = 0x2;
const DECODER: u64 = 0x3;
/// Round trips between the first and the final GOAWAY, so that requests in flight are still served.
const GOAWAY_ROUND_TRIPS: u32 = 3;
/// Minimum time between them.
const MIN_GOAWAY_WAIT: Duration = Duration::from_millis(100);
/// Burst of streams that a client may cancel or break.
const MAX_WASTE: f64 = 200.0;
/// How many such streams are allowed per second.
const WASTE_PER_SECOND: f64 = 20.0;
/// How often a frame is sent to the client while requests are open: they may be silent for longer than the idle timeout
/// of QUIC.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A stream number that is never reached, so that the first GOAWAY refuses nothing (RFC 9114 section 5.2).
const LAST_STREAM: u64 = (1 << 62) - 4;

/// Serves a connection until it ends. Errors are only logged at debug level, as clients cause them.
pub(super) async fn serve(
    listener: Arc<Listener>,
    incoming: (Incoming, Option<Arc<ServerConfig>>),
    local: SocketAddr,
    handshaking: Handshaking,
    open: OpenConnection,
) {
    let peer = incoming.0.remote_address();
    if let Err(error) = run(&listener, incoming, local, handshaking).await {
        tracing::debug!(entry_point = %listener.name, %peer, %error, "HTTP/3 connection ended early");
    }
    drop(open);
}

async fn run(
    listener: &Arc<Listener>,
    (incoming, config): (Incoming, Option<Arc<ServerConfig>>),
    local: SocketAddr,
    handshaking: Handshaking,
) -> io::Result<()> {
    let connecting = match config {
        Some(config) => incoming.accept_with(config),
        None => incoming.accept(),
    }?;
    let too_late = |_| io::Error::new(io::ErrorKind::TimedOut, "handshake timed out");
    let quic = tokio::time::timeout(listener.handshake, connecting).await.map_err(too_late)??;
    let outcome = quic.handshake_data().and_then(|data| data.downcast::<Outcome>().ok());
    let outcome = outcome.ok_or_else(|| io::Error::other("handshake without data"))?;
    // The control stream is opened before anything else is sent.
    let opening = async {
        let mut control = quic.open_uni().await?;
        control.write_all(&frame::control_opening(listener.max_header_bytes)).await?;
        Ok::<_, io::Error>(control)
    };
    let control = tokio::time::timeout(listener.handshake, opening).await.map_err(too_late)??;
    drop(handshaking);
    let peer = quic.remote_address();
    let local = SocketAddr::new(quic.local_ip().unwrap_or(local.ip()), local.port());
    let forwarded = listener.forwarded.peer(peer.ip(), true);
    let certificate = outcome.options.names(&outcome.info);
    let check = outcome.options.check(&outcome.info);
    let connection = Connection {
        peer,
        local,
        accepted: Instant::now(),
        entry_point: listener.name.clone(),
        forwarded_for: listener.forwarded.appended(&forwarded),
        identity: outcome.options.identity(&outcome.info),
        tls: Some(outcome.info),
    };
    let client = ClientConnection {
        certificate,
        check,
        listener: listener.clone(),
        peer: forwarded,
        connection: Arc::new(connection),
        progress: Arc::new(Progress::default()),
        tls_options: Some(outcome.options),
        requests: 0.into(),
        protocol: Protocol::Http3,
    };
    let served = Served {
        quic,
        control,
        client: Arc::new(client),
        requests: JoinSet::new(),
        others: JoinSet::new(),
        waste: Waste { left: MAX_WASTE, since: Instant::now() },
        next_stream: 0,
        goaway: Goaway::None,
    };
    served.run().await;
    Ok(())
}

/// A connection with its open streams.
struct Served {
    quic: quinn::Connection,
    control: SendStream,
    client: Arc<ClientConnection>,
    requests: JoinSet<Ended>,
    others: JoinSet<()>,
    waste: Waste,
    /// The number of the next request stream.
    next_stream: u64,
    goaway: Goaway,
}

/// The state of a graceful shutdown.
enum Goaway {
    None,
    /// The shutdown is announced. Requests that arrive before the timer fires are served.
    Announced(Pin<Box<Sleep>>),
    /// No more requests are served.
    Final,
}

impl Served {
    async fn run(mut self) {
        let listener = self.client.listener.clone();
        let claimed = Arc::new(Claimed::default());
        let mut draining = std::pin::pin!(listener.shutdown.reached(Phase::Draining));
        let mut drains = false;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.requests.is_empty() && matches!(self.goaway, Goaway::Final) {
                self.quic.close(VarInt::from_u32(code::NO_ERROR), b"");
                return;
            }
            let idle = self.idle();
            let is_idle = self.requests.is_empty();
            tokio::select! {
                stream = self.quic.accept_bi() => match stream {
                    Ok(stream) => {
                        self.request(stream);
                        // Their number is limited by the streams that a client may open.
                        while let Some(Ok(stream)) = self.quic.accept_bi().now_or_never() {
                            self.request(stream);
                        }
                    }
                    Err(_) => return,
                },
                stream = self.quic.accept_uni() => match stream {
                    Ok(stream) => {
                        self.others.spawn(read_unidirectional(stream, self.quic.clone(), claimed.clone()));
                    }
                    Err(_) => return,
                },
                Some(ended) = self.requests.join_next() => {
                    self.ended(ended.unwrap_or(Ended::Wasted)).await;
                    while let Some(ended) = self.requests.try_join_next() {
                        self.ended(ended.unwrap_or(Ended::Wasted)).await;
                    }
                }
                Some(_) = self.others.join_next() => {}
                _ = heartbeat.tick(), if !is_idle => self.keep_alive(),
                () = &mut draining, if !drains => {
                    drains = true;
                    self.send_first_goaway().await;
                }
                () = announced(&mut self.goaway) => self.send_final_goaway().await,
                () = evicted(&listener, is_idle) => self.send_first_goaway().await,
                () = idle => {
                    // There are no open requests to lose.
                    self.send_first_goaway().await;
                    self.send_final_goaway().await;
                }
            }
        }
    }

    /// Resolves when the connection was idle for too long.
    fn idle(&self) -> impl Future<Output = ()> + use<> {
        let limits = &self.client.listener.limits;
        let limit = match (self.requests.is_empty(), self.next_stream) {
            (false, _) => None,
            (true, 0) => limits.head,
            (true, _) => limits.idle,
        };
        async move {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        }
    }

    fn request(&mut self, (mut sending, mut receiving): (SendStream, RecvStream)) {
        if matches!(self.goaway, Goaway::Final) {
            let rejected = VarInt::from_u32(code::REQUEST_REJECTED);
            // These only fail if the client has already closed the stream.
            let _ = (sending.reset(rejected), receiving.stop(rejected));
            return;
        }
        self.next_stream = u64::from(VarInt::from(receiving.id())) + 4;
        self.requests.spawn(request::handle_request(
            self.client.clone(),
            self.quic.clone(),
            (sending, receiving),
        ));
    }

    async fn ended(&mut self, ended: Ended) {
        if ended == Ended::Wasted && !self.waste.allows() {
            let fault = Fault::fatal(code::EXCESSIVE_LOAD, "too many cancelled or malformed requests");
            tracing::debug!(peer = %self.quic.remote_address(), "HTTP/3: {}", fault.what);
            self.quic.close(VarInt::from_u32(fault.code), fault.what.as_bytes());
        }
        if self.client.progress.is_leaving() {
            self.send_first_goaway().await;
        }
    }

    /// Announces the end of the connection.
    async fn send_first_goaway(&mut self) {
        if matches!(self.goaway, Goaway::None) {
            let wait = (self.quic.rtt() * GOAWAY_ROUND_TRIPS).max(MIN_GOAWAY_WAIT);
            self.goaway = Goaway::Announced(Box::pin(tokio::time::sleep(wait)));
            self.send_control(frame::goaway(LAST_STREAM)).await;
        }
    }

    /// Tells the client which request is the last.
    async fn send_final_goaway(&mut self) {
        if !matches!(self.goaway, Goaway::Final) {
            self.goaway = Goaway::Final;
            self.send_control(frame::goaway(self.next_stream)).await;
        }
    }

    /// Sends a MAX_DATA frame that raises the client's limit by one byte, which the library reverts later. Unlike a
    /// frame on the control stream, it is not blocked by the flow control of a paused client.
    fn keep_alive(&self) {
        let window = super::CONNECTION_WINDOW;
        self.quic.set_receive_window(VarInt::from_u32(window - 1));
        self.quic.set_receive_window(VarInt::from_u32(window));
    }

    async fn send_control(&mut self, frame: Bytes) {
        let sent = tokio::time::timeout(super::CONTROL_TIMEOUT, self.control.write_all(&frame)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.quic
                .close(VarInt::from_u32(code::CLOSED_CRITICAL_STREAM), b"the control stream is not read");
        }
    }
}

/// Resolves when an idle connection is evicted.
async fn evicted(listener: &Listener, is_idle: bool) {
    if is_idle { listener.connections.evicted().await } else { std::future::pending().await }
}

/// Resolves when the client has had time to receive the first GOAWAY.
async fn announced(goaway: &mut Goaway) {
    match goaway {
        Goaway::Announced(wait) => wait.await,
        Goaway::None | Goaway::Final => std::future::pending().await,
    }
}

/// Limits the rate of a client's cancelled or broken requests.
struct Waste {
    left: f64,
    since: Instant,
}

impl Waste {
    fn allows(&mut self) -> bool {
        let allowed = self.since.elapsed().as_secs_f64() * WASTE_PER_SECOND;
        self.since = Instant::now();
        self.left = (self.left + allowed).min(MAX_WASTE) - 1.0;
        self.left >= 0.0
    }
}

/// Which of the streams that a client may open only once are open.
#[derive(Default)]
struct Claimed([std::sync::atomic::AtomicBool; 3]);

/// Reads a unidirectional stream until it ends.
async fn read_unidirectional(mut stream: RecvStream, quic: quinn::Connection, claimed: Arc<Claimed>) {
    // Streams may end before their type (RFC 9114 section 6.2).
    let Ok(kind) = read_kind(&mut stream).await else { return };
    let (place, code) = match kind {
        CONTROL => (0, code::CLOSED_CRITICAL_STREAM),
        ENCODER => (1, code::QPACK_ENCODER_STREAM_ERROR),
        DECODER => (2, code::CLOSED_CRITICAL_STREAM),
        PUSH => {
            let fault = Fault::fatal(code::STREAM_CREATION_ERROR, "a client cannot push");
            return report(&quic, &mut Source::new(stream, Frames::of_control()), fault);
        }
        // Unknown types are ignored (RFC 9114 section 9).
        _ => {
            let _ = stream.stop(VarInt::from_u32(code::STREAM_CREATION_ERROR));
            return;
        }
    };
    if claimed.0[place].swap(true, Ordering::Relaxed) {
        let fault = Fault::fatal(code::STREAM_CREATION_ERROR, "duplicate control or QPACK stream");
        return report(&quic, &mut Source::new(stream, Frames::of_control()), fault);
    }
    if kind != CONTROL {
        return read_qpack(stream, quic, kind, code).await;
    }
    let mut source = Source::new(stream, Frames::of_control());
    let fault = match std::future::poll_fn(|cx| source.poll_event(cx)).await {
        Err(Ending::Fault(fault)) => fault,
        Err(Ending::Gone(_)) if quic.close_reason().is_some() => return,
        // Control streams have no other events.
        Ok(_) | Err(Ending::Gone(_)) => Fault::fatal(code, "the control stream ended"),
    };
    report(&quic, &mut source, fault);
}

/// Reads a QPACK stream. We have no dynamic table, so there is little that it may contain.
async fn read_qpack(mut stream: RecvStream, quic: quinn::Connection, kind: u64, wrong: u32) {
    loop {
        let fault = match stream.read_chunk(1024, true).await {
            // An encoder may only set the size of the table to 0.
            Ok(Some(chunk)) if kind == ENCODER && chunk.bytes.iter().all(|byte| *byte == 0x20) => continue,
            Ok(Some(_)) if kind == ENCODER => Fault::fatal(wrong, "there is no dynamic table"),
            // A decoder may report a cancelled stream.
            Ok(Some(_)) => continue,
            Ok(None) | Err(quinn::ReadError::Reset(_)) => {
                Fault::fatal(code::CLOSED_CRITICAL_STREAM, "a QPACK stream ended")
            }
            Err(_) => return,
        };
        return report(&quic, &mut Source::new(stream, Frames::of_control()), fault);
    }
}

async fn read_kind(stream: &mut RecvStream) -> Result<u64, quinn::ReadExactError> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes[..1]).await?;
    let length = 1 << (bytes[0] >> 6);
    stream.read_exact(&mut bytes[1..length]).await?;
    Ok(frame::read_number(&mut &bytes[..length]).unwrap_or(u64::MAX))
}
