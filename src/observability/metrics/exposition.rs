//! The text formats of Prometheus: version 0.0.4, and OpenMetrics 1.0.

use std::fmt::{Display, Write as _};
use std::time::UNIX_EPOCH;

use tidegate_core::exemplars::Exemplar;

use super::metric::{Buckets, Durations, Metric, Type, Value, Writer};

/// A text that metrics are written to. Bounds of buckets are the same in both formats (`5`, not OpenMetrics' canonical
/// `5.0`), so that a scraper that changes its mind finds the same series, which are Traefik's.
pub(super) struct Exposition<'a> {
    text: String,
    open_metrics: bool,
    /// Upper bounds of the buckets that are shown, in nanoseconds and as text.
    bounds: &'a [(u64, String)],
    /// The name of the current metric.
    name: String,
}

impl<'a> Exposition<'a> {
    /// Starts a text. OpenMetrics names counters without `_total`, and has an end.
    pub(super) fn new(open_metrics: bool, bounds: &'a [(u64, String)]) -> Self {
        Self { text: String::with_capacity(16 * 1024), open_metrics, bounds, name: String::new() }
    }

    /// Adds a sample: `suffix` follows the metric's name, and `le` is the last label of a bucket.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], le: Option<&str>, value: impl Display) {
        self.sample_without_end(suffix, labels, le, value);
        self.text.push('\n');
    }

    fn sample_without_end(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        le: Option<&str>,
        value: impl Display,
    ) {
        self.text.push_str(&self.name);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut separator = '{';
        for (label, text) in labels {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(&mut self.text, text);
            self.text.push('"');
        }
        if separator == ',' {
            self.text.push('}');
        }
        // Writing to a string cannot fail.
        let _ = write!(self.text, " {value}");
    }

    /// Adds a bucket of a histogram with its exemplar.
    fn bucket(&mut self, labels: &[(&str, &str)], le: &str, count: u64, exemplar: Option<Exemplar>) {
        self.sample_without_end("_bucket", labels, Some(le), count);
        if let Some(Exemplar { trace_id, duration, at }) = exemplar.filter(|_| self.open_metrics) {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let seconds = duration.as_secs_f64();
            // As above.
            let _ = write!(
                self.text,
                " # {{trace_id=\"{trace_id:032x}\"}} {seconds} {}.{:03}",
                at.as_secs(),
                at.subsec_millis()
            );
        }
        self.text.push('\n');
    }

    fn durations(&mut self, labels: &[(&str, &str)], durations: Durations<'_>) {
        let mut buckets = Buckets::of(&durations);
        let fixed: Vec<_>;
        let shown = match durations.are_bounds_fixed {
            true => {
                let with_text = |bound: &u64| (*bound, (*bound as f64 / 1e9).to_string());
                fixed = durations.bounds.iter().map(with_text).collect();
                &fixed
            }
            false => self.bounds,
        };
        for (bound, text) in shown {
            let (sum, exemplar) = buckets.up_to(*bound);
            self.bucket(labels, text, sum, exemplar);
        }
        let (all, exemplar) = buckets.up_to(u64::MAX);
        self.bucket(labels, "+Inf", all, exemplar);
        self.sample("_sum", labels, None, durations.nanoseconds as f64 / 1e9);
        self.sample("_count", labels, None, all);
    }

    /// Returns the text.
    pub(super) fn finish(mut self) -> String {
        if self.open_metrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Writer for Exposition<'_> {
    fn metric(&mut self, metric: Metric<'_>) {
        self.name = metric.name.to_owned();
        let name = match self.open_metrics && metric.kind == Type::Counter {
            true => metric.name.strip_suffix("_total").unwrap_or(metric.name),
            false => metric.name,
        };
        let kind = match metric.kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        // As above.
        let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}", metric.help);
    }

    fn series(&mut self, labels: &[(&str, &str)], value: Value<'_>) {
        match value {
            Value::Count(count) => self.sample("", labels, None, count),
            Value::Number(number) => self.sample("", labels, None, number),
            Value::Durations(durations) => self.durations(labels, durations),
        }
    }
}

fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_in_both_formats() {
        for (open_metrics, expected) in [
            (
                false,
                "# HELP a_total Help.\n# TYPE a_total counter\na_total{b=\"c\\\"\\\\\\n\",d=\"\"} 7\na_total 0.5\n",
            ),
            (
                true,
                "# HELP a Help.\n# TYPE a counter\na_total{b=\"c\\\"\\\\\\n\",d=\"\"} 7\na_total 0.5\n# EOF\n",
            ),
        ] {
            let mut out = Exposition::new(open_metrics, &[]);
            out.metric(Metric::counter("a_total", "Help."));
            out.series(&[("b", "c\"\\\n"), ("d", "")], Value::Count(7));
            out.series(&[], Value::Number(0.5));
            assert_eq!(out.finish(), expected);
        }
    }

    #[test]
    fn only_the_configured_buckets_are_shown() {
        let bounds = [(20, "0.00000002".to_owned()), (40, "0.00000004".to_owned())];
        let mut out = Exposition::new(false, &bounds);
        out.metric(Metric { kind: Type::Histogram, ..Metric::gauge("a", "Help.") });
        let durations = Durations {
            bounds: &[10, 20, 30, 40],
            counts: &[1, 2, 3, 4, 5],
            nanoseconds: 500_000_000,
            are_bounds_fixed: false,
            exemplars: &[],
        };
        out.series(&[("b", "c")], Value::Durations(durations));
        let samples: String = out.finish().lines().skip(2).map(|line| format!("{line}\n")).collect();
        assert_eq!(
            samples,
            "a_bucket{b=\"c\",le=\"0.00000002\"} 3\na_bucket{b=\"c\",le=\"0.00000004\"} 10\n\
             a_bucket{b=\"c\",le=\"+Inf\"} 15\na_sum{b=\"c\"} 0.5\na_count{b=\"c\"} 15\n"
        );
    }
}
