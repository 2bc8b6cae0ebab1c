//! Tracing: decides which requests are sampled, and sends their spans to a collector.
//!
//! The decision is made before anything is recorded. A request that is not sampled only passes the identifiers
//! of its trace on to servers.

mod attributes;
mod draft;
mod propagation;
mod spans;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::HeaderName;
use http::header::USER_AGENT;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tidegate_clients::otlp::{Exporter, Queue, Sender, Signal, detect, scope};
use tidegate_core::{CapturedHeaders, Propagator, Request, RouteInfo, Spans, TraceContext};
use tokio::runtime::Handle;

use tidegate_config::router::TraceVerbosity;

use crate::settings::{EntryPointObservability, Settings, Tracing};
pub(crate) use draft::Draft;
use propagation::Propagators;
pub(crate) use spans::type_name;

/// Suffix of the names of the gateway's own routers.
const INTERNAL: &str = "@internal";

/// Traces requests.
pub struct Tracer {
    propagators: Arc<Propagators>,
    /// Traces whose lower 63 bits are below this are sampled.
    threshold: u64,
    add_internals: bool,
    capture: Arc<Capture>,
    queue: Queue<Span>,
}

/// What is recorded of requests and responses.
struct Capture {
    headers: Arc<CapturedHeaders>,
    safe_query_params: BTreeSet<String>,
    sender: Sender<Span>,
}

impl Tracer {
    /// Starts what the settings ask for. Options that cannot be used are reported when the settings are read.
    pub fn start(settings: &Settings, control: &Handle) -> Option<Arc<Self>> {
        let options = settings.tracing.as_ref()?;
        let exporter = Exporter::new(&options.otlp.clone().unwrap_or_default(), Signal::Traces);
        let exporter =
            exporter.inspect_err(|error| tracing::error!(%error, "tracing: cannot be started")).ok()?;
        let mut attributes = options.global_attributes.clone();
        attributes.extend(options.resource_attributes.clone());
        let resource = detect(&options.service_name, &attributes);
        let pack = move |spans: Vec<Span>| {
            let scoped = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
            let spans = ResourceSpans {
                resource: Some(resource.clone()),
                scope_spans: vec![scoped],
                ..ResourceSpans::default()
            };
            ExportTraceServiceRequest { resource_spans: vec![spans] }
        };
        let queue = Queue::start(exporter, control, pack);
        let capture = Arc::new(Capture {
            headers: Arc::new(CapturedHeaders {
                // The user agent has an attribute of its own.
                request: names(&options.captured_request_headers)
                    .filter(|name| *name != USER_AGENT)
                    .collect(),
                response: names(&options.captured_response_headers).collect(),
            }),
            safe_query_params: options.safe_query_params.iter().cloned().collect(),
            sender: queue.sender(),
        });
        Some(Arc::new(Self {
            propagators: Arc::new(Propagators::from_environment()),
            threshold: threshold(options),
            add_internals: options.add_internals,
            capture,
            queue,
        }))
    }

    /// Begins the trace of a request, or continues the client's. The draft is `None` if it is not sampled.
    pub(crate) fn begin(
        &self,
        request: &Request,
        route: Option<&RouteInfo>,
        options: &EntryPointObservability,
    ) -> Option<(Arc<Spans>, Option<Box<Draft>>)> {
        let is_internal = |name: &str| name.ends_with(INTERNAL);
        if !self.add_internals
            && route.is_some_and(|route| is_internal(&route.router) || is_internal(&route.service))
        {
            return None;
        }
        let parent = self.propagators.extract(&request.head.headers);
        let trace_id = parent.map_or_else(|| fastrand::u128(1..), |parent| parent.trace_id);
        let is_sampled = parent.map_or_else(|| self.samples(trace_id), |parent| parent.is_sampled);
        let trace = TraceContext { trace_id, span_id: fastrand::u64(1..), is_sampled };
        let is_detailed = is_sampled && options.trace_verbosity.known() == Some(TraceVerbosity::Detailed);
        let propagator: Arc<dyn Propagator> = self.propagators.clone();
        let parent = parent.map(|parent| parent.span_id);
        let draft = is_sampled.then(|| Box::new(Draft::begin(&self.capture, request, parent)));
        Some((Spans::new(trace, is_detailed, propagator, self.capture.headers.clone()), draft))
    }

    /// Decides about a trace that begins here, like OpenTelemetry's `TraceIDRatioBased`.
    fn samples(&self, trace_id: u128) -> bool {
        // The lower half, as in Go.
        (trace_id as u64) >> 1 < self.threshold
    }

    /// Returns the number of spans that were dropped.
    pub fn dropped(&self) -> u64 {
        self.capture.sender.dropped()
    }

    /// Sends the spans that are waiting.
    pub async fn stop(&self) {
        self.queue.stop().await;
    }
}

fn threshold(options: &Tracing) -> u64 {
    if options.sample_rate >= 1.0 {
        return u64::MAX;
    }
    // A negative rate or NaN becomes 0.
    (options.sample_rate * (1u64 << 63) as f64) as u64
}

/// Returns the names of headers; those that no request can have are left out.
fn names(configured: &[String]) -> impl Iterator<Item = HeaderName> {
    configured.iter().filter_map(|name| name.parse().ok())
}
