//! Active health checks: what a server is asked, and which answer is a healthy one.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, TE, USER_AGENT};
use http::{HeaderMap, Method, StatusCode, Uri};
use tidegate_config::service::{CheckMode, CheckScheme, ServerHealthCheck};
use tidegate_core::{Body, BuildError, Collected, Connection, Context, Request, Response};
use url::Url;

use super::check_error::{CheckError, SocketHasNoPort};
use crate::upstream::{Endpoint, Transport};

/// Redirects that one check follows (Go's client).
const MAX_REDIRECTS: usize = 10;
/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 64 * 1024;
/// `grpc.health.v1.HealthCheckRequest` without a service: an uncompressed message of no bytes.
const GRPC_REQUEST: &[u8] = &[0, 0, 0, 0, 0];
/// What a check calls itself, as Traefik's do: firewalls refuse requests without a name, and may know this one.
const NAME: HeaderValue = HeaderValue::from_static("Go-http-client/1.1");

/// A checked health check of one server.
#[derive(Clone)]
pub(super) struct Check {
    options: ServerHealthCheck,
    /// Asks by gRPC.
    grpc: bool,
    url: Url,
    /// The URL of the server, when it is a socket and `url` only says what to ask for.
    socket: Option<String>,
    method: Method,
    headers: HeaderMap,
    transport: Arc<Transport>,
}

impl Check {
    /// Checks the options for one server.
    pub(super) fn build(
        options: &ServerHealthCheck,
        endpoint: &Endpoint,
        transport: &Arc<Transport>,
    ) -> Result<Self, BuildError> {
        let bad = |why: String| BuildError::new(format!("healthCheck: {why}"));
        let mode = options.mode.meaning().map_err(|error| bad(format!("mode: {error}")))?;
        let grpc = mode == Some(CheckMode::Grpc);
        if options.interval.is_zero() || options.timeout.is_zero() {
            return Err(bad("interval and timeout must be longer than zero".into()));
        }
        if !grpc && options.path.is_empty() {
            return Err(bad("path is required".into()));
        }
        let socket = endpoint.is_socket().then(|| socket_url(options, endpoint, grpc)).transpose();
        let socket = socket.map_err(|error| bad(error.to_string()))?;
        let own = if socket.is_some() { "http://localhost" } else { endpoint.url() };
        let mut url = Url::parse(own).map_err(|e| bad(e.to_string()))?;
        let scheme = options.scheme.meaning().map_err(|error| bad(format!("scheme: {error}")))?;
        let scheme = match (scheme, url.scheme()) {
            (None, "http") | (Some(CheckScheme::Http), _) if grpc => "h2c",
            (None, own) => own,
            (Some(CheckScheme::Http), _) => "http",
            (Some(CheckScheme::Https), _) => "https",
            (Some(CheckScheme::H2c), _) => "h2c",
        };
        if socket.is_none() {
            let address = endpoint.address();
            url = Url::parse(&format!("{scheme}://{address}")).map_err(|e| bad(e.to_string()))?;
        }
        if options.port != 0 {
            url.set_port(Some(options.port)).map_err(|()| bad("port cannot be set".into()))?;
        }
        let path = if grpc { "/grpc.health.v1.Health/Check" } else { options.path.as_str() };
        if path.contains("://") || path.starts_with("//") {
            return Err(bad(format!("path `{path}` must not name a host")));
        }
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        let method = match (grpc, options.method.as_str()) {
            (true, _) => Method::POST,
            (false, "") => Method::GET,
            (false, name) => Method::from_bytes(name.to_ascii_uppercase().as_bytes())
                .map_err(|_| bad(format!("method `{name}` is none")))?,
        };
        Ok(Self {
            headers: headers(options, grpc)?,
            options: options.clone(),
            grpc,
            url,
            socket,
            method,
            transport: transport.clone(),
        })
    }

    /// True when another check would do the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.options == other.options
            && self.url == other.url
            && self.socket == other.socket
            && self.transport.fingerprint() == other.transport.fingerprint()
    }

    /// Returns an endpoint for the check alone, so that checks and requests do not share connections.
    pub(super) fn own_endpoint(&self) -> Result<Arc<Endpoint>, BuildError> {
        self.endpoint(&self.url)
    }

    /// The URL that is asked.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// How long to wait before the next check.
    pub(super) fn pause(&self, up: bool) -> Duration {
        match self.options.unhealthy_interval {
            Some(interval) if !up && !interval.is_zero() => interval.0,
            _ => self.options.interval.0,
        }
    }

    fn endpoint(&self, url: &Url) -> Result<Arc<Endpoint>, BuildError> {
        let server = match &self.socket {
            Some(socket) if url.origin() == self.url.origin() => socket.clone(),
            _ => format!("{}://{}", url.scheme(), url.authority()),
        };
        Endpoint::new(&server, self.transport.clone(), 1)
    }

    /// Asks once. It is an error when the server is not healthy, or does not answer in time.
    pub(super) async fn ask(&self, endpoint: &Arc<Endpoint>) -> Result<(), CheckError> {
        let timeout = self.options.timeout.0;
        let asked = tokio::time::timeout(timeout, self.ask_untimed(endpoint)).await;
        asked.unwrap_or(Err(CheckError::TimedOut(timeout)))
    }

    async fn ask_untimed(&self, endpoint: &Arc<Endpoint>) -> Result<(), CheckError> {
        let mut url = self.url.clone();
        let mut response = self.send(endpoint, &url).await?;
        let mut redirects = 0;
        while self.options.follow_redirects && response.status().is_redirection() {
            let Some(location) = response.headers().get(LOCATION) else { break };
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(CheckError::TooManyRedirects);
            }
            let location = location.to_str().map_err(CheckError::UnreadableLocation)?;
            url = url
                .join(location)
                .map_err(|source| CheckError::Location { location: location.to_owned(), source })?;
            let next = self.endpoint(&url)?;
            response = self.send(&next, &url).await?;
        }
        if self.grpc { grpc_verdict(response).await } else { self.verdict(response).await }
    }

    async fn send(&self, endpoint: &Arc<Endpoint>, url: &Url) -> Result<Response, CheckError> {
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let body = if self.grpc { Body::full(GRPC_REQUEST) } else { Body::empty() };
        let mut head = http::Request::new(()).into_parts().0;
        head.method = self.method.clone();
        head.uri = Uri::try_from(target)?;
        head.headers = self.headers.clone();
        let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let context = Context::new(Arc::new(Connection::plain(nobody)));
        Ok(endpoint.send(Request::new(head, body, context)).await?)
    }

    async fn verdict(&self, response: Response) -> Result<(), CheckError> {
        let status = response.status();
        read(response.into_body()).await;
        let good = match self.options.status {
            0 => status.is_success() || status.is_redirection(),
            wanted => status.as_u16() == wanted,
        };
        if good { Ok(()) } else { Err(CheckError::Status(status.as_u16())) }
    }
}

/// The URL of the socket that a check asks: that of the server, with HTTP/2 for gRPC.
fn socket_url(
    options: &ServerHealthCheck,
    endpoint: &Endpoint,
    grpc: bool,
) -> Result<String, SocketHasNoPort> {
    if options.port != 0 || !options.scheme.is_empty() {
        return Err(SocketHasNoPort);
    }
    let url: &str = endpoint.url();
    Ok(match url.strip_prefix("unix://") {
        Some(path) if grpc => format!("unix+h2c://{path}"),
        _ => url.to_owned(),
    })
}

/// `SERVING`, in a message that arrives whole and with status 0 (gRPC health checking protocol, v1).
async fn grpc_verdict(response: Response) -> Result<(), CheckError> {
    if response.status() != StatusCode::OK {
        return Err(CheckError::Status(response.status().as_u16()));
    }
    let in_head = response.headers().get("grpc-status").cloned();
    let Collected { bytes: message, trailers } = read(response.into_body()).await;
    let status = in_head.or_else(|| trailers?.get("grpc-status").cloned());
    match status.as_ref().map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(b"12") => return Err(CheckError::GrpcUnimplemented),
        other => {
            let status = other.map(|status| String::from_utf8_lossy(status).into_owned());
            return Err(CheckError::GrpcStatus(status));
        }
    }
    // Field 1, a varint: 1 is SERVING.
    match message.get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        _ => Err(CheckError::NotServing),
    }
}

/// Reads an answer of at most [`MAX_ANSWER`] bytes, so that the connection can be used again. One that is longer or
/// breaks off says nothing.
async fn read(body: Body) -> Collected {
    body.collect(MAX_ANSWER).await.unwrap_or_default()
}

fn headers(options: &ServerHealthCheck, grpc: bool) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    let bad =
        |what: &str, text: &str| BuildError::new(format!("healthCheck: {what} `{text}` is not allowed"));
    for (name, value) in &options.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("header", name))?;
        let value = HeaderValue::from_str(value).map_err(|_| bad("header value", value))?;
        headers.insert(name, value);
    }
    if !options.hostname.is_empty() {
        let host =
            HeaderValue::from_str(&options.hostname).map_err(|_| bad("hostname", &options.hostname))?;
        headers.insert(HOST, host);
    }
    if !grpc {
        headers.entry(USER_AGENT).or_insert(NAME);
    }
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(headers)
}
