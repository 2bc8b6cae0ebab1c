//! Exemplars: traces of requests that were counted, one per series and bucket.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// A request that was counted, and whose trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// The identifier of the trace.
    pub trace_id: u128,
    /// The duration that was counted.
    pub duration: Duration,
    /// When it was counted.
    pub at: SystemTime,
}

/// The last exemplar of each bucket of a series.
type Buckets = Box<[Option<Exemplar>]>;

/// The exemplars of one worker.
type Held<K> = Mutex<HashMap<K, Buckets>>;

/// The exemplars of one entry point, router or service, by `K`, which identifies a series. Nothing is allocated before
/// the first.
///
/// Each worker has its own, and none waits: an exemplar is left out if a reader is looking.
#[derive(Debug)]
pub(crate) struct Exemplars<K>(OnceLock<Box<[Held<K>]>>);

impl<K> Default for Exemplars<K> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K: Copy + Eq + Ord + Hash> Exemplars<K> {
    /// Keeps an exemplar of a bucket on this worker, of `workers`. `buckets` is the number of buckets.
    pub(crate) fn keep(
        &self,
        (worker, workers): (usize, usize),
        series: K,
        (bucket, buckets): (usize, usize),
        exemplar: Exemplar,
    ) {
        let all = self.0.get_or_init(|| (0..workers.max(1)).map(|_| Mutex::default()).collect());
        let Some(mut held) = all.get(worker).or_else(|| all.first()).and_then(Mutex::try_lock) else {
            return;
        };
        let slots = held.entry(series).or_insert_with(|| vec![None; buckets].into());
        if let Some(slot) = slots.get_mut(bucket) {
            *slot = Some(exemplar);
        }
    }

    /// Returns the newest exemplar of each bucket, by series.
    pub(crate) fn newest(&self) -> BTreeMap<K, Vec<Option<Exemplar>>> {
        let mut newest: BTreeMap<K, Vec<Option<Exemplar>>> = BTreeMap::new();
        for worker in self.0.get().into_iter().flatten() {
            for (series, slots) in &*worker.lock() {
                let sum = newest.entry(*series).or_insert_with(|| vec![None; slots.len()]);
                for (best, slot) in sum.iter_mut().zip(slots) {
                    *best = later(*best, *slot);
                }
            }
        }
        newest
    }
}

/// Returns the later one of two exemplars.
fn later(one: Option<Exemplar>, other: Option<Exemplar>) -> Option<Exemplar> {
    [one, other].into_iter().flatten().max_by_key(|exemplar| exemplar.at)
}
