//! Counters of what is not HTTP, for metrics: TCP connections, and UDP sessions with their datagrams.
//!
//! There is one [`TrafficCounters`] per router, service and server. Each worker has its own cells, so counting takes no
//! lock and shares no cache line; a reader adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upper bounds of the buckets for the durations of connections and sessions, in nanoseconds: 10 ms to a day.
pub const DURATION_BOUNDS: [u64; 8] = [
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
    3_600_000_000_000,
    86_400_000_000_000,
];

/// One per bound, and one for what is longer.
const BUCKETS: usize = DURATION_BOUNDS.len() + 1;

/// Counts the connections or sessions of one router, service or server, and what they carry.
#[derive(Debug)]
pub struct TrafficCounters(Box<[Cells]>);

/// The counters of one worker, in cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cells {
    opened: AtomicU64,
    received: Direction,
    sent: Direction,
    nanoseconds: AtomicU64,
    /// Those that were closed, by duration.
    closed: [AtomicU64; BUCKETS],
}

/// What was carried in one direction.
#[derive(Debug, Default)]
struct Direction {
    bytes: AtomicU64,
    datagrams: AtomicU64,
}

/// The sum of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of connections or sessions so far.
    pub opened: u64,
    /// Number of open ones.
    pub open: u64,
    /// From clients.
    pub received: Carried,
    /// To clients.
    pub sent: Carried,
    /// Number of closed ones per bucket of [`DURATION_BOUNDS`], not cumulative; the last is for those that were longer.
    pub durations: [u64; BUCKETS],
    /// Sum of their durations in nanoseconds.
    pub nanoseconds: u64,
}

/// What was carried in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Number of bytes.
    pub bytes: u64,
    /// Number of datagrams; 0 for TCP.
    pub datagrams: u64,
}

impl TrafficCounters {
    /// Creates counters for this many workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Cells::default()).collect())
    }

    fn cells(&self, worker: usize) -> Option<&Cells> {
        self.0.get(worker).or_else(|| self.0.first())
    }

    /// Returns the sum of all workers.
    pub fn total(&self) -> Traffic {
        let mut total = Traffic::default();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // What is closed is read first, so that no more are closed than were opened.
        for cells in &self.0 {
            for (sum, closed) in total.durations.iter_mut().zip(&cells.closed) {
                *sum += load(closed);
            }
            total.nanoseconds += load(&cells.nanoseconds);
        }
        let closed: u64 = total.durations.iter().sum();
        for cells in &self.0 {
            total.opened += load(&cells.opened);
            for (sum, direction) in [(&mut total.received, &cells.received), (&mut total.sent, &cells.sent)] {
                sum.bytes += load(&direction.bytes);
                sum.datagrams += load(&direction.datagrams);
            }
        }
        total.open = total.opened.saturating_sub(closed);
        total
    }
}

/// Maximum number of counters per connection: those of a router, a service and a server.
const MAX_COUNTERS: usize = 3;

/// An open connection or session. It is counted as closed when dropped.
#[derive(Debug)]
pub struct OpenTraffic {
    counters: [Option<Arc<TrafficCounters>>; MAX_COUNTERS],
    worker: usize,
    /// `None` if nothing counts it.
    started: Option<Instant>,
}

impl OpenTraffic {
    /// Counts a connection or session that opens on this worker. Other threads use any index.
    pub fn open(worker: usize, counters: [Option<Arc<TrafficCounters>>; MAX_COUNTERS]) -> Self {
        let is_counted = counters.iter().any(Option::is_some);
        let open = Self { counters, worker, started: is_counted.then(Instant::now) };
        open.each(|cells| add(&cells.opened, 1));
        open
    }

    /// Counts bytes from the client, and to it.
    pub fn carry(&self, received: u64, sent: u64) {
        self.each(|cells| {
            add(&cells.received.bytes, received);
            add(&cells.sent.bytes, sent);
        });
    }

    /// Counts a datagram from the client that was passed on.
    pub fn receive_datagram(&self, bytes: usize) {
        self.each(|cells| cells.received.count_datagram(bytes));
    }

    /// Counts a datagram that was sent to the client.
    pub fn send_datagram(&self, bytes: usize) {
        self.each(|cells| cells.sent.count_datagram(bytes));
    }

    fn each(&self, work: impl FnMut(&Cells)) {
        let counters = self.counters.iter().flatten();
        counters.filter_map(|counters| counters.cells(self.worker)).for_each(work);
    }
}

impl Direction {
    fn count_datagram(&self, bytes: usize) {
        add(&self.bytes, bytes as u64);
        add(&self.datagrams, 1);
    }
}

impl Drop for OpenTraffic {
    fn drop(&mut self) {
        let Some(started) = self.started else { return };
        let nanoseconds = nanoseconds(started.elapsed());
        let bucket = DURATION_BOUNDS.partition_point(|bound| *bound < nanoseconds);
        self.each(|cells| {
            add(&cells.closed[bucket], 1);
            add(&cells.nanoseconds, nanoseconds);
        });
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn add(counter: &AtomicU64, amount: u64) {
    if amount > 0 {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up() {
        let [router, service] = [(); 2].map(|()| Arc::new(TrafficCounters::new(2)));
        let open = |worker| OpenTraffic::open(worker, [Some(router.clone()), None, Some(service.clone())]);
        // The last is on a thread that is no worker.
        let (first, second) = (open(0), open(9));
        first.carry(3, 40);
        second.receive_datagram(5);
        second.send_datagram(6);
        let total = router.total();
        assert_eq!((total.opened, total.open, total.durations), (2, 2, [0; BUCKETS]));
        assert_eq!(total.received, Carried { bytes: 8, datagrams: 1 });
        assert_eq!(total.sent, Carried { bytes: 46, datagrams: 1 });
        drop(second);
        let total = router.total();
        assert_eq!((total.opened, total.open), (2, 1));
        assert_eq!(total.durations.iter().sum::<u64>(), 1);
        assert!(total.nanoseconds > 0);
        assert_eq!(total, service.total());
    }
}
