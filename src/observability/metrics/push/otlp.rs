//! Collectors of the OpenTelemetry protocol (OTLP), which get totals.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric as Message, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tidegate_clients::OptionError;
use tidegate_clients::otlp::{Exporter, Signal, attribute, detect, scope};

use super::{PushError, System};
use crate::observability::metrics::bounds;
use crate::observability::metrics::metric::{Durations, Metric, Type, Value, Writer};
use crate::settings::OtlpMetrics;

/// Maximum number of series per message. Collectors accept 4 MiB over gRPC by default.
const MAX_POINTS: usize = 4096;
const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// A collector.
pub(super) struct Collector {
    exporter: Exporter,
    resource: Resource,
    boundaries: Boundaries,
    starts: Starts,
}

/// Upper bounds of the buckets that are sent.
struct Boundaries {
    nanoseconds: Vec<u64>,
    seconds: Vec<f64>,
}

impl Collector {
    pub(super) fn new(options: &OtlpMetrics) -> Result<Self, OptionError> {
        let seconds = options.explicit_boundaries.clone();
        let wrong = || OptionError::new("explicitBoundaries", "expected positive numbers in ascending order");
        Ok(Self {
            exporter: Exporter::new(&options.connection(), Signal::Metrics)?,
            resource: detect(&options.service_name, &options.resource_attributes),
            boundaries: Boundaries { nanoseconds: bounds(&seconds).ok_or_else(wrong)?, seconds },
            starts: Starts::new(unix_nanoseconds()),
        })
    }
}

fn unix_nanoseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

impl System for Collector {
    type Batch = Vec<ExportMetricsServiceRequest>;

    fn render(&mut self, collect: &mut dyn FnMut(&mut dyn Writer)) -> Self::Batch {
        self.starts.begin(unix_nanoseconds());
        let mut rendering = Rendering {
            boundaries: &self.boundaries,
            starts: &mut self.starts,
            messages: Vec::new(),
            points: 0,
            current: None,
            is_open: false,
        };
        collect(&mut rendering);
        let messages = rendering.messages;
        self.starts.end();
        let pack = |metrics| {
            let scoped = ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() };
            let resource = Some(self.resource.clone());
            let metrics =
                ResourceMetrics { resource, scope_metrics: vec![scoped], ..ResourceMetrics::default() };
            ExportMetricsServiceRequest { resource_metrics: vec![metrics] }
        };
        messages.into_iter().map(pack).collect()
    }

    /// Sends without retries: the next push has the same totals or later ones.
    async fn send(&mut self, batch: Self::Batch) -> Result<(), PushError> {
        for message in batch {
            self.exporter.export_once(&message).await?;
        }
        Ok(())
    }
}

/// When each total was 0: at the push before the one that first had it.
struct Starts {
    last_push: u64,
    push: u64,
    known: HashMap<String, Known>,
}

struct Known {
    push: u64,
    start: u64,
    total: f64,
}

impl Starts {
    /// Returns those of a gateway that starts now.
    fn new(now: u64) -> Self {
        Self { last_push: now, push: now, known: HashMap::new() }
    }

    /// Starts a push.
    fn begin(&mut self, now: u64) {
        self.last_push = self.push;
        // Later even if the clock has been set back.
        self.push = now.max(self.last_push + 1);
    }

    /// Ends a push. Series that it does not have are dropped.
    fn end(&mut self) {
        let push = self.push;
        self.known.retain(|_, known| known.push == push);
    }

    /// Returns the start of a series that has this total now.
    fn of(&mut self, series: String, total: f64) -> u64 {
        let (push, last_push) = (self.push, self.last_push);
        let new = Known { push, start: last_push, total };
        let known = self.known.entry(series).or_insert(new);
        // A series that was removed and added again starts at 0.
        if total < known.total {
            known.start = last_push;
        }
        (known.push, known.total) = (push, total);
        known.start
    }
}

/// The messages of one push.
struct Rendering<'a> {
    boundaries: &'a Boundaries,
    starts: &'a mut Starts,
    messages: Vec<Vec<Message>>,
    /// Number of series in the last message.
    points: usize,
    /// The current metric, without series.
    current: Option<Message>,
    /// Whether it is the last one of the last message.
    is_open: bool,
}

impl Rendering<'_> {
    /// Returns what the next series of the current metric is added to.
    fn open(&mut self) -> Option<&mut Message> {
        let is_full = self.messages.is_empty() || self.points >= MAX_POINTS;
        if is_full {
            self.messages.push(Vec::new());
            self.points = 0;
        }
        let last = self.messages.last_mut()?;
        if is_full || !self.is_open {
            last.push(self.current.clone()?);
            self.is_open = true;
        }
        self.points += 1;
        last.last_mut()
    }

    fn start(&mut self, labels: &[(&str, &str)], total: f64) -> u64 {
        let mut series = self.current.as_ref().map(|metric| metric.name.clone()).unwrap_or_default();
        for (label, value) in labels {
            series.extend(["\0", label, "\0", value]);
        }
        self.starts.of(series, total)
    }
}

impl Writer for Rendering<'_> {
    fn metric(&mut self, metric: Metric<'_>) {
        let data = match metric.kind {
            Type::Counter => {
                Data::Sum(Sum { aggregation_temporality: CUMULATIVE, is_monotonic: true, ..Sum::default() })
            }
            Type::Gauge => Data::Gauge(Gauge::default()),
            Type::Histogram => {
                Data::Histogram(Histogram { aggregation_temporality: CUMULATIVE, ..Histogram::default() })
            }
        };
        self.current = Some(Message {
            name: metric.name.to_owned(),
            description: metric.help.to_owned(),
            unit: unit(&metric).to_owned(),
            data: Some(data),
            ..Message::default()
        });
        self.is_open = false;
    }

    fn series(&mut self, labels: &[(&str, &str)], value: Value<'_>) {
        let attributes =
            labels.iter().map(|(label, value)| attribute(label, attribute_value(label, value))).collect();
        let now = self.starts.push;
        let number = match value {
            Value::Durations(durations) => {
                let start = self.start(labels, durations.counts.iter().sum::<u64>() as f64);
                let point = HistogramDataPoint {
                    attributes,
                    start_time_unix_nano: start,
                    time_unix_nano: now,
                    ..self.boundaries.point(durations)
                };
                if let Some(Data::Histogram(histogram)) = self.open().and_then(|metric| metric.data.as_mut())
                {
                    histogram.data_points.push(point);
                }
                return;
            }
            // Traefik's numbers are floating-point ones, too.
            Value::Count(count) => count as f64,
            Value::Number(number) => number,
        };
        let is_sum = matches!(self.current, Some(Message { data: Some(Data::Sum(_)), .. }));
        let point = NumberDataPoint {
            attributes,
            start_time_unix_nano: if is_sum { self.start(labels, number) } else { 0 },
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsDouble(number)),
            ..NumberDataPoint::default()
        };
        match self.open().and_then(|metric| metric.data.as_mut()) {
            Some(Data::Sum(sum)) => sum.data_points.push(point),
            Some(Data::Gauge(gauge)) => gauge.data_points.push(point),
            _ => {}
        }
    }
}

impl Boundaries {
    /// Returns the values of a series in these buckets, which are a selection of those that are counted.
    fn point(&self, durations: Durations<'_>) -> HistogramDataPoint {
        if durations.are_bounds_fixed {
            return HistogramDataPoint {
                count: durations.counts.iter().sum(),
                sum: Some(durations.nanoseconds as f64 / 1e9),
                bucket_counts: durations.counts.to_vec(),
                explicit_bounds: durations.bounds.iter().map(|bound| *bound as f64 / 1e9).collect(),
                ..HistogramDataPoint::default()
            };
        }
        let mut counts = durations.bounds.iter().zip(durations.counts).peekable();
        let all: u64 = durations.counts.iter().sum();
        let mut buckets = Vec::with_capacity(self.nanoseconds.len() + 1);
        let mut seen = 0;
        for bound in &self.nanoseconds {
            let mut bucket = 0;
            while let Some((_, count)) = counts.next_if(|(upper, _)| *upper <= bound) {
                bucket += count;
            }
            buckets.push(bucket);
            seen += bucket;
        }
        buckets.push(all - seen);
        HistogramDataPoint {
            count: all,
            sum: Some(durations.nanoseconds as f64 / 1e9),
            bucket_counts: buckets,
            explicit_bounds: self.seconds.clone(),
            ..HistogramDataPoint::default()
        }
    }
}

/// Returns the value of an attribute: a number for those that are one in the semantic conventions.
fn attribute_value(name: &str, value: &str) -> any_value::Value {
    let number = match name {
        "http.response.status_code" | "server.port" => value.parse().ok(),
        _ => None,
    };
    number.map_or_else(|| any_value::Value::StringValue(value.to_owned()), any_value::Value::IntValue)
}

/// Returns the unit of a metric.
fn unit(metric: &Metric<'_>) -> &'static str {
    match metric.name {
        "traefik_config_last_reload_success" | "traefik_tls_certs_not_after" => "s",
        _ if metric.kind == Type::Histogram => "s",
        _ => "1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(starts: &mut Starts, series: usize, total: u64) -> Vec<Vec<Message>> {
        let boundaries = Boundaries { nanoseconds: vec![100], seconds: vec![1e-7] };
        let (messages, current) = (Vec::new(), None);
        let mut rendering =
            Rendering { boundaries: &boundaries, starts, messages, points: 0, current, is_open: false };
        rendering.metric(Metric::gauge("empty", ""));
        rendering.metric(Metric::counter("total", ""));
        for index in 0..series {
            rendering.series(&[("index", &index.to_string())], Value::Count(total));
        }
        rendering.messages
    }

    #[test]
    fn messages_are_bounded_and_have_no_metric_without_series() {
        let messages = rendered(&mut Starts::new(1), MAX_POINTS + 1, 1);
        let lengths = messages.iter().map(|message| {
            let [Message { data: Some(Data::Sum(sum)), .. }] = message.as_slice() else {
                panic!("{message:?}")
            };
            sum.data_points.len()
        });
        assert_eq!(lengths.collect::<Vec<_>>(), [MAX_POINTS, 1]);
    }

    #[test]
    fn a_total_starts_again_if_it_falls() {
        let mut starts = Starts::new(10);
        for (now, total, expected) in [(20, 3.0, 10), (30, 5.0, 10), (40, 1.0, 30), (35, 2.0, 30)] {
            starts.begin(now);
            assert_eq!(starts.of("a".into(), total), expected, "{now}");
            starts.end();
        }
        starts.begin(50);
        starts.end();
        assert!(starts.known.is_empty(), "a series that is gone is forgotten");
        starts.begin(60);
        assert_eq!(starts.of("a".into(), 2.0), 50);
    }

    #[test]
    fn finer_buckets_are_added_up() {
        let boundaries = Boundaries { nanoseconds: vec![100, 300], seconds: vec![1e-7, 3e-7] };
        let durations = Durations {
            bounds: &[50, 100, 200, 300, 400],
            counts: &[1, 2, 3, 4, 5, 6],
            nanoseconds: 5_000_000_000,
            are_bounds_fixed: false,
            exemplars: &[],
        };
        let point = boundaries.point(durations);
        assert_eq!((point.bucket_counts, point.count, point.sum), (vec![3, 7, 11], 21, Some(5.0)));
        assert_eq!(point.explicit_bounds, [1e-7, 3e-7]);
    }
}
