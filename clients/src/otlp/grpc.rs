//! OTLP over gRPC: unary calls over one connection of HTTP/2.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::Mutex;

use super::error::{ExportError, bounded};
use super::options::{self, Grpc};
use super::{MAX_RESPONSE, Signal};
use crate::OptionError;
use crate::connect::{Connector, Syntax};

const SYNTAX: Syntax = Syntax {
    option: "grpc.endpoint",
    plain: &["http"],
    secure: &["https"],
    otherwise: "https",
    ports: (443, 443),
    example: "localhost:4317",
};
/// Interval between pings, so that a lost collector is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Longest message of a collector that is logged, in bytes.
const MAX_MESSAGE: usize = 512;

/// A collector that is reached over gRPC.
pub(super) struct GrpcClient {
    connector: Connector,
    endpoint: String,
    uri: Uri,
    headers: HeaderMap,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl GrpcClient {
    /// Parses the options, without connecting. `insecure` takes precedence over `tls`, as in Traefik.
    pub(super) fn new(options: &Grpc, signal: Signal) -> Result<Self, OptionError> {
        let endpoint = options.endpoint.trim();
        let scheme = if options.insecure { "http" } else { "https" };
        let full =
            if endpoint.contains("://") { endpoint.to_owned() } else { format!("{scheme}://{endpoint}") };
        let tls = options.tls.clone().unwrap_or_default();
        let connector = Connector::by_scheme(&SYNTAX, &full, &tls)?.with_alpn(b"h2");
        let scheme = if connector.is_secure() { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(connector.host())
            .path_and_query(signal.method())
            .build()
            .map_err(|error| OptionError::new(SYNTAX.option, format!("`{endpoint}`: {error}")))?;
        let mut headers = options::headers(&options.headers, "grpc.headers")?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        let agent = HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        headers.entry(USER_AGENT).or_insert(agent);
        Ok(Self { connector, endpoint: endpoint.to_owned(), uri, headers, connection: Mutex::new(None) })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sends a compressed message once.
    pub(super) async fn call(&self, message: &Bytes, limit: Duration) -> Result<(), ExportError> {
        let request = self.request(message, limit)?;
        let mut sender = self.sender(limit).await?;
        let outcome = self.exchange(&mut sender, request).await;
        if outcome.is_err() {
            // A connection that the collector closed is replaced by the next attempt.
            self.connection.lock().await.take_if(|connection| connection.is_closed());
        }
        outcome
    }

    fn request(&self, message: &Bytes, limit: Duration) -> Result<Request<Full<Bytes>>, ExportError> {
        let mut framed = BytesMut::with_capacity(5 + message.len());
        framed.put_u8(1);
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.put_slice(message);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header("grpc-timeout", format!("{}m", limit.as_millis()))
            .body(Full::new(framed.freeze()))
            .map_err(ExportError::Request)?;
        for (name, value) in &self.headers {
            request.headers_mut().append(name, value.clone());
        }
        Ok(request)
    }

    /// Returns the open connection, or opens one.
    async fn sender(&self, limit: Duration) -> Result<SendRequest<Full<Bytes>>, ExportError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_mut()
            && open.ready().await.is_ok()
        {
            return Ok(open.clone());
        }
        let (stream, _) = self.connector.connect_within(limit).await?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ExportError::Lost)?;
        // Ends when the sender is dropped, or the collector closes the connection.
        tokio::spawn(driver);
        *connection = Some(sender.clone());
        Ok(sender)
    }

    async fn exchange(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<(), ExportError> {
        let response = sender.send_request(request).await.map_err(ExportError::Lost)?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            let retry_after = super::error::retry_after(&head.headers);
            return Err(ExportError::Status { status: head.status, retry_after });
        }
        if head.headers.contains_key("grpc-status") {
            return outcome(&head.headers);
        }
        let body = Limited::new(body, MAX_RESPONSE).collect().await.map_err(ExportError::Response)?;
        outcome(body.trailers().unwrap_or(&HeaderMap::new()))
    }
}

/// Reads `grpc-status` and what belongs to it.
fn outcome(fields: &HeaderMap) -> Result<(), ExportError> {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").and_then(|code| code.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => {
            let mut message: String =
                text("grpc-message").unwrap_or_default().chars().take(MAX_MESSAGE).collect();
            message.retain(|c| !c.is_control());
            let retry_after = text("grpc-status-details-bin").and_then(retry_delay);
            Err(ExportError::Grpc { code, message, retry_after })
        }
        None => Err(ExportError::Response("missing grpc-status".into())),
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn retry_delay(details: &str) -> Option<Duration> {
    let bytes = STANDARD_NO_PAD.decode(details).or_else(|_| STANDARD.decode(details)).ok()?;
    let status = Status::decode(bytes.as_slice()).ok()?;
    let info = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    Some(bounded(delay.seconds, delay.nanos))
}
