//! The time, which tests can stop and advance.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

/// A source of time. Cheap to clone; clones of a manual clock stay in step.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that only moves when told to.
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// Returns the monotonic time.
    pub fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            Self::Manual(manual) => manual.start + manual.advanced(),
        }
    }

    /// Returns the wall-clock time, which may be set back.
    pub fn wall(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Manual(manual) => manual.wall + manual.advanced(),
        }
    }

    /// Returns the monotonic time since a fixed moment in the life of the process.
    ///
    /// State that outlives its creator can use it without storing a reference point.
    pub fn uptime(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        match self {
            Self::System => START.elapsed(),
            Self::Manual(manual) => manual.advanced(),
        }
    }
}

/// A clock for tests that moves only when advanced.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    wall: SystemTime,
    nanos: AtomicU64,
}

impl ManualClock {
    /// Creates a clock that shows the current time, with an uptime of zero.
    pub fn new() -> Self {
        Self { start: Instant::now(), wall: SystemTime::now(), nanos: AtomicU64::new(0) }
    }

    /// Advances the clock.
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
    fn a_manual_clock_moves_only_when_advanced() {
        let manual = Arc::new(ManualClock::new());
        let (clock, same) = (Clock::Manual(manual.clone()), Clock::Manual(manual.clone()));
        let before = (clock.now(), clock.wall(), clock.uptime());
        assert_eq!(before, (same.now(), same.wall(), Duration::ZERO));
        let hour = Duration::from_secs(3600);
        manual.advance(hour);
        assert_eq!((same.now(), same.wall(), same.uptime()), (before.0 + hour, before.1 + hour, hour));
    }

    #[test]
    fn the_system_clock_advances() {
        let clock = Clock::default();
        let (uptime, now) = (clock.uptime(), clock.now());
        std::thread::sleep(Duration::from_millis(1));
        assert!(clock.now() > now && clock.uptime() > uptime);
    }
}
