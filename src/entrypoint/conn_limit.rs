//! Limits the number of open connections, and evicts idle ones near the limit.
//!
//! Without free file descriptors, a process can neither accept clients nor connect to servers. So connections are
//! accepted up to a limit that leaves descriptors for servers and for the process itself. Near the limit, idle
//! connections are closed, the longest idle first, then stalled ones, the longest stalled first. At the limit, new
//! connections wait in the accept queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::worker::{self, Load};

/// How long a new connection may send nothing before it counts as idle.
pub(super) const SILENCE: Duration = Duration::from_secs(2);
/// Descriptors reserved for the process itself: listeners, runtimes, logs, watched files, providers.
const OWN_DESCRIPTORS: usize = 128;
/// Minimum limit of connections, even with few descriptors.
const MIN_CONNECTIONS: usize = 16;
/// Connections of each entry point that are exempt from the limit of the process: many clients of one entry point must
/// not block the health checks of another.
const RESERVED: usize = 8;
/// Part of a limit from which on idle connections are closed, in sixteenths.
const EVICTION_THRESHOLD: usize = 15;
/// How often a full entry point checks for room.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Raises the soft limit on open files to the hard one, as Go's runtime does.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
    }
}

/// Returns the maximum number of client connections for this number of descriptors; `None` for no limit. Half of them
/// are for servers, as each request needs both.
fn max_connections(descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(OWN_DESCRIPTORS) / 2).max(MIN_CONNECTIONS)
}

/// The connections of the whole process.
pub(super) struct ConnectionLimiter {
    open: AtomicUsize,
    max: usize,
    /// Accept loops that wait.
    waiting: AtomicUsize,
    freed: Notify,
    connections: Mutex<Vec<Arc<ConnectionLimit>>>,
}

impl ConnectionLimit {
    /// Returns the numbers of idle and of stalled connections.
    pub(super) fn inactive(&self) -> (usize, usize) {
        let sum = |those: &[Idle]| those.iter().map(|those| those.count.load(Ordering::Relaxed)).sum();
        (sum(&self.idle), sum(&self.stalled))
    }
}

impl ConnectionLimiter {
    /// Creates the limiter for the descriptor limit of this process.
    pub(super) fn new() -> Arc<Self> {
        Self::with_max(max_connections(getrlimit(Resource::Nofile).current))
    }

    fn with_max(max: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max,
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            connections: Mutex::default(),
        })
    }

    /// Adds an entry point with at most `max` connections (0 for the limit of the process) on `workers` workers.
    pub(super) fn connections(self: &Arc<Self>, max: usize, workers: usize) -> Arc<ConnectionLimit> {
        let connections = Arc::new(ConnectionLimit {
            room: self.clone(),
            open: AtomicUsize::new(0),
            max: if max == 0 { usize::MAX } else { max },
            changed: Notify::new(),
            idle: (0..workers).map(|_| Idle::default()).collect(),
            stalled: (0..workers).map(|_| Idle::default()).collect(),
            full: AtomicBool::new(false),
        });
        self.connections.lock().push(connections.clone());
        connections
    }

    fn is_near_limit(&self) -> bool {
        is_near_limit(self.open.load(Ordering::Relaxed), self.max)
    }
}

/// The connections of one entry point.
pub(super) struct ConnectionLimit {
    room: Arc<ConnectionLimiter>,
    open: AtomicUsize,
    max: usize,
    changed: Notify,
    /// Idle connections of each worker.
    idle: Box<[Idle]>,
    /// Stalled connections of each worker, whose clients neither complete what they send nor read what they requested.
    stalled: Box<[Idle]>,
    full: AtomicBool,
}

/// Connections that may be evicted, the longest idle first.
#[derive(Default)]
struct Idle {
    count: AtomicUsize,
    evict: Notify,
}

impl ConnectionLimit {
    /// Counts a connection.
    pub(super) fn take(self: &Arc<Self>, load: Load) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.room.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection { connections: self.clone(), _load: load }
    }

    /// Returns the number of open connections.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of connections.
    pub(super) fn max(&self) -> usize {
        self.max.min(self.room.max)
    }

    /// Waits until there is no open connection.
    pub(super) async fn drained(&self) {
        loop {
            let changed = self.changed.notified();
            if self.open() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Returns true if another connection may be accepted.
    pub(super) fn is_below_limit(&self) -> bool {
        let open = self.open();
        open < self.max && (open < RESERVED || self.room.open.load(Ordering::Relaxed) < self.room.max)
    }

    /// Returns true at the first call since the entry point was last below the eviction threshold, so that it is logged
    /// once.
    pub(super) fn begins_to_be_full(&self) -> bool {
        !self.full.swap(true, Ordering::Relaxed)
    }

    /// Waits until the number of connections is below the limit, and closes idle ones meanwhile.
    pub(super) async fn wait_until_below_limit(&self) {
        self.room.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Counted(&self.room.waiting);
        loop {
            let freed = self.room.freed.notified();
            if self.is_below_limit() {
                break;
            }
            self.close_idle();
            // The timer covers connections that become idle without notice.
            let _ = tokio::time::timeout(POLL_INTERVAL, freed).await;
        }
        drop(waiting);
    }

    /// Closes an idle connection if the limit is near. Called after a connection is accepted.
    pub(super) fn evict_one(&self) {
        if self.is_near_limit() {
            self.close_idle();
        } else if self.full.load(Ordering::Relaxed) {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Resolves when an idle connection must close to make room.
    pub(super) async fn evicted(&self) {
        self.wait_for_eviction(&self.idle).await;
    }

    /// Resolves when a stalled connection must close, because there are no idle ones.
    pub(super) async fn evicted_when_full(&self) {
        self.wait_for_eviction(&self.stalled).await;
    }

    async fn wait_for_eviction(&self, those: &[Idle]) {
        let Some(idle) = those.get(worker::index()) else { return std::future::pending().await };
        idle.count.fetch_add(1, Ordering::Relaxed);
        let _idle = Counted(&idle.count);
        loop {
            idle.evict.notified().await;
            // `Notify` keeps a request without a waiter for the next idle connection, which may no longer have to
            // close.
            if self.is_near_limit() {
                return;
            }
        }
    }

    fn is_near_limit(&self) -> bool {
        is_near_limit(self.open(), self.max) || self.room.is_near_limit()
    }

    /// Closes an idle connection, preferably of this entry point, or else a stalled one.
    pub(super) fn close_idle(&self) {
        if close_one(&self.idle) {
            return;
        }
        let others =
            if self.room.is_near_limit() { self.room.connections.lock().clone() } else { Vec::new() };
        let _ = others.iter().any(|other| close_one(&other.idle))
            || close_one(&self.stalled)
            || others.iter().any(|other| close_one(&other.stalled));
    }
}

/// Closes one of these connections. Returns false if there is none.
fn close_one(those: &[Idle]) -> bool {
    let some = those.iter().find(|those| those.count.load(Ordering::Relaxed) > 0);
    some.inspect(|those| those.evict.notify_one()).is_some()
}

fn is_near_limit(open: usize, max: usize) -> bool {
    open >= max / 16 * EVICTION_THRESHOLD + max % 16
}

/// Decrements a counter when dropped.
struct Counted<'c>(&'c AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An open connection, counted until dropped.
pub(super) struct OpenConnection {
    connections: Arc<ConnectionLimit>,
    _load: Load,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.room.open.fetch_sub(1, Ordering::SeqCst);
        if self.connections.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.connections.changed.notify_waiters();
        }
        if self.connections.room.waiting.load(Ordering::SeqCst) > 0 {
            self.connections.room.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::worker::Workers;

    #[test]
    fn descriptors_are_shared_with_servers() {
        for (descriptors, max) in [(1024, 448), (160, 16), (0, 16), (1_048_576, 524_224)] {
            assert_eq!(max_connections(Some(descriptors)), max, "{descriptors}");
        }
        assert!(max_connections(None) > 1 << 40);
    }

    #[tokio::test]
    async fn the_longest_idle_connection_is_evicted_near_the_limit() {
        let workers = Workers::start(1).unwrap();
        let room = ConnectionLimiter::with_max(1000);
        let connections = room.connections(16, 1);
        let mut open: Vec<_> = (0..14).map(|_| connections.take(workers.balance().count(0))).collect();
        let mut first = Box::pin(connections.evicted());
        let mut second = Box::pin(connections.evicted());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        connections.evict_one();
        assert!(first.as_mut().now_or_never().is_none(), "no eviction below the threshold");
        open.push(connections.take(workers.balance().count(0)));
        connections.evict_one();
        assert!(second.as_mut().now_or_never().is_none());
        assert!(first.as_mut().now_or_never().is_some());
        open.push(connections.take(workers.balance().count(0)));
        assert!(!connections.is_below_limit());
        let mut waiting = Box::pin(connections.wait_until_below_limit());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(second.as_mut().now_or_never().is_some());
        open.pop();
        waiting.await;
        open.clear();
        connections.drained().await;
    }

    #[tokio::test]
    async fn a_full_entry_point_leaves_connections_to_another() {
        let workers = Workers::start(1).unwrap();
        let room = ConnectionLimiter::with_max(16);
        let (crowded, other) = (room.connections(0, 1), room.connections(0, 1));
        let open: Vec<_> = (0..16).map(|_| crowded.take(workers.balance().count(0))).collect();
        assert!(!crowded.is_below_limit());
        assert!(other.is_below_limit());
        let mut idle = Box::pin(crowded.evicted());
        assert!(idle.as_mut().now_or_never().is_none());
        other.evict_one();
        assert!(idle.as_mut().now_or_never().is_some(), "idle connections of others are evicted, too");
        drop(open);
    }
}
