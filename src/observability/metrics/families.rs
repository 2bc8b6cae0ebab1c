//! Prometheus' data model for Protocol Buffers, with native histograms.
//!
//! The messages are those of `io.prometheus.client` (client_model, `metrics.proto`), as far as they are used.

use std::time::UNIX_EPOCH;

use prost::Message;
use tidegate_core::exemplars::Exemplar;

use super::metric::{Buckets, Durations, Metric, Type, Value, Writer};

/// The schema of native histograms: each bound is the previous one times the fourth root of two.
const SCHEMA: i32 = 2;
/// The index of the first bound: 2^-14 s, or 61 µs. What is shorter is in the bucket of zero.
const FIRST: i32 = -56;
/// The index of the last bound: 2^12 s, or 68 minutes. What is longer is in the bucket above.
const LAST: i32 = 48;

/// Returns the bounds of native histograms in nanoseconds.
pub(super) fn native_bounds() -> impl Iterator<Item = u64> {
    (FIRST..=LAST).map(|index| ((f64::from(index) / 4.0).exp2() * 1e9) as u64)
}

/// Messages that metrics are written to.
pub(super) struct Families<'a> {
    bytes: Vec<u8>,
    /// Upper bounds of the classic buckets in nanoseconds.
    bounds: &'a [(u64, String)],
    /// The bounds of native histograms; empty if they are not wanted.
    native: Vec<u64>,
    current: Option<MetricFamily>,
}

impl<'a> Families<'a> {
    /// Starts with no message. `bounds` are the classic buckets; `is_native` adds native histograms to them.
    pub(super) fn new(bounds: &'a [(u64, String)], is_native: bool) -> Self {
        let native = if is_native { native_bounds().collect() } else { Vec::new() };
        Self { bytes: Vec::with_capacity(16 * 1024), bounds, native, current: None }
    }

    fn close(&mut self) {
        if let Some(family) = self.current.take().filter(|family| !family.metric.is_empty()) {
            self.bytes.extend(family.encode_length_delimited_to_vec());
        }
    }

    /// Returns the messages, each after its length.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.bytes
    }

    fn histogram(&self, durations: &Durations<'_>) -> Histogram {
        let mut buckets = Buckets::of(durations);
        let mut bucket = |bound: u64| {
            let (cumulative_count, exemplar) = buckets.up_to(bound);
            let upper_bound = if bound == u64::MAX { f64::INFINITY } else { bound as f64 / 1e9 };
            let exemplar = exemplar.map(ExemplarMessage::from);
            Bucket { cumulative_count, upper_bound, exemplar }
        };
        let fixed = durations.bounds.iter().copied().filter(|_| durations.are_bounds_fixed);
        let configured = self.bounds.iter().map(|(bound, _)| *bound).filter(|_| !durations.are_bounds_fixed);
        let bucket = fixed.chain(configured).chain([u64::MAX]).map(&mut bucket).collect();
        let mut histogram = Histogram {
            sample_count: durations.counts.iter().sum(),
            sample_sum: durations.nanoseconds as f64 / 1e9,
            bucket,
            ..Histogram::default()
        };
        if !self.native.is_empty() && !durations.are_bounds_fixed {
            self.add_native(durations, &mut histogram);
        }
        histogram
    }

    /// Adds the sparse buckets: runs of buckets without gaps, each with the difference to the one before.
    fn add_native(&self, durations: &Durations<'_>, histogram: &mut Histogram) {
        let mut counts = vec![0_u64; self.native.len() + 1];
        for (index, count) in durations.counts.iter().enumerate() {
            let bound = durations.bounds.get(index).copied().unwrap_or(u64::MAX);
            counts[self.native.partition_point(|native| *native < bound)] += count;
        }
        histogram.schema = Some(SCHEMA);
        histogram.zero_threshold = Some((f64::from(FIRST) / 4.0).exp2());
        histogram.zero_count = Some(counts[0]);
        let (mut end, mut before) = (0, 0_i64);
        for (index, count) in (FIRST + 1..).zip(&counts[1..]).filter(|(_, count)| **count > 0) {
            match histogram.positive_span.last_mut() {
                Some(span) if end == index => span.length += 1,
                _ => {
                    // The first offset counts from 0, and the others from the end of the span before.
                    histogram.positive_span.push(BucketSpan { offset: index - end, length: 1 });
                }
            }
            end = index + 1;
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            histogram.positive_delta.push(count - before);
            before = count;
        }
        if histogram.positive_span.is_empty() {
            // A span without buckets is what tells an empty native histogram from a classic one.
            histogram.positive_span.push(BucketSpan::default());
        }
    }
}

impl Writer for Families<'_> {
    fn metric(&mut self, metric: Metric<'_>) {
        self.close();
        let kind = match metric.kind {
            Type::Counter => MetricType::Counter,
            Type::Gauge => MetricType::Gauge,
            Type::Histogram => MetricType::Histogram,
        };
        self.current = Some(MetricFamily {
            name: metric.name.to_owned(),
            help: metric.help.to_owned(),
            r#type: kind.into(),
            metric: Vec::new(),
        });
    }

    fn series(&mut self, labels: &[(&str, &str)], value: Value<'_>) {
        let number = match value {
            Value::Count(count) => count as f64,
            Value::Number(number) => number,
            Value::Durations(_) => 0.0,
        };
        let pair = |(name, value): &(&str, &str)| LabelPair { name: (*name).into(), value: (*value).into() };
        let mut metric = MetricMessage { label: labels.iter().map(pair).collect(), ..Default::default() };
        match (value, self.current.as_ref().map(|family| family.r#type)) {
            (Value::Durations(durations), _) => metric.histogram = Some(self.histogram(&durations)),
            (_, Some(kind)) if kind == i32::from(MetricType::Counter) => {
                metric.counter = Some(Number { value: number })
            }
            _ => metric.gauge = Some(Number { value: number }),
        }
        self.current.iter_mut().for_each(|family| family.metric.push(metric.clone()));
    }
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(enumeration = "MetricType", required, tag = "3")]
    r#type: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<MetricMessage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
struct MetricMessage {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `Gauge` and `Counter`.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, required, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, required, tag = "1")]
    sample_count: u64,
    #[prost(double, required, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, required, tag = "1")]
    cumulative_count: u64,
    #[prost(double, required, tag = "2")]
    upper_bound: f64,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<ExemplarMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, required, tag = "1")]
    offset: i32,
    #[prost(uint32, required, tag = "2")]
    length: u32,
}

/// `Exemplar`.
#[derive(Clone, PartialEq, Message)]
struct ExemplarMessage {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, required, tag = "2")]
    value: f64,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl From<Exemplar> for ExemplarMessage {
    fn from(exemplar: Exemplar) -> Self {
        let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = Timestamp {
            seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            nanos: at.subsec_nanos() as i32,
        };
        let trace = LabelPair { name: "trace_id".into(), value: format!("{:032x}", exemplar.trace_id) };
        Self { label: vec![trace], value: exemplar.duration.as_secs_f64(), timestamp: Some(timestamp) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[(u64, u64)], is_native: bool) -> Histogram {
        let mut bounds: Vec<u64> = native_bounds().chain([100_000_000, 300_000_000]).collect();
        bounds.sort_unstable();
        let mut all = vec![0; bounds.len() + 1];
        for (nanoseconds, count) in counts {
            all[bounds.partition_point(|bound| bound < nanoseconds)] += count;
        }
        let shown = [(100_000_000, "0.1".to_owned()), (300_000_000, "0.3".to_owned())];
        let durations = Durations {
            bounds: &bounds,
            counts: &all,
            nanoseconds: counts.iter().map(|(nanoseconds, count)| nanoseconds * count).sum(),
            are_bounds_fixed: false,
            exemplars: &[],
        };
        let mut out = Families::new(&shown, is_native);
        out.metric(Metric { kind: Type::Histogram, ..Metric::gauge("a", "") });
        out.series(&[("b", "c")], Value::Durations(durations));
        let bytes = out.finish();
        let family = MetricFamily::decode_length_delimited(&bytes[..]).unwrap();
        family.metric[0].histogram.clone().unwrap()
    }

    #[test]
    fn native_buckets_are_runs_with_differences() {
        // In the bucket of zero; up to 2^-3.25 = 105 ms; up to 125 ms; up to 1 s; above all.
        let counts =
            [(1000, 4), (101_000_000, 2), (120_000_000, 5), (1_000_000_000, 1), (5_000_000_000_000, 7)];
        let found = histogram(&counts, true);
        let spans: Vec<_> = found.positive_span.iter().map(|span| (span.offset, span.length)).collect();
        // Indexes -13 and -12, then 0, then 49.
        assert_eq!(spans, [(-13, 2), (11, 1), (48, 1)]);
        assert_eq!(found.positive_delta, [2, 3, -4, 6]);
        assert_eq!((found.schema, found.zero_count, found.sample_count), (Some(2), Some(4), 19));
        let classic: Vec<_> = found.bucket.iter().map(|bucket| bucket.cumulative_count).collect();
        assert_eq!(classic, [4, 11, 19]);
        assert!(found.bucket[2].upper_bound.is_infinite());
    }

    #[test]
    fn without_native_histograms_there_are_only_classic_buckets() {
        let found = histogram(&[(200_000_000, 3)], false);
        assert_eq!((found.schema, found.positive_span.len(), found.bucket.len()), (None, 0, 3));
        let empty = histogram(&[], true);
        assert_eq!((empty.positive_span.len(), empty.positive_delta.len()), (1, 0));
    }
}
