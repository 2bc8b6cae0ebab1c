//! What a policy keeps: levels of buckets, and counts.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tidegate_core::occupancy::{Offenders, PolicyState};
use tidegate_core::store::{Allowance, Level};

use super::super::shard::{SHARDS, Shard};

/// The state of one policy, which outlives changes of its options.
#[derive(Debug)]
pub(super) struct State {
    shards: [Mutex<Shard<Level>>; SHARDS],
    hasher: foldhash::fast::RandomState,
    pub(super) offenders: Offenders,
    pub(super) waiting: AtomicU64,
    pub(super) admitted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) shadowed: AtomicU64,
    pub(super) queued: AtomicU64,
    pub(super) tarpitted: AtomicU64,
    pub(super) exempted: AtomicU64,
}

impl Default for State {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: foldhash::fast::RandomState::default(),
            offenders: Offenders::default(),
            waiting: zero(),
            admitted: zero(),
            refused: zero(),
            shadowed: zero(),
            queued: zero(),
            tarpitted: zero(),
            exempted: zero(),
        }
    }
}

/// The locked bucket of a key.
pub(super) struct Bucket<'a> {
    shard: MutexGuard<'a, Shard<Level>>,
    key: &'a str,
    /// Its level now.
    pub(super) level: Level,
    allowance: Allowance,
}

impl State {
    /// Locks the bucket of a key. Several buckets are locked in the order of their states' addresses.
    pub(super) fn lock<'a>(&'a self, key: &'a str, now: f64, allowance: Allowance) -> Bucket<'a> {
        let shard = self.shards[self.hasher.hash_one(key) as usize % SHARDS].lock();
        let level = shard.peek(key).copied().unwrap_or(Level { used: 0.0, at: now });
        Bucket { shard, key, level: level.at(now, &allowance), allowance }
    }

    /// Returns the number of keys.
    pub(super) fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Returns what was counted.
    pub(super) fn counted(&self, name: &Arc<str>, is_shadow: bool) -> PolicyState {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        PolicyState {
            name: name.clone(),
            is_shadow,
            keys: self.keys() as u64,
            waiting: read(&self.waiting),
            admitted: read(&self.admitted),
            refused: read(&self.refused),
            shadowed: read(&self.shadowed),
            queued: read(&self.queued),
            tarpitted: read(&self.tarpitted),
            exempted: read(&self.exempted),
            offenders: self.offenders.counted().offenders,
        }
    }
}

impl Bucket<'_> {
    /// Takes tokens, and returns the level after that.
    pub(super) fn take(&mut self, cost: u64) -> Level {
        self.level = self.level.taking(cost, &self.allowance);
        match self.shard.find(self.key) {
            Some(level) => *level = self.level,
            None => {
                let (now, allowance) = (self.level.at, self.allowance);
                self.shard.insert(self.key, self.level, |level| level.at(now, &allowance).used <= 0.0);
            }
        }
        self.level
    }
}

/// A place in the queue of a policy, until dropped.
pub(super) struct Place(Arc<State>);

impl Place {
    /// Takes a place, if one of `most` is free.
    pub(super) fn take(state: &Arc<State>, most: u64) -> Option<Self> {
        let more = |waiting| (waiting < most).then_some(waiting + 1);
        state.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(state.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
