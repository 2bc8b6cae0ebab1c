//! A collector that receives spans, metrics and log records over gRPC or HTTP.

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;

use super::eventually;

/// A collector. Stops when dropped.
pub struct Collector {
    /// Its address.
    pub address: SocketAddr,
    messages: Messages,
    _runtime: tokio::runtime::Runtime,
}

/// What was received: paths with decompressed messages.
type Messages = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

impl Collector {
    /// Starts a collector for gRPC or HTTP on a free port.
    pub fn start(grpc: bool) -> Self {
        Self::on("127.0.0.1:0".parse().unwrap(), grpc)
    }

    /// Starts a collector on this address.
    pub fn on(address: SocketAddr, grpc: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let messages = Messages::default();
        let received = messages.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let received = received.clone();
                let service = service_fn(move |request| receive(request, grpc, received.clone()));
                tokio::spawn(async move {
                    let stream = TokioIo::new(stream);
                    if grpc {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(stream, service).await
                    } else {
                        hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await
                    }
                });
            }
        });
        Self { address, messages, _runtime: runtime }
    }

    /// Returns the flags that send spans here.
    pub fn flags(&self, grpc: bool) -> Vec<String> {
        self.flags_of("tracing", grpc)
    }

    /// Returns the flags that send `tracing`, `metrics`, `log` or `accessLog` here.
    pub fn flags_of(&self, signal: &str, grpc: bool) -> Vec<String> {
        if grpc {
            let endpoint = format!("--{signal}.otlp.grpc.endpoint={}", self.address);
            return vec![endpoint, format!("--{signal}.otlp.grpc.insecure=true")];
        }
        vec![format!("--{signal}.otlp.http.endpoint=http://{}", self.address)]
    }

    /// Returns the messages that were sent to one of these paths.
    fn received<M: Message + Default>(&self, http: &str, grpc: &str) -> Vec<M> {
        let messages = self.messages.lock().unwrap();
        let wanted = messages.iter().filter(|(path, _)| path == http || path == grpc);
        wanted.map(|(_, message)| M::decode(message.as_slice()).unwrap()).collect()
    }

    fn traces(&self) -> Vec<ExportTraceServiceRequest> {
        self.received("/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    }

    /// Returns the metrics received so far, by message.
    pub fn metrics(&self) -> Vec<ResourceMetrics> {
        let grpc = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
        let messages: Vec<ExportMetricsServiceRequest> = self.received("/v1/metrics", grpc);
        messages.into_iter().flat_map(|message| message.resource_metrics).collect()
    }

    /// Returns all log records received so far, each with the attributes of its resource.
    pub fn logs(&self) -> Vec<(LogRecord, Vec<KeyValue>)> {
        let grpc = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
        let messages: Vec<ExportLogsServiceRequest> = self.received("/v1/logs", grpc);
        let resources = messages.iter().flat_map(|message| &message.resource_logs);
        let records = resources.flat_map(|one| {
            let attributes = &one.resource.as_ref().unwrap().attributes;
            let records = one.scope_logs.iter().flat_map(|scope| &scope.log_records);
            records.map(move |record| (record.clone(), attributes.clone()))
        });
        records.collect()
    }

    /// Waits for this number of log records, and returns all.
    pub fn wait_for_logs(&self, count: usize) -> Vec<(LogRecord, Vec<KeyValue>)> {
        eventually("the log records have arrived", || self.logs().len() >= count);
        self.logs()
    }

    /// Returns the attributes of the resource of each message with spans.
    pub fn resources(&self) -> Vec<Vec<KeyValue>> {
        let messages = self.traces();
        let resources = messages.iter().flat_map(|message| &message.resource_spans);
        resources.filter_map(|one| Some(one.resource.as_ref()?.attributes.clone())).collect()
    }

    /// Returns all spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        let messages = self.traces();
        let scopes =
            messages.iter().flat_map(|message| &message.resource_spans).flat_map(|one| &one.scope_spans);
        scopes.flat_map(|one| one.spans.clone()).collect()
    }

    /// Waits for this number of server spans, and returns all spans.
    pub fn wait_for(&self, requests: usize) -> Vec<Span> {
        eventually("the spans have arrived", || {
            self.spans().iter().filter(|span| span.kind == 2).count() >= requests
        });
        self.spans()
    }
}

async fn receive(
    request: http::Request<Incoming>,
    grpc: bool,
    received: Messages,
) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut message = Vec::new();
    GzDecoder::new(if grpc { &body[5..] } else { &body[..] }).read_to_end(&mut message).unwrap();
    received.lock().unwrap().push((path, message));
    if !grpc {
        return Ok(http::Response::new(Full::default().boxed()));
    }
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    let frames = [Ok(Frame::data(Bytes::from_static(&[0; 5]))), Ok(Frame::trailers(trailers))];
    Ok(http::Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))))
}

/// Returns an attribute as text; empty if there is none.
pub fn value(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}
