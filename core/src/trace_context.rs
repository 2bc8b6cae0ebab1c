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
        self.trace_id_digits().into_iter().map(char::from).collect()
    }

    /// Returns the identifier of the span as 16 lower-case hexadecimal digits.
    pub fn span_id_hex(&self) -> String {
        self.span_id_digits().into_iter().map(char::from).collect()
    }

    /// Returns the identifier of the trace as 32 lower-case hexadecimal digits in ASCII.
    pub fn trace_id_digits(&self) -> [u8; 32] {
        digits(self.trace_id.to_be_bytes())
    }

    /// Returns the identifier of the span as 16 lower-case hexadecimal digits in ASCII.
    pub fn span_id_digits(&self) -> [u8; 16] {
        digits(self.span_id.to_be_bytes())
    }
}

/// Returns the hexadecimal digits of a number. Each request to a server carries some, and formatting them takes
/// thousands of instructions.
fn digits<const BYTES: usize, const DIGITS: usize>(number: [u8; BYTES]) -> [u8; DIGITS] {
    std::array::from_fn(|place| {
        let byte = number[place / 2];
        b"0123456789abcdef"[usize::from(if place % 2 == 0 { byte >> 4 } else { byte & 15 })]
    })
}

/// Writes the identifiers of a trace into the headers of a request.
pub trait Propagator: std::fmt::Debug + Send + Sync {
    /// Replaces the headers of the configured formats.
    fn inject(&self, trace: &TraceContext, headers: &mut http::HeaderMap);
}
