//! What is recorded of a sampled request until its spans are built.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, Version};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use tidegate_core::{End, Exchange, Reason, Request, SpanKind};

use super::Capture;
use super::attributes::{captured, int, lossy, text};
use super::spans::{self, Times};

/// Replaces what is not recorded.
const REDACTED: &str = "REDACTED";
/// What the keys of captured request headers begin with.
const REQUEST_HEADER: &str = "http.request.header.";

/// The unfinished span of a sampled request.
pub(crate) struct Draft {
    capture: Arc<Capture>,
    name: String,
    parent: Option<u64>,
    /// The time at [`Exchange::started`].
    at: SystemTime,
    user_agent: String,
    attributes: Vec<KeyValue>,
}

impl Draft {
    /// Records the request before middlewares change it.
    pub(super) fn begin(capture: &Arc<Capture>, request: &Request, parent: Option<u64>) -> Self {
        let (head, connection) = (&request.head, request.context.connection());
        let header = |name: &HeaderName| {
            head.headers.get(name).map(|value| lossy(value.as_bytes())).unwrap_or_default()
        };
        let at = SystemTime::now().checked_sub(request.context.exchange.started.elapsed());
        let (client, user_agent) = (connection.peer.ip().to_string(), header(&USER_AGENT));
        let port = i64::from(connection.peer.port());
        let length = header(&CONTENT_LENGTH)
            .parse()
            .unwrap_or(if http_body::Body::is_end_stream(&request.body) { 0 } else { -1 });
        let scheme = if connection.tls.is_some() { "https" } else { "http" };
        let scheme =
            head.headers.get("x-forwarded-proto").map_or(scheme.into(), |value| lossy(value.as_bytes()));
        let mut attributes = vec![
            text("entry_point", &connection.entry_point),
            text("http.request.method", head.method.as_str()),
            text("network.protocol.version", version(request.context.exchange.version)),
            int("http.request.body.size", length),
            text("url.path", head.uri.path()),
            text("url.query", &capture.query(head.uri.query().unwrap_or(""))),
            text("url.scheme", &scheme),
            text("user_agent.original", &user_agent),
            text("server.address", &header(&HOST)),
            text("network.peer.address", &client),
            text("client.address", &client),
            int("client.port", port),
            int("network.peer.port", port),
        ];
        attributes.extend(captured("request", &capture.headers.request, &head.headers));
        Self {
            capture: capture.clone(),
            name: head.method.as_str().to_owned(),
            parent,
            at: at.unwrap_or(UNIX_EPOCH),
            user_agent,
            attributes,
        }
    }

    /// Records headers of the response to the client.
    pub(crate) fn record_response(&mut self, headers: &HeaderMap) {
        self.attributes.extend(captured("response", &self.capture.headers.response, headers));
    }

    /// Builds the spans of the request and hands them over.
    pub(crate) fn finish(mut self, exchange: &Exchange, end: End) {
        let Some(spans) = exchange.spans() else { return };
        let trace = *spans.trace();
        let times = Times { started: exchange.started, at: self.at };
        let ended = exchange.started.elapsed();
        let status = exchange.status();
        if status > 0 {
            self.attributes.push(int("http.response.status_code", status.into()));
        }
        if let Some(origin) = exchange.origin() {
            self.attributes.push(text("tidegate.origin", origin.name()));
        }
        if let Some(reason) = exchange.reason() {
            self.attributes.push(text("tidegate.reason", reason.name()));
        }
        if !matches!(end, End::Complete) {
            self.attributes.push(text("tidegate.aborted", "true"));
        }
        if let Some(id) = exchange.request_id() {
            self.attributes.push(text("tidegate.request_id", id));
        }
        for name in exchange.concealed().flat_map(|concealed| &concealed.headers) {
            self.attributes.retain(|one| one.key.strip_prefix(REQUEST_HEADER) != Some(name.as_str()));
        }
        let send = |span: Span| self.capture.sender.send(span);
        let refused = exchange.reason().is_some_and(is_refusal);
        // The innermost span of those that the refusal is in.
        let refused_by = exchange.middlewares_reached().checked_sub(1).filter(|_| refused);
        for mut recorded in spans.take() {
            for name in exchange.concealed().flat_map(|concealed| &concealed.headers) {
                recorded.request_headers.remove(name);
            }
            let query = |url: &str| self.capture.url(url);
            let by = matches!(recorded.kind, SpanKind::Middleware(_, index) if refused_by == Some(index));
            let mut span = spans::inner(&trace, recorded, &times, ended, (&self.user_agent, &query));
            if by {
                span.status = Some(spans::failed());
            }
            send(span);
        }
        let is_failed = refused && !spans.is_detailed();
        send(Span {
            trace_id: trace.trace_id.to_be_bytes().into(),
            span_id: trace.span_id.to_be_bytes().into(),
            parent_span_id: self.parent.map(|id| id.to_be_bytes().into()).unwrap_or_default(),
            name: self.name,
            kind: spans::SERVER,
            start_time_unix_nano: times.nanos(std::time::Duration::ZERO),
            end_time_unix_nano: times.nanos(ended),
            attributes: self.attributes,
            status: Some(if is_failed { spans::failed() } else { spans::status(status, 500) }),
            ..Span::default()
        });
    }
}

/// Returns true for refusals that Traefik reports as errors, although their status may not be one of the server.
fn is_refusal(reason: Reason) -> bool {
    matches!(reason, Reason::AddressDenied | Reason::Unauthenticated | Reason::CircuitOpen)
}

impl Capture {
    /// Returns a query with the values of parameters that are not safe replaced, sorted by name.
    fn query(&self, query: &str) -> String {
        let mut pairs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.entry(name).or_default().push(value);
        }
        let mut out = String::new();
        for (name, values) in pairs {
            let is_safe = self.safe_query_params.contains(name);
            let values = if is_safe { values } else { vec![REDACTED] };
            for value in values {
                let separator = if out.is_empty() { "" } else { "&" };
                out.push_str(&format!("{separator}{name}={value}"));
            }
        }
        out
    }

    /// Returns a URL without credentials, and with the values of parameters that are not safe replaced.
    fn url(&self, url: &str) -> String {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut base = base.to_owned();
        if let Some(start) = base.find("://").map(|at| at + 3) {
            let end = base[start..].find('/').map_or(base.len(), |at| start + at);
            if let Some(at) = base[start..end].rfind('@') {
                base.replace_range(start..start + at, "REDACTED:REDACTED");
            }
        }
        if query.is_empty() { base } else { format!("{base}?{}", self.query(query)) }
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}
