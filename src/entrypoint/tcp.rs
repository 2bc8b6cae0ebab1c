//! Connections to entry points that have TCP routers: finds out who takes each, and gives it away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tidegate_core::Connection;
use tidegate_wire::client_hello::{Hello, MAX_HELLO};
use tidegate_wire::postgres;
use tidegate_wire::proxy_protocol::{self, Parsed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::conn_limit::OpenConnection;
use super::http1_2::connection::{Begun, Serving, begin_http, first_bytes, is_known, within};
use super::http1_2::linger::{self, Wire};
use super::listener::Listener;
use super::shutdown::Phase;

use crate::tcp::rule::ACME_PROTOCOL;
use crate::tcp::{self, Decision, Permit, Route, Routes, Security};
use crate::tls::TlsStore;

/// Read at once while it is not known who takes the connection.
const FIRST_READ: usize = 2048;

/// Detects who takes a connection. Returns `None` when the connection has ended.
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
        // As in Traefik, who may not send a header has to speak first: it must not be carried to the server.
        if refuses {
            match proxy_protocol::parse(bytes) {
                Parsed::Absent => {}
                Parsed::Partial => return None,
                _ => return Some(Decision::Nobody("it sent a PROXY header, and is not trusted to")),
            }
        }
        match routes.decide(connection.peer.ip(), bytes)? {
            Decision::Http if !is_known(bytes) => None,
            decision => Some(decision),
        }
    };
    let limit = listener.limits.body;
    let first = Box::pin(within(limit, first_bytes(&listener, stream, peer, decide)));
    let begun = tokio::select! {
        biased;
        begun = first => begun?,
        // Nobody waits for an answer yet.
        () = listener.shutdown.reached(Phase::ClosingIdle) => None,
    };
    let Some(begun) = begun else { return Ok(None) };
    let (begun, decision) = *begun;
    let streams = Streams { listener: &listener, routes: &routes, tls: &tls, limit };
    match decision {
        Decision::Http => begin_http(listener, begun, open).await,
        Decision::Nobody(why) => Err(refused(why)),
        Decision::Route(route, hello) => {
            streams.route(begun, route, hello.as_ref(), false, open).await.map(Some)
        }
        Decision::Postgres => streams.postgres(begun, open).await,
    }
}

/// What serving TCP needs.
struct Streams<'a> {
    listener: &'a Listener,
    routes: &'a Routes,
    tls: &'a TlsStore,
    limit: Option<Duration>,
}

impl Streams<'_> {
    /// Gives a connection to a route. `starttls`: its server has to be asked for TLS.
    async fn route(
        &self,
        begun: Begun,
        route: Arc<Route>,
        hello: Option<&Hello>,
        starttls: bool,
        open: OpenConnection,
    ) -> io::Result<Serving> {
        let Begun { stream, connection } = begun;
        let permits = route.admit(&connection).map_err(refused)?;
        let Security::Terminate(options) = &route.security else {
            let starttls = starttls && route.security == Security::Passthrough;
            return Ok(carry(route, stream, connection, starttls, (permits, open)));
        };
        let config = self.tls.config_of(options).ok_or_else(|| refused("its TLS options are broken"))?;
        let config = for_client(config, hello);
        let place = self.listener.begin_handshake();
        let place = place.ok_or_else(|| io::Error::other("too many TLS handshakes are under way"))?;
        let name = hello.map(|hello| hello.server_name.as_str()).filter(|name| !name.is_empty());
        let handshake = async {
            self.tls.demand(name).await;
            let local = connection.local.ip();
            let config = self.tls.for_route(config, (options, &route.domains), name, local);
            TlsAcceptor::from(config).accept(stream).await
        };
        let stream = Box::pin(within(Some(self.listener.handshake), handshake)).await?;
        drop(place);
        Ok(carry(route, stream, connection, false, (permits, open)))
    }

    /// Agrees to the TLS that a PostgreSQL client asks for, and gives the connection to the route of its server name.
    async fn postgres(&self, mut begun: Begun, open: OpenConnection) -> io::Result<Option<Serving>> {
        if begun.stream.prefix.len() != postgres::SSL_REQUEST.len() {
            // It would be taken for what comes encrypted.
            return Err(refused("it spoke before it was answered"));
        }
        let first = Box::pin(within(self.limit, self.postgres_hello(&mut begun)));
        match first.await? {
            Some(Decision::Route(route, hello)) => {
                self.route(begun, route, hello.as_ref(), true, open).await.map(Some)
            }
            Some(Decision::Nobody(why)) => Err(refused(why)),
            _ => Ok(None),
        }
    }

    /// Reads the ClientHello after the agreement. `None`: the client hung up.
    async fn postgres_hello(&self, begun: &mut Begun) -> io::Result<Option<Decision>> {
        let Begun { stream, connection } = begun;
        stream.inner.write_all(&[postgres::AGREED]).await?;
        stream.prefix.clear();
        loop {
            if let Some(decision) = self.routes.decide_postgres(connection.peer.ip(), &stream.prefix) {
                return Ok(Some(decision));
            }
            if stream.prefix.len() > MAX_HELLO {
                return Err(refused("its ClientHello is too long"));
            }
            stream.inner.readable().await?;
            stream.prefix.reserve(FIRST_READ);
            if stream.inner.read_buf(&mut stream.prefix).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The configuration for a client: when it offers only protocols that the options do not name, none is agreed on. The
/// default names are those of HTTP, and would shut out every other client that names its own. (Challenges for certificates
/// are not answered by accident.)
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

/// Carries a connection to its route's service and back. `held` for as long as it lasts.
fn carry<C: AsyncRead + AsyncWrite + Wire + Unpin + Send + 'static>(
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
