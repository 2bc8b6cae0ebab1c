//! One client connection from its first byte to its last: PROXY header, TLS, version of HTTP, requests.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tidegate_core::{Connection, TlsInfo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::door::{Door, OpenConnection};
use super::http::{HttpService, Link};
use super::progress::Progress;
use super::proxy_protocol::{self, Parsed};
use super::stream::{Protocol, Watched};
use crate::tls::DEFAULT_OPTIONS;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// Read at once while it is not known what is spoken.
const FIRST_READ: usize = 2048;
/// Most bytes before what is spoken must be known: the longest PROXY header and a preface.
const MAX_UNKNOWN: usize = 16 * 1024;

/// Serves a connection to its end. Errors are the client's business and only traced.
pub(super) async fn serve(door: Arc<Door>, stream: TcpStream, peer: SocketAddr, open: OpenConnection) {
    let name = door.name.clone();
    if let Err(error) = run(door, stream, peer, open).await {
        tracing::debug!(entry_point = %name, %peer, %error, "connection ended early");
    }
}

/// What is known before HTTP begins.
struct Begun {
    stream: Prefixed<TcpStream>,
    connection: Connection,
}

async fn run(door: Arc<Door>, stream: TcpStream, peer: SocketAddr, open: OpenConnection) -> io::Result<()> {
    let first = first_bytes(&door, stream, peer);
    let Some(mut begun) = within(door.limits.head, first).await? else { return Ok(()) };
    if begun.stream.prefix.first() == Some(&TLS_HANDSHAKE) {
        // Handshakes need much room, and only for a short time.
        let handshake = Box::pin(handshake(&door, begun.stream));
        let Some((stream, tls, options)) = within(Some(door.handshake), handshake).await? else {
            return Ok(());
        };
        begun.connection.tls = Some(tls);
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return serve_http(door, stream, begun.connection, options, h2, open).await;
    }
    let h2 = begun.stream.prefix.starts_with(PREFACE);
    serve_http(door, begun.stream, begun.connection, DEFAULT_OPTIONS.into(), h2, open).await
}

/// Waits at most `limit`; `None`: as long as it takes.
async fn within<T>(
    limit: Option<std::time::Duration>,
    what: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match limit {
        None => what.await,
        Some(limit) => tokio::time::timeout(limit, what)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the client said too little in time"))),
    }
}

/// Reads until it is known what is spoken. `None`: the client said nothing and hung up.
async fn first_bytes(door: &Door, mut stream: TcpStream, peer: SocketAddr) -> io::Result<Option<Begun>> {
    let mut connection =
        Connection { peer, local: stream.local_addr()?, entry_point: door.name.clone(), tls: None };
    let mut bytes = Vec::new();
    let mut expects_header = door.trusts_proxy(peer.ip());
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
        if !expects_header && is_known(&bytes) {
            return Ok(Some(Begun { stream: Prefixed { prefix: bytes, at: 0, inner: stream }, connection }));
        }
        if bytes.len() > MAX_UNKNOWN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no protocol that is spoken here"));
        }
        // Nothing is set aside for a client that says nothing.
        stream.readable().await?;
        bytes.reserve(FIRST_READ);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// True when the bytes tell TLS, HTTP/2 and HTTP/1 apart.
fn is_known(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (bytes.len() >= PREFACE.len() || !PREFACE.starts_with(bytes))
}

/// A TLS handshake: options by server name. `None`: the name's options are broken, or the client hung up.
async fn handshake(
    door: &Door,
    stream: Prefixed<TcpStream>,
) -> io::Result<Option<(TlsStream<Prefixed<TcpStream>>, TlsInfo, Arc<str>)>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let server_name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let tls = door.snapshots.load().tls.clone();
    let options: Arc<str> = tls.options_of(server_name.as_deref().unwrap_or("")).into();
    let Some(config) = tls.config_for(server_name.as_deref()) else {
        tracing::debug!(entry_point = %door.name, ?server_name, "TLS options are missing or broken");
        return Ok(None);
    };
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
    Ok(Some((stream, info, options)))
}

/// The name of a suite as Go and IANA write it.
fn go_name(suite: rustls::CipherSuite) -> &'static str {
    match suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or(""),
    }
}

async fn serve_http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    door: Arc<Door>,
    stream: S,
    connection: Connection,
    tls_options: Arc<str>,
    h2: bool,
    open: OpenConnection,
) -> io::Result<()> {
    let progress = Arc::new(Progress::default());
    let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
    let stream = TokioIo::new(Watched::new(stream, protocol, progress.clone(), door.limits, open));
    let peer = door.forwarded.peer(connection.peer.ip(), connection.tls.is_some());
    let link = Arc::new(Link {
        door: door.clone(),
        connection: Arc::new(connection),
        progress: progress.clone(),
        peer,
        tls_options,
        started: Instant::now(),
        requests: 0.into(),
        h2,
    });
    let service = HttpService::new(link);
    let outcome = if h2 {
        let connection = pin!(door.http2.serve_connection(stream, service));
        drive(&door, &progress, connection, |connection| connection.graceful_shutdown()).await
    } else {
        let connection = pin!(door.http1.serve_connection(stream, service).with_upgrades());
        drive(&door, &progress, connection, |connection| connection.graceful_shutdown()).await
    };
    outcome.map_err(io::Error::other)
}

/// Runs a connection, and has it leave in order when the door drains or the connection itself asks for it.
async fn drive<C: Future>(
    door: &Door,
    progress: &Progress,
    mut connection: Pin<&mut C>,
    leave: impl Fn(Pin<&mut C>),
) -> C::Output {
    let mut draining = pin!(door.draining.cancelled());
    let mut left = false;
    std::future::poll_fn(|cx| {
        if !left && draining.as_mut().poll(cx).is_ready() {
            left = true;
            leave(connection.as_mut());
        }
        loop {
            if let Poll::Ready(output) = connection.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            if left || !progress.is_leaving() {
                return Poll::Pending;
            }
            left = true;
            leave(connection.as_mut());
        }
    })
    .await
}

/// A stream of which some bytes were read before.
struct Prefixed<S> {
    prefix: Vec<u8>,
    at: usize,
    inner: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        }
        let rest = &this.prefix[this.at..];
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        this.at += length;
        if this.at == this.prefix.len() {
            (this.prefix, this.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
