//! A client connection over TCP: PROXY header, TLS, version of HTTP, requests.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::server::Acceptor;
use tidegate_core::{BoxFuture, Connection, TlsInfo};
use tidegate_wire::proxy_protocol::{self, Parsed};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::entrypoint::clock::STALLED;
use crate::entrypoint::conn_limit::{OpenConnection, SILENCE};
use crate::entrypoint::http::chosen_options::ChosenOptions;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::protocol::{PREFACE, Protocol, TLS_HANDSHAKE};
use crate::entrypoint::http1::{self, Stream};
use crate::entrypoint::http2;
use crate::entrypoint::listener::Listener;
use crate::entrypoint::prefixed::Prefixed;
use crate::tls::TlsStore;

/// Bytes per read before the protocol is known.
const FIRST_READ: usize = 2048;
/// Maximum number of bytes before the protocol is known: the longest PROXY header, and a ClientHello.
const MAX_PREFIX: usize = 24 * 1024;

/// Serves a connection whose protocol is known. A separate future, as it may last long and needs no detection state.
pub(in crate::entrypoint) type Serving = BoxFuture<'static, io::Result<()>>;

/// A connection whose first bytes have been read.
pub(in crate::entrypoint) struct Peeked {
    pub(in crate::entrypoint) stream: Prefixed<TcpStream>,
    pub(in crate::entrypoint) connection: Connection,
}

/// Starts HTTP or HTTPS on a connection whose first bytes are known. Returns `None` if the connection is closed.
pub(in crate::entrypoint) async fn begin_http(
    listener: Arc<Listener>,
    peeked: Peeked,
    open: OpenConnection,
) -> io::Result<Option<Serving>> {
    let Peeked { stream, mut connection } = peeked;
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

/// Applies a timeout, or none if `limit` is `None`.
pub(in crate::entrypoint) async fn within<T>(
    limit: Option<Duration>,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match limit {
        None => future.await,
        Some(limit) => tokio::time::timeout(limit, future).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "timed out waiting for the client"))
        }),
    }
}

/// Reads until `decide` recognizes the bytes after the PROXY header. Returns `None` if the client disconnects before.
pub(in crate::entrypoint) async fn first_bytes<T>(
    listener: &Listener,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut decide: impl FnMut(&Connection, &[u8]) -> Option<T>,
) -> io::Result<Option<Box<(Peeked, T)>>> {
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
                Parsed::Malformed(error) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {error}")));
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
            return Ok(Some(Box::new((Peeked { stream, connection }, decision))));
        }
        if bytes.len() > MAX_PREFIX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown protocol"));
        }
        // A silent client gets no buffer.
        if bytes.is_empty() {
            tokio::select! {
                biased;
                readable = stream.readable() => readable?,
                () = evicted_silent(listener) => return Ok(None),
            }
        } else {
            tokio::select! {
                biased;
                readable = stream.readable() => readable?,
                () = evicted_stalled(listener) => return Ok(None),
            }
        }
        bytes.reserve(FIRST_READ);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// Resolves when a connection that has sent nothing is evicted, which is not before it had time to.
async fn evicted_silent(listener: &Listener) {
    tokio::time::sleep(SILENCE).await;
    listener.connections.evicted().await;
}

/// Resolves when a connection that stalled in its first bytes is evicted.
async fn evicted_stalled(listener: &Listener) {
    tokio::time::sleep(STALLED).await;
    listener.connections.evicted_when_full().await;
}

/// Returns true if the bytes suffice to distinguish TLS, HTTP/2 and HTTP/1.
pub(in crate::entrypoint) fn is_known(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (bytes.len() >= PREFACE.len() || !PREFACE.starts_with(bytes))
}

/// Performs a TLS handshake with the options of the server name. Returns `None` if these are missing or broken, or
/// after a handshake for an ACME challenge.
async fn handshake(
    listener: &Listener,
    stream: Prefixed<TcpStream>,
    local: IpAddr,
) -> io::Result<Option<(Box<TlsStream<Prefixed<TcpStream>>>, Box<TlsInfo>, ChosenOptions)>> {
    let slot = listener.begin_handshake();
    let _slot = slot.ok_or_else(|| io::Error::other("too many TLS handshakes in progress"))?;
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
        // The authority needs only the handshake.
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

/// Returns the name of a cipher suite as Go and IANA write it.
pub(in crate::entrypoint) fn go_name(suite: rustls::CipherSuite) -> &'static str {
    match suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or(""),
    }
}

fn serve_http<S: Stream>(
    listener: Arc<Listener>,
    stream: S,
    mut connection: Connection,
    tls_options: Option<ChosenOptions>,
    protocol: Protocol,
    open: OpenConnection,
) -> Serving {
    let peer = listener.forwarded.peer(connection.peer.ip(), connection.tls.is_some());
    connection.forwarded_for = listener.forwarded.appended(&peer);
    let tls = tls_options.as_ref().zip(connection.tls.as_ref());
    connection.identity = tls.and_then(|(options, info)| options.identity(info));
    let certificate = tls.and_then(|(options, info)| options.names(info));
    let check = tls.and_then(|(options, info)| options.check(info));
    let client = Arc::new(ClientConnection {
        certificate,
        check,
        listener,
        connection: Arc::new(connection),
        progress: Arc::default(),
        peer,
        tls_options,
        requests: 0.into(),
        protocol,
    });
    if protocol == Protocol::Http1 {
        return Box::pin(http1::connection::serve(client, stream, open));
    }
    Box::pin(http2::connection::serve(client, stream, open))
}
