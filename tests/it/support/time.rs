//! How tests wait: until a condition holds, or, where time itself is what is tested, for that time.
//!
//! Nothing else in these tests sleeps (`tests/it/tidy.rs` checks it).

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until a condition holds, at most a minute. Panics with `what` otherwise.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(wait_until(Duration::from_secs(60), condition).is_some(), "waited 60 s in vain: {what}");
}

/// Waits until a condition holds and returns how long that took, or `None` if it does not hold within `limit`.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let begun = Instant::now();
    while !condition() {
        if begun.elapsed() >= limit {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Some(begun.elapsed())
}

/// As [`eventually`], for a condition that is itself asynchronous.
pub async fn eventually_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited 60 s in vain: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Looks again and again for this long, and at least once: for what must not happen, or must stay as it is.
pub fn repeat_for(time: Duration, mut look: impl FnMut()) {
    let begun = Instant::now();
    loop {
        look();
        if begun.elapsed() >= time {
            return;
        }
        std::thread::sleep(4 * POLL_INTERVAL);
    }
}

/// Does nothing for this long, because that is the behaviour under test: a client that pauses or keeps its pace, a
/// server that is slow, an outage that lasts. What waits for something to happen uses [`eventually`].
pub fn pause_for(time: Duration) {
    std::thread::sleep(time);
}

/// As [`pause_for`], in asynchronous code.
pub async fn pause_for_async(time: Duration) {
    tokio::time::sleep(time).await;
}
