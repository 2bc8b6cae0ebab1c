//! What limits hold at the moment, for metrics and the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Maximum number of keys that [`Offenders`] keep.
const MAX_OFFENDERS: usize = 32;

/// A middleware that limits its clients.
pub trait Limit {
    /// Returns its kind, as in the configuration: `inFlightReq`.
    fn kind(&self) -> &'static str;

    /// Returns what it holds. Called when metrics are read.
    fn occupancy(&self) -> Occupancy;

    /// Returns what was used of quotas, in no order. Called when the API is read.
    fn usage(&self) -> Vec<Usage> {
        Vec::new()
    }

    /// Returns what it has refused. Called when the API is read. The default is for limits that do not count it.
    fn refusals(&self) -> Option<Refusals> {
        None
    }

    /// Returns what its named policies have counted. Called when metrics or the API are read.
    fn policies(&self) -> Vec<PolicyState> {
        Vec::new()
    }
}

/// What was used of a quota.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usage {
    /// Where it is counted.
    pub store: Arc<str>,
    /// Qualified name of the consumer.
    pub consumer: String,
    /// The key, user or subject, if each has its own quota; otherwise empty.
    pub key: String,
    /// What is counted: `requests`, `bytes` or `cost`.
    pub unit: &'static str,
    /// Number of units used.
    pub used: u64,
    /// When the period began, in seconds since 1970.
    pub start: i64,
    /// When it ends.
    pub end: i64,
}

/// What a named policy of a limit has counted since it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyState {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it only counts.
    pub is_shadow: bool,
    /// Number of keys that it tracks in this process.
    pub keys: u64,
    /// Number of requests that wait.
    pub waiting: u64,
    /// Number of requests that it had tokens for, and that no other policy refused.
    pub admitted: u64,
    /// Number of requests that it refused.
    pub refused: u64,
    /// Number of requests that it would have refused (shadow mode).
    pub shadowed: u64,
    /// Number of requests that waited.
    pub queued: u64,
    /// Number of requests that were refused after a delay.
    pub tarpitted: u64,
    /// Number of requests that are exempt.
    pub exempted: u64,
    /// The keys that were refused most often, in that order. Contains no values of headers.
    pub offenders: Vec<Offender>,
}

/// A key that a limit refused, or would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offender {
    /// The key.
    pub key: String,
    /// How often, at most. Too high for keys that took the place of others.
    pub refused: u64,
}

/// What a limit has refused since it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Number of requests or connections.
    pub refused: u64,
    /// The keys that were refused most often, in that order. Contains no values of headers.
    pub offenders: Vec<Offender>,
}

/// The keys that a limit refused most often. Keeps a fixed number of them (space-saving).
#[derive(Debug, Default)]
pub struct Offenders {
    refused: AtomicU64,
    most: Mutex<Vec<Offender>>,
}

impl Offenders {
    /// Counts a refusal of this key.
    pub fn note(&self, key: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        // Requests never wait for this lock: what is lost when two meet does not matter.
        let Some(mut most) = self.most.try_lock() else { return };
        if let Some(known) = most.iter_mut().find(|known| known.key == key) {
            known.refused += 1;
            return;
        }
        if most.len() < MAX_OFFENDERS {
            return most.push(Offender { key: key.to_owned(), refused: 1 });
        }
        if let Some(least) = most.iter_mut().min_by_key(|known| known.refused) {
            *least = Offender { key: key.to_owned(), refused: least.refused + 1 };
        }
    }

    /// Returns what was counted.
    pub fn counted(&self) -> Refusals {
        let mut offenders = self.most.lock().clone();
        offenders.sort_by(|one, other| other.refused.cmp(&one.refused).then_with(|| one.key.cmp(&other.key)));
        Refusals { refused: self.refused.load(Ordering::Relaxed), offenders }
    }
}

/// What a limit holds at the moment. `None` for what it never holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Number of sources that it tracks.
    pub sources: Option<u64>,
    /// Number of requests or connections that count against it.
    pub in_flight: Option<u64>,
    /// Number of requests that it delays.
    pub waiting: Option<u64>,
}

impl Occupancy {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        Self {
            sources: sum(self.sources, other.sources),
            in_flight: sum(self.in_flight, other.in_flight),
            waiting: sum(self.waiting, other.waiting),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_offenders_keep_their_places() {
        let offenders = Offenders::default();
        for number in 0..1000 {
            offenders.note(&number.to_string());
            offenders.note("a");
            offenders.note("b");
            offenders.note("a");
        }
        let Refusals { refused, offenders } = offenders.counted();
        assert_eq!((refused, offenders.len()), (4000, MAX_OFFENDERS));
        let first: Vec<&str> = offenders.iter().take(2).map(|one| one.key.as_str()).collect();
        assert_eq!(first, ["a", "b"]);
        assert_eq!((offenders[0].refused, offenders[1].refused), (2000, 1000));
    }
}
