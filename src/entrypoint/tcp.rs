//! Connections to entry points with TCP routers: detects who handles each, and hands it over.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tidegate_core::Connection;
use tidegate_wire::client_hello::{Hello, MAX_HELLO};
use tidegate_wire::postgres;
use tidegate_wire::proxy_protocol::{self, Parsed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::conn_limit::OpenConnection;
use super::connection::{Peeked, Serving, begin_http, first_bytes, is_known, within};
use super::linger::{self, Wire};
use super::listener::Listener;
use super::prefixed::Prefixed;
use super::shutdown::Phase;

use crate::tcp::rule::ACME_PROTOCOL;
use crate::tcp::{self, Decision, Permit, Route, Routes, Security};
use crate::tls::TlsStore;

/// Bytes per read before the route is known.
const FIRST_READ: usize = 2048;

/// Detects who handles a connection. Returns `None` if the connection is closed.
pub(super) async fn begin(
    listener: Arc<Listener>,
    routes: Arc<Routes>,
    tls: Arc<TlsStore>,
    stream: TcpStream,
    peer: SocketAddr,
    open: OpenConnection,
) -> io::Result<Option<Serving>> {
    let refuses = listener.refuses_proxy(peer.ip());
    let decide = |connection: &Connection, bytes: &[u8]| {
        // A header of an untrusted peer must not reach the server, so such a peer has to send first, as in Traefik.
        if refuses {
            match proxy_protocol::parse(bytes) {
                Parsed::Absent => {}
                Parsed::Partial => return None,
                _ => return Some(Decision::Nobody("PROXY header from an untrusted peer")),
            }
        }
        match routes.decide(connection.peer.ip(), bytes)? {
            Decision::Http if !is_known(bytes) => None,
            decision => Some(decision),
        }
    };
    let limit = listener.limits.body;
    let first = Box::pin(within(limit, first_bytes(&listener, stream, peer, decide)));
    let peeked = tokio::select! {
        biased;
        peeked = first => peeked?,
        // The client has no pending request.
        () = listener.shutdown.reached(Phase::ClosingIdle) => None,
    };
    let Some(peeked) = peeked else { return Ok(None) };
    let (peeked, decision) = *peeked;
    let streams = Streams { listener: &listener, routes: &routes, tls: &tls, limit };
    match decision {
        Decision::Http => begin_http(listener, peeked, open).await,
        Decision::Nobody(why) => Err(refused(why)),
        Decision::Route(route, hello) => {
            streams.route(peeked, route, hello.as_ref(), false, open).await.map(Some)
        }
        Decision::Postgres => streams.postgres(peeked, open).await,
    }
}

/// What TCP connections need to find and reach their route.
struct Streams<'a> {
    listener: &'a Listener,
    routes: &'a Routes,
    tls: &'a TlsStore,
    limit: Option<Duration>,
}

impl Streams<'_> {
    /// Hands a connection over to a route. `starttls` if the server must first be asked for TLS.
    async fn route(
        &self,
        peeked: Peeked,
        route: Arc<Route>,
        hello: Option<&Hello>,
        starttls: bool,
        open: OpenConnection,
    ) -> io::Result<Serving> {
        let Peeked { stream, connection } = peeked;
        let permits = route.admit(&connection).map_err(refused)?;
        let Security::Terminate(options) = &route.security else {
            let starttls = starttls && route.security == Security::Passthrough;
            return Ok(forward(route, stream, connection, starttls, (permits, open)));
        };
        let config =
            self.tls.config_of(options).ok_or_else(|| refused("TLS options are missing or broken"))?;
        let config = for_client(config, hello);
        let slot = self.listener.begin_handshake();
        let slot = slot.ok_or_else(|| io::Error::other("too many TLS handshakes in progress"))?;
        let name = hello.map(|hello| hello.server_name.as_str()).filter(|name| !name.is_empty());
        let handshake = async {
            self.tls.demand(name).await;
            let local = connection.local.ip();
            let config = self.tls.for_route(config, (options, &route.domains), name, local);
            let stream = TlsAcceptor::from(config).accept(stream).await?;
            self.check_certificate(options, stream.get_ref().1.peer_certificates()).await?;
            Ok(stream)
        };
        let stream = Box::pin(within(Some(self.listener.handshake), handshake)).await?;
        drop(slot);
        Ok(forward(route, stream, connection, false, (permits, open)))
    }

    /// Refuses a client whose certificate is revoked, if these options check that.
    async fn check_certificate(
        &self,
        options: &str,
        chain: Option<&[CertificateDer<'static>]>,
    ) -> io::Result<()> {
        let Some(chain) = chain else { return Ok(()) };
        match self.tls.checks_of(options) {
            None => Ok(()),
            Some(checks) => checks.verdict(chain).await.map_err(|refusal| refused(refusal.reason().name())),
        }
    }

    /// Accepts a PostgreSQL client's request for TLS, and hands the connection over to the route of its server name.
    async fn postgres(&self, mut peeked: Peeked, open: OpenConnection) -> io::Result<Option<Serving>> {
        if peeked.stream.prefix.len() != postgres::SSL_REQUEST.len() {
            // Plain bytes would be treated as if they had been encrypted.
            return Err(refused("data before the response to the request for TLS"));
        }
        let first = Box::pin(within(self.limit, self.postgres_hello(&mut peeked)));
        match first.await? {
            Some(Decision::Route(route, hello)) => {
                self.route(peeked, route, hello.as_ref(), true, open).await.map(Some)
            }
            Some(Decision::Nobody(why)) => Err(refused(why)),
            _ => Ok(None),
        }
    }

    /// Accepts TLS and reads the ClientHello. Returns `None` if the client disconnects.
    async fn postgres_hello(&self, peeked: &mut Peeked) -> io::Result<Option<Decision>> {
        let Peeked { stream, connection } = peeked;
        stream.inner.write_all(&[postgres::AGREED]).await?;
        stream.prefix.clear();
        loop {
            if let Some(decision) = self.routes.decide_postgres(connection.peer.ip(), &stream.prefix) {
                return Ok(Some(decision));
            }
            if stream.prefix.len() > MAX_HELLO {
                return Err(refused("ClientHello is too long"));
            }
            stream.inner.readable().await?;
            stream.prefix.reserve(FIRST_READ);
            if stream.inner.read_buf(&mut stream.prefix).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Returns the configuration for a client. If it offers only unknown protocols, none is negotiated: the defaults are
/// those of HTTP, and would refuse all other clients that use ALPN. ACME challenges keep the strict configuration.
fn for_client(config: Arc<ServerConfig>, hello: Option<&Hello>) -> Arc<ServerConfig> {
    let offered = hello.map_or(&[][..], |hello| &hello.protocols);
    let is_challenge = offered.iter().any(|one| one == ACME_PROTOCOL.as_bytes());
    if offered.is_empty() || is_challenge || offered.iter().any(|one| config.alpn_protocols.contains(one)) {
        return config;
    }
    let mut config = ServerConfig::clone(&config);
    config.alpn_protocols.clear();
    Arc::new(config)
}

impl tcp::Socket for Prefixed<TcpStream> {
    fn socket(&self) -> Option<&TcpStream> {
        self.prefix.is_empty().then_some(&self.inner)
    }
}

impl tcp::Socket for TlsStream<Prefixed<TcpStream>> {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// Forwards a connection to the service of its route. Keeps `held` until the connection ends.
fn forward<C: AsyncRead + AsyncWrite + Wire + tcp::Socket + Unpin + Send + 'static>(
    route: Arc<Route>,
    mut client: C,
    connection: Connection,
    starttls: bool,
    held: (Vec<Permit>, OpenConnection),
) -> Serving {
    Box::pin(async move {
        let (permits, _open) = held;
        let taken = tcp::connect(&route, &connection, starttls).await?;
        let ended = tcp::forward(&route, &mut client, taken, &connection).await;
        drop(permits);
        linger::close(client).await;
        ended
    })
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}
