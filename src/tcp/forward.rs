//! Carries one client's connection to a server of its route.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::Connection;
use tokio::io::{AsyncRead, AsyncWrite};

use super::copy;
use super::postgres;
use super::route::Route;
use super::server::Server;
use super::transport::Stream;

/// Servers that are tried for one connection.
const TRIES: usize = 3;
/// Time for a PostgreSQL server to agree to TLS.
const AGREEMENT: Duration = Duration::from_secs(10);

/// A server that takes a client's connection.
pub struct Taken {
    server: Arc<Server>,
    stream: Stream,
}

/// Connects to a server of a route. `starttls`: the server must agree to PostgreSQL's TLS first, as the client was told
/// already.
pub async fn connect(route: &Route, connection: &Connection, starttls: bool) -> io::Result<Taken> {
    let (server, mut stream) = Box::pin(choose(route, connection)).await?;
    if starttls {
        tokio::time::timeout(AGREEMENT, postgres::ask(&mut stream)).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "the server does not agree to TLS in time")
        })??;
    }
    Ok(Taken { server, stream })
}

/// Carries bytes both ways until both sides have finished.
pub async fn forward<C: AsyncRead + AsyncWrite + Unpin>(
    route: &Route,
    client: &mut C,
    taken: Taken,
    connection: &Connection,
) -> io::Result<()> {
    let Taken { server, mut stream } = taken;
    tracing::debug!(router = %route.name, server = server.address(), peer = %connection.peer, "TCP connection begins");
    let delay = server.transport().termination_delay();
    let (carried, ended) = Box::pin(copy::both_ways(client, &mut stream, delay)).await;
    tracing::debug!(
        router = %route.name,
        server = server.address(),
        peer = %connection.peer,
        sent = carried.sent,
        received = carried.received,
        "TCP connection ends"
    );
    ended
}

/// Connects to the server whose turn it is, or to the next when it cannot be reached.
async fn choose(route: &Route, connection: &Connection) -> io::Result<(Arc<Server>, Stream)> {
    let Some(service) = &route.service else {
        return Err(io::Error::other(format!("router {} is broken", route.name)));
    };
    let mut tried: Vec<Arc<Server>> = Vec::new();
    let mut failure = None;
    while tried.len() < TRIES {
        let Some(server) = service.choose() else { break };
        if tried.iter().any(|other| Arc::ptr_eq(other, &server)) {
            break;
        }
        match server.connect(connection).await {
            Ok(stream) => return Ok((server, stream)),
            Err(error) => {
                tracing::warn!(router = %route.name, server = server.address(), %error, "cannot connect to a TCP server");
                failure = Some(error);
            }
        }
        tried.push(server);
    }
    Err(failure.unwrap_or_else(|| io::Error::other(format!("router {}: no server can be used", route.name))))
}
