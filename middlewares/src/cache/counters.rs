//! What a cache has done, counted without a place that all workers share.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tidegate_cache::cache_status::{CacheStatus, Forwarded};
use tidegate_core::caches::CachedRequests;

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

    /// The word for it in `X-Cache-Status`: where the response comes from.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Hit | Self::Stale => "HIT",
            Self::Revalidated | Self::Miss => "MISS",
            Self::Bypass => "BYPASS",
        }
    }

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

/// Numbers of requests since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    outcomes: [u64; Outcome::ALL.len()],
    collapsed: u64,
}

impl Totals {
    /// What was counted after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> CachedRequests {
        let number = |outcome: Outcome| {
            let of = |totals: &Self| totals.outcomes.get(outcome as usize).copied().unwrap_or(0);
            of(self).saturating_sub(of(earlier))
        };
        CachedRequests {
            by_outcome: Outcome::ALL.iter().map(|(outcome, name)| (*name, number(*outcome))).collect(),
            collapsed: self.collapsed.saturating_sub(earlier.collapsed),
        }
    }
}

/// The numbers of one or a few threads, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
struct Numbers {
    outcomes: [AtomicU64; Outcome::ALL.len()],
    collapsed: AtomicU64,
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

    pub(super) fn count(&self, status: &CacheStatus<'_>) {
        let own = self.own();
        if let Some(number) = own.outcomes.get(Outcome::of(status) as usize) {
            number.fetch_add(1, Ordering::Relaxed);
        }
        if status.collapsed {
            own.collapsed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_stored(&self) {
        self.own().stored.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cell in &self.0 {
            for (total, number) in totals.outcomes.iter_mut().zip(&cell.outcomes) {
                *total += number.load(Ordering::Relaxed);
            }
            totals.collapsed += cell.collapsed.load(Ordering::Relaxed);
        }
        totals
    }

    pub(super) fn stored(&self) -> u64 {
        self.0.iter().map(|cell| cell.stored.load(Ordering::Relaxed)).sum()
    }
}
