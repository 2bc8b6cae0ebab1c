//! Signatures and proofs that have been used, for as long as they could be used again.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use foldhash::{HashSet, HashSetExt as _};
use parking_lot::Mutex;
use tidegate_core::store::SharedStore;
use tidegate_core::{BuildContext, BuildError};

use crate::rate_limit::{FailureMode, Redis};

/// Number of parts, each with its own lock.
const SHARDS: usize = 64;

/// What identifies a used signature: half of a SHA-256.
pub(crate) type Mark = [u8; 16];

/// Why a use is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RememberedError {
    /// It is not the first.
    Known,
    /// There are too many others.
    Full,
    /// Redis is unavailable.
    Unavailable,
}

/// Used signatures. They outlive changes of the options.
pub(crate) struct Remembered([Mutex<Shard>; SHARDS]);

/// Two generations: what is added now, and what was added before.
struct Shard {
    current: HashSet<Mark>,
    previous: HashSet<Mark>,
    /// Uptime at which the current generation began.
    since: Duration,
}

impl Remembered {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| {
            let (current, previous) = (HashSet::new(), HashSet::new());
            Mutex::new(Shard { current, previous, since: Duration::ZERO })
        }))
    }

    fn shard(&self, mark: &Mark) -> &Mutex<Shard> {
        // The remainder is less than the number of shards.
        &self.0[usize::from(mark[0]) % SHARDS]
    }

    /// Returns true if a signature has been used.
    pub(crate) fn contains(&self, mark: &Mark) -> bool {
        let shard = self.shard(mark).lock();
        shard.current.contains(mark) || shard.previous.contains(mark)
    }

    /// Records a use for at least `window`. Fails if it is not the first, or if there are `capacity` others.
    pub(crate) fn add(
        &self,
        mark: Mark,
        now: Duration,
        window: Duration,
        capacity: usize,
    ) -> Result<(), RememberedError> {
        let mut shard = self.shard(&mark).lock();
        let age = now.saturating_sub(shard.since);
        if age >= window {
            shard.previous = std::mem::take(&mut shard.current);
            if age >= window.saturating_mul(2) {
                shard.previous = HashSet::new();
            }
            shard.since = now;
        }
        if shard.current.contains(&mark) || shard.previous.contains(&mark) {
            return Err(RememberedError::Known);
        }
        if shard.current.len() >= capacity.div_ceil(SHARDS) {
            return Err(RememberedError::Full);
        }
        shard.current.insert(mark);
        Ok(())
    }
}

/// Used signatures in Redis, which gateways share.
pub(crate) struct SharedMarks {
    store: Arc<dyn SharedStore>,
    prefix: String,
    deadline: Duration,
    on_failure: FailureMode,
}

impl SharedMarks {
    /// Returns the marks whose keys begin with `prefix`.
    pub(crate) fn new(prefix: String, redis: &Redis, context: &BuildContext<'_>) -> Result<Self, BuildError> {
        let (deadline, on_failure) = redis.behaviour()?;
        let store = context.store(&redis.store_options(context)?)?;
        Ok(Self { store, prefix, deadline, on_failure })
    }

    /// Records a use for `window`. Returns false if that is up to this gateway, since Redis is unavailable. Fails if
    /// the use is not the first, or cannot be recorded.
    pub(crate) async fn add(&self, mark: &Mark, window: Duration) -> Result<bool, RememberedError> {
        let key = format!("{}{}", self.prefix, BASE64_URL_SAFE_NO_PAD.encode(mark));
        match self.store.compare_and_set(&key, None, b"1", window, self.deadline).await {
            Ok(true) => Ok(true),
            Ok(false) => Err(RememberedError::Known),
            // The store has logged why.
            Err(_) => match self.on_failure {
                FailureMode::Deny => Err(RememberedError::Unavailable),
                FailureMode::Allow => Ok(true),
                FailureMode::Local => Ok(false),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_remembered_for_the_window_and_within_the_capacity() {
        let (remembered, window) = (Remembered::new(), Duration::from_secs(10));
        let add = |mark: u8, second: u64| {
            // All in one shard.
            remembered.add(
                [0, mark, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                Duration::from_secs(second),
                window,
                2 * SHARDS,
            )
        };
        assert_eq!([add(1, 9), add(1, 18), add(2, 19)], [Ok(()), Err(RememberedError::Known), Ok(())]);
        assert_eq!(
            [add(1, 19), add(3, 19), add(4, 19)],
            [Err(RememberedError::Known), Ok(()), Err(RememberedError::Full)]
        );
        // The first is forgotten, the second is not.
        assert_eq!([add(4, 29), add(1, 29), add(2, 29)], [Ok(()), Ok(()), Err(RememberedError::Known)]);
        assert_eq!([add(2, 100), add(4, 100)], [Ok(()), Ok(())]);
    }
}
