//! The connections of a client: how many there are, which are used again, and what happens while none can be opened.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::connection::Connection;

/// Maximum number of checks that wait for a connection.
const MAX_WAITING: usize = 1024;
/// Delay until a failed server is tried again; doubled after each failure.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Time limit for saying goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections in use and idle ones.
pub(super) struct Pool {
    /// Permits for all connections, idle ones included once they are used.
    slots: Semaphore,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Connection>>,
    size: usize,
    ttl: Duration,
}

/// The right to use a connection.
pub(super) type Slot<'a> = SemaphorePermit<'a>;

impl Pool {
    /// Creates an empty pool that keeps `size` idle connections and allows `burst` more.
    pub(super) fn new(size: usize, burst: usize, ttl: Duration) -> Self {
        let slots = Semaphore::new((size + burst).max(1));
        Self { slots, waiting: AtomicUsize::new(0), idle: Mutex::default(), size, ttl }
    }

    /// Waits for the right to use a connection. `None`: too many wait already, or the limit is over.
    pub(super) async fn enter(&self, limit: Duration) -> Option<Slot<'_>> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Some(slot);
        }
        let _waiting = Waiting::count(&self.waiting)?;
        timeout(limit, self.slots.acquire()).await.ok()?.ok()
    }

    /// Returns an idle connection that is young enough.
    pub(super) fn take(&self) -> Option<Connection> {
        loop {
            let connection = self.idle.lock().pop()?;
            if connection.age() < self.ttl {
                return Some(connection);
            }
            close(connection);
        }
    }

    /// Keeps a connection for the next use if there is room.
    pub(super) fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < self.size && connection.age() < self.ttl {
            idle.push(connection);
        } else {
            drop(idle);
            close(connection);
        }
    }

    /// Drops all idle connections: one of them was lost, so the others probably are, too.
    pub(super) fn clear(&self) {
        let lost = std::mem::take(&mut *self.idle.lock());
        drop(lost);
    }
}

fn close(connection: Connection) {
    tokio::spawn(timeout(CLOSE_TIMEOUT, connection.close()));
}

/// A check that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn count(waiting: &'a AtomicUsize) -> Option<Self> {
        let own = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(own)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the server is available. While it is not, requests fail at once instead of each waiting for a timeout.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Down>>);

#[derive(Debug)]
struct Down {
    failures: u32,
    since: Instant,
    /// No attempt is made before.
    until: Instant,
}

impl Outage {
    /// Returns true if no attempt is to be made now.
    pub(super) fn is_active(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|down| Instant::now() < down.until)
    }

    /// Returns the start of an attempt, which is over after `limit`. `None` if none is to be made: after a failure, only
    /// one at a time is.
    pub(super) fn begin(&self, limit: Duration) -> Option<Instant> {
        let now = Instant::now();
        if let Some(down) = &mut *self.0.lock() {
            if now < down.until {
                return None;
            }
            down.until = now + limit;
        }
        Some(now)
    }

    /// Notes that the server works. Returns for how long it did not.
    pub(super) fn end(&self) -> Option<Duration> {
        self.0.lock().take().map(|down| down.since.elapsed())
    }

    /// Notes that an attempt failed that began at `begun`. Returns true if the outage begins with it.
    pub(super) fn note(&self, begun: Instant) -> bool {
        let now = Instant::now();
        let mut state = self.0.lock();
        let is_new = state.is_none();
        let down = state.get_or_insert(Down { failures: 0, since: now, until: begun });
        // Attempts that began before a failure belong to that one.
        if is_new || begun > down.since {
            let delay = MIN_BACKOFF.saturating_mul(1 << down.failures.min(10)).min(MAX_BACKOFF);
            *down = Down { failures: down.failures + 1, since: down.since, until: now + delay };
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_server_is_tried_by_one_at_a_time_and_less_often() {
        let limit = Duration::from_secs(5);
        let outage = Outage::default();
        let (one, other) = (outage.begin(limit).unwrap(), outage.begin(limit).unwrap());
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(outage.note(one), "it begins");
        assert!(!outage.note(other), "the other failed for the same reason");
        assert!(outage.is_active() && outage.begin(limit).is_none());
        let mut delays = Vec::new();
        for _ in 0..8 {
            let mut delay = 0;
            while outage.is_active() {
                tokio::time::advance(Duration::from_millis(100)).await;
                delay += 1;
            }
            delays.push(delay);
            let attempt = outage.begin(limit).unwrap();
            assert_eq!(outage.begin(limit), None, "one tries");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!outage.note(attempt));
        }
        assert_eq!(delays[..3], [5, 10, 20]);
        assert_eq!(delays[7], 300);
        assert!(outage.end().is_some() && !outage.is_active() && outage.end().is_none());
    }

    #[tokio::test]
    async fn no_more_checks_run_than_there_are_connections() {
        let pool = Pool::new(1, 1, Duration::from_secs(60));
        let (one, two) = (pool.enter(Duration::ZERO).await, pool.enter(Duration::ZERO).await);
        assert!(one.is_some() && two.is_some());
        assert!(pool.enter(Duration::from_millis(10)).await.is_none());
        drop(one);
        assert!(pool.enter(Duration::ZERO).await.is_some());
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0);
    }
}
