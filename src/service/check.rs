//! Active health checks: the request to a server, and which responses are healthy.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, TE, USER_AGENT};
use http::{HeaderMap, Method, StatusCode, Uri};
use tidegate_config::service::{CheckMode, CheckScheme, ServerHealthCheck};
use tidegate_core::{Body, BuildError, Collected, Connection, Context, Request, Response};
use url::Url;

use super::check_error::{CheckError, SocketHasNoPort};
use crate::upstream::{Endpoint, Transport};

/// Maximum number of redirects of one check, as in Go's client.
const MAX_REDIRECTS: usize = 10;
/// Maximum number of bytes read from a response.
const MAX_RESPONSE: u64 = 64 * 1024;
/// `grpc.health.v1.HealthCheckRequest` without a service: an uncompressed message of no bytes.
const GRPC_REQUEST: &[u8] = &[0, 0, 0, 0, 0];
/// The user agent of checks, as in Traefik: firewalls reject requests without one and may allow this one.
const CHECK_USER_AGENT: HeaderValue = HeaderValue::from_static("Go-http-client/1.1");

/// A validated health check of one server.
#[derive(Clone)]
pub(super) struct Check {
    options: ServerHealthCheck,
    /// Whether to use gRPC.
    grpc: bool,
    url: Url,
    /// The URL of the server, if it is a Unix socket and `url` only names the target of the request.
    socket: Option<String>,
    method: Method,
    headers: HeaderMap,
    transport: Arc<Transport>,
}

impl Check {
    /// Validates the options for one server.
    pub(super) fn build(
        options: &ServerHealthCheck,
        endpoint: &Endpoint,
        transport: &Arc<Transport>,
    ) -> Result<Self, BuildError> {
        let bad = |why: String| BuildError::new(format!("healthCheck: {why}"));
        let mode = options.mode.meaning().map_err(|error| bad(format!("mode: {error}")))?;
        let grpc = mode == Some(CheckMode::Grpc);
        if options.interval.is_zero() || options.timeout.is_zero() {
            return Err(bad("interval and timeout must be greater than zero".into()));
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
                .map_err(|_| bad(format!("invalid method `{name}`")))?,
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

    /// Returns true if both checks are equivalent.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.options == other.options
            && self.url == other.url
            && self.socket == other.socket
            && self.transport.fingerprint() == other.transport.fingerprint()
    }

    /// Returns a separate endpoint, so that checks and requests do not share connections.
    pub(super) fn own_endpoint(&self) -> Result<Arc<Endpoint>, BuildError> {
        self.endpoint(&self.url)
    }

    /// Returns the URL to request.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the time until the next check.
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

    /// Checks the server once. Returns an error if it is unhealthy or does not respond in time.
    pub(super) async fn check(&self, endpoint: &Arc<Endpoint>) -> Result<(), CheckError> {
        let timeout = self.options.timeout.0;
        let asked = tokio::time::timeout(timeout, self.check_without_timeout(endpoint)).await;
        asked.unwrap_or(Err(CheckError::TimedOut(timeout)))
    }

    async fn check_without_timeout(&self, endpoint: &Arc<Endpoint>) -> Result<(), CheckError> {
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
        if self.grpc { check_grpc_response(response).await } else { self.check_response(response).await }
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

    async fn check_response(&self, response: Response) -> Result<(), CheckError> {
        let status = response.status();
        read(response.into_body()).await;
        let good = match self.options.status {
            0 => status.is_success() || status.is_redirection(),
            wanted => status.as_u16() == wanted,
        };
        if good { Ok(()) } else { Err(CheckError::Status(status.as_u16())) }
    }
}

/// Returns the URL of the Unix socket to connect to: that of the server, with HTTP/2 for gRPC.
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

/// Accepts a complete message `SERVING` with status 0 (gRPC health checking protocol, v1).
async fn check_grpc_response(response: Response) -> Result<(), CheckError> {
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

/// Reads a response of at most [`MAX_RESPONSE`] bytes, so that the connection can be reused. Errors are
/// ignored.
async fn read(body: Body) -> Collected {
    body.collect(MAX_RESPONSE).await.unwrap_or_default()
}

fn headers(options: &ServerHealthCheck, grpc: bool) -> Result<HeaderMap, BuildError> {
    let mut headers = HeaderMap::new();
    let bad = |what: &str, text: &str| BuildError::new(format!("healthCheck: invalid {what} `{text}`"));
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
        headers.entry(USER_AGENT).or_insert(CHECK_USER_AGENT);
    }
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(headers)
}
