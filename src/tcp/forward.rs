//! Forwards the connection of a client to a server of its route.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::Connection;
use tidegate_core::traffic::OpenTraffic;
use tokio::io::{AsyncRead, AsyncWrite};

use super::copy::{self, Socket};
use super::postgres;
use super::route::Route;
use super::server::Server;
use super::service::Chosen;
use super::transport::Stream;
use crate::worker;

/// Maximum number of servers tried for one connection.
const MAX_SERVERS: usize = 3;
/// Timeout for a PostgreSQL server to accept TLS.
const STARTTLS_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the chosen server.
pub struct ServerConnection {
    chosen: Chosen,
    stream: Stream,
}

/// Connects to a server of a route. With `starttls`, the server must accept PostgreSQL's TLS request first,
/// as the client already has the answer.
pub async fn connect(route: &Route, connection: &Connection, starttls: bool) -> io::Result<ServerConnection> {
    let (chosen, mut stream) = Box::pin(connect_to_server(route, connection)).await?;
    if starttls {
        tokio::time::timeout(STARTTLS_TIMEOUT, postgres::request_tls(&mut stream)).await.map_err(
            |_| io::Error::new(io::ErrorKind::TimedOut, "timed out waiting for the server to accept TLS"),
        )??;
    }
    Ok(ServerConnection { chosen, stream })
}

/// Copies bytes in both directions until both sides have finished.
pub async fn forward<C: AsyncRead + AsyncWrite + Socket + Unpin>(
    route: &Route,
    client: &mut C,
    connected: ServerConnection,
    connection: &Connection,
) -> io::Result<()> {
    let ServerConnection { chosen, mut stream } = connected;
    let Chosen { server, traffic, server_traffic } = chosen;
    let counted = OpenTraffic::open(worker::index(), [route.traffic.clone(), traffic, server_traffic]);
    tracing::debug!(router = %route.name, server = server.address(), peer = %connection.peer, "TCP connection opened");
    let delay = server.transport().termination_delay();
    let (carried, ended) = Box::pin(copy::both_ways(client, &mut stream, delay, |carried| {
        counted.carry(carried.sent, carried.received);
    }))
    .await;
    tracing::debug!(
        router = %route.name,
        server = server.address(),
        peer = %connection.peer,
        sent = carried.sent,
        received = carried.received,
        "TCP connection closed"
    );
    ended
}

/// Connects to the next server, or to another one if it is unreachable.
async fn connect_to_server(route: &Route, connection: &Connection) -> io::Result<(Chosen, Stream)> {
    let Some(service) = &route.service else {
        return Err(io::Error::other(format!("router {} is broken", route.name)));
    };
    let mut tried: Vec<Arc<Server>> = Vec::new();
    let mut failure = None;
    while tried.len() < MAX_SERVERS {
        let Some(chosen) = service.choose() else { break };
        let server = &chosen.server;
        if tried.iter().any(|other| Arc::ptr_eq(other, server)) {
            break;
        }
        match server.connect(connection).await {
            Ok(stream) => return Ok((chosen, stream)),
            Err(error) => {
                tracing::warn!(router = %route.name, server = server.address(), %error, "cannot connect to a TCP server");
                failure = Some(error);
            }
        }
        tried.push(chosen.server);
    }
    Err(failure.unwrap_or_else(|| io::Error::other(format!("router {}: no available server", route.name))))
}
