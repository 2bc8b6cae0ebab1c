//! Transport to TCP servers: timeouts, TLS, the PROXY protocol, half-closed connections.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tidegate_clients::tls::{self, TlsOptions};
use tidegate_config::tcp::TcpServersTransport;
use tidegate_core::{BuildError, Connection};
use tidegate_wire::proxy_protocol::Version;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::copy::Socket;
use crate::upstream::{Host, ServerNameError, connect_tcp, server_name, tls_error};

/// Timeout for a TLS handshake with a server.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of keep-alive probes if `dialKeepAlive` is 0, as in Go.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A validated transport.
pub struct Transport {
    options: TcpServersTransport,
    tls: TlsOptions,
    proxy: Option<Version>,
    config: OnceLock<Result<Arc<ClientConfig>, BuildError>>,
}

impl Transport {
    /// Validates the options. `file` reads a file named in them and has it watched.
    pub fn build(
        options: &TcpServersTransport,
        file: &mut dyn FnMut(&str) -> Result<Vec<u8>, BuildError>,
    ) -> Result<Arc<Self>, BuildError> {
        let given = options.tls.clone().unwrap_or_default();
        if given.spiffe.is_some() {
            return Err(BuildError::new(
                "spiffe: SPIFFE identities are not supported; use `certificates`, `rootCAs` and `peerCertURI`",
            ));
        }
        let mut read = |text: &str| {
            if tls::is_pem(text) { Ok(text.as_bytes().to_vec()) } else { file(text) }
        };
        let roots = given.root_cas.iter().map(|ca| read(ca)).collect::<Result<Vec<_>, _>>()?;
        let mut identities = Vec::new();
        for files in &given.certificates {
            identities.push((read(&files.cert_file)?, read(&files.key_file)?));
        }
        let tls = TlsOptions {
            roots,
            identities,
            insecure: given.insecure_skip_verify,
            peer_cert_uri: given.peer_cert_uri.clone(),
            ..TlsOptions::default()
        };
        tls.check().map_err(tls_error)?;
        if !given.server_name.is_empty() {
            server_name(&given.server_name).map_err(|error| BuildError::new(error.to_string()))?;
        }
        let proxy = options.proxy_protocol.as_ref().map(|proxy| Version::try_from(proxy.version)).transpose();
        let proxy = proxy.map_err(|error| BuildError::new(error.to_string()))?;
        let transport = Self { options: options.clone(), tls, proxy, config: OnceLock::new() };
        // System roots are read lazily, on the first TLS connection.
        if transport.tls.insecure || !transport.tls.roots.is_empty() {
            transport.config()?;
        }
        Ok(Arc::new(transport))
    }

    /// Returns true if both are equivalent, including the content of their files.
    pub fn is_same(&self, other: &Self) -> bool {
        self.options == other.options && self.tls == other.tls
    }

    /// Returns how long one direction may continue after the other has ended; `None` for no limit.
    pub fn termination_delay(&self) -> Option<Duration> {
        self.options.termination_delay.limit()
    }

    /// Opens a connection. `client` is announced to the server if the PROXY protocol is enabled.
    pub(super) async fn connect(
        &self,
        host: &Host,
        port: u16,
        tls: bool,
        client: Option<&Connection>,
    ) -> io::Result<Stream> {
        let dialled = connect_tcp(host, port);
        let timeout = self.options.dial_timeout;
        // As in Go, a negative timeout fails immediately.
        let limit = if timeout.is_negative() { Some(Duration::ZERO) } else { timeout.limit() };
        let mut stream = match limit {
            None => dialled.await?.stream,
            Some(limit) => {
                let late = |_| late("no connection within dialTimeout");
                tokio::time::timeout(limit, dialled).await.map_err(late)??.stream
            }
        };
        self.prepare(&stream);
        if let Some(version) = self.proxy {
            stream.write_all(&version.header(client.map(|client| (client.peer, client.local)))).await?;
        }
        if !tls {
            return Ok(Stream::Plain(stream));
        }
        let config = self.config().map_err(|error| io::Error::other(error.to_string()))?;
        let name = self.server_name(host).map_err(io::Error::other)?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        let stream = tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| late("TLS handshake timed out"))?
            .map_err(|error| io::Error::new(error.kind(), format!("TLS handshake failed: {error}")))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn prepare(&self, stream: &TcpStream) {
        // The connection works without these options, so errors are ignored.
        let _ = stream.set_nodelay(true);
        let period = self.options.dial_keep_alive;
        if !period.is_negative() {
            let period = period.limit().unwrap_or(KEEP_ALIVE_INTERVAL);
            let keep_alive = TcpKeepalive::new().with_time(period).with_interval(period);
            let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
        }
    }

    /// Returns the server name to send and verify.
    fn server_name(&self, host: &Host) -> Result<ServerName<'static>, ServerNameError> {
        let wanted = self.options.tls.as_ref().map_or("", |tls| &tls.server_name);
        match host {
            _ if !wanted.is_empty() => server_name(wanted),
            Host::Address(ip) => Ok(ServerName::IpAddress((*ip).into())),
            Host::Name(name) => server_name(name),
        }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, BuildError> {
        self.config.get_or_init(|| self.tls.client_config().map(Arc::new).map_err(tls_error)).clone()
    }
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// A connection to a server, in plain text or TLS.
pub enum Stream {
    /// Plain text.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket for Stream {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
