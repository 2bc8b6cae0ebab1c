//! What has been counted since the last push.

use std::collections::HashMap;

use crate::observability::metrics::metric::Durations;

/// The last totals by series. Those of a series that a push no longer has are dropped.
#[derive(Default)]
pub(super) struct Deltas {
    push: u64,
    known: HashMap<String, Known>,
}

struct Known {
    push: u64,
    totals: Vec<u64>,
}

impl Deltas {
    /// Starts a push.
    pub(super) fn begin(&mut self) {
        self.push += 1;
    }

    /// Ends a push.
    pub(super) fn end(&mut self) {
        let push = self.push;
        self.known.retain(|_, known| known.push == push);
    }

    /// Returns how much each of these totals has grown.
    pub(super) fn of(&mut self, series: &str, totals: &[u64]) -> Vec<u64> {
        let push = self.push;
        let Some(known) = self.known.get_mut(series) else {
            self.known.insert(series.to_owned(), Known { push, totals: totals.to_vec() });
            return totals.to_vec();
        };
        // A series that was removed and added again starts at 0.
        let restarted = totals.iter().zip(&known.totals).any(|(now, before)| now < before);
        let growth = match restarted {
            true => totals.to_vec(),
            false => totals.iter().zip(&known.totals).map(|(now, before)| now - before).collect(),
        };
        *known = Known { push, totals: totals.to_vec() };
        growth
    }
}

/// Durations that were counted since the last push, of which only the bucket is known.
pub(super) struct Recent<'a> {
    bounds: &'a [u64],
    counts: Vec<u64>,
    nanoseconds: u64,
}

impl<'a> Recent<'a> {
    /// Returns those of a series.
    pub(super) fn of(deltas: &mut Deltas, series: &str, all: Durations<'a>) -> Self {
        let mut counts = deltas.of(series, &[&[all.nanoseconds], all.counts].concat());
        let nanoseconds = counts.remove(0);
        Self { bounds: all.bounds, counts, nanoseconds }
    }

    /// Returns their number.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn range(&self, bucket: usize) -> (f64, f64) {
        let upper = |index: usize| self.bounds.get(index).map(|bound| *bound as f64 / 1e9);
        let lower = bucket.checked_sub(1).and_then(upper).unwrap_or_default();
        (lower, upper(bucket).unwrap_or(f64::INFINITY))
    }

    /// Returns a typical duration in seconds per bucket, with the number of requests. Their sum is that of the
    /// durations, as far as the buckets allow.
    pub(super) fn values(&self) -> impl Iterator<Item = (f64, u64)> {
        let middle = |bucket: usize| {
            let (lower, upper) = self.range(bucket);
            if upper.is_finite() { lower.midpoint(upper) } else { lower }
        };
        let filled = || self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0);
        let guessed: f64 = filled().map(|(bucket, count)| middle(bucket) * count as f64).sum();
        let scale = if guessed > 0.0 { self.nanoseconds as f64 / 1e9 / guessed } else { 1.0 };
        filled().map(move |(bucket, count)| {
            let (lower, upper) = self.range(bucket);
            ((middle(bucket) * scale).clamp(lower, upper), count)
        })
    }

    /// Returns a quantile in seconds; 0 if there are no durations.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.count() as f64).ceil().max(1.0);
        let mut seen = 0.0;
        for (value, count) in self.values() {
            seen += count as f64;
            if seen >= rank {
                return value;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_is_returned() {
        let mut deltas = Deltas::default();
        for (totals, growth) in [([3, 1], [3, 1]), ([5, 1], [2, 0]), ([1, 0], [1, 0])] {
            deltas.begin();
            assert_eq!(deltas.of("a", &totals), growth);
            deltas.end();
        }
        deltas.begin();
        deltas.end();
        assert!(deltas.known.is_empty(), "a series that is gone is forgotten");
    }

    #[test]
    fn durations_are_estimated_from_their_buckets() {
        let mut deltas = Deltas::default();
        let bounds = [100_000_000, 200_000_000];
        let one = Durations {
            bounds: &bounds,
            counts: &[0, 1, 0],
            nanoseconds: 130_000_000,
            are_bounds_fixed: false,
            exemplars: &[],
        };
        let recent = Recent::of(&mut deltas, "a", one);
        assert_eq!(
            recent.values().map(|(value, count)| ((value * 1e3).round(), count)).collect::<Vec<_>>(),
            [(130.0, 1)]
        );
        let more = Durations {
            bounds: &bounds,
            counts: &[9, 1, 1],
            nanoseconds: 1_580_000_000,
            are_bounds_fixed: false,
            exemplars: &[],
        };
        let recent = Recent::of(&mut deltas, "a", more);
        assert_eq!(recent.count(), 10);
        assert!(recent.quantile(0.5) <= 0.1 && recent.quantile(0.99) >= 0.2);
        assert_eq!(Recent::of(&mut deltas, "a", more).quantile(0.5), 0.0);
    }
}
