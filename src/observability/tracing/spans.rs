//! Builds the spans below that of the entry point, with Traefik's names and attributes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use tidegate_core::spans::Span as Recorded;
use tidegate_core::{SpanKind, TraceContext};

use super::attributes::{captured, int, text};

/// Kinds of spans (`opentelemetry.proto.trace.v1.Span.SpanKind`).
const INTERNAL: i32 = 1;
pub(super) const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// Converts moments of one request.
pub(super) struct Times {
    pub(super) started: Instant,
    /// The time at `started`.
    pub(super) at: SystemTime,
}

impl Times {
    /// Returns the time this long after the start, in nanoseconds since 1970.
    pub(super) fn nanos(&self, after: Duration) -> u64 {
        let since = self.at.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(after);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn of(&self, moment: Instant) -> u64 {
        self.nanos(moment.saturating_duration_since(self.started))
    }
}

/// Returns the status of a span: an error from `errors` on, or without a response.
pub(super) fn status(code: u16, errors: u16) -> Status {
    if code < 100 || code >= errors { failed() } else { Status::default() }
}

/// Returns the status of a span with an error.
pub(super) fn failed() -> Status {
    Status { code: StatusCode::Error.into(), ..Status::default() }
}

/// Builds a span. `ended` is when the request ended; the rest describes requests sent.
pub(super) fn inner(
    trace: &TraceContext,
    span: Recorded,
    times: &Times,
    ended: Duration,
    (user_agent, redact): (&str, &dyn Fn(&str) -> String),
) -> Span {
    let (name, kind, mut attributes) = match &span.kind {
        SpanKind::Router(route) => (
            "Router",
            INTERNAL,
            vec![
                text("traefik.service.name", &route.service),
                text("traefik.router.name", route.router.rsplit(" -> ").next().unwrap_or("")),
                text("http.route", &route.rule),
            ],
        ),
        SpanKind::Middleware(route, index) => {
            let name = route.middlewares.get(*index).map_or("", |middleware| &middleware.name);
            let kind = route.middleware_types.get(*index).map_or("", |name| name);
            (kind, INTERNAL, vec![text("traefik.middleware.name", name)])
        }
        SpanKind::Retry(name, before) => {
            let mut attributes = vec![text("traefik.middleware.name", name)];
            if *before > 0 {
                attributes.push(int("http.request.resend_count", (*before).into()));
            }
            ("Retry", INTERNAL, attributes)
        }
        SpanKind::Service(route) => ("Service", INTERNAL, vec![text("traefik.service.name", &route.service)]),
        SpanKind::Call { name, method, url } => {
            let mut attributes = call(method.as_str(), &redact(url), user_agent);
            for (side, headers) in [("request", &span.request_headers), ("response", &span.response_headers)]
            {
                attributes.extend(captured(side, headers.keys(), headers));
            }
            (*name, CLIENT, attributes)
        }
    };
    let status = match kind {
        CLIENT => {
            if span.status > 0 {
                attributes.push(int("http.response.status_code", span.status.into()));
            }
            status(span.status, 400)
        }
        _ => Status::default(),
    };
    Span {
        trace_id: trace.trace_id.to_be_bytes().into(),
        span_id: span.id.to_be_bytes().into(),
        parent_span_id: span.parent.to_be_bytes().into(),
        name: name.to_owned(),
        kind,
        start_time_unix_nano: times.of(span.began),
        end_time_unix_nano: span.ended.map_or_else(|| times.nanos(ended), |ended| times.of(ended)),
        attributes,
        status: Some(status),
        ..Span::default()
    }
}

/// Returns the attributes of a request sent.
fn call(method: &str, url: &str, user_agent: &str) -> Vec<KeyValue> {
    let uri: http::Uri = url.parse().unwrap_or_default();
    let scheme = uri.scheme_str().unwrap_or("http");
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
    vec![
        text("http.request.method", method),
        text("network.protocol.version", "1.1"),
        text("url.full", url),
        text("url.scheme", scheme),
        text("user_agent.original", user_agent),
        text("network.peer.address", host),
        int("network.peer.port", port.into()),
        text("server.address", host),
        int("server.port", port.into()),
    ]
}

/// Returns the name that Traefik gives the spans of a kind of middleware; empty if it has none.
pub(crate) fn type_name(kind: &str) -> String {
    let name = match kind {
        "buffering" => "Buffer",
        // In Traefik, these have no spans; those of a chain are its members'.
        "chain" | "contentType" | "grpcWeb" | "redirectScheme" => "",
        "errors" => "CustomError",
        "ipAllowList" => "IPAllowLister",
        "ipWhiteList" => "IPWhiteLister",
        "passTLSClientCert" => "PassClientTLSCert",
        "rateLimit" => "RateLimiter",
        "redirectRegex" => "Redirect",
        other => {
            let mut letters = other.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            return first.into_iter().chain(letters).collect();
        }
    };
    name.to_owned()
}
