//! The requests of the last minutes, from samples of their numbers: a request only counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::Clock;
use tidegate_core::caches::CachedRequests;

use super::counters::{Counters, Totals};

/// Time between two samples.
const STEP: Duration = Duration::from_secs(10);
/// Number of samples: those of five minutes, and the one before.
const SAMPLES: usize = 31;
/// The lengths of time that are shown.
const LENGTHS: [(&str, Duration); 2] = [("1m", Duration::from_secs(60)), ("5m", Duration::from_secs(300))];

/// Samples of the numbers of requests. Outlives changes of options.
pub(super) struct History(Mutex<VecDeque<(Duration, Totals)>>);

impl History {
    /// Begins when nothing is counted yet; `now` is the uptime.
    pub(super) fn new(now: Duration) -> Self {
        Self(Mutex::new(VecDeque::from([(now, Totals::default())])))
    }

    /// Takes a sample, unless the last one is recent: two tasks may overlap for a moment.
    fn sample(&self, now: Duration, totals: Totals) {
        let mut samples = self.0.lock();
        if samples.back().is_some_and(|(last, _)| now.saturating_sub(*last) < STEP / 2) {
            return;
        }
        samples.push_back((now, totals));
        while samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// The requests of the last minutes. Until there are samples that are old enough, those since the first one.
    pub(super) fn recent(&self, now: Duration, totals: &Totals) -> Vec<(&'static str, CachedRequests)> {
        let samples = self.0.lock();
        let since = |length: Duration| {
            let start = now.saturating_sub(length);
            // Samples are late by some milliseconds.
            let old = |(at, _): &&(Duration, Totals)| *at <= start + STEP / 2;
            samples
                .iter()
                .rev()
                .find(old)
                .or(samples.front())
                .map_or(Totals::default(), |(_, totals)| *totals)
        };
        LENGTHS.iter().map(|(name, length)| (*name, totals.since(&since(*length)))).collect()
    }

    /// The requests between each two samples, the oldest first, and at last those since the latest.
    pub(super) fn steps(&self, totals: &Totals) -> Vec<CachedRequests> {
        let samples = self.0.lock();
        let ends = samples.iter().skip(1).map(|(_, totals)| totals).chain([totals]);
        samples.iter().zip(ends).map(|((_, start), end)| end.since(start)).collect()
    }
}

/// Takes a sample every ten seconds.
pub(super) async fn sample(history: Arc<History>, counters: Arc<Counters>, clock: Clock) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        history.sample(clock.uptime(), counters.totals());
    }
}

#[cfg(test)]
mod tests {
    use tidegate_cache::cache_status::CacheStatus;

    use super::*;

    fn hits(requests: &CachedRequests) -> u64 {
        requests.by_outcome.iter().find(|(outcome, _)| *outcome == "hit").unwrap().1
    }

    #[test]
    fn the_last_minutes_are_those_since_a_sample() {
        let counters = Counters::default();
        let start = Duration::from_secs(100);
        let history = History::new(start);
        let hit = CacheStatus { hit: true, collapsed: true, ..CacheStatus::default() };
        // One hit in each second.
        for second in 1..=395 {
            counters.count(&hit);
            if second % 10 == 0 {
                history.sample(start + Duration::from_secs(second), counters.totals());
            }
        }
        let (now, totals) = (start + Duration::from_secs(395), counters.totals());
        let recent = history.recent(now, &totals);
        let shown: Vec<_> = recent.iter().map(|(name, requests)| (*name, hits(requests))).collect();
        assert_eq!(shown, [("1m", 55), ("5m", 295)]);
        assert_eq!(recent[0].1.collapsed, 55);
        let steps: Vec<u64> = history.steps(&totals).iter().map(hits).collect();
        assert_eq!((steps.len(), steps[0], steps[30]), (31, 10, 5));
        // The task of a new configuration takes its first sample at once.
        history.sample(now, totals);
        assert_eq!(history.steps(&totals).len(), 31);
        history.sample(now - Duration::from_secs(1), totals);
        assert_eq!(history.steps(&totals).iter().map(hits).max(), Some(10));
    }

    #[test]
    fn a_new_cache_shows_everything() {
        let (counters, start) = (Counters::default(), Duration::from_secs(5));
        let history = History::new(start);
        history.sample(start, counters.totals());
        counters.count(&CacheStatus { hit: true, ..CacheStatus::default() });
        let totals = counters.totals();
        let recent = history.recent(start + Duration::from_secs(1), &totals);
        assert_eq!(recent.iter().map(|(_, requests)| hits(requests)).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(history.steps(&totals).len(), 1);
    }
}
