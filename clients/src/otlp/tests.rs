//! Exporters and queues, against a collector in this process.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read;
use std::sync::Arc;

use ::http::HeaderMap;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;

/// What the collector says: a status of HTTP or gRPC, and `Retry-After`.
type Answers = Arc<Mutex<VecDeque<(u16, Option<&'static str>)>>>;

/// A request, with its decompressed message.
type Received = (::http::request::Parts, Vec<u8>);

#[derive(Clone, Default)]
struct Collector {
    answers: Answers,
    requests: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    fn answering(answers: &[(u16, Option<&'static str>)]) -> Self {
        let collector = Self::default();
        collector.answers.lock().extend(answers.iter().copied());
        collector
    }

    /// Serves on a free port, or on the given address.
    async fn start(&self, grpc: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let collector = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let collector = collector.clone();
                let service = service_fn(move |request| collector.clone().handle(request, grpc));
                tokio::spawn(async move {
                    if grpc {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(TokioIo::new(stream), service).await
                    } else {
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    }
                });
            }
        });
        address
    }

    async fn handle(
        self,
        request: ::http::Request<Incoming>,
        grpc: bool,
    ) -> Result<::http::Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let compressed = if grpc { &body[5..] } else { &body[..] };
        let mut message = Vec::new();
        GzDecoder::new(compressed).read_to_end(&mut message).unwrap();
        self.requests.lock().push((head, message));
        let (status, retry_after) =
            self.answers.lock().pop_front().unwrap_or((if grpc { 0 } else { 200 }, None));
        let mut response = ::http::Response::builder();
        if let Some(pause) = retry_after {
            response = response.header("retry-after", pause);
        }
        if !grpc {
            return Ok(response.status(status).body(Full::default().boxed()).unwrap());
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        let frames = [Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
        let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
        Ok(response.header("content-type", "application/grpc").body(body).unwrap())
    }

    fn names(&self) -> Vec<String> {
        let requests = self.requests.lock();
        let spans = requests.iter().flat_map(|(_, message)| {
            let decoded = ExportTraceServiceRequest::decode(message.as_slice()).unwrap();
            decoded.resource_spans.into_iter().flat_map(|one| one.scope_spans).flat_map(|one| one.spans)
        });
        spans.map(|span| span.name).collect()
    }
}

fn span(name: &str) -> Span {
    Span { name: name.into(), ..Span::default() }
}

fn pack(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    }
}

fn over_http(endpoint: String) -> Exporter {
    let headers = [("x-token".to_owned(), "t".into())].into();
    let http = Http { endpoint, headers, ..Http::default() };
    Exporter::new(&Otlp { http: Some(http), grpc: None }, Signal::Traces).unwrap()
}

fn over_grpc(endpoint: String) -> Exporter {
    let grpc = Grpc { endpoint, insecure: true, ..Grpc::default() };
    Exporter::new(&Otlp { grpc: Some(grpc), http: None }, Signal::Traces).unwrap()
}

#[tokio::test]
async fn messages_are_posted_with_the_configured_headers() {
    let collector = Collector::default();
    let address = collector.start(false).await;
    over_http(format!("http://{address}")).export(&pack(vec![span("a")])).await.unwrap();
    over_http(format!("http://{address}/own/path")).export(&pack(vec![span("b")])).await.unwrap();
    assert_eq!(collector.names(), ["a", "b"]);
    let requests = collector.requests.lock();
    assert_eq!((requests[0].0.uri.path(), requests[1].0.uri.path()), ("/v1/traces", "/own/path"));
    let header = |name: &str| requests[0].0.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-token"), "t");
    assert_eq!(header("content-type"), "application/x-protobuf");
    assert_eq!(header("content-encoding"), "gzip");
}

#[tokio::test]
async fn calls_of_grpc_share_a_connection() {
    let collector = Collector::default();
    let address = collector.start(true).await;
    let exporter = over_grpc(address);
    for name in ["a", "b"] {
        exporter.export(&pack(vec![span(name)])).await.unwrap();
    }
    assert_eq!(collector.names(), ["a", "b"]);
    let requests = collector.requests.lock();
    assert_eq!(requests[0].0.uri.path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(requests[0].0.headers["te"], "trailers");
}

#[tokio::test]
async fn passing_failures_are_retried_and_others_are_not() {
    let collector = Collector::answering(&[(503, Some("0")), (429, Some("0")), (200, None), (400, None)]);
    let address = collector.start(false).await;
    let exporter = over_http(format!("http://{address}"));
    exporter.export(&pack(vec![span("a")])).await.unwrap();
    assert_eq!(collector.names(), ["a", "a", "a"]);
    let error = exporter.export(&pack(vec![span("b")])).await.unwrap_err();
    assert!(matches!(error, ExportError::Status { status, .. } if status == 400), "{error}");
    let collector = Collector::answering(&[(14, None), (0, None), (16, None)]);
    let exporter = over_grpc(collector.start(true).await);
    exporter.export(&pack(vec![span("a")])).await.unwrap();
    assert_eq!(collector.names(), ["a", "a"]);
    let error = exporter.export(&pack(vec![span("b")])).await.unwrap_err();
    assert!(matches!(error, ExportError::Grpc { code: 16, .. }), "{error}");
}

#[tokio::test]
async fn a_queue_sends_what_waits_when_it_stops() {
    let collector = Collector::default();
    let address = collector.start(true).await;
    let queue = Queue::start(over_grpc(address), &tokio::runtime::Handle::current(), pack);
    let sender = queue.sender();
    for _ in 0..1000 {
        sender.send(span("s"));
    }
    queue.stop().await;
    assert_eq!((collector.names().len(), sender.dropped()), (1000, 0));
    assert!(collector.requests.lock().len() >= 2, "a message has at most 512 spans");
}

#[tokio::test]
async fn a_queue_without_a_collector_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let queue = Queue::start(over_grpc(address), &tokio::runtime::Handle::current(), pack);
    let sender = queue.sender();
    for _ in 0..10_000 {
        sender.send(span("s"));
    }
    assert!(sender.dropped() >= 10_000 - 4096 - 512, "{}", sender.dropped());
}

#[tokio::test]
async fn large_items_are_sent_in_several_messages_and_limited_in_total() {
    let collector = Collector::default();
    let address = collector.start(true).await;
    // In the size of its name, a span is 600 KiB large: two are more than one message takes.
    let size = |span: &Span| span.name.len() << 10;
    let queue = Queue::start_sized(over_grpc(address), &tokio::runtime::Handle::current(), size, pack);
    let sender = queue.sender();
    for _ in 0..40 {
        sender.send(span(&"s".repeat(600)));
    }
    // 16 MiB hold 27 of them, as no other task has run yet.
    assert_eq!(sender.dropped(), 13);
    queue.stop().await;
    assert_eq!(collector.names().len(), 27);
    assert_eq!(collector.requests.lock().len(), 14);
    assert_eq!(sender.dropped(), 13);
}

#[test]
fn invalid_options_are_named() {
    let error = |otlp: Otlp| Exporter::new(&otlp, Signal::Logs).err().unwrap().to_string();
    let http = |endpoint: &str| Http { endpoint: endpoint.into(), ..Http::default() };
    assert!(error(Otlp { http: Some(http("ftp://h")), grpc: None }).contains("http.endpoint"));
    let headers = [("a b".to_owned(), "secret".into())].into();
    let message = error(Otlp { http: Some(Http { headers, ..Http::default() }), grpc: None });
    assert!(message.contains("`a b`") && !message.contains("secret"), "{message}");
    let grpc = Grpc { endpoint: "h:port".into(), ..Grpc::default() };
    assert!(error(Otlp { grpc: Some(grpc), http: None }).contains("grpc.endpoint"));
}

#[test]
fn the_environment_overrides_attributes_of_the_resource() {
    let configured = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
    let made = resource("own", &configured, "b=x%20y, c=%zz", "from-env");
    let value = |key: &str| {
        let found = made.attributes.iter().find(|attribute| attribute.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some(text.as_str()),
            _ => None,
        }
    };
    let values = ["service.name", "a", "b", "c"].map(value);
    assert_eq!(values, [Some("from-env"), Some("1"), Some("x y"), Some("%zz")]);
}
