//! The headers that carry the identifiers of a trace, in the formats of `OTEL_PROPAGATORS`.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tidegate_core::{Propagator, TraceContext};

/// A format of headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `tracecontext`: W3C Trace Context.
    W3c,
    /// `b3`: B3 in one header.
    B3,
    /// `b3multi`: B3 in several headers.
    B3Multi,
    /// `jaeger`: Jaeger.
    Jaeger,
    /// `xray`: AWS X-Ray.
    XRay,
    /// `ottrace`: OpenTracing.
    OtTrace,
}

/// The formats that are read and written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Propagators(Vec<Format>);

impl Propagators {
    /// Reads `OTEL_PROPAGATORS`.
    pub(super) fn from_environment() -> Self {
        Self::parse(&std::env::var("OTEL_PROPAGATORS").unwrap_or_default())
    }

    /// Parses a list; an empty one means W3C. Baggage needs no action: the client's header is passed on.
    fn parse(list: &str) -> Self {
        if list.trim().is_empty() {
            return Self(vec![Format::W3c]);
        }
        let mut formats = Vec::new();
        for name in list.split(',').map(str::trim) {
            match name {
                "tracecontext" => formats.push(Format::W3c),
                "b3" => formats.push(Format::B3),
                "b3multi" => formats.push(Format::B3Multi),
                "jaeger" => formats.push(Format::Jaeger),
                "xray" => formats.push(Format::XRay),
                "ottrace" => formats.push(Format::OtTrace),
                "baggage" | "none" => {}
                unknown => tracing::error!(
                    "OTEL_PROPAGATORS: unknown propagator `{unknown}`: expected tracecontext, baggage, b3, b3multi, jaeger, xray, ottrace or none"
                ),
            }
        }
        Self(formats)
    }

    /// Reads the parent of a request. If several formats have one, the last counts, as in Traefik.
    pub(super) fn extract(&self, headers: &HeaderMap) -> Option<TraceContext> {
        self.0.iter().rev().find_map(|format| format.extract(headers))
    }
}

impl Propagator for Propagators {
    fn inject(&self, trace: &TraceContext, headers: &mut HeaderMap) {
        for format in &self.0 {
            format.inject(trace, headers);
        }
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const JAEGER: HeaderName = HeaderName::from_static("uber-trace-id");
const XRAY: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const OT_TRACE: HeaderName = HeaderName::from_static("ot-tracer-traceid");
const OT_SPAN: HeaderName = HeaderName::from_static("ot-tracer-spanid");
const OT_SAMPLED: HeaderName = HeaderName::from_static("ot-tracer-sampled");

impl Format {
    fn extract(self, headers: &HeaderMap) -> Option<TraceContext> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        match self {
            Self::W3c => w3c(text(&TRACEPARENT)?),
            // Either form is read, as by OpenTelemetry's library for Go.
            Self::B3 | Self::B3Multi => text(&B3).and_then(b3).or_else(|| {
                let is_sampled =
                    matches!(text(&B3_SAMPLED), Some("1" | "true")) || text(&B3_FLAGS) == Some("1");
                context(text(&B3_TRACE)?, text(&B3_SPAN)?, is_sampled)
            }),
            Self::Jaeger => {
                let mut parts = text(&JAEGER)?.split(':');
                let (trace, span) = (parts.next()?, parts.next()?);
                let flags = u8::from_str_radix(parts.nth(1)?, 16).ok()?;
                context(trace, span, flags & 1 == 1)
            }
            Self::XRay => xray(text(&XRAY)?),
            Self::OtTrace => {
                let is_sampled = matches!(text(&OT_SAMPLED), Some("1" | "true"));
                context(text(&OT_TRACE)?, text(&OT_SPAN)?, is_sampled)
            }
        }
    }

    fn inject(self, trace: &TraceContext, headers: &mut HeaderMap) {
        let (trace_id, span_id) = (&trace.trace_id_digits()[..], &trace.span_id_digits()[..]);
        let sampled: &[u8] = if trace.is_sampled { b"1" } else { b"0" };
        match self {
            Self::W3c => set(headers, TRACEPARENT, &[b"00-", trace_id, b"-", span_id, b"-0", sampled]),
            Self::B3 => set(headers, B3, &[trace_id, b"-", span_id, b"-", sampled]),
            Self::B3Multi => {
                set(headers, B3_TRACE, &[trace_id]);
                set(headers, B3_SPAN, &[span_id]);
                set(headers, B3_SAMPLED, &[sampled]);
                // They are about the client's span.
                headers.remove(B3_PARENT);
                headers.remove(B3_FLAGS);
            }
            Self::Jaeger => set(headers, JAEGER, &[trace_id, b":", span_id, b":0:", sampled]),
            Self::XRay => {
                let (epoch, unique) = trace_id.split_at(8);
                let parts: &[&[u8]] =
                    &[b"Root=1-", epoch, b"-", unique, b";Parent=", span_id, b";Sampled=", sampled];
                set(headers, XRAY, parts);
            }
            Self::OtTrace => {
                set(headers, OT_TRACE, &[&trace_id[16..]]);
                set(headers, OT_SPAN, &[span_id]);
                set(headers, OT_SAMPLED, &[if trace.is_sampled { b"true" } else { b"false" }]);
            }
        }
    }
}

/// Sets a header to a value of at most 128 bytes.
fn set(headers: &mut HeaderMap, name: HeaderName, parts: &[&[u8]]) {
    let mut value = [0; 128];
    let mut length = 0;
    for part in parts {
        let Some(room) = value.get_mut(length..length + part.len()) else { return };
        room.copy_from_slice(part);
        length += part.len();
    }
    // Digits and separators are always valid.
    if let Ok(value) = HeaderValue::from_bytes(&value[..length]) {
        headers.insert(name, value);
    }
}

/// Parses `traceparent` (W3C Trace Context section 3.2).
fn w3c(text: &str) -> Option<TraceContext> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_known = version == "00";
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    if version.len() != 2 || version == "ff" || (is_known && parts.next().is_some()) || !is_lower {
        return None;
    }
    number(version)?;
    if trace.len() != 32 || flags.len() != 2 {
        return None;
    }
    context(trace, span, number(flags)? & 1 == 1)
}

/// Parses the single header of B3.
fn b3(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    context(trace, span, matches!(parts.next(), Some("1" | "d")))
}

/// Parses the header of X-Ray: `Root=1-<8 digits>-<24 digits>;Parent=…;Sampled=1`.
fn xray(text: &str) -> Option<TraceContext> {
    let (mut trace, mut span, mut is_sampled) = (None, None, false);
    for part in text.split(';') {
        match part.trim().split_once('=')? {
            ("Root", root) => trace = root.strip_prefix("1-").map(|root| root.replacen('-', "", 1)),
            ("Parent", parent) => span = Some(parent),
            ("Sampled", sampled) => is_sampled = sampled == "1",
            _ => {}
        }
    }
    context(&trace.filter(|trace| trace.len() == 32)?, span?, is_sampled)
}

/// Returns the context of two identifiers; `None` if either is invalid or 0.
fn context(trace: &str, span: &str, is_sampled: bool) -> Option<TraceContext> {
    if trace.len() > 32 || span.len() > 16 {
        return None;
    }
    let (trace_id, span_id) = (number(trace)?, u64::try_from(number(span)?).ok()?);
    (trace_id != 0 && span_id != 0).then_some(TraceContext { trace_id, span_id, is_sampled })
}

/// Parses hexadecimal digits, without a sign.
fn number(text: &str) -> Option<u128> {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: TraceContext = TraceContext {
        trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        span_id: 0xb7ad_6b71_6920_3331,
        is_sampled: true,
    };

    #[test]
    fn every_format_reads_what_it_writes() {
        for name in ["", "tracecontext,baggage", "b3", "b3multi", "jaeger", "xray"] {
            for is_sampled in [true, false] {
                let (formats, trace) = (Propagators::parse(name), TraceContext { is_sampled, ..TRACE });
                let mut headers = HeaderMap::new();
                formats.inject(&trace, &mut headers);
                assert_eq!(formats.extract(&headers), Some(trace), "{name}");
            }
        }
        let mut headers = HeaderMap::new();
        let formats = Propagators::parse("ottrace");
        formats.inject(&TRACE, &mut headers);
        // This format has the lower half only.
        let half = TraceContext { trace_id: TRACE.trace_id & u128::from(u64::MAX), ..TRACE };
        assert_eq!(formats.extract(&headers), Some(half));
    }

    #[test]
    fn headers_are_those_of_the_formats() {
        let mut headers = HeaderMap::new();
        Propagators::parse("tracecontext, b3, b3multi, jaeger, xray, ottrace").inject(&TRACE, &mut headers);
        for (name, value) in [
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
            ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
            ("x-b3-spanid", "b7ad6b7169203331"),
            ("x-b3-sampled", "1"),
            ("uber-trace-id", "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1"),
            ("x-amzn-trace-id", "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1"),
            ("ot-tracer-traceid", "8448eb211c80319c"),
            ("ot-tracer-sampled", "true"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
    }

    #[test]
    fn invalid_parents_are_ignored() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(w3c(valid), Some(TRACE));
        assert_eq!(w3c(&valid.replacen("00", "cc", 1)), Some(TRACE));
        for bad in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-+7ad6b716920333-01",
            "00-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(w3c(bad), None, "{bad}");
        }
        for bad in ["0", "1-2", "x-y-1"] {
            assert_eq!(b3(bad).map(|trace| trace.is_sampled), (bad == "1-2").then_some(false), "{bad}");
        }
        for bad in ["", "Root", "Root=1-x;Parent=1", "Root=1-0af76519-16cd43dd8448eb211c80319c"] {
            assert_eq!(xray(bad), None, "{bad}");
        }
    }
}
