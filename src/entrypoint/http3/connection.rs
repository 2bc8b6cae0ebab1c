//! One QUIC connection: its handshake, its control streams, and a task for each request.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
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
use crate::entrypoint::http1_2::progress::Progress;
use crate::entrypoint::listener::{Handshaking, Listener};
use crate::entrypoint::shutdown::Phase;

/// Types of streams in one direction (RFC 9114 section 6.2, RFC 9204 section 4.2).
const CONTROL: u64 = 0x0;
const PUSH: u64 = 0x1;
const ENCODER: u64 = 0x2;
const DECODER: u64 = 0x3;
/// Between the announcement that the connection will end and its last word, in round trips and at least: requests that
/// the client sent before it knew are still served.
const FAREWELL: (u32, Duration) = (3, Duration::from_millis(100));
/// Streams that a client may waste at once, and how many it is forgiven per second.
const WASTE: (f64, f64) = (200.0, 20.0);
/// How often the client hears from the gateway while requests are open: it may be waiting for an event, or pausing, for
/// longer than QUIC keeps a silent connection.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A stream number that is never reached: the first goodbye refuses nothing (RFC 9114 section 5.2).
const LAST_STREAM: u64 = (1 << 62) - 4;

/// Serves a connection to its end. Errors are the client's business and only traced.
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
    let too_late = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
    let quic = tokio::time::timeout(listener.handshake, connecting).await.map_err(too_late)??;
    let outcome = quic.handshake_data().and_then(|data| data.downcast::<Outcome>().ok());
    let outcome = outcome.ok_or_else(|| io::Error::other("a handshake without an outcome"))?;
    // The control stream is the first thing that we say.
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
        waste: Waste { left: WASTE.0, since: Instant::now() },
        next_stream: 0,
        farewell: Farewell::None,
    };
    served.run().await;
    Ok(())
}

/// A connection with what is open on it.
struct Served {
    quic: quinn::Connection,
    control: SendStream,
    client: Arc<ClientConnection>,
    requests: JoinSet<Ended>,
    others: JoinSet<()>,
    waste: Waste,
    /// The number of the first request stream that did not come yet.
    next_stream: u64,
    farewell: Farewell,
}

/// How far the end of a connection is.
enum Farewell {
    None,
    /// The client knows. Whatever comes until then is served.
    Announced(Pin<Box<Sleep>>),
    /// Nothing new is served.
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
            if self.requests.is_empty() && matches!(self.farewell, Farewell::Final) {
                self.quic.close(VarInt::from_u32(code::NO_ERROR), b"");
                return;
            }
            let idle = self.idle();
            let is_idle = self.requests.is_empty();
            tokio::select! {
                stream = self.quic.accept_bi() => match stream {
                    Ok(stream) => self.request(stream),
                    Err(_) => return,
                },
                stream = self.quic.accept_uni() => match stream {
                    Ok(stream) => {
                        self.others.spawn(other(stream, self.quic.clone(), claimed.clone()));
                    }
                    Err(_) => return,
                },
                Some(ended) = self.requests.join_next() => self.ended(ended.unwrap_or(Ended::Wasted)).await,
                Some(_) = self.others.join_next() => {}
                _ = heartbeat.tick(), if !is_idle => self.keep_alive(),
                () = &mut draining, if !drains => {
                    drains = true;
                    self.announce().await;
                }
                () = said(&mut self.farewell) => self.leave().await,
                () = resting(&listener, is_idle) => self.announce().await,
                () = idle => {
                    // Nothing is open, so nothing is lost.
                    self.announce().await;
                    self.leave().await;
                }
            }
        }
    }

    /// Ready when the connection was without a request for too long.
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
        if matches!(self.farewell, Farewell::Final) {
            let rejected = VarInt::from_u32(code::REQUEST_REJECTED);
            // Errors mean that the client has given it up already.
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
            let fault = Fault::fatal(code::EXCESSIVE_LOAD, "too many requests were cancelled or broken");
            tracing::debug!(peer = %self.quic.remote_address(), "HTTP/3: {}", fault.what);
            self.quic.close(VarInt::from_u32(fault.code), fault.what.as_bytes());
        }
        if self.client.progress.is_leaving() {
            self.announce().await;
        }
    }

    /// Says that the connection will end.
    async fn announce(&mut self) {
        if matches!(self.farewell, Farewell::None) {
            let wait = (self.quic.rtt() * FAREWELL.0).max(FAREWELL.1);
            self.farewell = Farewell::Announced(Box::pin(tokio::time::sleep(wait)));
            self.say(frame::goaway(LAST_STREAM)).await;
        }
    }

    /// Says which requests were the last.
    async fn leave(&mut self) {
        if !matches!(self.farewell, Farewell::Final) {
            self.farewell = Farewell::Final;
            self.say(frame::goaway(self.next_stream)).await;
        }
    }

    /// Has a MAX_DATA frame sent that raises the client's limit by one byte, which the library takes back in time. Unlike a
    /// frame on the control stream it passes when the client's own windows are full, as those of a paused client are.
    fn keep_alive(&self) {
        let window = super::CONNECTION_WINDOW;
        self.quic.set_receive_window(VarInt::from_u32(window - 1));
        self.quic.set_receive_window(VarInt::from_u32(window));
    }

    async fn say(&mut self, what: Bytes) {
        let said = tokio::time::timeout(super::DELIVERY, self.control.write_all(&what)).await;
        if !matches!(said, Ok(Ok(()))) {
            self.quic
                .close(VarInt::from_u32(code::CLOSED_CRITICAL_STREAM), b"the control stream is not read");
        }
    }
}

/// Ready when an idle connection is to make room for others.
async fn resting(listener: &Listener, is_idle: bool) {
    if is_idle { listener.connections.evicted().await } else { std::future::pending().await }
}

/// Ready when the client has had time to hear that the connection will end.
async fn said(farewell: &mut Farewell) {
    match farewell {
        Farewell::Announced(wait) => wait.await,
        Farewell::None | Farewell::Final => std::future::pending().await,
    }
}

/// Work for nothing, which a client may cause now and then but not all the time.
struct Waste {
    left: f64,
    since: Instant,
}

impl Waste {
    fn allows(&mut self) -> bool {
        let forgiven = self.since.elapsed().as_secs_f64() * WASTE.1;
        self.since = Instant::now();
        self.left = (self.left + forgiven).min(WASTE.0) - 1.0;
        self.left >= 0.0
    }
}

/// Which streams of the client that may be there once are there.
#[derive(Default)]
struct Claimed([std::sync::atomic::AtomicBool; 3]);

/// Reads a stream in one direction to its end.
async fn other(mut stream: RecvStream, quic: quinn::Connection, claimed: Arc<Claimed>) {
    // Streams may end before it is known what they are (RFC 9114 section 6.2).
    let Ok(kind) = read_kind(&mut stream).await else { return };
    let (place, code) = match kind {
        CONTROL => (0, code::CLOSED_CRITICAL_STREAM),
        ENCODER => (1, code::QPACK_ENCODER_STREAM_ERROR),
        DECODER => (2, code::CLOSED_CRITICAL_STREAM),
        PUSH => {
            let fault = Fault::fatal(code::STREAM_CREATION_ERROR, "a client cannot push");
            return report(&quic, &mut Source::new(stream, Frames::of_control()), fault);
        }
        // Types that nobody knows have no meaning (RFC 9114 section 9).
        _ => {
            let _ = stream.stop(VarInt::from_u32(code::STREAM_CREATION_ERROR));
            return;
        }
    };
    if claimed.0[place].swap(true, Ordering::Relaxed) {
        let fault =
            Fault::fatal(code::STREAM_CREATION_ERROR, "a stream that may be there once is there twice");
        return report(&quic, &mut Source::new(stream, Frames::of_control()), fault);
    }
    if kind != CONTROL {
        return without_table(stream, quic, kind, code).await;
    }
    let mut source = Source::new(stream, Frames::of_control());
    let fault = match std::future::poll_fn(|cx| source.poll_event(cx)).await {
        Err(Ending::Fault(fault)) => fault,
        Err(Ending::Gone(_)) if quic.close_reason().is_some() => return,
        // There is no other event on a control stream.
        Ok(_) | Err(Ending::Gone(_)) => Fault::fatal(code, "the control stream ended"),
    };
    report(&quic, &mut source, fault);
}

/// Reads what a client says of a table that we do not have.
async fn without_table(mut stream: RecvStream, quic: quinn::Connection, kind: u64, wrong: u32) {
    loop {
        let fault = match stream.read_chunk(1024, true).await {
            // Setting the size of the table to nothing is all that an encoder can say.
            Ok(Some(chunk)) if kind == ENCODER && chunk.bytes.iter().all(|byte| *byte == 0x20) => continue,
            Ok(Some(_)) if kind == ENCODER => Fault::fatal(wrong, "there is no dynamic table"),
            // A decoder may say that a stream was cancelled.
            Ok(Some(_)) => continue,
            Ok(None) | Err(quinn::ReadError::Reset(_)) => {
                Fault::fatal(code::CLOSED_CRITICAL_STREAM, "a stream that may not end ended")
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
