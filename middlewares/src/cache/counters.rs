//! What a cache has done, counted without a place that all workers share.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tidegate_cache::cache_status::{CacheStatus, Forwarded};

const CELLS: usize = 16;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A fresh response from the store.
    Hit,
    /// A stale one.
    Stale,
    /// The server has confirmed the stored response.
    Revalidated,
    /// The server has responded.
    Miss,
    /// The cache had no part in it.
    Bypass,
}

impl Outcome {
    const ALL: [(Self, &str); 5] = [
        (Self::Bypass, "bypass"),
        (Self::Hit, "hit"),
        (Self::Miss, "miss"),
        (Self::Revalidated, "revalidated"),
        (Self::Stale, "stale"),
    ];

    /// The outcome that a response with this status has.
    pub(super) fn of(status: &CacheStatus<'_>) -> Self {
        let is_stale = status.ttl.is_some_and(|ttl| ttl < 0);
        match status.forwarded {
            None if is_stale => Self::Stale,
            None => Self::Hit,
            Some(Forwarded::Method | Forwarded::Bypass) => Self::Bypass,
            Some(_) if status.forwarded_status == Some(304) => Self::Revalidated,
            // Instead of an error.
            Some(_) if status.forwarded_status.is_some() => Self::Stale,
            Some(_) => Self::Miss,
        }
    }
}

/// The numbers of one or a few threads, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
struct Numbers {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    stored: AtomicU64,
}

/// What a cache has done.
#[derive(Default)]
pub(super) struct Counters([Numbers; CELLS]);

impl Counters {
    fn own(&self) -> &Numbers {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static CELL: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % CELLS);
        }
        let [first, ..] = &self.0;
        self.0.get(CELL.get()).unwrap_or(first)
    }

    pub(super) fn count(&self, outcome: Outcome) {
        if let Some(number) = self.own().outcomes.get(outcome as usize) {
            number.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_stored(&self) {
        self.own().stored.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests by outcome, in the order of their names.
    pub(super) fn requests(&self) -> Vec<(&'static str, u64)> {
        let total = |outcome: Outcome| {
            let numbers = self.0.iter().filter_map(|cell| cell.outcomes.get(outcome as usize));
            numbers.map(|number| number.load(Ordering::Relaxed)).sum()
        };
        Outcome::ALL.iter().map(|(outcome, name)| (*name, total(*outcome))).collect()
    }

    pub(super) fn stored(&self) -> u64 {
        self.0.iter().map(|cell| cell.stored.load(Ordering::Relaxed)).sum()
    }
}
