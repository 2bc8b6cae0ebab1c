//! The text formats of Prometheus: version 0.0.4, and OpenMetrics 1.0.

use std::fmt::{Display, Write as _};

/// The type of a metric.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// A text that metrics are written to.
pub(super) struct Exposition {
    text: String,
    open_metrics: bool,
}

impl Exposition {
    /// Starts a text. OpenMetrics names counters without `_total`, and has an end.
    pub(super) fn new(open_metrics: bool) -> Self {
        Self { text: String::with_capacity(16 * 1024), open_metrics }
    }

    /// Starts a metric. Samples follow.
    pub(super) fn metric(&mut self, name: &str, kind: Type, help: &str) {
        let name = match self.open_metrics && kind == Type::Counter {
            true => name.strip_suffix("_total").unwrap_or(name),
            false => name,
        };
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample. Labels are in the order of their names.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(&mut self.text, text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // As above.
        let _ = writeln!(self.text, " {value}");
    }

    /// Returns the text.
    pub(super) fn finish(mut self) -> String {
        if self.open_metrics {
            self.text.push_str("# EOF\n");
        }
        self.text
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
            let mut out = Exposition::new(open_metrics);
            out.metric("a_total", Type::Counter, "Help.");
            out.sample("a_total", &[("b", "c\"\\\n"), ("d", "")], 7);
            out.sample("a_total", &[], 0.5);
            assert_eq!(out.finish(), expected);
        }
    }
}
