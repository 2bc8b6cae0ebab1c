//! The open connections of one endpoint on one worker.
//!
//! Idle HTTP/1 connections are a stack: the most recently used one is reused first, so that the others can
//! expire. HTTP/2 connections are shared up to their limit of streams.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use tidegate_core::{Body, UpstreamError};

use super::http1::Http1;

/// Held while opening a connection that several requests will share; has the last failure and its time.
pub(super) type Opening = Arc<tokio::sync::Mutex<Option<(Instant, UpstreamError)>>>;

/// The open connections of one endpoint on one worker.
#[derive(Default)]
pub(super) struct Pool {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Held while opening an HTTP/2 connection, so that a burst does not open one per request.
    pub(super) opening: Opening,
    /// Whether the server chose HTTP/1 on its last connection, so that requests do not wait for each other.
    pub(super) http1: bool,
    /// The addresses to keep connections to; `None` for any.
    addresses: Option<Arc<[IpAddr]>>,
}

/// An idle HTTP/1 connection.
struct Idle {
    connection: Box<Http1>,
    expires: Option<Instant>,
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<Body>,
    peer: Option<IpAddr>,
    pub(super) streams: Arc<Streams>,
    expires: Option<Instant>,
}

/// The streams of an HTTP/2 connection.
pub(super) struct Streams {
    /// Number of open streams.
    pub(super) open: AtomicUsize,
    /// Maximum number of streams allowed by the server.
    pub(super) limit: AtomicUsize,
}

impl Shared {
    pub(super) fn new(
        sender: http2::SendRequest<Body>,
        peer: Option<IpAddr>,
        streams: Arc<Streams>,
        idle: Duration,
    ) -> Self {
        Self { sender, peer, streams, expires: expiry(idle) }
    }
}

impl Pool {
    /// Takes an idle HTTP/1 connection that has not expired by `now`.
    pub(super) fn take(&mut self, now: Instant) -> Option<Box<Http1>> {
        while let Some(Idle { mut connection, expires }) = self.idle.pop() {
            if expires.is_none_or(|at| at > now) && connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps an HTTP/1 connection for the next request.
    ///
    /// The limit may be exceeded until [`Self::expired`] removes the surplus: under load, connections are
    /// idle only for a moment, and closing and reopening them would cost more than the requests.
    ///
    /// Drops the connection if the server's name has lost its address.
    pub(super) fn put(&mut self, connection: Box<Http1>, idle: Duration) {
        if !self.keeps(connection.peer) {
            return;
        }
        self.idle.push(Idle { connection, expires: expiry(idle) });
    }

    /// Returns the HTTP/2 connection with the fewest streams, if one is below its limit. Counts the stream.
    pub(super) fn share(&mut self, idle: Duration) -> Option<Shared> {
        self.shared.retain(|shared| !shared.sender.is_closed());
        let room = |shared: &&mut Shared| {
            let streams = &shared.streams;
            shared.sender.is_ready()
                && streams.open.load(Ordering::Relaxed) < streams.limit.load(Ordering::Relaxed)
        };
        let shared = self
            .shared
            .iter_mut()
            .filter(room)
            .min_by_key(|shared| shared.streams.open.load(Ordering::Relaxed))?;
        shared.streams.open.fetch_add(1, Ordering::Relaxed);
        shared.expires = expiry(idle);
        Some(shared.clone())
    }

    /// Adds an HTTP/2 connection; see [`Self::put`].
    pub(super) fn add(&mut self, shared: Shared) {
        if self.keeps(shared.peer) {
            self.shared.push(shared);
        }
    }

    fn keeps(&self, peer: Option<IpAddr>) -> bool {
        match (&self.addresses, peer) {
            (Some(addresses), Some(peer)) => addresses.contains(&peer),
            _ => true,
        }
    }

    /// Removes connections to other addresses, and does not keep new ones to them. The result must be dropped
    /// after releasing the lock.
    pub(super) fn keep_only(&mut self, addresses: &Arc<[IpAddr]>) -> impl Sized + use<> {
        let mut gone = (Vec::new(), Vec::new());
        if self.addresses.as_ref() != Some(addresses) {
            self.addresses = Some(addresses.clone());
            let is_gone = |peer: Option<IpAddr>| peer.is_some_and(|peer| !addresses.contains(&peer));
            gone.0.extend(self.idle.extract_if(.., |idle| is_gone(idle.connection.peer)));
            gone.1.extend(self.shared.extract_if(.., |shared| is_gone(shared.peer)));
        }
        gone
    }

    /// Stops using an HTTP/2 connection for new requests.
    pub(super) fn forget(&mut self, streams: &Arc<Streams>) {
        self.shared.retain(|shared| !Arc::ptr_eq(&shared.streams, streams));
    }

    /// Removes connections that are closed or have been idle for too long, and the longest idle HTTP/1
    /// connections beyond `limit`. The result must be dropped after releasing the lock.
    pub(super) fn expired(&mut self, now: Instant, limit: usize) -> impl Sized + use<> {
        let over = |expires: Option<Instant>| expires.is_some_and(|at| at <= now);
        let mut idle: Vec<_> =
            self.idle.extract_if(.., |idle| over(idle.expires) || !idle.connection.is_usable()).collect();
        idle.extend(self.idle.drain(..self.idle.len().saturating_sub(limit)));
        let shared: Vec<_> = self
            .shared
            .extract_if(.., |shared| {
                let unused = shared.streams.open.load(Ordering::Relaxed) == 0;
                shared.sender.is_closed() || (unused && over(shared.expires))
            })
            .collect();
        (idle, shared)
    }

    pub(super) fn len(&self) -> usize {
        self.idle.len() + self.shared.len()
    }
}

/// Returns when to close an idle connection: up to a fifth earlier than configured, so that connections that
/// were opened together are not closed together. `None` for never.
fn expiry(idle: Duration) -> Option<Instant> {
    (!idle.is_zero()).then(|| Instant::now() + idle.mul_f64(0.8 + 0.2 * fastrand::f64()))
}
