//! The numbers of one object over the last minutes.

use std::time::Duration;

use super::event::Outcome;

/// Number of slots of a second.
const SECONDS: usize = 10;
/// Number of slots of [`STEP`].
const STEPS: usize = 30;
/// Length of a longer slot in seconds.
pub(crate) const STEP: u64 = 10;
/// Number of distributions of [`SPREAD`].
const SPREADS: usize = 3;
/// Length of the slot of a distribution in seconds.
const SPREAD: u64 = 20;
/// Number of buckets of a distribution: four per power of two, up to 268 s.
const BUCKETS: usize = 112;
/// How long numbers are known, in seconds.
pub(super) const HORIZON: u64 = STEPS as u64 * STEP;
/// The spans over which requests are counted, in seconds.
pub(super) const SPANS: [u64; 3] = [SECONDS as u64, 60, HORIZON];

/// Requests within a fixed length of time.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Number of the slot since the start.
    at: u64,
    requests: u32,
    errors: u32,
}

/// Counts times by bucket within a fixed length of time.
#[derive(Clone, Copy)]
struct Distribution {
    at: u64,
    buckets: [u32; BUCKETS],
}

/// The requests of one object. `now` is always in seconds since the start, and never decreases.
pub(super) struct Series {
    /// When it began.
    since: u64,
    last: u64,
    seconds: [Slot; SECONDS],
    steps: [Slot; STEPS],
    distributions: [Distribution; SPREADS],
}

/// What a series has at a moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbers {
    /// Requests within the last 10 s, minute and five minutes.
    pub(crate) requests: [u64; 3],
    /// Those of them that failed.
    pub(crate) errors: [u64; 3],
    /// The same spans in seconds; shorter if the series is younger.
    pub(crate) spans: [f64; 3],
    /// The time that half of the requests of the last 40 to 60 s took at most.
    pub(crate) p50: Option<Duration>,
    /// The time that 99 % of them took at most.
    pub(crate) p99: Option<Duration>,
    /// Requests and errors of each [`STEP`] of the last five minutes, oldest first.
    pub(crate) history: Vec<(u32, u32)>,
}

impl Numbers {
    /// Returns the requests per second within a span.
    pub(crate) fn rate(&self, span: usize) -> f64 {
        self.requests[span] as f64 / self.spans[span]
    }

    /// Returns the errors per second within a span.
    pub(crate) fn error_rate(&self, span: usize) -> f64 {
        self.errors[span] as f64 / self.spans[span]
    }
}

impl Series {
    pub(super) fn new(now: u64) -> Self {
        let distribution = Distribution { at: 0, buckets: [0; BUCKETS] };
        Self {
            since: now,
            last: now,
            seconds: [Slot::default(); SECONDS],
            steps: [Slot::default(); STEPS],
            distributions: [distribution; SPREADS],
        }
    }

    /// Adds a request that has ended.
    pub(super) fn add(&mut self, outcome: Outcome, now: u64) {
        self.last = now;
        for (slots, length) in [(&mut self.seconds[..], 1), (&mut self.steps[..], STEP)] {
            let at = now / length;
            let slot = &mut slots[(at % slots.len() as u64) as usize];
            if slot.at != at {
                *slot = Slot { at, ..Slot::default() };
            }
            slot.requests = slot.requests.saturating_add(1);
            slot.errors = slot.errors.saturating_add(u32::from(outcome.is_error));
        }
        let Some(time) = outcome.time else { return };
        let at = now / SPREAD;
        let distribution = &mut self.distributions[(at % SPREADS as u64) as usize];
        if distribution.at != at {
            *distribution = Distribution { at, buckets: [0; BUCKETS] };
        }
        let bucket = &mut distribution.buckets[bucket(time)];
        *bucket = bucket.saturating_add(1);
    }

    /// Returns true if it has no requests within the last five minutes.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        now.saturating_sub(self.last) > HORIZON
    }

    /// Returns the numbers. `part` is the fraction of the current second that is over.
    pub(super) fn numbers(&self, now: u64, part: f64) -> Numbers {
        let [mut requests, mut errors] = [[0; 3]; 2];
        let sources = [(&self.seconds[..], 1), (&self.steps[..], STEP), (&self.steps[..], STEP)];
        for (span, (slots, length)) in sources.into_iter().enumerate() {
            let number = SPANS[span] / length;
            for slot in slots.iter().filter(|slot| is_within(slot.at, now / length, number)) {
                requests[span] += u64::from(slot.requests);
                errors[span] += u64::from(slot.errors);
            }
        }
        let age = now.saturating_sub(self.since) as f64 + part;
        let spans = std::array::from_fn(|span| {
            // The last slot is not over yet.
            let length: u64 = [1, STEP, STEP][span];
            let over = (now % length) as f64 + part;
            ((SPANS[span] - length) as f64 + over).min(age).max(1.0)
        });
        Numbers {
            requests,
            errors,
            spans,
            p50: self.quantile(0.5, now),
            p99: self.quantile(0.99, now),
            history: self.history(now),
        }
    }

    fn history(&self, now: u64) -> Vec<(u32, u32)> {
        let last = now / STEP;
        let numbers = |back: u64| {
            let at = last.checked_sub(back)?;
            let slot = self.steps.iter().find(|slot| slot.at == at && slot.requests > 0)?;
            Some((slot.requests, slot.errors))
        };
        (0..STEPS as u64).rev().map(|back| numbers(back).unwrap_or_default()).collect()
    }

    fn quantile(&self, share: f64, now: u64) -> Option<Duration> {
        let current = self.distributions.iter().filter(|one| is_within(one.at, now / SPREAD, SPREADS as u64));
        let mut sums = [0_u64; BUCKETS];
        for (sum, count) in current.flat_map(|one| one.buckets.iter().enumerate()) {
            sums[sum] += u64::from(*count);
        }
        let total: u64 = sums.iter().sum();
        let mut left = (total as f64 * share).ceil() as u64;
        for (bucket, count) in sums.into_iter().enumerate() {
            if count > 0 && left <= count {
                return Some(middle(bucket));
            }
            left = left.saturating_sub(count);
        }
        None
    }
}

/// Returns true if a slot is one of the last `number` slots.
fn is_within(slot: u64, now: u64, number: u64) -> bool {
    slot <= now && slot + number > now
}

/// Returns the bucket of a time: four per power of two of microseconds.
fn bucket(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    if micros < 4 {
        return micros as usize;
    }
    let power = micros.ilog2() as usize;
    ((power - 1) * 4 + (micros >> (power - 2) & 3) as usize).min(BUCKETS - 1)
}

/// Returns the time in the middle of a bucket.
fn middle(bucket: usize) -> Duration {
    if bucket < 4 {
        return Duration::from_micros(bucket as u64);
    }
    let (power, quarter) = (bucket / 4 + 1, bucket % 4);
    let width = 1_u64 << (power - 2);
    Duration::from_micros((1 << power) + quarter as u64 * width + width / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(is_error: bool, micros: u64) -> Outcome {
        Outcome { is_error, time: Some(Duration::from_micros(micros)) }
    }

    #[test]
    fn buckets_are_within_an_eighth_of_the_time() {
        for micros in (0..60).map(|step| (1.4_f64.powi(step)) as u64).filter(|micros| *micros < 200_000_000) {
            let found = middle(bucket(Duration::from_micros(micros))).as_micros() as f64;
            assert!((found - micros as f64).abs() <= micros as f64 / 8.0 + 0.5, "{micros}: {found}");
        }
        assert_eq!(bucket(Duration::from_secs(1 << 20)), BUCKETS - 1);
    }

    #[test]
    fn requests_leave_the_spans_one_after_the_other() {
        let mut series = Series::new(1000);
        for number in 0..100 {
            series.add(outcome(number % 4 == 0, 1000), 1000);
        }
        let numbers = |now| series.numbers(now, 0.0);
        assert_eq!((numbers(1000).requests, numbers(1000).errors), ([100; 3], [25; 3]));
        assert_eq!(numbers(1000).rate(0), 100.0, "a new series is a second old");
        assert_eq!(numbers(1009).requests, [100; 3]);
        assert_eq!(numbers(1010).requests, [0, 100, 100]);
        assert_eq!(numbers(1060).requests, [0, 0, 100]);
        assert_eq!(numbers(1300).requests, [0; 3]);
        assert!(!series.is_idle(1300) && series.is_idle(1301));
    }

    #[test]
    fn quantiles_cover_the_last_minute() {
        let mut series = Series::new(0);
        for number in 1..=100 {
            series.add(outcome(false, number * 1000), 5);
        }
        let near = |time: Option<Duration>, millis: f64| {
            let found = time.unwrap().as_secs_f64() * 1e3;
            assert!((found - millis).abs() <= millis / 8.0, "{found} {millis}");
        };
        let numbers = series.numbers(5, 0.5);
        near(numbers.p50, 50.0);
        near(numbers.p99, 99.0);
        assert!(series.numbers(59, 0.0).p50.is_some());
        assert_eq!(series.numbers(60, 0.0).p50, None);
    }

    #[test]
    fn the_history_has_a_number_for_each_step() {
        let mut series = Series::new(0);
        for now in [0, 5, 12, 25] {
            series.add(outcome(now == 12, 1), now);
        }
        let history = series.numbers(29, 0.0).history;
        assert_eq!((history.len(), &history[27..]), (30, &[(2, 0), (1, 1), (1, 0)][..]));
    }
}
