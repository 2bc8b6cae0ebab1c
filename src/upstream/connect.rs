//! Opens a connection to a server: name, TCP, TLS.

use std::io;
use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_clients::dial::{self, Answer, Dialled};
use tidegate_core::{BuildError, UpstreamError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::Transport;
use super::interim::Tap;
use super::window::Window;

/// Time for a TLS handshake (Traefik's fixed `TLSHandshakeTimeout`).
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// Silence before TCP itself asks whether the server is there, and between two such questions.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The schemes of servers.
const SCHEMES: &str = "http, https, h2c, unix, unix+h2c";
/// Longest path of a socket, in bytes (`sun_path` of Linux has one more, for its end).
const LONGEST_SOCKET: usize = 107;

/// How a server is spoken to.
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
    /// An address, which is never resolved.
    Address(IpAddr),
    /// A name.
    Name(String),
}

/// A server's URL, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    /// The socket in the file system, of a server that is not a host.
    pub(super) socket: Option<Box<Path>>,
    pub(super) host: Host,
    pub(super) port: u16,
    /// `host:port`, for messages and records.
    pub(super) address: String,
    /// What the `Host` header says when the client's is not passed on.
    pub(super) authority: String,
    /// Path of the URL, escaped, without a slash at its end.
    pub(super) path: String,
}

/// Why a path cannot be the one of a server's socket.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum SocketPathError {
    /// It is not absolute.
    #[error("expected the path of a socket from the root, as in `unix:///run/app.sock`")]
    Relative,
    /// The system does not take it.
    #[error("the path of a socket has at most {LONGEST_SOCKET} bytes")]
    TooLong,
}

impl Target {
    /// Takes a URL apart.
    pub(super) fn parse(text: &str) -> Result<Self, BuildError> {
        let bad = |why: &str| BuildError::new(format!("server URL `{text}`: {why}"));
        for (prefix, scheme) in [("unix://", Scheme::Http), ("unix+h2c://", Scheme::H2c)] {
            if let Some(path) = text.strip_prefix(prefix) {
                return Self::socket(path, scheme).map_err(|error| bad(&error.to_string()));
            }
        }
        let url = url::Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => {
                bad("expected a scheme and a host, like `http://10.0.0.1:8080`")
            }
            url::ParseError::IdnaError | url::ParseError::InvalidDomainCharacter => {
                bad("the host has characters that no host name has")
            }
            other => bad(&other.to_string()),
        })?;
        let (scheme, default_port) = match url.scheme() {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            "h2c" => (Scheme::H2c, 80),
            other => return Err(bad(&format!("scheme `{other}` is none of {SCHEMES}"))),
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

    /// A socket in the file system. What is spoken on it names no host but `localhost`.
    fn socket(path: &str, scheme: Scheme) -> Result<Self, SocketPathError> {
        if !path.starts_with('/') {
            return Err(SocketPathError::Relative);
        }
        if path.len() > LONGEST_SOCKET || path.contains('\0') {
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
    /// True when HTTP/2 is spoken on it.
    pub(super) http2: bool,
    /// The address at its other end and the answer that names it, when the server is a name.
    pub(super) named: Option<(IpAddr, Answer)>,
}

/// Connects to a server. `http1` rules HTTP/2 out (for upgrades).
pub(super) async fn connect(
    target: &Target,
    transport: &Transport,
    http1: bool,
) -> Result<Connected, UpstreamError> {
    let http2 = target.scheme == Scheme::H2c && !http1;
    if let Some(path) = &target.socket {
        let stream = reach(target, transport, UnixStream::connect(path)).await?;
        return Ok(Connected { stream: Kind::Unix(stream).into(), http2, named: None });
    }
    let Dialled { stream: tcp, peer, answer } =
        reach(target, transport, connect_tcp(&target.host, target.port)).await?;
    let named = answer.map(|answer| (peer, answer));
    prepare(&tcp);
    if target.scheme != Scheme::Https {
        return Ok(Connected { stream: Kind::Plain(tcp).into(), http2, named });
    }
    let connector = transport
        .tls_connector(http1)
        .map_err(|e| UpstreamError::Tls { server: target.address.clone(), reason: e.to_string() })?;
    let name = transport
        .server_name(&target.host)
        .map_err(|e| UpstreamError::Tls { server: target.address.clone(), reason: e.to_string() })?;
    let stream = tokio::time::timeout(TLS_HANDSHAKE, connector.connect(name, tcp))
        .await
        .map_err(|_| UpstreamError::ConnectTimeout { server: target.address.clone() })?
        .map_err(|e| handshake_error(target, &e))?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Connected { stream: Kind::Tls(Box::new(stream)).into(), http2, named })
}

/// Waits for a connection, as long as the transport allows.
async fn reach<T>(
    target: &Target,
    transport: &Transport,
    dialled: impl Future<Output = io::Result<T>>,
) -> Result<T, UpstreamError> {
    let server = || target.address.clone();
    match within(transport.dial_timeout(), dialled).await {
        None => Err(UpstreamError::ConnectTimeout { server: server() }),
        Some(Err(error)) => Err(UpstreamError::Connect { server: server(), reason: error.to_string() }),
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
    // Neither option decides whether the connection works, so a refusal is of no interest.
    let _ = tcp.set_nodelay(true);
    let keep_alive = socket2::TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&keep_alive);
}

/// Waits at most `limit`; `None`: as long as it takes.
async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
    }
}

fn handshake_error(target: &Target, error: &io::Error) -> UpstreamError {
    let server = target.address.clone();
    let reason = error.to_string();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        // A server that hangs up or sends an alert is a network failure to Go, a certificate we refuse is not.
        None | Some(rustls::Error::AlertReceived(_)) => {
            UpstreamError::Connect { server, reason: format!("TLS: {reason}") }
        }
        Some(_) => UpstreamError::Tls { server, reason },
    }
}

/// A connection, in plain text or TLS.
pub(super) struct Stream {
    kind: Kind,
    window: Window,
    tap: Arc<Tap>,
    /// What there is of an interim answer that is not whole yet.
    kept: Vec<u8>,
    /// The server has closed the connection under a write. What it sent before may still be unread.
    failed: bool,
    on_failure: OnFailure,
}

impl Stream {
    /// Sees the interim answers that come.
    pub(super) fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }
}

enum Kind {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<Kind> for Stream {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            window: Window::default(),
            tap: Arc::default(),
            kept: Vec::new(),
            failed: false,
            on_failure: OnFailure::Hold,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { kind, window, tap, kept, .. } = self.get_mut();
        let start = buffer.filled().len();
        let limit = window.limit() as u64;
        let polled = match kind {
            Kind::Plain(stream) => Pin::new(&mut stream.take(limit)).poll_read(cx, buffer),
            Kind::Unix(stream) => Pin::new(&mut stream.take(limit)).poll_read(cx, buffer),
            Kind::Tls(stream) => Pin::new(&mut stream.take(limit)).poll_read(cx, buffer),
        };
        if polled.is_ready() {
            window.note(buffer.filled().len() - start);
            if tap.is_armed() {
                tap.look(kept, &buffer.filled()[start..]);
            }
        }
        match polled {
            // A server that closes with bytes of the request unread cannot send FIN: the reset is the end of its answer.
            Poll::Ready(Err(error))
                if error.kind() == ConnectionReset && tap.is_sending() && !matches!(kind, Kind::Tls(_)) =>
            {
                Poll::Ready(Ok(()))
            }
            polled => polled,
        }
    }
}

/// What becomes of writes to a server that has closed the connection.
///
/// A server that answers and closes before the request is complete resets the connection, and its answer may be here
/// already: reading has to go on, and ends with the answer or with the same failure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    /// They stay pending, so that no more is taken of the request.
    Hold,
    /// They seem to succeed: HTTP/2 reads nothing while it has to write.
    Discard,
    /// They fail at once: both directions of a tunnel end independently.
    Report,
}

impl Stream {
    /// The result of a write after `on_failure`. `length`: what a discarded write has taken.
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
        // The last read may have found nothing.
        cx.waker().wake_by_ref();
        self.after_failure(length)
    }

    fn after_failure<T>(&self, length: T) -> Poll<io::Result<T>> {
        if self.on_failure == OnFailure::Discard { Poll::Ready(Ok(length)) } else { Poll::Pending }
    }

    /// This stream for a tunnel.
    pub(super) fn for_tunnel(mut self) -> Self {
        self.on_failure = OnFailure::Report;
        self
    }

    /// This stream for HTTP/2.
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
    fn urls_are_taken_apart() {
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
        for bad in ["unix://run/a.sock", "unix://", &format!("unix:///{}", "a".repeat(LONGEST_SOCKET))] {
            assert!(Target::parse(bad).unwrap_err().to_string().contains("path of a socket"), "{bad}");
        }
    }

    #[test]
    fn a_bad_url_is_named() {
        for text in ["ftp://x", "x", "http://", "unix:/run/x.sock", ""] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
