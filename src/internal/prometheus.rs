//! `prometheus@internal`: metrics for Prometheus.

use std::sync::{Arc, OnceLock};

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate_core::{Body, BoxFuture, Handler, Reason, Request, Response, reply};

use crate::observability::metrics::{Format, Metrics, scrape};
use crate::service::Service;
use crate::snapshot::WeakSnapshotHandle;

const OPEN_METRICS: &str = "application/openmetrics-text";

/// The service.
pub(super) struct PrometheusEndpoint {
    metrics: Arc<Metrics>,
    snapshots: Arc<OnceLock<WeakSnapshotHandle>>,
}

impl PrometheusEndpoint {
    /// Serves these metrics.
    pub(super) fn new(metrics: Arc<Metrics>, snapshots: Arc<OnceLock<WeakSnapshotHandle>>) -> Self {
        Self { metrics, snapshots }
    }

    fn answer(&self, request: &Request) -> Response {
        let Some(snapshots) = self.snapshots.get().and_then(WeakSnapshotHandle::upgrade) else {
            return reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::OwnService);
        };
        let (format, content_type) = match accepts_open_metrics(&request.head.headers) {
            true => (Format::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
            false => (Format::Text, "text/plain; version=0.0.4; charset=utf-8"),
        };
        let text = scrape(&self.metrics, &snapshots.load(), format);
        let mut response = Response::new(Body::full(text)).because(Reason::OwnService);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| range.trim().starts_with(OPEN_METRICS))
}

impl Handler for PrometheusEndpoint {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(std::future::ready(self.answer(&request)))
    }
}

impl Service for PrometheusEndpoint {
    fn is_up(&self) -> bool {
        true
    }
}
