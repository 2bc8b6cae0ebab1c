//! The spans of one request below that of the entry point: routers, middlewares, services, and requests sent.
//!
//! They are recorded while the request is handled, and built into messages at its end. A request that is not
//! sampled records nothing, and only passes the identifiers of its trace on.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;

use crate::{Propagator, RouteInfo, TraceContext};

/// Maximum number of spans recorded per request.
const MAX_SPANS: usize = 128;
/// Increment of splitmix64, which derives the identifiers of spans.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The trace of one request.
#[derive(Debug)]
pub struct Spans {
    trace: TraceContext,
    /// Whether requests sent are recorded.
    is_recording: bool,
    /// Whether routers, middlewares and services are recorded, too.
    is_detailed: bool,
    propagator: Arc<dyn Propagator>,
    captured: Arc<CapturedHeaders>,
    state: Mutex<State>,
}

/// Names of the headers that the spans of requests sent record.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CapturedHeaders {
    /// Headers of requests.
    pub request: Vec<HeaderName>,
    /// Headers of responses.
    pub response: Vec<HeaderName>,
}

#[derive(Debug)]
struct State {
    /// The identifier of the innermost open span.
    current: u64,
    spans: Vec<Span>,
}

impl State {
    fn below(trace: &TraceContext) -> Self {
        Self { current: trace.span_id, spans: Vec::new() }
    }
}

/// A recorded span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its identifier.
    pub id: u64,
    /// The identifier of its parent.
    pub parent: u64,
    /// What it is about.
    pub kind: SpanKind,
    /// When it began.
    pub began: Instant,
    /// When it ended; `None` if it has not, so that it ends with the request.
    pub ended: Option<Instant>,
    /// Status of the response; 0 if there was none.
    pub status: u16,
    /// The captured headers of the request that was sent.
    pub request_headers: HeaderMap,
    /// The captured headers of its response.
    pub response_headers: HeaderMap,
}

/// What a span is about.
#[derive(Clone, Debug)]
pub enum SpanKind {
    /// A router.
    Router(Arc<RouteInfo>),
    /// The middleware of a route with this index.
    Middleware(Arc<RouteInfo>, usize),
    /// An attempt of a `retry`, with the number of attempts before.
    Retry(Arc<str>, u32),
    /// The service of a route.
    Service(Arc<RouteInfo>),
    /// A request sent by the gateway.
    Call {
        /// The name of the span.
        name: &'static str,
        /// The method of the request.
        method: http::Method,
        /// Its URL.
        url: Box<str>,
    },
}

/// A span that is open until it is dropped. Later spans are its children.
#[derive(Debug)]
pub struct OpenSpan {
    spans: Arc<Spans>,
    index: usize,
}

impl Spans {
    /// Creates the spans of a request; `is_detailed` has an effect only if the trace is sampled.
    pub fn new(
        trace: TraceContext,
        is_detailed: bool,
        propagator: Arc<dyn Propagator>,
        captured: Arc<CapturedHeaders>,
    ) -> Arc<Self> {
        let is_recording = trace.is_sampled;
        let state = Mutex::new(State::below(&trace));
        Arc::new(Self {
            trace,
            is_recording,
            is_detailed: is_detailed && is_recording,
            propagator,
            captured,
            state,
        })
    }

    /// Creates the spans of a separate request, which are not recorded. It belongs to the current span.
    pub(crate) fn aside(&self) -> Arc<Self> {
        let trace = TraceContext { span_id: self.state.lock().current, ..self.trace };
        Arc::new(Self {
            trace,
            is_recording: false,
            is_detailed: false,
            propagator: self.propagator.clone(),
            captured: self.captured.clone(),
            state: Mutex::new(State::below(&trace)),
        })
    }

    /// Returns the trace of the request.
    pub fn trace(&self) -> &TraceContext {
        &self.trace
    }

    /// Returns true if routers, middlewares and services are recorded.
    pub fn is_detailed(&self) -> bool {
        self.is_detailed
    }

    /// Returns true if requests sent are recorded.
    pub fn is_recording(&self) -> bool {
        self.is_recording
    }

    /// Begins the span of a request that is about to be sent.
    pub fn begin_call(
        self: &Arc<Self>,
        name: &'static str,
        url: Box<str>,
        head: &http::request::Parts,
    ) -> Option<OpenSpan> {
        let span = self.begin(SpanKind::Call { name, method: head.method.clone(), url })?;
        if !self.captured.request.is_empty() {
            span.change(|span| capture(&self.captured.request, &head.headers, &mut span.request_headers));
        }
        Some(span)
    }

    /// Begins a span below the innermost open one. Returns `None` if it is not recorded.
    pub fn begin(self: &Arc<Self>, kind: SpanKind) -> Option<OpenSpan> {
        let is_call = matches!(kind, SpanKind::Call { .. });
        if !(self.is_detailed || is_call && self.is_recording) {
            return None;
        }
        let mut state = self.state.lock();
        let index = state.spans.len();
        if index >= MAX_SPANS {
            return None;
        }
        let (id, parent) = (self.child(index as u64 + 1), state.current);
        state.spans.push(Span {
            id,
            parent,
            kind,
            began: Instant::now(),
            ended: None,
            status: 0,
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
        });
        state.current = id;
        drop(state);
        Some(OpenSpan { spans: self.clone(), index })
    }

    /// Writes the innermost open span into the headers of a request to be sent.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let trace = TraceContext { span_id: self.state.lock().current, ..self.trace };
        self.propagator.inject(&trace, headers);
    }

    /// Takes the recorded spans, oldest first.
    pub fn take(&self) -> Vec<Span> {
        std::mem::take(&mut self.state.lock().spans)
    }

    /// Derives the identifier of a span from that of the request (splitmix64).
    fn child(&self, number: u64) -> u64 {
        let mut id = self.trace.span_id.wrapping_add(STEP.wrapping_mul(number));
        id = (id ^ (id >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        id = (id ^ (id >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (id ^ (id >> 31)).max(1)
    }
}

/// Copies the headers with these names.
fn capture(names: &[HeaderName], from: &HeaderMap, to: &mut HeaderMap) {
    for name in names {
        for value in from.get_all(name) {
            to.append(name, value.clone());
        }
    }
}

impl OpenSpan {
    /// Ends a span that may not be recorded.
    pub fn end(span: Option<Self>, status: u16) {
        if let Some(span) = span {
            span.finish(status);
        }
    }

    /// Ends the span with the status of a response.
    pub fn finish(self, status: u16) {
        self.change(|span| span.status = status);
    }

    /// Ends the span of a request, which may not be recorded, with its response.
    pub fn end_call(span: Option<Self>, status: u16, headers: &HeaderMap) {
        if let Some(span) = span {
            let names = &span.spans.captured.response;
            span.change(|span| {
                span.status = status;
                capture(names, headers, &mut span.response_headers);
            });
        }
    }

    fn change(&self, change: impl FnOnce(&mut Span)) {
        let mut state = self.spans.state.lock();
        if let Some(span) = state.spans.get_mut(self.index) {
            change(span);
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let mut state = self.spans.state.lock();
        let Some(span) = state.spans.get_mut(self.index) else { return };
        span.ended = Some(Instant::now());
        let (id, parent) = (span.id, span.parent);
        if state.current == id {
            state.current = parent;
        }
    }
}
