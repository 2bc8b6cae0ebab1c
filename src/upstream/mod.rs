//! Sends one request to one server: connections, pools, timeouts, upgrades.
//!
//! A [`Transport`] has the connection options of servers, an [`Endpoint`] is one server with a transport and
//! its connections, and a [`Client`] sends requests of the gateway itself.

mod client;
mod connect;
mod fields;
mod finish;
mod http1;
mod lease;
mod peers;
mod pool;
mod repeat;
mod send;
#[cfg(test)]
mod tests;
mod transport;
mod upgrade;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::HeaderValue;
use parking_lot::Mutex;
use tidegate_core::{BuildError, Request, Response, UpstreamError};

pub use client::Client;
use connect::Target;
pub(crate) use connect::{Host, connect_tcp};
use http1::Http1;
use peers::Peers;
use pool::Pool;
pub(crate) use send::{Failure, Outgoing};
pub use transport::Transport;
pub(crate) use transport::{ServerNameError, server_name, tls_error};

/// One server with a transport. Owns its connections, in one pool per worker.
pub struct Endpoint {
    url: Arc<str>,
    address: Arc<str>,
    authority: HeaderValue,
    target: Target,
    transport: Arc<Transport>,
    pools: Box<[Mutex<Pool>]>,
    /// Set if the server has a host name.
    peers: Option<Box<Peers>>,
    in_flight: AtomicUsize,
}

impl Endpoint {
    /// Returns an endpoint for `http://host:port`, `https://host:port`, `h2c://host:port`, `unix:///path` or
    /// `unix+h2c:///path`, with a pool for each of `workers` workers.
    pub fn new(url: &str, transport: Arc<Transport>, workers: usize) -> Result<Arc<Self>, BuildError> {
        let target = Target::parse(url)?;
        let authority = HeaderValue::from_str(&target.authority)
            .map_err(|_| BuildError::new(format!("server URL `{url}`: invalid characters in the host")))?;
        let workers = workers.max(1);
        let named = target.socket.is_none() && matches!(target.host, Host::Name(_));
        Ok(Arc::new(Self {
            url: Arc::from(url),
            address: Arc::from(target.address.as_str()),
            authority,
            target,
            transport,
            pools: (0..workers).map(|_| Mutex::default()).collect(),
            peers: named.then(Box::default),
            in_flight: AtomicUsize::new(0),
        }))
    }

    /// Returns the configured URL.
    pub fn url(&self) -> &Arc<str> {
        &self.url
    }

    /// Returns true for a Unix socket.
    pub(crate) fn is_socket(&self) -> bool {
        self.target.socket.is_some()
    }

    /// Returns `host:port`, or the URL of a socket.
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Returns the `Host` header if that of the client is not passed on: the host, and the port unless it is
    /// the default.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Returns the path of the URL without a trailing slash; empty for none.
    pub fn path(&self) -> &str {
        &self.target.path
    }

    /// Returns the number of requests in flight: sent, with responses not read to the end. Open upgrades
    /// count.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Sends a request. Handles hop-by-hop headers and upgrades; other headers must be ready for the server.
    /// On error, nothing of the response has been consumed.
    ///
    /// Dropping the future cancels the request.
    pub async fn send(self: &Arc<Self>, request: Request) -> Result<Response, UpstreamError> {
        let Request { mut head, mut body, mut context } = request;
        let upgrade = &mut context.upgrade;
        let outgoing =
            Outgoing { head: &mut head, body: &mut body, upgrade, exchange: None, connect_limit: None };
        self.try_send(outgoing, None).await.map_err(|failure| failure.error)
    }

    /// Closes connections that have been idle for too long or exceed the limit. Those to addresses that the
    /// server's name has lost are closed after the next lookup.
    pub fn sweep(self: &Arc<Self>) {
        let (now, limit) = (Instant::now(), self.idle_limit());
        for pool in &self.pools {
            let expired = pool.lock().expired(now, limit);
            drop(expired);
        }
        if self.peers.is_some() && self.connections() > 0 {
            self.refresh();
        }
    }

    /// Returns the number of idle HTTP/1 and open HTTP/2 connections of all workers.
    pub fn connections(&self) -> usize {
        self.pools.iter().map(|pool| pool.lock().len()).sum()
    }

    /// Returns the maximum number of idle HTTP/1 connections per worker.
    fn idle_limit(&self) -> usize {
        self.transport.max_idle().div_ceil(self.pools.len())
    }

    /// Keeps an idle connection.
    fn keep(&self, worker: usize, connection: Box<Http1>) {
        if self.idle_limit() > 0 {
            self.pool(worker).lock().put(connection, self.transport.idle_timeout());
        }
    }

    fn pool(&self, worker: usize) -> &Mutex<Pool> {
        &self.pools[worker % self.pools.len()]
    }
}

/// Counts one request of an endpoint until dropped.
struct InFlight(Arc<Endpoint>);

impl InFlight {
    fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
