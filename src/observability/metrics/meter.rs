//! Counts one request in the metrics of its entry point, its routers and the services it was sent to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};
use tidegate_core::metrics::{Protocol, RequestKind, Sample};
use tidegate_core::{Attempt, Exchange, Request, RequestCounters};

use super::{Metrics, is_internal};
use crate::worker;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// gRPC's `UNKNOWN`: a response without a status.
const GRPC_UNKNOWN: u16 = 2;
/// The highest status of gRPC.
const GRPC_MAX: u16 = 16;

/// Counts the requests of an entry point.
pub(crate) struct EntryPointMeter {
    metrics: Arc<Metrics>,
    counters: Option<Arc<RequestCounters>>,
}

impl EntryPointMeter {
    /// Returns the meter of an entry point.
    pub(crate) fn new(metrics: &Arc<Metrics>, entry_point: &str) -> Self {
        Self { metrics: metrics.clone(), counters: metrics.entry_points.get(entry_point).cloned() }
    }

    /// Begins to count a request; `None` if it is not counted. `upgrades` is whether it has the header `Upgrade`.
    pub(crate) fn begin(&self, request: &Request, upgrades: bool) -> Option<Meter> {
        let route = request.context.exchange.route();
        let is_internal = route.is_some_and(|route| is_internal(&route.router, &route.service));
        if is_internal && !self.metrics.add_internals {
            return None;
        }
        let headers = &request.head.headers;
        let kind = RequestKind::new(&request.head.method, protocol(headers, upgrades));
        let value = |(_, header): &(String, Option<HeaderName>)| {
            let value = header.as_ref().and_then(|header| headers.get(header));
            let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()));
            Box::from(value.unwrap_or_default())
        };
        let labels = self.metrics.header_labels.iter().map(value).collect();
        Some(Meter { counters: self.counters.clone(), kind, labels, grpc_status: None })
    }
}

/// A request that is counted when it ends.
pub(crate) struct Meter {
    /// The counters of the entry point.
    counters: Option<Arc<RequestCounters>>,
    kind: RequestKind,
    labels: Box<[Box<str>]>,
    grpc_status: Option<u16>,
}

impl Meter {
    /// Records headers or trailers of the response, which have the status of gRPC.
    pub(crate) fn record_headers(&mut self, headers: &HeaderMap) {
        if self.kind.protocol.is_grpc()
            && let Some(status) = headers.get(GRPC_STATUS).and_then(|value| value.to_str().ok())
        {
            self.grpc_status = status.parse().ok().filter(|status| *status <= GRPC_MAX);
        }
    }

    /// Counts the request, which has ended.
    pub(crate) fn count(&self, exchange: &Exchange) {
        let worker = worker::index();
        let now = Instant::now();
        let sample = Sample {
            kind: self.kind,
            code: self.code(exchange.status()),
            duration: now.saturating_duration_since(exchange.started),
            received: exchange.received(),
            sent: exchange.sent(),
            tls: exchange.connection.tls.as_ref().map(|tls| (tls.version, tls.cipher)),
            labels: &self.labels,
        };
        let routers = exchange.routes().filter_map(|route| route.counters.as_ref());
        for counters in self.counters.iter().chain(routers) {
            counters.count(worker, &sample);
        }
        for attempt in exchange.attempts() {
            if let Some(counters) = attempt.counters() {
                counters.count(worker, &self.of_attempt(attempt, sample, now));
            }
        }
    }

    /// Returns what one attempt adds to its service. The last one has the response that the client gets.
    fn of_attempt<'a>(&self, attempt: &Attempt, whole: Sample<'a>, now: Instant) -> Sample<'a> {
        let Some(replaced) = attempt.replaced() else {
            return Sample { duration: now.saturating_duration_since(attempt.sent), ..whole };
        };
        let code = attempt.status().unwrap_or(replaced);
        let duration = attempt.took().unwrap_or(Duration::ZERO);
        Sample { code: self.code(code), duration, sent: attempt.received(), ..whole }
    }

    fn code(&self, status: u16) -> u16 {
        match self.kind.protocol.is_grpc() {
            true => self.grpc_status.unwrap_or(GRPC_UNKNOWN),
            false => status,
        }
    }
}

fn protocol(headers: &HeaderMap, upgrades: bool) -> Protocol {
    let has = |name: HeaderName, is_wanted: fn(&[u8]) -> bool| {
        headers.get(name).is_some_and(|value| is_wanted(value.as_bytes()))
    };
    if upgrades && has(http::header::UPGRADE, |value| value.eq_ignore_ascii_case(b"websocket")) {
        return Protocol::WebSocket;
    }
    if has(CONTENT_TYPE, |value| value.starts_with(b"application/grpc-web")) {
        return Protocol::GrpcWeb;
    }
    if has(CONTENT_TYPE, |value| value.starts_with(b"application/grpc")) {
        return Protocol::Grpc;
    }
    if has(ACCEPT, |value| value == b"text/event-stream") {
        return Protocol::Sse;
    }
    Protocol::Http
}
