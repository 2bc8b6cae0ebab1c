//! The time, which tests can stop and move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

/// Where the time comes from. Cloning it is cheap; clones of a manual clock show the same time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The clock of the system.
    #[default]
    System,
    /// A clock that stands still until it is moved.
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// The monotonic time.
    pub fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            Self::Manual(manual) => manual.start + manual.advanced(),
        }
    }

    /// The time of day, which may be set back.
    pub fn wall(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Manual(manual) => manual.wall + manual.advanced(),
        }
    }

    /// The monotonic time as a number: since a moment that stays the same for as long as the process runs.
    ///
    /// State that outlives the object that made it needs no moment of its own to count from.
    pub fn uptime(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match self {
            Self::System => START.elapsed(),
            Self::Manual(manual) => manual.advanced(),
        }
    }
}

/// A clock that stands still until it is moved. It is for tests.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    wall: SystemTime,
    nanos: AtomicU64,
}

impl ManualClock {
    /// A clock that shows the present time, and an uptime of zero.
    pub fn new() -> Self {
        Self { start: Instant::now(), wall: SystemTime::now(), nanos: AtomicU64::new(0) }
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn advanced(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_until_it_is_moved() {
        let manual = Arc::new(ManualClock::new());
        let (clock, same) = (Clock::Manual(manual.clone()), Clock::Manual(manual.clone()));
        let before = (clock.now(), clock.wall(), clock.uptime());
        assert_eq!(before, (same.now(), same.wall(), Duration::ZERO));
        let hour = Duration::from_secs(3600);
        manual.advance(hour);
        assert_eq!((same.now(), same.wall(), same.uptime()), (before.0 + hour, before.1 + hour, hour));
    }

    #[test]
    fn the_clock_of_the_system_runs() {
        let clock = Clock::default();
        let (uptime, now) = (clock.uptime(), clock.now());
        std::thread::sleep(Duration::from_millis(1));
        assert!(clock.now() > now && clock.uptime() > uptime);
    }
}
