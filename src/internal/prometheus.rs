//! `prometheus@internal`: metrics for Prometheus.

use std::sync::{Arc, OnceLock};

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate_core::{Body, BoxFuture, Handler, Reason, Request, Response, reply};

use crate::observability::metrics::{Format, Metrics, scrape};
use crate::service::Service;
use crate::snapshot::WeakSnapshotHandle;

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
        let format = negotiated(&request.head.headers);
        let content_type = match format {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        };
        let metrics = scrape(&self.metrics, &snapshots.load(), format);
        let mut response = Response::new(Body::full(metrics)).because(Reason::OwnService);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

/// Returns the format that the scraper prefers, or else text.
fn negotiated(headers: &HeaderMap) -> Format {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges = accepted.flat_map(|value| value.split(',')).filter_map(accepted_format);
    // Of equal ones, the first.
    let best = ranges.reduce(|best, range| if range.1 > best.1 { range } else { best });
    best.map_or(Format::Text, |(format, _)| format)
}

/// Returns the format of one range of `Accept` and its weight; `None` if it is not served, or not wanted.
fn accepted_format(range: &str) -> Option<(Format, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?;
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let parameter = |name: &str| parameters.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
    let weight = parameter("q").map_or(Ok(1.0), str::parse::<f32>).ok().filter(|weight| *weight > 0.0)?;
    let is = |name: &str, wanted: &[&str]| parameter(name).is_none_or(|value| wanted.contains(&value));
    let format = match media_type {
        "text/plain" | "text/*" | "*/*" if is("version", &["0.0.4"]) => Format::Text,
        "application/openmetrics-text" if is("version", &["1.0.0", "0.0.1"]) => Format::OpenMetrics,
        "application/vnd.google.protobuf"
            if parameter("proto") == Some("io.prometheus.client.MetricFamily")
                && parameter("encoding") == Some("delimited") =>
        {
            Format::Protobuf
        }
        _ => return None,
    };
    Some((format, weight))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_format_is_sent() {
        const PROTOBUF: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        // As Prometheus 2.42 asks, without and with native histograms.
        let open = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                    text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let native = format!("{PROTOBUF},application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1");
        let refused = format!("{PROTOBUF};q=0, text/plain;q=0.3, application/openmetrics-text; q=0.2");
        for (accept, expected) in [
            (open, Format::OpenMetrics),
            (&native, Format::Protobuf),
            (&refused, Format::Text),
            ("application/openmetrics-text; version=2.0.0, */*; q=0.1", Format::Text),
            ("application/vnd.google.protobuf", Format::Text),
            ("text/html, *;q=x", Format::Text),
            ("", Format::Text),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]);
            assert_eq!(negotiated(&headers), expected, "{accept}");
        }
        assert_eq!(negotiated(&HeaderMap::new()), Format::Text);
    }
}
