//! Metrics of a circuit breaker: statuses of the last ten seconds and latencies of the last minute.

use std::time::Duration;

use smallvec::SmallVec;

const SECONDS: usize = 10;
const SPANS: usize = 6;
const SPAN: u64 = 10;

/// Sliding windows made of reused buckets. `now` is that of `Clock::uptime`.
#[derive(Default)]
pub(super) struct Metrics {
    /// Requests by status, one bucket per second.
    codes: [Bucket<Codes>; SECONDS],
    /// Requests by latency, one bucket per ten seconds.
    latencies: [Bucket<Vec<u32>>; SPANS],
}

/// Counts by status.
type Codes = SmallVec<[(u16, u64); 4]>;

/// A bucket and the index of its time span.
#[derive(Default)]
struct Bucket<T> {
    number: u64,
    content: T,
}

impl Metrics {
    /// Counts a request that ends now.
    pub(super) fn record(&mut self, code: u16, latency: Duration, now: Duration) {
        let second = now.as_secs();
        let bucket = &mut self.codes[second as usize % SECONDS];
        if bucket.number != second {
            *bucket = Bucket { number: second, content: SmallVec::new() };
        }
        match bucket.content.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => bucket.content.push((code, 1)),
        }
        let span = second / SPAN;
        let bucket = &mut self.latencies[span as usize % SPANS];
        if bucket.number != span {
            bucket.number = span;
            bucket.content.clear();
        }
        let class = class_of(latency);
        if bucket.content.len() <= class {
            bucket.content.resize(class + 1, 0);
        }
        bucket.content[class] = bucket.content[class].saturating_add(1);
    }

    /// Counts the requests of the last ten seconds whose status is `wanted`.
    pub(super) fn count(&self, now: Duration, wanted: impl Fn(u16) -> bool) -> u64 {
        let second = now.as_secs();
        self.codes
            .iter()
            .filter(|bucket| second.saturating_sub(bucket.number) < SECONDS as u64)
            .flat_map(|bucket| &bucket.content)
            .filter(|(code, _)| wanted(*code))
            .map(|(_, count)| count)
            .sum()
    }

    /// Returns the latency in whole milliseconds that `quantile` percent of the last minute's requests do not
    /// exceed; 0 without requests.
    pub(super) fn latency_ms(&self, quantile: f64, now: Duration) -> f64 {
        let span = now.as_secs() / SPAN;
        let recent =
            || self.latencies.iter().filter(move |bucket| span.saturating_sub(bucket.number) < SPANS as u64);
        let total: u64 = recent().flat_map(|bucket| &bucket.content).map(|count| u64::from(*count)).sum();
        let wanted = ((quantile.clamp(0.0, 100.0) / 100.0 * total as f64) + 0.5).floor().max(1.0);
        let classes = recent().map(|bucket| bucket.content.len()).max().unwrap_or(0);
        let mut seen = 0u64;
        for class in 0..classes {
            seen += recent()
                .filter_map(|bucket| bucket.content.get(class))
                .map(|count| u64::from(*count))
                .sum::<u64>();
            if seen as f64 >= wanted {
                return (upper_bound(class) / 1000) as f64;
            }
        }
        0.0
    }
}

/// Classes below this number are one microsecond wide. Each power of two above is divided into half as many,
/// so that a class is less than 1% wide.
const LINEAR: u64 = 256;

fn class_of(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(3_600_000_000);
    if micros < LINEAR {
        return micros as usize;
    }
    let doublings = u64::from(micros.ilog2() - LINEAR.ilog2() + 1);
    (LINEAR + (doublings - 1) * LINEAR / 2 + (micros >> doublings) - LINEAR / 2) as usize
}

/// Returns the highest latency of a class in microseconds.
fn upper_bound(class: usize) -> u64 {
    let class = class as u64;
    if class < LINEAR {
        return class;
    }
    let doublings = (class - LINEAR) / (LINEAR / 2) + 1;
    let step = (class - LINEAR) % (LINEAR / 2) + LINEAR / 2;
    ((step + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_narrow_and_in_order() {
        let mut last = 0;
        for micros in (0..5000u64).chain((5000..3_600_000_000).step_by(999_983)) {
            let class = class_of(Duration::from_micros(micros));
            assert!(class >= last && class < 4096, "{micros}");
            last = class;
            let highest = upper_bound(class);
            assert!(
                highest >= micros && (highest - micros) as f64 <= micros as f64 * 0.01,
                "{micros} {highest}"
            );
        }
    }

    #[test]
    fn old_requests_are_forgotten() {
        let start = Duration::from_secs(1000);
        let mut metrics = Metrics::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        metrics.record(200, Duration::from_millis(5), at(0));
        metrics.record(502, Duration::from_millis(5), at(4));
        let counts = |metrics: &Metrics, seconds| metrics.count(at(seconds), |_| true);
        assert_eq!([counts(&metrics, 9), counts(&metrics, 10), counts(&metrics, 14)], [2, 1, 0]);
        metrics.record(200, Duration::from_millis(5), at(24));
        assert_eq!(counts(&metrics, 24), 1);
        assert!(metrics.latency_ms(50.0, at(59)) > 0.0);
        assert_eq!(metrics.latency_ms(50.0, at(200)), 0.0);
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        let start = Duration::from_secs(1000);
        let mut metrics = Metrics::default();
        for n in 1..=1000 {
            metrics.record(200, Duration::from_millis(n), start);
        }
        for (quantile, expected) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1000.0), (0.0, 1.0)] {
            let found = metrics.latency_ms(quantile, start);
            assert!((found - expected).abs() <= expected * 0.01 + 1.0, "{quantile}: {found}");
        }
    }
}
