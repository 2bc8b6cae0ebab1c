//! The form in which metrics are collected: writers of formats see one metric after the other.

use tidegate_core::exemplars::Exemplar;

/// The type of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// A metric, whose series follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric<'a> {
    /// Its name for Prometheus.
    pub(super) name: &'a str,
    pub(super) kind: Type,
    pub(super) help: &'a str,
    /// Its names for systems that it is pushed to; `None` if it is not pushed.
    pub(super) pushed: Option<Pushed<'a>>,
}

/// The names of a metric that is pushed, without a prefix. As in Traefik, they are not all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pushed<'a> {
    /// For StatsD and Datadog.
    pub(super) statsd: &'a str,
    /// For InfluxDB.
    pub(super) influx: &'a str,
}

/// The value of a series.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// A number of events or bytes.
    Count(u64),
    /// Anything else.
    Number(f64),
    /// Durations.
    Durations(Durations<'a>),
}

/// A histogram of durations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Durations<'a> {
    /// Upper bounds of the buckets in nanoseconds, ascending.
    pub(super) bounds: &'a [u64],
    /// Number of requests per bucket, and above the last bound.
    pub(super) counts: &'a [u64],
    /// Sum in nanoseconds.
    pub(super) nanoseconds: u64,
    /// Whether readers get these buckets, whatever they are configured with.
    pub(super) are_bounds_fixed: bool,
    /// A request per bucket; empty if there are none.
    pub(super) exemplars: &'a [Option<Exemplar>],
}

/// Receives metrics. The series of a metric follow it.
pub(super) trait Writer {
    fn metric(&mut self, metric: Metric<'_>);

    /// Adds a series of the last metric. Labels are in the order of their names.
    fn series(&mut self, labels: &[(&str, &str)], value: Value<'_>);
}

impl<'a> Metric<'a> {
    pub(super) fn counter(name: &'a str, help: &'a str) -> Self {
        Self { name, kind: Type::Counter, help, pushed: None }
    }

    pub(super) fn gauge(name: &'a str, help: &'a str) -> Self {
        Self { name, kind: Type::Gauge, help, pushed: None }
    }

    /// Has it pushed, under this name.
    pub(super) fn pushed(self, name: &'a str) -> Self {
        Self { pushed: Some(Pushed { statsd: name, influx: name }), ..self }
    }
}

/// Adds up the counted buckets of a histogram into those that a reader gets, which are a selection of them.
pub(super) struct Buckets<'a> {
    durations: &'a Durations<'a>,
    next: usize,
    sum: u64,
}

impl<'a> Buckets<'a> {
    /// Starts at the lowest bucket.
    pub(super) fn of(durations: &'a Durations<'a>) -> Self {
        Self { durations, next: 0, sum: 0 }
    }

    /// Returns the number of durations up to a bound in nanoseconds, or of all for `u64::MAX`, and the newest exemplar
    /// above the bound before.
    pub(super) fn up_to(&mut self, bound: u64) -> (u64, Option<Exemplar>) {
        let mut newest: Option<Exemplar> = None;
        while let Some(count) = self.durations.counts.get(self.next) {
            let upper = self.durations.bounds.get(self.next).copied().unwrap_or(u64::MAX);
            if upper > bound {
                break;
            }
            self.sum += count;
            let exemplar = self.durations.exemplars.get(self.next).copied().flatten();
            newest = newest.into_iter().chain(exemplar).max_by_key(|exemplar| exemplar.at);
            self.next += 1;
        }
        (self.sum, newest)
    }
}
