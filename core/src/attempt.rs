//! One attempt to send a request to a server, as its exchange records it.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::RequestCounters;

/// An unknown length.
const UNKNOWN: u64 = u64::MAX;

/// A server, for readers of the exchange.
#[derive(Debug)]
pub struct ServerInfo {
    /// Unique while the gateway runs.
    pub id: u64,
    /// Its URL as configured.
    pub url: Arc<str>,
    /// `host:port`, or the URL of a socket.
    pub address: Arc<str>,
}

/// One attempt to send the request to a server.
#[derive(Debug)]
pub struct Attempt {
    /// `name@provider` of the service.
    pub service: Arc<str>,
    /// The server; `None` when the service has no usable one.
    pub server: Option<Arc<ServerInfo>>,
    /// When the request was passed to the server's connection pool.
    pub sent: Instant,
    /// Nanoseconds from `sent` to the response head, or to the failure; 0 before.
    took: AtomicU64,
    /// Nanoseconds from `sent` until a new connection was open; 0 if a kept one was used.
    connected: AtomicU64,
    /// Nanoseconds from `sent` until the new connection began to be opened, or until a kept one was free; 0 if unknown.
    waited: AtomicU64,
    /// Nanoseconds of the TLS handshake of a new connection; 0 without one.
    secured: AtomicU64,
    /// Status of the server's response; 0 without one.
    status: AtomicU16,
    /// Length of the body as declared by the server.
    size: AtomicU64,
    /// Number of bytes received of the body.
    received: AtomicU64,
    pub(crate) headers: OnceLock<HeaderMap>,
    /// The counters of the service, if metrics have its name.
    counters: Option<Arc<RequestCounters>>,
    /// The counters of the server, if metrics have its URL.
    server_counters: Option<Arc<RequestCounters>>,
    /// The status that was replaced by another response; 0 if the client got it.
    pub(crate) replaced: AtomicU16,
}

/// When a new connection to a server was opened.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// When its server was dialled, or its name looked up.
    pub began: Instant,
    /// How long its TLS handshake took; `None` without TLS.
    pub handshake: Option<Duration>,
}

/// The counters of a service, and of one of its servers, if metrics have their names.
pub type Counters<'a> = (Option<&'a Arc<RequestCounters>>, Option<&'a Arc<RequestCounters>>);

/// An attempt that was followed by another.
#[derive(Clone, Debug)]
pub struct Failed<'a> {
    /// `name@provider` of the service.
    pub service: &'a str,
    /// The server, if there was one.
    pub server: Option<&'a ServerInfo>,
    /// Status of the response, which is the gateway's if the server sent none.
    pub status: u16,
    /// Time from sending the request to the response head, or to the failure.
    pub duration: Option<Duration>,
    pub(crate) sent: Instant,
}

impl Attempt {
    /// Creates an attempt that begins now.
    pub(crate) fn begin(
        service: Arc<str>,
        server: Option<Arc<ServerInfo>>,
        (counters, server_counters): Counters<'_>,
    ) -> Self {
        Self {
            service,
            server,
            sent: Instant::now(),
            took: AtomicU64::new(0),
            connected: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            secured: AtomicU64::new(0),
            status: AtomicU16::new(0),
            size: AtomicU64::new(UNKNOWN),
            received: AtomicU64::new(0),
            headers: OnceLock::new(),
            counters: counters.cloned(),
            server_counters: server_counters.cloned(),
            replaced: AtomicU16::new(0),
        }
    }

    /// Records the head of the server's response, and the length of its body if known.
    pub fn answer(&self, status: u16, size: Option<u64>) {
        self.end();
        self.status.store(status, Ordering::Relaxed);
        self.size.store(size.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Keeps the headers of the server's response.
    pub fn keep_headers(&self, headers: &HeaderMap) {
        // Set only once, as there is only one response.
        let _ = self.headers.set(headers.clone());
    }

    /// Returns the counters of the service and of the server.
    pub fn all_counters(&self) -> impl Iterator<Item = &RequestCounters> {
        self.counters.iter().chain(&self.server_counters).map(|counters| &**counters)
    }

    /// Returns the counters of the service.
    pub fn counters(&self) -> Option<&RequestCounters> {
        self.counters.as_deref()
    }

    /// Returns the number of bytes received of the server's body.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Returns the status that was replaced because another attempt followed.
    pub fn replaced(&self) -> Option<u16> {
        self.is_replaced().then(|| self.replaced.load(Ordering::Relaxed))
    }

    /// Records that no response will follow.
    pub fn end(&self) {
        self.took.store(since(self.sent), Ordering::Relaxed);
    }

    /// Records that a new connection to the server is open.
    pub fn connect(&self, opened: Opened) {
        self.connected.store(since(self.sent), Ordering::Relaxed);
        self.waited.store(nanoseconds(opened.began.saturating_duration_since(self.sent)), Ordering::Relaxed);
        self.secured.store(opened.handshake.map_or(0, nanoseconds), Ordering::Relaxed);
    }

    /// Records that a kept connection is free for the request.
    pub fn reuse(&self) {
        self.waited.store(since(self.sent), Ordering::Relaxed);
    }

    /// Returns how long the request waited before a new connection was begun, or until a kept one was free; `None` if
    /// that was not recorded.
    pub fn waited(&self) -> Option<Duration> {
        duration(&self.waited)
    }

    /// Returns how long the TLS handshake of the new connection took.
    pub fn secured(&self) -> Option<Duration> {
        duration(&self.secured)
    }

    /// Returns the time until a new connection was open, which includes its TLS handshake and waiting for others
    /// that open one; `None` if a kept one was used.
    pub fn connected(&self) -> Option<Duration> {
        duration(&self.connected)
    }

    /// Counts bytes of the server's body.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the status of the server's response.
    pub fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    /// Returns the length of the server's body: as declared, or else as received. `None` without a response.
    pub fn size(&self) -> Option<u64> {
        self.status()?;
        let announced = Some(self.size.load(Ordering::Relaxed)).filter(|size| *size != UNKNOWN);
        Some(announced.unwrap_or_else(|| self.received.load(Ordering::Relaxed)))
    }

    /// Returns the time from sending the request to the response head, or to the failure.
    pub fn took(&self) -> Option<Duration> {
        duration(&self.took)
    }

    /// Returns true if the response was replaced because another attempt followed.
    pub fn is_replaced(&self) -> bool {
        is_set(&self.replaced)
    }

    /// Records that a page replaces the response; without a server's response, it is the gateway's.
    pub(crate) fn answer_replaced(&self, status: u16, size: Option<u64>) {
        if self.status().is_none() {
            self.status.store(status, Ordering::Relaxed);
            self.size.store(size.unwrap_or(0), Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self) -> Option<Failed<'_>> {
        self.is_replaced().then(|| self.as_failed(self.replaced.load(Ordering::Relaxed)))
    }

    pub(crate) fn as_failed(&self, status: u16) -> Failed<'_> {
        Failed {
            service: &self.service,
            server: self.server.as_deref(),
            status: self.status().unwrap_or(status),
            duration: self.took(),
            sent: self.sent,
        }
    }
}

pub(crate) fn is_set(replaced: &AtomicU16) -> bool {
    replaced.load(Ordering::Relaxed) != 0
}

/// Returns the nanoseconds from `start` until now, at least one.
pub(crate) fn since(start: Instant) -> u64 {
    nanoseconds(start.elapsed())
}

/// Returns the nanoseconds of a time, at least one.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// Converts nanoseconds; `None` for 0.
pub(crate) fn duration(nanoseconds: &AtomicU64) -> Option<Duration> {
    Some(nanoseconds.load(Ordering::Relaxed)).filter(|nanos| *nanos != 0).map(Duration::from_nanos)
}
