//! Counts one request in the metrics of its entry point, its routers and the services it was sent to.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Method};
use tidegate_core::metrics::{Counted, Protocol, RequestKind, ResponseCounters, Sample};
use tidegate_core::{Attempt, Exchange, Reason, Request, RequestCounters, RouteInfo};

use super::semantic::SemanticDurations;
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
    responses: Option<Arc<ResponseCounters>>,
}

impl EntryPointMeter {
    /// Returns the meter of an entry point.
    pub(crate) fn new(metrics: &Arc<Metrics>, entry_point: &str) -> Self {
        let counters = metrics.entry_points.get(entry_point);
        Self {
            metrics: metrics.clone(),
            counters: counters.map(|counters| counters.requests.clone()),
            responses: counters.map(|counters| counters.responses.clone()),
        }
    }

    /// Returns how a request is counted, given its route; `None` if it is not. `upgrades` is whether it has the header
    /// `Upgrade`, and `has_media_type` whether it has `Accept` or `Content-Type`.
    pub(crate) fn counted(
        &self,
        request: &Request,
        route: Option<&RouteInfo>,
        (upgrades, has_media_type): (bool, bool),
    ) -> Option<Counted> {
        let is_internal = route.is_some_and(|route| is_internal(&route.router, &route.service));
        if is_internal && !self.metrics.add_internals {
            return None;
        }
        let headers = &request.head.headers;
        let kind = RequestKind::new(&request.head.method, protocol(headers, upgrades, has_media_type));
        let value = |(_, header): &(String, Option<HeaderName>)| {
            let value = header.as_ref().and_then(|header| headers.get(header));
            let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()));
            Box::from(value.unwrap_or_default())
        };
        Some(Counted { kind, labels: self.metrics.header_labels.iter().map(value).collect() })
    }

    /// Begins to count a request. `counted` is how; only the response is counted to one that is refused before it is
    /// routed.
    pub(crate) fn begin(self: &Arc<Self>, counted: Option<&Counted>) -> Meter {
        Meter {
            entry_point: Some(self.clone()),
            is_grpc: counted.is_some_and(|counted| counted.kind.protocol.is_grpc()),
            grpc_status: None,
            exemplars: self.metrics.is_scraped(),
            semantic: self.metrics.semantic.clone(),
        }
    }
}

impl EntryPointMeter {
    /// Counts the response to a head that is refused before there is a request.
    pub(crate) fn count_refused(&self, reason: Reason) {
        if let Some(responses) = &self.responses {
            responses.count(worker::index(), Some(reason));
        }
    }
}

/// A request that is counted when it ends, as its exchange says.
#[derive(Default)]
pub(crate) struct Meter {
    /// `None` for a request of the gateway.
    entry_point: Option<Arc<EntryPointMeter>>,
    is_grpc: bool,
    grpc_status: Option<u16>,
    /// Whether traces are kept as exemplars.
    exemplars: bool,
    /// Set if a collector gets metrics.
    semantic: Option<Arc<SemanticDurations>>,
}

impl Meter {
    /// Records headers or trailers of the response, which have the status of gRPC.
    pub(crate) fn record_headers(&mut self, headers: &HeaderMap) {
        if self.is_grpc
            && let Some(status) = headers.get(GRPC_STATUS).and_then(|value| value.to_str().ok())
        {
            self.grpc_status = status.parse().ok().filter(|status| *status <= GRPC_MAX);
        }
    }

    /// Counts the request, which ended at `now`.
    pub(crate) fn count(&self, exchange: &Exchange, now: Instant) {
        let worker = worker::index();
        let entry_point = self.entry_point.as_deref();
        if let Some(responses) = entry_point.and_then(|meter| meter.responses.as_ref()) {
            responses.count(worker, exchange.reason());
        }
        let Some(counted) = &exchange.counted else { return };
        let sample = Sample {
            kind: counted.kind,
            code: self.code(exchange.status()),
            duration: now.saturating_duration_since(exchange.started),
            received: exchange.received(),
            sent: exchange.sent(),
            tls: exchange.connection.tls.as_ref().map(|tls| (tls.version, tls.cipher)),
            labels: &counted.labels,
        };
        let routers = exchange.routes().filter_map(|route| route.counters.as_ref());
        // Exemplars of requests whose trace is recorded.
        let trace = exchange.trace().filter(|trace| self.exemplars && trace.is_sampled);
        let trace = trace.map(|trace| (trace.trace_id, SystemTime::now()));
        let count = |counters: &RequestCounters, sample: &Sample<'_>| {
            counters.count(worker, sample);
            if let Some((trace_id, at)) = trace {
                counters.keep_exemplar(worker, sample, trace_id, at);
            }
        };
        let entry_point = entry_point.and_then(|meter| meter.counters.as_ref());
        let consumer = exchange.identity().and_then(|identity| identity.consumer.as_ref());
        let consumer = consumer.and_then(|consumer| consumer.counters.get());
        for counters in entry_point.into_iter().chain(routers).chain(consumer) {
            count(counters, &sample);
        }
        for attempt in exchange.attempts() {
            for counters in attempt.all_counters() {
                count(counters, &self.of_attempt(exchange, attempt, sample, now));
            }
        }
        if let Some(semantic) = &self.semantic {
            semantic.count(worker, exchange, &sample);
        }
        for page in exchange.pages() {
            self.count_page(page, &sample, worker, now);
        }
    }

    /// Counts the request for a page for the services that it was sent to.
    #[cold]
    fn count_page(&self, page: &Exchange, client: &Sample<'_>, worker: usize, now: Instant) {
        let Some(counted) = &page.counted else { return };
        let whole = Sample {
            kind: counted.kind,
            code: self.code(page.status()),
            duration: client.duration,
            // As in Traefik, although the page's request has no body.
            received: client.received,
            sent: 0,
            tls: page.connection.tls.as_ref().map(|tls| (tls.version, tls.cipher)),
            labels: &counted.labels,
        };
        for attempt in page.attempts() {
            for counters in attempt.all_counters() {
                let sent = attempt.received();
                counters.count(worker, &Sample { sent, ..self.of_attempt(page, attempt, whole, now) });
            }
        }
    }

    /// Returns what one attempt adds to its service. The last one has the response that the client gets, unless a
    /// page replaces it.
    fn of_attempt<'a>(
        &self,
        exchange: &'a Exchange,
        attempt: &Attempt,
        whole: Sample<'a>,
        now: Instant,
    ) -> Sample<'a> {
        let Some(replaced) = attempt.replaced().or_else(|| exchange.behind_page()) else {
            return Sample { duration: now.saturating_duration_since(attempt.sent), ..whole };
        };
        let code = attempt.status().unwrap_or(replaced);
        let duration = attempt.took().unwrap_or(Duration::ZERO);
        let sent = attempt.size().filter(|_| whole.kind.method() != Method::HEAD.as_str());
        Sample { code: self.code(code), duration, sent: sent.unwrap_or_default(), ..whole }
    }

    fn code(&self, status: u16) -> u16 {
        match self.is_grpc {
            true => self.grpc_status.unwrap_or(GRPC_UNKNOWN),
            false => status,
        }
    }
}

/// Counts a request of the gateway on behalf of a client's for the services that it was sent to, once it has ended.
/// `headers` are those of its response.
pub(crate) fn count_aside(exchange: &Exchange, headers: &HeaderMap) {
    let is_grpc = exchange.counted.as_ref().is_some_and(|counted| counted.kind.protocol.is_grpc());
    let mut meter = Meter { is_grpc, ..Meter::default() };
    meter.record_headers(headers);
    meter.count(exchange, Instant::now());
}

fn protocol(headers: &HeaderMap, upgrades: bool, has_media_type: bool) -> Protocol {
    let has = |name: HeaderName, is_wanted: fn(&[u8]) -> bool| {
        headers.get(name).is_some_and(|value| is_wanted(value.as_bytes()))
    };
    if upgrades && has(http::header::UPGRADE, |value| value.eq_ignore_ascii_case(b"websocket")) {
        return Protocol::WebSocket;
    }
    if !has_media_type {
        return Protocol::Http;
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
