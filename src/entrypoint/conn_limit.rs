//! ConnectionLimiter for connections: how many may be open, which idle ones go first, and how long new ones wait.
//!
//! A process that has no file descriptors left can neither accept nor reach a server. So connections are accepted only
//! up to a limit that leaves descriptors for servers and for the process itself. Near it, idle connections are closed,
//! the longest idle first, and then those whose clients stall in the middle of something, the longest stalled first; at
//! it, new connections wait in the kernel's queue until there is room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::worker::{self, Load};

/// How long a new connection may say nothing before it counts as idle.
pub(super) const SILENCE: Duration = Duration::from_secs(2);
/// Descriptors that the process keeps for itself: listeners, runtimes, logs, watched files, providers.
const OWN_DESCRIPTORS: usize = 128;
/// Connections that are served however few descriptors there are.
const FEWEST: usize = 16;
/// Connections of each entry point that the process's limit leaves in peace: a crowd at one entry point must not shut
/// out the health checks of another.
const RESERVED: usize = 8;
/// Idle connections are closed from this part of a limit on, in sixteenths.
const TIGHT: usize = 15;
/// How often a full entry point looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Raises the soft limit on open files to the hard one, as Go's runtime does.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit on open files could not be raised");
        }
    }
}

/// Most client connections for this number of descriptors (`None`: any). One half is for clients and one for servers,
/// as each request needs both.
fn max_connections(descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(OWN_DESCRIPTORS) / 2).max(FEWEST)
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

impl ConnectionLimiter {
    /// For the descriptors that this process may have.
    pub(super) fn new() -> Arc<Self> {
        Self::of(max_connections(getrlimit(Resource::Nofile).current))
    }

    fn of(max: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max,
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            connections: Mutex::default(),
        })
    }

    /// ConnectionLimit for one entry point: `most` connections (0: as many as the process has room for) on so many workers.
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

    fn is_tight(&self) -> bool {
        is_tight(self.open.load(Ordering::Relaxed), self.max)
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
    /// Connections of each worker whose clients neither send what they began to send nor take what they asked for.
    stalled: Box<[Idle]>,
    full: AtomicBool,
}

/// Connections that may be closed, the longest idle first.
#[derive(Default)]
struct Idle {
    count: AtomicUsize,
    goes: Notify,
}

impl ConnectionLimit {
    /// Takes a seat for a connection.
    pub(super) fn take(self: &Arc<Self>, load: Load) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.room.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection { connections: self.clone(), _load: Some(load) }
    }

    /// Takes a seat for a connection that no worker serves.
    pub(super) fn take_elsewhere(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.room.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection { connections: self.clone(), _load: None }
    }

    /// Open connections.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Most connections.
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

    /// True when one more connection may be accepted.
    pub(super) fn is_below_limit(&self) -> bool {
        let open = self.open();
        open < self.max && (open < RESERVED || self.room.open.load(Ordering::Relaxed) < self.room.max)
    }

    /// True when nothing was said of it since the entry point was last far from its limit.
    pub(super) fn is_nearly_full(&self) -> bool {
        !self.full.swap(true, Ordering::Relaxed)
    }

    /// Waits until there is room, while idle connections are closed for it.
    pub(super) async fn wait_until_below_limit(&self) {
        self.room.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Counted(&self.room.waiting);
        loop {
            let freed = self.room.freed.notified();
            if self.is_below_limit() {
                break;
            }
            self.close_idle();
            // Those that become idle from now on leave by themselves; the timer is for what nobody tells of.
            let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
        }
        drop(waiting);
    }

    /// After a connection was accepted: makes room for the next one when there is little left.
    pub(super) fn evict_one(&self) {
        if self.is_tight() {
            self.close_idle();
        } else if self.full.load(Ordering::Relaxed) {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// For a connection that is idle: waits until it is to be closed so that there is room for others.
    pub(super) async fn evicted(&self) {
        self.leave(&self.idle).await;
    }

    /// For a connection whose client stalls: waits until it is to be closed because idle ones alone make too little room.
    pub(super) async fn evicted_when_full(&self) {
        self.leave(&self.stalled).await;
    }

    async fn leave(&self, those: &[Idle]) {
        let Some(idle) = those.get(worker::index()) else { return std::future::pending().await };
        idle.count.fetch_add(1, Ordering::Relaxed);
        let _idle = Counted(&idle.count);
        loop {
            idle.goes.notified().await;
            // A word that nobody was there to hear is kept for the next one, who need not go.
            if self.is_tight() {
                return;
            }
        }
    }

    fn is_tight(&self) -> bool {
        is_tight(self.open(), self.max) || self.room.is_tight()
    }

    /// Asks an idle connection to go, of this entry point if there is one; else one that stalls.
    pub(super) fn close_idle(&self) {
        if close_one(&self.idle) {
            return;
        }
        let others = if self.room.is_tight() { self.room.connections.lock().clone() } else { Vec::new() };
        let _ = others.iter().any(|other| close_one(&other.idle))
            || close_one(&self.stalled)
            || others.iter().any(|other| close_one(&other.stalled));
    }
}

/// Asks one of these connections to go. False: there is none.
fn close_one(those: &[Idle]) -> bool {
    let some = those.iter().find(|those| those.count.load(Ordering::Relaxed) > 0);
    some.inspect(|those| those.goes.notify_one()).is_some()
}

fn is_tight(open: usize, max: usize) -> bool {
    open >= max / 16 * TIGHT + max % 16
}

/// Takes one off a count when dropped.
struct Counted<'c>(&'c AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An open connection, counted until dropped.
pub(super) struct OpenConnection {
    connections: Arc<ConnectionLimit>,
    _load: Option<Load>,
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
    async fn the_longest_idle_goes_when_it_is_tight() {
        let workers = Workers::start(1).unwrap();
        let room = ConnectionLimiter::of(1000);
        let connections = room.connections(16, 1);
        let mut open: Vec<_> = (0..14).map(|_| connections.take(workers.balance().count(0))).collect();
        let mut first = Box::pin(connections.evicted());
        let mut second = Box::pin(connections.evicted());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        connections.evict_one();
        assert!(first.as_mut().now_or_never().is_none(), "nobody goes while there is room");
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
    async fn a_crowd_at_one_entry_point_leaves_seats_at_another() {
        let workers = Workers::start(1).unwrap();
        let room = ConnectionLimiter::of(16);
        let (crowded, other) = (room.connections(0, 1), room.connections(0, 1));
        let open: Vec<_> = (0..16).map(|_| crowded.take(workers.balance().count(0))).collect();
        assert!(!crowded.is_below_limit());
        assert!(other.is_below_limit());
        let mut idle = Box::pin(crowded.evicted());
        assert!(idle.as_mut().now_or_never().is_none());
        other.evict_one();
        assert!(idle.as_mut().now_or_never().is_some(), "the idle of others go, too");
        drop(open);
    }
}
