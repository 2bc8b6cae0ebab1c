//! How tests wait: until a condition holds or, if time itself is being tested, for that time.
//!
//! Nothing else in these tests sleeps, which `tests/it/tidy.rs` checks.

use std::time::{Duration, Instant};

/// Interval at which a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until a condition holds, for at most a minute. Panics with `what` otherwise.
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

/// Like [`eventually`], for an asynchronous condition.
pub async fn eventually_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited 60 s in vain: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Checks repeatedly for this long, and at least once: for what must not happen, or must not change.
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

/// Pauses, because that is the behaviour under test: a client that pauses or keeps its pace, a slow server, a
/// long outage. To wait for something to happen, use [`eventually`].
pub fn pause_for(time: Duration) {
    std::thread::sleep(time);
}

/// Like [`pause_for`], in asynchronous code.
pub async fn pause_for_async(time: Duration) {
    tokio::time::sleep(time).await;
}
