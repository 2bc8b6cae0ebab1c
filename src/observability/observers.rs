//! What watches one request: its access log line, its counters and its record. Each reads the request's exchange when it ends.

use std::time::Instant;

use http::HeaderMap;
use tidegate_core::{End, Exchange};

use super::access_log::{Aborted, Line};
use super::audit::Audited;
use super::metrics::Meter;
use super::requests::Recording;
use super::statistics::Counting;
use super::tracing::Draft;

/// The observers of one request.
#[derive(Default)]
pub(crate) struct Observers {
    /// Writes its line of the access log.
    pub(crate) line: Option<Box<Line>>,
    /// Counts it for metrics.
    pub(crate) meter: Option<Meter>,
    /// Builds its spans.
    pub(crate) trace: Option<Box<Draft>>,
    /// Records it for the API.
    pub(crate) recording: Option<Recording>,
    /// Records it in the audit log.
    pub(crate) audited: Option<Box<Audited>>,
    /// Counts it for the statistics of the API.
    pub(crate) counting: Option<Counting>,
}

impl Observers {
    /// Records the headers of the response to the client.
    pub(crate) fn record_response(&mut self, headers: &HeaderMap) {
        if let Some(line) = &mut self.line {
            line.record_response(headers);
        }
        if let Some(trace) = &mut self.trace {
            trace.record_response(headers);
        }
        self.record_fields(headers);
    }

    /// Records headers or trailers of the response.
    pub(crate) fn record_fields(&mut self, fields: &HeaderMap) {
        if let Some(meter) = &mut self.meter {
            meter.record_headers(fields);
        }
    }

    /// Lets each observer read the exchange, which has ended. Further calls do nothing.
    pub(crate) fn finish(&mut self, exchange: &Exchange, end: End) {
        let Self { line, meter, trace, recording, audited, counting } = std::mem::take(self);
        let is_observed = meter.is_some() || recording.is_some() || counting.is_some();
        if !is_observed && line.is_none() && trace.is_none() && audited.is_none() {
            return;
        }
        let now = Instant::now();
        if let Some(meter) = meter {
            meter.count(exchange, now);
        }
        if let Some(counting) = counting {
            counting.end(exchange);
        }
        if let Some(recording) = recording {
            recording.end(exchange, end, now);
        }
        if let Some(audited) = audited {
            audited.end(exchange);
        }
        if let Some(line) = line {
            line.write(exchange, Aborted::by(end), now);
        }
        if let Some(trace) = trace {
            trace.finish(exchange, end);
        }
    }
}
