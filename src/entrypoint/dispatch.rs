//! Dispatches new connections: holds them until the first configuration is complete, then detects their protocol.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_core::{BoxFuture, Connection};
use tokio::net::TcpStream;

use super::conn_limit::OpenConnection;
use super::connection::{Serving, begin_http, first_bytes, is_known, within};
use super::hold::{Held, hold};
use super::listener::Listener;
use super::shutdown::Phase;
use super::tcp;

/// Serves a connection until it ends. Errors are only logged at debug level, as clients cause them.
pub(super) fn serve(
    listener: Arc<Listener>,
    stream: TcpStream,
    peer: SocketAddr,
    open: OpenConnection,
) -> impl Future<Output = ()> + Send {
    let name = listener.name.clone();
    let beginning: BoxFuture<'static, _> = Box::pin(begin(listener, stream, peer, open));
    async move {
        let outcome = match beginning.await {
            Ok(Some(serving)) => serving.await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::debug!(entry_point = %name, %peer, %error, "connection ended early");
        }
    }
}

/// Detects the protocol of a new connection. Returns `None` if the connection is closed.
async fn begin(
    listener: Arc<Listener>,
    stream: TcpStream,
    peer: SocketAddr,
    open: OpenConnection,
) -> io::Result<Option<Serving>> {
    let mut stream = stream;
    let mut early = false;
    if !listener.opening.is_open() {
        stream = match Box::pin(hold(&listener, stream, peer)).await? {
            Some(Held::Served(stream)) => stream,
            Some(Held::Early(stream)) => {
                early = true;
                stream
            }
            None => return Ok(None),
        };
    }
    if !early && let Some((routes, tls)) = listener.tcp_routes() {
        return Box::pin(tcp::begin(listener, routes, tls, stream, peer, open)).await;
    }
    let known = |_: &Connection, bytes: &[u8]| is_known(bytes).then_some(());
    let first = Box::pin(within(listener.limits.head, first_bytes(&listener, stream, peer, known)));
    let peeked = tokio::select! {
        biased;
        peeked = first => peeked?,
        // The client opened it in advance and has no pending request.
        () = listener.shutdown.reached(Phase::ClosingIdle) => None,
    };
    let Some(peeked) = peeked else { return Ok(None) };
    begin_http(listener, peeked.0, open).await
}
