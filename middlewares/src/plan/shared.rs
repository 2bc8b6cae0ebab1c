//! Quotas that gateways count together in Redis.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::plan::{Anchor, Quota};
use tidegate_core::store::{Allowance, Demand, Draw, SharedStore, StoreError};

use super::ledger::Taken;
use super::log::{Total, Totals};
use super::window::Window;

/// Tokens never come back: a bucket ends with its period.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The most units that count as used, which a double counts exactly.
const MOST: f64 = (1u64 << 52) as f64;
const SHARDS: usize = 64;
/// Maximum number of buckets in a shard whose last totals are kept.
const MAX_SEEN: usize = 4096;
const PREFIX: &str = "tidegate:quota:";

/// Quotas in a store.
pub(super) struct SharedQuotas {
    store: Arc<dyn SharedStore>,
    deadline: Duration,
    /// The last totals that this gateway has seen.
    seen: [Mutex<Totals>; SHARDS],
    hasher: foldhash::fast::RandomState,
}

impl SharedQuotas {
    pub(super) fn new(store: Arc<dyn SharedStore>, deadline: Duration) -> Self {
        let seen = std::array::from_fn(|_| Mutex::default());
        Self { store, deadline, seen, hasher: foldhash::fast::RandomState::default() }
    }

    /// Takes units, if they are left. With a cost of 0, only looks whether any are.
    pub(super) async fn take(
        &self,
        bucket: &str,
        cost: u64,
        quota: &Quota,
        now: i64,
    ) -> Result<Taken, StoreError> {
        let (total, is_over) = self.draw(bucket, cost, quota, now, Demand::Enforce).await?;
        let Total { used, window } = total;
        Ok(match is_over || (cost == 0 && used >= quota.limit) {
            true => Taken::Over { used, window },
            false => Taken::Within { before: used.saturating_sub(cost), after: used, window },
        })
    }

    /// Charges units that were used already. Returns what was used before and after.
    pub(super) async fn charge(
        &self,
        bucket: &str,
        units: u64,
        quota: &Quota,
        now: i64,
    ) -> Result<(u64, u64), StoreError> {
        let before = self.seen(bucket).lock().get(bucket).map_or(0, |total| total.used);
        let (total, _) = self.draw(bucket, units, quota, now, Demand::Charge).await?;
        Ok((before.min(total.used), total.used))
    }

    /// Returns the last totals that this gateway has seen.
    pub(super) fn all(&self) -> Vec<(String, Total)> {
        let each = self.seen.iter().flat_map(|shard| {
            shard.lock().iter().map(|(bucket, total)| (bucket.clone(), *total)).collect::<Vec<_>>()
        });
        each.collect()
    }

    /// Returns the last total of a bucket that this gateway has seen, if its period has not ended.
    pub(super) fn last(&self, bucket: &str, now: i64) -> Option<Total> {
        let last = self.seen(bucket).lock().get(bucket).copied();
        last.filter(|total| total.window.end > now)
    }

    async fn draw(
        &self,
        bucket: &str,
        cost: u64,
        quota: &Quota,
        now: i64,
        demand: Demand,
    ) -> Result<(Total, bool), StoreError> {
        let window = Window::at(now, quota.period, quota.anchor, None);
        let seconds = |time: i64| Duration::from_secs(u64::try_from(time).unwrap_or(0).max(1));
        let (key, lifetime) = match quota.anchor {
            Anchor::Calendar(_) => (format!("{PREFIX}{bucket}:{}", window.start), seconds(window.end - now)),
            Anchor::FirstUse => (format!("{PREFIX}{bucket}"), seconds(window.end - window.start)),
        };
        let allowance = Allowance { interval: NEVER, burst: quota.limit, ahead: Duration::ZERO, most: MOST };
        let draws = [Draw { key, allowance, cost, demand, lifetime: Some(lifetime) }];
        let drawn = self.store.draw(&draws, self.deadline).await?;
        let drawn =
            drawn.first().ok_or_else(|| StoreError::Unavailable { reason: "no answer".to_owned() })?;
        let window = match quota.anchor {
            Anchor::Calendar(_) => window,
            Anchor::FirstUse => {
                let rest = i64::try_from(drawn.full_in.as_secs()).unwrap_or(0);
                Window { start: now + rest - (window.end - window.start), end: now + rest }
            }
        };
        let total = Total { window, used: quota.limit.saturating_sub(drawn.left) };
        let mut seen = self.seen(bucket).lock();
        if seen.len() >= MAX_SEEN && !seen.contains_key(bucket) {
            seen.retain(|_, total| total.window.end > now);
        }
        if seen.len() < MAX_SEEN || seen.contains_key(bucket) {
            seen.insert(bucket.to_owned(), total);
        }
        Ok((total, matches!(drawn.turn, tidegate_core::store::Turn::Over(_))))
    }

    fn seen(&self, bucket: &str) -> &Mutex<Totals> {
        &self.seen[self.hasher.hash_one(bucket) as usize % SHARDS]
    }
}
