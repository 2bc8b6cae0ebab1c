//! The token buckets of a rate limiter: one per source, up to a fixed number.
//!
//! Clients control the sources, so a full store evicts: first a bucket that is full again, which loses
//! nothing, then one that was not used recently (CLOCK). Memory stays bounded even with a million sources.

use std::cell::Cell;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tidegate_core::store::Bucket;

use super::shard::{SHARDS, Shard};

/// Longer keys are hashed, so that long header values do not fill the memory.
pub(super) const MAX_KEY_LEN: usize = 64;

/// A request for a token.
#[derive(Clone, Debug, Eq)]
pub(super) struct Ticket {
    source: String,
    delay: Cell<Duration>,
}

impl Ticket {
    pub(super) fn new(source: String) -> Self {
        let source = if source.len() > MAX_KEY_LEN { hashed(&source) } else { source };
        Self { source, delay: Cell::new(Duration::ZERO) }
    }

    /// The source of the request, shortened if necessary.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Consumes the ticket and returns its source.
    pub(super) fn into_source(self) -> String {
        self.source
    }

    /// How long to wait for a promised token.
    pub(super) fn delay(&self) -> Duration {
        self.delay.get()
    }
}

impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Hash for Ticket {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

/// For each source, the uptime at which its bucket is full again (GCRA's theoretical arrival time).
#[derive(Debug)]
pub(super) struct Buckets {
    shards: [Mutex<Shard<Nanos>>; SHARDS],
    hasher: foldhash::fast::RandomState,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: Default::default() }
    }
}

impl Buckets {
    /// Returns a copy with only the bucket of this source, and the uptime at which that is full again, if it has one.
    pub(super) fn copy_of(&self, source: &str) -> (Self, Option<Duration>) {
        let copy = Self::default();
        let hash = self.hasher.hash_one(source);
        let shard = self.shards[hash as usize % SHARDS].lock();
        let full_at = shard.peek(source).copied();
        drop(shard);
        if let Some(full_at) = full_at {
            let place = copy.hasher.hash_one(source) as usize % SHARDS;
            copy.shards[place].lock().insert(source, full_at, |_| false);
        }
        (copy, full_at.map(Duration::from))
    }

    /// Returns the number of sources.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// The buckets as seen by one limiter. They outlive it, and the next limiter may have other options.
///
/// Unlike a plain store of governor, it promises tokens: a request that is early by at most `ahead` is
/// admitted, pays now and gets the time to wait.
#[derive(Debug)]
pub(super) struct BucketStore {
    buckets: Arc<Buckets>,
    /// Uptime at which the limiter started.
    begin: Nanos,
    interval: Nanos,
    tolerance: Nanos,
    ahead: Nanos,
}

impl BucketStore {
    /// Creates the store of a limiter that starts at this uptime.
    pub(super) fn new(buckets: Arc<Buckets>, begin: Duration, bucket: &Bucket) -> Self {
        let interval = Nanos::from(bucket.interval);
        Self {
            buckets,
            begin: begin.into(),
            interval,
            tolerance: interval * u64::from(bucket.burst.saturating_sub(1)),
            ahead: bucket.ahead.into(),
        }
    }
}

impl StateStore for BucketStore {
    type Key = Ticket;

    fn measure_and_replace<T, F, E>(&self, key: &Ticket, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let hash = self.buckets.hasher.hash_one(&key.source);
        let mut shard = self.buckets.shards[hash as usize % SHARDS].lock();
        let Some(slot) = shard.find(&key.source) else {
            let (outcome, full_at) = f(None)?;
            // A new source starts with a full bucket: after this request it is full again one interval from
            // now.
            let now = full_at.saturating_sub(self.interval);
            let now = self.begin + now;
            shard.insert(&key.source, self.begin + full_at, |full_at| *full_at <= now);
            return Ok(outcome);
        };
        let mut old = slot.saturating_sub(self.begin);
        let refusal = match f(Some(old)) {
            Ok((outcome, full_at)) => {
                *slot = self.begin + full_at;
                return Ok(outcome);
            }
            Err(refusal) => refusal,
        };
        // A new source is always admitted now, which reveals the limiter's time.
        let Ok((_, next)) = f(None) else { return Err(refusal) };
        let now = next.saturating_sub(self.interval);
        let empty = next + self.tolerance + self.ahead;
        if old > empty {
            // Under earlier options the bucket was emptier than it can be now.
            (old, *slot) = (empty, self.begin + empty);
        }
        if self.ahead != Nanos::default()
            && let Ok((outcome, _)) = f(Some(old.saturating_sub(self.ahead)))
        {
            *slot = self.begin + old + self.interval;
            key.delay.set(old.saturating_sub(self.tolerance).saturating_sub(now).into());
            return Ok(outcome);
        }
        f(Some(old)).map(|(outcome, _)| outcome)
    }
}

/// Returns a short text that stands for a long one.
pub(super) fn hashed(source: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(source.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::middleware::NoOpMiddleware;
    use governor::{Quota, RateLimiter};
    use std::num::NonZeroU32;
    use tidegate_core::{Clock, ManualClock};

    use super::super::Uptime;
    use super::super::shard::MAX_SOURCES;

    type Limiter = RateLimiter<Ticket, BucketStore, Uptime, NoOpMiddleware<Duration>>;

    struct World {
        buckets: Arc<Buckets>,
        clock: Arc<ManualClock>,
    }

    impl World {
        fn new() -> Self {
            let world = Self { buckets: Arc::default(), clock: Arc::default() };
            world.clock.advance(Duration::from_secs(100));
            world
        }

        fn limiter(&self, interval: Duration, burst: u32, ahead: Duration) -> Limiter {
            let clock = Clock::Manual(self.clock.clone());
            let quota = Quota::with_period(interval).unwrap().allow_burst(NonZeroU32::new(burst).unwrap());
            let bucket = Bucket { interval, burst, ahead };
            let filling = BucketStore::new(self.buckets.clone(), clock.uptime(), &bucket);
            RateLimiter::new(quota, filling, Uptime(clock))
        }
    }

    fn limiter(interval: Duration, burst: u32, ahead: Duration) -> (Limiter, World) {
        let world = World::new();
        (world.limiter(interval, burst, ahead), world)
    }

    /// Returns how long to wait for the token, or until the next attempt.
    fn admit(limiter: &Limiter) -> Result<Duration, Duration> {
        use governor::clock::Clock as _;
        let ticket = Ticket::new("a".into());
        limiter
            .check_key(&ticket)
            .map(|()| ticket.delay())
            .map_err(|refused| refused.wait_time_from(limiter.clock().now()))
    }

    #[test]
    fn buckets_are_kept_under_other_options() {
        let ms = Duration::from_millis;
        let world = World::new();
        let first = world.limiter(ms(1000), 3, ms(0));
        assert_eq!([admit(&first), admit(&first)], [Ok(ms(0)), Ok(ms(0))]);
        world.clock.advance(ms(500));
        // 1.5 tokens are left: a larger burst adds two, a smaller one none.
        let larger = world.limiter(ms(1000), 5, ms(0));
        assert_eq!([admit(&larger), admit(&larger), admit(&larger)], [Ok(ms(0)); 3]);
        assert_eq!(admit(&larger), Err(ms(500)));
        world.clock.advance(ms(500));
        let smaller = world.limiter(ms(1000), 1, ms(0));
        assert_eq!(admit(&smaller), Err(ms(1000)), "as empty as possible, but no emptier");
        world.clock.advance(ms(1000));
        assert_eq!(admit(&smaller), Ok(ms(0)));
        let faster = world.limiter(ms(10), 1, ms(5));
        assert_eq!(admit(&faster), Err(ms(15)));
        world.clock.advance(ms(10));
        assert_eq!(admit(&faster), Ok(ms(5)));
    }

    #[test]
    fn early_requests_are_promised_a_token_once() {
        let ms = Duration::from_millis;
        let (limiter, world) = limiter(ms(100), 2, ms(50));
        let (admit, clock) = (|| admit(&limiter).map_err(|_| ()), &world.clock);
        assert_eq!(admit(), Ok(ms(0)));
        assert_eq!(admit(), Ok(ms(0)));
        assert_eq!(admit(), Err(()), "100 ms are too long to wait");
        clock.advance(ms(60));
        assert_eq!(admit(), Ok(ms(40)), "40 ms are not");
        assert_eq!(admit(), Err(()), "that token is already promised");
        clock.advance(ms(140));
        assert_eq!(admit(), Ok(ms(0)));
        clock.advance(ms(10_000));
        assert_eq!(
            [admit(), admit(), admit()],
            [Ok(ms(0)), Ok(ms(0)), Err(())],
            "no more than a full bucket"
        );
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        let (limiter, world) = limiter(Duration::from_secs(1), 1, Duration::ZERO);
        for n in 0..200_000 {
            assert!(limiter.check_key(&Ticket::new(format!("{n}"))).is_ok());
        }
        let buckets = world.buckets;
        assert_eq!(buckets.len(), MAX_SOURCES);
        assert!(buckets.shards.iter().all(|shard| shard.lock().is_consistent()));
    }

    #[test]
    fn a_busy_source_is_not_evicted() {
        let (limiter, _) = limiter(Duration::from_secs(3600), 1, Duration::ZERO);
        assert!(limiter.check_key(&Ticket::new("busy".into())).is_ok());
        for n in 0..100_000 {
            assert!(limiter.check_key(&Ticket::new(format!("{n}"))).is_ok());
            if n % 100 == 0 {
                assert!(limiter.check_key(&Ticket::new("busy".into())).is_err(), "forgotten after {n}");
            }
        }
    }

    #[test]
    fn long_sources_are_hashed_and_stay_distinct() {
        let long = "x".repeat(100_000);
        let a = Ticket::new(format!("{long}a"));
        assert!(a.source.len() <= MAX_KEY_LEN);
        assert_ne!(a, Ticket::new(format!("{long}b")));
        assert_eq!(a, Ticket::new(format!("{long}a")));
    }
}
