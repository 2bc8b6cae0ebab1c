//! Opens connections to servers: name resolution, TCP, TLS.

use std::io;
use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tidegate_clients::dial::{self, Answer, Dialled};
use tidegate_core::{BuildError, ConnectCause, Opened, UpstreamError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::Transport;
use super::window::Window;

/// Timeout for a TLS handshake (Traefik's fixed `TLSHandshakeTimeout`).
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time before TCP keep-alive probes, and between probes.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The schemes of servers.
const SCHEMES: &str = "http, https, h2c, unix, unix+h2c";
/// Maximum length of a socket path in bytes (`sun_path` on Linux without the terminator).
const MAX_SOCKET_PATH: usize = 107;

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Plain text, HTTP/1.
    Http,
    /// TLS; ALPN decides between HTTP/1 and HTTP/2.
    Https,
    /// Plain text, HTTP/2 from the first byte.
    H2c,
}

/// Host part of a server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// An IP address.
    Address(IpAddr),
    /// A name.
    Name(String),
}

/// A parsed server URL.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    /// The path of the Unix socket, if the server is one.
    pub(super) socket: Option<Box<Path>>,
    pub(super) host: Host,
    pub(super) port: u16,
    /// `host:port`, for messages and records.
    pub(super) address: String,
    /// The `Host` header if that of the client is not passed on.
    pub(super) authority: String,
    /// Escaped path of the URL, without a trailing slash.
    pub(super) path: String,
}

/// Why a socket path is invalid.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum SocketPathError {
    /// It is not absolute.
    #[error("expected an absolute path of a socket, such as `unix:///run/app.sock`")]
    Relative,
    /// It is too long for the system.
    #[error("the path of a socket is too long: expected at most {MAX_SOCKET_PATH} bytes")]
    TooLong,
}

impl Target {
    /// Parses a URL.
    pub(super) fn parse(text: &str) -> Result<Self, BuildError> {
        let bad = |why: &str| BuildError::new(format!("server URL `{text}`: {why}"));
        for (prefix, scheme) in [("unix://", Scheme::Http), ("unix+h2c://", Scheme::H2c)] {
            if let Some(path) = text.strip_prefix(prefix) {
                return Self::socket(path, scheme).map_err(|error| bad(&error.to_string()));
            }
        }
        let url = url::Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => {
                bad("expected a scheme and a host, such as `http://10.0.0.1:8080`")
            }
            url::ParseError::IdnaError | url::ParseError::InvalidDomainCharacter => {
                bad("invalid characters in the host")
            }
            other => bad(&other.to_string()),
        })?;
        let (scheme, default_port) = match url.scheme() {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            "h2c" => (Scheme::H2c, 80),
            other => return Err(bad(&format!("unknown scheme `{other}`: expected one of {SCHEMES}"))),
        };
        let name = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| bad("no host"))?;
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let host = match bare.parse() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(bare.to_owned()),
        };
        let port = url.port().unwrap_or(default_port);
        let authority = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        let path = url.path().trim_end_matches('/').to_owned();
        Ok(Self { scheme, socket: None, host, port, address: format!("{name}:{port}"), authority, path })
    }

    /// Returns the target for a Unix socket, whose host is `localhost`.
    fn socket(path: &str, scheme: Scheme) -> Result<Self, SocketPathError> {
        if !path.starts_with('/') {
            return Err(SocketPathError::Relative);
        }
        if path.len() > MAX_SOCKET_PATH || path.contains('\0') {
            return Err(SocketPathError::TooLong);
        }
        Ok(Self {
            scheme,
            socket: Some(Path::new(path).into()),
            host: Host::Name("localhost".into()),
            port: 80,
            address: format!("unix://{path}"),
            authority: "localhost".into(),
            path: String::new(),
        })
    }
}

/// A new connection.
pub(super) struct Connected {
    pub(super) stream: Stream,
    /// Whether it uses HTTP/2.
    pub(super) http2: bool,
    /// The peer address and the DNS answer with it, if the server has a host name.
    pub(super) named: Option<(IpAddr, Answer)>,
    pub(super) opened: Opened,
}

/// Connects to a server. `http1` excludes HTTP/2, for upgrades.
pub(super) async fn connect(
    target: &Target,
    transport: &Transport,
    http1: bool,
) -> Result<Connected, UpstreamError> {
    let http2 = target.scheme == Scheme::H2c && !http1;
    let opened = Opened { began: Instant::now(), handshake: None };
    if let Some(path) = &target.socket {
        let stream = reach(target, transport, UnixStream::connect(path)).await?;
        return Ok(Connected { stream: Kind::Unix(stream).into(), http2, named: None, opened });
    }
    let Dialled { stream: tcp, peer, answer } =
        reach(target, transport, connect_tcp(&target.host, target.port)).await?;
    let named = answer.map(|answer| (peer, answer));
    prepare(&tcp);
    if target.scheme != Scheme::Https {
        return Ok(Connected { stream: Kind::Plain(tcp).into(), http2, named, opened });
    }
    let connector = transport.tls_connector(http1).map_err(|e| not_secured(target, e.to_string()))?;
    let name = transport.server_name(&target.host).map_err(|e| not_secured(target, e.to_string()))?;
    let dialled = Instant::now();
    let stream = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, connector.connect(name, tcp))
        .await
        .map_err(|_| UpstreamError::ConnectTimeout { server: target.address.clone() })?
        .map_err(|e| handshake_error(target, &e))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let opened = Opened { handshake: Some(dialled.elapsed()), ..opened };
    Ok(Connected { stream: Kind::Tls(Box::new(stream)).into(), http2, named, opened })
}

/// Waits for a connection with the timeout of the transport.
async fn reach<T>(
    target: &Target,
    transport: &Transport,
    dialled: impl Future<Output = io::Result<T>>,
) -> Result<T, UpstreamError> {
    let server = || target.address.clone();
    match within(transport.dial_timeout(), dialled).await {
        None => Err(UpstreamError::ConnectTimeout { server: server() }),
        Some(Err(error)) => Err(UpstreamError::Connect {
            server: server(),
            reason: error.to_string(),
            cause: cause_of(target, &error),
        }),
        Some(Ok(stream)) => Ok(stream),
    }
}

/// Opens a connection to a host.
pub(crate) async fn connect_tcp(host: &Host, port: u16) -> io::Result<Dialled> {
    match host {
        Host::Address(address) => dial::connect_address(*address, port).await,
        Host::Name(name) => dial::connect_name(name, port).await,
    }
}

fn prepare(tcp: &TcpStream) {
    // The connection works without these options, so errors are ignored.
    let _ = tcp.set_nodelay(true);
    let keep_alive = socket2::TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&keep_alive);
}

/// Waits for at most `limit`; `None` means no limit.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

/// Returns what failed while connecting.
fn cause_of(target: &Target, error: &io::Error) -> ConnectCause {
    let is_lookup = error.get_ref().is_some_and(|inner| inner.is::<dial::LookupError>());
    match ConnectCause::from(error) {
        _ if is_lookup => ConnectCause::Name,
        // The path of a socket is not a name that is looked up.
        ConnectCause::Name if target.socket.is_some() => ConnectCause::Other,
        cause => cause,
    }
}

/// Returns the error for a handshake that cannot begin.
fn not_secured(target: &Target, reason: String) -> UpstreamError {
    UpstreamError::Tls { server: target.address.clone(), reason, is_certificate: false }
}

fn handshake_error(target: &Target, error: &io::Error) -> UpstreamError {
    let server = target.address.clone();
    let reason = error.to_string();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        // As in Go, a closed connection or an alert is a network error, a rejected certificate is not.
        None => {
            UpstreamError::Connect { server, reason: format!("TLS: {reason}"), cause: ConnectCause::Other }
        }
        Some(rustls::Error::AlertReceived(_)) => {
            UpstreamError::Connect { server, reason: format!("TLS: {reason}"), cause: ConnectCause::Alert }
        }
        Some(error) => {
            let is_certificate = matches!(error, rustls::Error::InvalidCertificate(_));
            UpstreamError::Tls { server, reason, is_certificate }
        }
    }
}

/// A connection, in plain text or TLS.
pub(super) struct Stream {
    kind: Kind,
    window: Window,
    /// Whether a write failed because the server closed the connection. Its last data may still be unread.
    failed: bool,
    on_failure: OnFailure,
}

impl Stream {
    /// Returns the size of the next read in bytes.
    pub(super) fn read_size(&self) -> usize {
        self.window.limit()
    }

    /// Returns true if the peer has neither closed an idle stream nor sent anything; `None` for TLS, which has messages
    /// of its own. Costs no system call as a rule, and no waker is registered, which takes a lock.
    pub(super) fn is_quiet(&self) -> Option<bool> {
        let mut byte = [0];
        let read = match &self.kind {
            Kind::Plain(stream) => stream.try_read(&mut byte),
            Kind::Unix(stream) => stream.try_read(&mut byte),
            Kind::Tls(_) => return None,
        };
        Some(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
    }

    /// Returns true for TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }
}

enum Kind {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<Kind> for Stream {
    fn from(kind: Kind) -> Self {
        Self { kind, window: Window::default(), failed: false, on_failure: OnFailure::Hold }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { kind, window, .. } = self.get_mut();
        let start = buffer.filled().len();
        let limit = window.limit();
        let polled = match kind {
            Kind::Plain(stream) => poll_limited(stream, limit, cx, buffer),
            Kind::Unix(stream) => poll_limited(stream, limit, cx, buffer),
            Kind::Tls(stream) => poll_limited(stream, limit, cx, buffer),
        };
        if polled.is_ready() {
            window.record_read(buffer.filled().len() - start);
        }
        polled
    }
}

/// Reads at most `limit` bytes.
fn poll_limited<S: AsyncRead + Unpin>(
    stream: &mut S,
    limit: usize,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if buffer.remaining() <= limit {
        return Pin::new(stream).poll_read(cx, buffer);
    }
    Pin::new(&mut stream.take(limit as u64)).poll_read(cx, buffer)
}

/// How to handle writes after the server has closed the connection.
///
/// A server that responds and closes before the request is complete resets the connection, but its response
/// may already be received. So reading continues until the end of the response or the same error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    /// Writes stay pending, so that no more of the request is read.
    Hold,
    /// Writes seem to succeed, as HTTP/2 does not read while it has to write.
    Discard,
    /// Writes fail: both directions of a tunnel end independently.
    Report,
}

impl Stream {
    /// Returns the result of a write according to `on_failure`. `length` is the result of a discarded write.
    #[inline]
    fn written<T>(
        &mut self,
        cx: &Context<'_>,
        polled: Poll<io::Result<T>>,
        length: impl FnOnce() -> T,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Err(error)) => self.not_written(cx, error, length()),
            polled => polled,
        }
    }

    #[cold]
    fn not_written<T>(&mut self, cx: &Context<'_>, error: io::Error, length: T) -> Poll<io::Result<T>> {
        if self.on_failure == OnFailure::Report
            || !matches!(error.kind(), BrokenPipe | ConnectionReset | ConnectionAborted)
        {
            return Poll::Ready(Err(error));
        }
        self.failed = true;
        // The reader may be waiting.
        cx.waker().wake_by_ref();
        self.after_failure(length)
    }

    fn after_failure<T>(&self, length: T) -> Poll<io::Result<T>> {
        if self.on_failure == OnFailure::Discard { Poll::Ready(Ok(length)) } else { Poll::Pending }
    }

    /// Prepares the stream for a tunnel.
    pub(super) fn for_tunnel(mut self) -> Self {
        self.on_failure = OnFailure::Report;
        self
    }

    /// Prepares the stream for HTTP/2.
    pub(super) fn for_http2(mut self) -> Self {
        self.on_failure = OnFailure::Discard;
        self
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.failed {
            return this.after_failure(data.len());
        }
        let polled = match &mut this.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Kind::Unix(stream) => Pin::new(stream).poll_write(cx, data),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        };
        this.written(cx, polled, || data.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.failed {
            return this.after_failure(());
        }
        let polled = match &mut this.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.written(cx, polled, || ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = || slices.iter().map(|slice| slice.len()).sum();
        if this.failed {
            return this.after_failure(length());
        }
        let polled = match &mut this.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Kind::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        this.written(cx, polled, length)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(stream) => stream.is_write_vectored(),
            Kind::Unix(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed() {
        let target = Target::parse("http://10.0.0.1:8080/base/").unwrap();
        assert_eq!((target.scheme, target.port), (Scheme::Http, 8080));
        assert_eq!(target.host, Host::Address("10.0.0.1".parse().unwrap()));
        assert_eq!((target.authority.as_str(), target.path.as_str()), ("10.0.0.1:8080", "/base"));
        let target = Target::parse("https://[::1]").unwrap();
        assert_eq!((target.address.as_str(), target.authority.as_str()), ("[::1]:443", "[::1]"));
        let target = Target::parse("h2c://grpc.internal").unwrap();
        assert_eq!(target.host, Host::Name("grpc.internal".into()));
        assert_eq!((target.address.as_str(), target.path.as_str()), ("grpc.internal:80", ""));
    }

    #[test]
    fn sockets_are_paths() {
        let target = Target::parse("unix:///run/my app.sock").unwrap();
        assert_eq!(target.socket.as_deref(), Some(Path::new("/run/my app.sock")));
        assert_eq!((target.scheme, target.authority.as_str()), (Scheme::Http, "localhost"));
        assert_eq!(Target::parse("unix+h2c:///run/a.sock").unwrap().scheme, Scheme::H2c);
        for bad in ["unix://run/a.sock", "unix://", &format!("unix:///{}", "a".repeat(MAX_SOCKET_PATH))] {
            assert!(Target::parse(bad).unwrap_err().to_string().contains("path of a socket"), "{bad}");
        }
    }

    #[test]
    fn invalid_urls_are_reported() {
        for text in ["ftp://x", "x", "http://", "unix:/run/x.sock", ""] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
