//! One client connection from its first byte to its last: PROXY header, TLS, version of HTTP, requests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::server::conn::http1::UpgradeableConnection;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tidegate_core::{BoxFuture, Connection, TlsInfo};
use tidegate_wire::proxy_protocol::{self, Parsed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::entrypoint::conn_limit::{OpenConnection, SILENCE};
use crate::entrypoint::http::HttpService;
use crate::entrypoint::http::chosen_options::ChosenOptions;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::protocol::{PREFACE, Protocol, TLS_HANDSHAKE};
use crate::entrypoint::http1_2::clock::{Clock, Due, STALLED};
use crate::entrypoint::http1_2::header_budget::HeaderReservation;
use crate::entrypoint::http1_2::linger::Wire;
use crate::entrypoint::http1_2::prefixed::Prefixed;
use crate::entrypoint::http1_2::progress::Progress;
use crate::entrypoint::http1_2::watched_stream::Watched;
use crate::entrypoint::listener::Listener;
use crate::entrypoint::shutdown::Phase;
use crate::tls::TlsStore;

/// Read at once while it is not known what is spoken.
const FIRST_READ: usize = 2048;
/// How long a connection without a request is kept while the listener drains: its first request may be on the way.
const NEWCOMER: Duration = Duration::from_secs(5);
/// Most bytes before what is spoken must be known: the longest PROXY header, and a ClientHello.
const MAX_UNKNOWN: usize = 24 * 1024;

/// What remains of a connection once it is known who takes it: it may last long, so it has no room for what came before.
pub(in crate::entrypoint) type Serving = BoxFuture<'static, io::Result<()>>;

/// What is known before HTTP begins.
pub(in crate::entrypoint) struct Begun {
    pub(in crate::entrypoint) stream: Prefixed<TcpStream>,
    pub(in crate::entrypoint) connection: Connection,
}

/// Begins HTTP or HTTPS on a connection whose first bytes are known. Returns `None` when the connection has ended.
pub(in crate::entrypoint) async fn begin_http(
    listener: Arc<Listener>,
    begun: Begun,
    open: OpenConnection,
) -> io::Result<Option<Serving>> {
    let Begun { stream, mut connection } = begun;
    if stream.prefix.first() == Some(&TLS_HANDSHAKE) {
        let handshake =
            Box::pin(within(Some(listener.handshake), handshake(&listener, stream, connection.local.ip())));
        let Some((stream, tls, chosen)) = handshake.await? else { return Ok(None) };
        connection.tls = Some(*tls);
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
        return Ok(Some(serve_http(listener, *stream, connection, Some(chosen), protocol, open)));
    }
    let is_http2 = stream.prefix.starts_with(PREFACE);
    let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
    Ok(Some(serve_http(listener, stream, connection, None, protocol, open)))
}

/// Waits at most `limit`; `None`: as long as it takes.
pub(in crate::entrypoint) async fn within<T>(
    limit: Option<Duration>,
    what: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match limit {
        None => what.await,
        Some(limit) => tokio::time::timeout(limit, what).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the client said too little in time"))
        }),
    }
}

/// Reads until `decide` knows what to do by the bytes after the PROXY header. `None`: the client hung up before.
pub(in crate::entrypoint) async fn first_bytes<T>(
    listener: &Listener,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut decide: impl FnMut(&Connection, &[u8]) -> Option<T>,
) -> io::Result<Option<Box<(Begun, T)>>> {
    let mut connection = Connection {
        peer,
        local: stream.local_addr()?,
        accepted: Instant::now(),
        entry_point: listener.name.clone(),
        tls: None,
        forwarded_for: None,
        identity: None,
    };
    let mut bytes = Vec::new();
    let mut expects_header = listener.trusts_proxy(peer.ip());
    loop {
        if expects_header {
            match proxy_protocol::parse(&bytes) {
                Parsed::Absent => expects_header = false,
                Parsed::Partial => {}
                Parsed::Malformed(what) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {what}")));
                }
                Parsed::Header { length, addresses } => {
                    if let Some((source, destination)) = addresses {
                        (connection.peer, connection.local) = (source, destination);
                    }
                    bytes.drain(..length);
                    expects_header = false;
                }
            }
        }
        if !expects_header && let Some(decision) = decide(&connection, &bytes) {
            let stream = Prefixed::new(bytes, stream);
            return Ok(Some(Box::new((Begun { stream, connection }, decision))));
        }
        if bytes.len() > MAX_UNKNOWN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no protocol that is spoken here"));
        }
        // Nothing is set aside for a client that says nothing.
        if bytes.is_empty() {
            tokio::select! {
                biased;
                readable = stream.readable() => readable?,
                () = unheard(listener) => return Ok(None),
            }
        } else {
            tokio::select! {
                biased;
                readable = stream.readable() => readable?,
                () = stalled(listener) => return Ok(None),
            }
        }
        bytes.reserve(FIRST_READ);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// Waits until a connection that says nothing is to make room for others: not before it had a moment to speak.
async fn unheard(listener: &Listener) {
    tokio::time::sleep(SILENCE).await;
    listener.connections.evicted().await;
}

/// The same for one that stopped in the middle of its first words.
async fn stalled(listener: &Listener) {
    tokio::time::sleep(STALLED).await;
    listener.connections.evicted_when_full().await;
}

/// True when the bytes tell TLS, HTTP/2 and HTTP/1 apart.
pub(in crate::entrypoint) fn is_known(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (bytes.len() >= PREFACE.len() || !PREFACE.starts_with(bytes))
}

/// A TLS handshake: options by server name. `None`: the name's options are broken, or the client hung up.
async fn handshake(
    listener: &Listener,
    stream: Prefixed<TcpStream>,
    local: IpAddr,
) -> io::Result<Option<(Box<TlsStream<Prefixed<TcpStream>>>, Box<TlsInfo>, ChosenOptions)>> {
    let place = listener.begin_handshake();
    let _place = place.ok_or_else(|| io::Error::other("too many TLS handshakes are under way"))?;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let server_name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let (tls, chosen) = {
        let snapshot = listener.snapshots.load();
        (snapshot.tls.clone(), ChosenOptions::new(&snapshot, listener.index, server_name.as_deref(), local))
    };
    if TlsStore::is_asked_for_proof(&start.client_hello())
        && let Some(name) = &server_name
        && let Some(proof) = tls.proof_for(name).await
    {
        // The authority has seen what it came for when the handshake is over.
        start.into_stream(proof).await?;
        return Ok(None);
    }
    tls.demand(server_name.as_deref()).await;
    let Some((chosen, config)) = chosen.and_then(|one| tls.config_of(&one.options.name).map(|c| (one, c)))
    else {
        tracing::debug!(entry_point = %listener.name, ?server_name, "TLS options are missing or broken");
        return Ok(None);
    };
    let config = tls.at_address(config, server_name.as_deref(), local);
    let stream = start.into_stream(config).await?;
    let session = stream.get_ref().1;
    let info = TlsInfo {
        server_name,
        version: match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        },
        cipher: session.negotiated_cipher_suite().map_or("", |suite| go_name(suite.suite())),
        client_certificates: session
            .peer_certificates()
            .map(|chain| chain.iter().map(|certificate| certificate.to_vec()).collect())
            .unwrap_or_default(),
    };
    Ok(Some((Box::new(stream), Box::new(info), chosen)))
}

/// The name of a suite as Go and IANA write it.
pub(in crate::entrypoint) fn go_name(suite: rustls::CipherSuite) -> &'static str {
    match suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or(""),
    }
}

fn serve_http<S: AsyncRead + AsyncWrite + Wire + Unpin + Send + Sync + 'static>(
    listener: Arc<Listener>,
    stream: S,
    mut connection: Connection,
    tls_options: Option<ChosenOptions>,
    protocol: Protocol,
    open: OpenConnection,
) -> Serving {
    let progress = Arc::new(Progress::default());
    let held = HeaderReservation::new(listener.heads.clone());
    let stream =
        Box::new(Watched::new(stream, protocol, progress.clone(), held, listener.largest_head, open));
    let peer = listener.forwarded.peer(connection.peer.ip(), connection.tls.is_some());
    connection.forwarded_for = listener.forwarded.appended(&peer);
    let tls = tls_options.as_ref().zip(connection.tls.as_ref());
    connection.identity = tls.and_then(|(options, info)| options.identity(info));
    let client = Arc::new(ClientConnection {
        listener: listener.clone(),
        connection: Arc::new(connection),
        progress: progress.clone(),
        peer,
        tls_options,
        requests: 0.into(),
        protocol,
    });
    let service = HttpService::new(client);
    if protocol == Protocol::Http1 {
        return Box::pin(serve_http1(listener, progress, stream, service));
    }
    let mut connection = Box::pin(listener.http2.serve_connection(TokioIo::new(stream), service));
    Box::pin(async move {
        let leave = |connection: Pin<&mut http2::Connection<_, _, _>>| connection.graceful_shutdown();
        drive(&listener, &progress, protocol, connection.as_mut(), leave).await?;
        Ok(())
    })
}

/// Serves HTTP/1. What the library holds for a connection lives only while the connection is busy.
async fn serve_http1<S: AsyncRead + AsyncWrite + Wire + Unpin + Send + Sync + 'static>(
    listener: Arc<Listener>,
    progress: Arc<Progress>,
    mut stream: Box<Watched<S, OpenConnection>>,
    service: HttpService,
) -> io::Result<()> {
    loop {
        let connection =
            listener.http1.serve_connection(TokioIo::new(stream), service.clone()).with_upgrades();
        let mut connection = Box::pin(connection);
        let leave = |connection: Pin<&mut _>| UpgradeableConnection::graceful_shutdown(connection);
        let End::Parked = drive(&listener, &progress, Protocol::Http1, connection.as_mut(), leave).await?
        else {
            return Ok(());
        };
        stream = match Pin::into_inner(connection).into_parts() {
            None => return Ok(()),
            Some(parts) if parts.read_buf.is_empty() => parts.io.into_inner(),
            Some(_) => return Err(io::Error::other("an idle connection held bytes")),
        };
        stream.rest();
        let readable = std::future::poll_fn(|cx| stream.get_ref().poll_readable(cx));
        let closing_idle = listener.shutdown.reached(Phase::ClosingIdle);
        let waiting = within(listener.limits.parked(), readable);
        tokio::select! {
            () = closing_idle => return Ok(()),
            () = listener.connections.evicted() => return Ok(()),
            outcome = waiting => match outcome {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                Err(error) => return Err(error),
            },
        }
    }
}

/// How a connection stopped being driven.
enum End {
    /// It is over.
    Closed,
    /// It is idle, and can be put aside.
    Parked,
}

/// Runs a connection. It leaves in order when the listener drains or it has lived long enough, and is cut when the client
/// takes too long.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    listener: &Listener,
    progress: &Progress,
    protocol: Protocol,
    mut connection: Pin<&mut C>,
    leave: impl Fn(Pin<&mut C>),
) -> io::Result<End> {
    // HTTP/2 has a way to say goodbye that loses no request. HTTP/1 has not: see `Phase::ClosingIdle`.
    let phase = if protocol.is_framed() { Phase::Draining } else { Phase::ClosingIdle };
    let mut driver = Driver {
        listener,
        progress,
        protocol,
        clock: Clock::new(listener.limits, protocol),
        newcomer: None,
        resting: None,
        yielding: None,
    };
    let mut shutdown = pin!(listener.shutdown.reached(phase));
    let mut left = false;
    std::future::poll_fn(|cx| {
        let drains = !left && shutdown.as_mut().poll(cx).is_ready();
        if drains {
            driver.poll_newcomer(cx);
        }
        loop {
            if drains && progress.heads() > 0 {
                progress.leave();
            }
            driver.poll_resting(cx);
            if driver.poll_yielding(cx).is_ready() {
                return Poll::Ready(Err(cut(progress, "a stalled client while others need its room")));
            }
            if !left && progress.is_leaving() {
                left = true;
                leave(connection.as_mut());
            }
            if let Poll::Ready(outcome) = driver.poll_connection(connection.as_mut(), cx) {
                return Poll::Ready(outcome.map(|()| End::Closed).map_err(io::Error::other));
            }
            match driver.poll_clock(cx) {
                Poll::Ready(Some(ended)) => return Poll::Ready(ended),
                Poll::Pending if left || !(progress.is_leaving() || drains && progress.heads() > 0) => {
                    return Poll::Pending;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
    })
    .await
}

/// A wait of a driven connection, and what its number was when the wait began.
type Waiting<'a> = Option<(u32, BoxFuture<'a, ()>)>;

/// What a connection waits for while it is driven.
struct Driver<'a> {
    listener: &'a Listener,
    progress: &'a Progress,
    protocol: Protocol,
    clock: Clock,
    /// The time that a connection without a request gets while the listener drains.
    newcomer: Option<Pin<Box<Sleep>>>,
    /// An idle framed connection, which leaves when another needs its room.
    resting: Waiting<'a>,
    /// A client that keeps us waiting, and is cut when another needs its room.
    yielding: Waiting<'a>,
}

impl Driver<'_> {
    /// Lets a connection go that has sent no request yet, after a moment.
    fn poll_newcomer(&mut self, cx: &mut Context<'_>) {
        if self.progress.heads() > 0 {
            return;
        }
        let wait = self.newcomer.get_or_insert_with(|| Box::pin(tokio::time::sleep(NEWCOMER)));
        if wait.as_mut().poll(cx).is_ready() {
            self.progress.leave();
        }
    }

    fn poll_resting(&mut self, cx: &mut Context<'_>) {
        let Some((heads, rest)) = &mut self.resting else { return };
        if *heads != self.progress.heads() {
            self.resting = None;
        } else if rest.as_mut().poll(cx).is_ready() {
            self.resting = None;
            self.progress.leave();
        }
    }

    /// Ready when the connection has to be cut.
    fn poll_yielding(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((moves, wanted)) = &mut self.yielding else { return Poll::Pending };
        if *moves != self.progress.moves() {
            self.yielding = None;
            return Poll::Pending;
        }
        wanted.as_mut().poll(cx)
    }

    /// Polls the connection, and once more when it has output that is to be written together.
    fn poll_connection<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        let polled = connection.as_mut().poll(cx);
        if polled.is_ready() || !self.progress.has_gathered() {
            return polled;
        }
        self.progress.flush(true);
        let polled = connection.poll(cx);
        self.progress.flush(false);
        polled
    }

    /// Looks at the client's time. Ready with the end of the connection, or with none when it has to be polled again.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<End>>> {
        let connections = &self.listener.connections;
        match ready!(self.clock.poll(self.progress, cx)) {
            Due::Leave => self.progress.leave(),
            Due::Park if self.protocol.is_framed() => {
                self.resting = Some((self.progress.heads(), Box::pin(connections.evicted())));
            }
            Due::Park => return Poll::Ready(Some(Ok(End::Parked))),
            Due::Yield => {
                self.yielding = Some((self.progress.moves(), Box::pin(connections.evicted_when_full())));
            }
            Due::Cut(what) => return Poll::Ready(Some(Err(cut(self.progress, what)))),
        }
        Poll::Ready(None)
    }
}

/// The end of a connection whose client kept us waiting for something.
fn cut(progress: &Progress, what: &str) -> io::Error {
    progress.cut();
    io::Error::new(io::ErrorKind::TimedOut, format!("timed out waiting for {what}"))
}
