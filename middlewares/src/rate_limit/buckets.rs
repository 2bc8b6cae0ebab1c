//! The token buckets of a rate limiter: one per source, never more than a fixed number of them.
//!
//! Sources are chosen by whoever sends requests, so a full store forgets: first a bucket that is full again (nothing
//! is lost), then one that was not used for long (CLOCK). Memory stays the same under a million sources.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tidegate_core::store::Bucket;

/// Most sources that are remembered (as in Traefik).
const MAX_SOURCES: usize = 65_536;
const SHARDS: usize = 64;
/// Longer keys are remembered by their hash, so that long header values do not fill the memory.
const MAX_KEY: usize = 64;

/// One request's claim to a token.
#[derive(Clone, Debug, Eq)]
pub(super) struct Ticket {
    source: String,
    delay: Cell<Duration>,
}

impl Ticket {
    pub(super) fn new(source: String) -> Self {
        let source = if source.len() > MAX_KEY { hashed(&source) } else { source };
        Self { source, delay: Cell::new(Duration::ZERO) }
    }

    /// Whose token it is: short, whatever the client has sent.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The same, to keep.
    pub(super) fn into_source(self) -> String {
        self.source
    }

    /// How long to wait for the token that was promised.
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

/// Per source the uptime at which its bucket is full again (GCRA's theoretical arrival time).
#[derive(Debug)]
pub(super) struct Buckets {
    shards: [Mutex<Shard>; SHARDS],
    hasher: foldhash::fast::RandomState,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: Default::default() }
    }
}

impl Buckets {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().slots.len()).sum()
    }
}

/// The buckets as one limiter fills them: they outlive it, and the next one may have other options.
///
/// Beyond what governor asks of a store, it promises tokens ahead: a request that is early by at most `ahead` is
/// let in, pays now and is told how long to wait.
#[derive(Debug)]
pub(super) struct Filling {
    buckets: Arc<Buckets>,
    /// The uptime from which the limiter counts.
    begin: Nanos,
    interval: Nanos,
    tolerance: Nanos,
    ahead: Nanos,
}

impl Filling {
    /// For a limiter that is made at this uptime.
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

impl StateStore for Filling {
    type Key = Ticket;

    fn measure_and_replace<T, F, E>(&self, key: &Ticket, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let hash = self.buckets.hasher.hash_one(&key.source);
        let mut shard = self.buckets.shards[hash as usize % SHARDS].lock();
        let Some(slot) = shard.find(&key.source) else {
            let (outcome, full_at) = f(None)?;
            // An unknown source is admitted with a full bucket: "full again" is one token from now.
            let now = full_at.saturating_sub(self.interval);
            shard.insert(&key.source, self.begin + full_at, self.begin + now);
            return Ok(outcome);
        };
        let mut old = slot.full_at.saturating_sub(self.begin);
        let refusal = match f(Some(old)) {
            Ok((outcome, full_at)) => {
                slot.full_at = self.begin + full_at;
                return Ok(outcome);
            }
            Err(refusal) => refusal,
        };
        // A new source is always admitted at the present time, which tells what time it is.
        let Ok((_, next)) = f(None) else { return Err(refusal) };
        let now = next.saturating_sub(self.interval);
        let empty = next + self.tolerance + self.ahead;
        if old > empty {
            // Under earlier options it was emptier than it can be now.
            (old, slot.full_at) = (empty, self.begin + empty);
        }
        if self.ahead != Nanos::default()
            && let Ok((outcome, _)) = f(Some(old.saturating_sub(self.ahead)))
        {
            slot.full_at = self.begin + old + self.interval;
            key.delay.set(old.saturating_sub(self.tolerance).saturating_sub(now).into());
            return Ok(outcome);
        }
        f(Some(old)).map(|(outcome, _)| outcome)
    }
}

#[derive(Debug, Default)]
struct Shard {
    index: HashMap<Arc<str>, usize, foldhash::fast::RandomState>,
    slots: Vec<Slot>,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    source: Arc<str>,
    full_at: Nanos,
    used: bool,
}

impl Shard {
    fn find(&mut self, source: &str) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(*self.index.get(source)?)?;
        slot.used = true;
        Some(slot)
    }

    fn insert(&mut self, source: &str, full_at: Nanos, now: Nanos) {
        let source: Arc<str> = Arc::from(source);
        let slot = Slot { source: source.clone(), full_at, used: false };
        if self.slots.len() < MAX_SOURCES / SHARDS {
            self.index.insert(source, self.slots.len());
            self.slots.push(slot);
            return;
        }
        let place = self.victim(now);
        self.index.remove(&self.slots[place].source);
        self.index.insert(source, place);
        self.slots[place] = slot;
    }

    /// The next slot in the circle that is full again or was not used since the hand passed it.
    fn victim(&mut self, now: Nanos) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[place];
            if slot.full_at <= now || !slot.used {
                return place;
            }
            slot.used = false;
        }
    }
}

fn hashed(source: &str) -> String {
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

    type Limiter = RateLimiter<Ticket, Filling, Uptime, NoOpMiddleware<Duration>>;

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
            let filling = Filling::new(self.buckets.clone(), clock.uptime(), &bucket);
            RateLimiter::new(quota, filling, Uptime(clock))
        }
    }

    fn limiter(interval: Duration, burst: u32, ahead: Duration) -> (Limiter, World) {
        let world = World::new();
        (world.limiter(interval, burst, ahead), world)
    }

    /// How long to wait for the token, or for the next try.
    fn admit(limiter: &Limiter) -> Result<Duration, Duration> {
        use governor::clock::Clock as _;
        let ticket = Ticket::new("a".into());
        limiter
            .check_key(&ticket)
            .map(|()| ticket.delay())
            .map_err(|refused| refused.wait_time_from(limiter.clock().now()))
    }

    #[test]
    fn buckets_go_on_under_other_options() {
        let ms = Duration::from_millis;
        let world = World::new();
        let first = world.limiter(ms(1000), 3, ms(0));
        assert_eq!([admit(&first), admit(&first)], [Ok(ms(0)), Ok(ms(0))]);
        world.clock.advance(ms(500));
        // 1.5 tokens are left: a larger burst gives two more, a smaller one none.
        let larger = world.limiter(ms(1000), 5, ms(0));
        assert_eq!([admit(&larger), admit(&larger), admit(&larger)], [Ok(ms(0)); 3]);
        assert_eq!(admit(&larger), Err(ms(500)));
        world.clock.advance(ms(500));
        let smaller = world.limiter(ms(1000), 1, ms(0));
        assert_eq!(admit(&smaller), Err(ms(1000)), "as empty as it can be, and no emptier");
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
        assert_eq!(admit(), Err(()), "that token is promised away");
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
    fn many_sources_take_no_more_room_than_the_limit() {
        let (limiter, world) = limiter(Duration::from_secs(1), 1, Duration::ZERO);
        for n in 0..200_000 {
            assert!(limiter.check_key(&Ticket::new(format!("{n}"))).is_ok());
        }
        let buckets = world.buckets;
        assert_eq!(buckets.len(), MAX_SOURCES);
        let indexed: usize = buckets.shards.iter().map(|shard| shard.lock().index.len()).sum();
        assert_eq!(indexed, MAX_SOURCES);
    }

    #[test]
    fn a_busy_source_is_not_forgotten_for_new_ones() {
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
    fn long_sources_are_kept_short_and_apart() {
        let long = "x".repeat(100_000);
        let a = Ticket::new(format!("{long}a"));
        assert!(a.source.len() <= MAX_KEY);
        assert_ne!(a, Ticket::new(format!("{long}b")));
        assert_eq!(a, Ticket::new(format!("{long}a")));
    }
}
