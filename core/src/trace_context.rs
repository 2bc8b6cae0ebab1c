//! The identifiers of a request's trace (W3C Trace Context).

/// Where a request belongs in a trace. Created by tracing, read by the access log, exemplars and the record of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The identifier of the trace, not 0.
    pub trace_id: u128,
    /// The identifier of the gateway's own span, not 0.
    pub span_id: u64,
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Returns the identifier of the trace as 32 lower-case hexadecimal digits.
    pub fn trace_id_hex(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Returns the identifier of the span as 16 lower-case hexadecimal digits.
    pub fn span_id_hex(&self) -> String {
        format!("{:016x}", self.span_id)
    }
}

/// Writes the identifiers of a trace into the headers of a request.
pub trait Propagator: std::fmt::Debug + Send + Sync {
    /// Replaces the headers of the configured formats.
    fn inject(&self, trace: &TraceContext, headers: &mut http::HeaderMap);
}
