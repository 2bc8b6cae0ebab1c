//! Requests and responses on their way through the gateway, and what is known about their origin.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderMap;
use http::{HeaderValue, StatusCode, Version};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Body, BoxFuture, Exchange, Identity, Origin, Reason, UpstreamError};

/// The response to a request.
#[derive(Debug)]
pub struct Response {
    /// Status, version and headers.
    pub head: Box<http::response::Parts>,
    /// The body.
    pub body: Body,
    /// Why it is not from a server; `None` if it is.
    pub reason: Option<Reason>,
    /// The failure to reach a server that this response represents.
    pub failure: Option<Box<UpstreamError>>,
}

impl Response {
    /// Creates a response with status 200, as if from a server.
    pub fn new(body: Body) -> Self {
        Self::from_parts(http::Response::new(()).into_parts().0, body)
    }

    /// Creates a response from its parts, as if from a server.
    pub fn from_parts(head: impl Into<Box<http::response::Parts>>, body: Body) -> Self {
        Self { head: head.into(), body, reason: None, failure: None }
    }

    /// Returns head and body. Its origin is lost, so this is for sending it.
    pub fn into_parts(self) -> (Box<http::response::Parts>, Body) {
        (self.head, self.body)
    }

    /// Returns who responded.
    pub fn origin(&self) -> Origin {
        self.reason.map_or(Origin::Server, Reason::origin)
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Returns the status for modification.
    pub fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.head.status
    }

    /// Returns the headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Returns the headers for modification.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    /// Returns the body.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Consumes the response and returns its body.
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Maps the body.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Body) -> Body) -> Self {
        Self { body: change(self.body), ..self }
    }

    /// Sets the reason.
    #[must_use]
    pub fn because(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }
}

impl From<http::Response<Body>> for Response {
    fn from(response: http::Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        Self::from_parts(head, body)
    }
}

/// A request.
///
/// The target is in origin form with a normalised path; the host is in the `Host` header, whatever the
/// protocol version. Middlewares modify `head` and `body` in place.
pub struct Request {
    /// Method, target, version and headers. The extensions are empty. Boxed, as each stage of a chain moves a request.
    pub head: Box<http::request::Parts>,
    /// The body.
    pub body: Body,
    /// Its origin, and what has been decided about it.
    pub context: Context,
}

impl Request {
    /// Creates a request from its parts.
    pub fn new(head: impl Into<Box<http::request::Parts>>, body: Body, context: Context) -> Self {
        Self { head: head.into(), body, context }
    }

    /// Returns the value of the `Host` header, including the port; empty if there is none.
    pub fn host(&self) -> &str {
        self.head.headers.get(http::header::HOST).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// Returns the target for a redirect: as the client sent it ([`Context::original_target`]), unless a
    /// middleware has changed it.
    pub fn original_target(&self) -> &str {
        let target = self.head.uri.path_and_query().map_or("/", |target| target.as_str());
        match &self.context.original_target {
            Some(original) if &*original.served == target => &original.received,
            _ => target,
        }
    }

    /// Returns the escaped path.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Replaces the escaped path and keeps the query. Fails if `path` contains characters that are not
    /// allowed in a target.
    pub fn set_path(&mut self, path: &str) -> Result<(), http::uri::InvalidUri> {
        let target = match self.head.uri.query() {
            Some(query) => http::uri::PathAndQuery::try_from(format!("{path}?{query}"))?,
            None => http::uri::PathAndQuery::try_from(path)?,
        };
        self.head.uri = http::Uri::from(target);
        Ok(())
    }
}

/// What is known about a request besides its content. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The record of the whole request, to which all handlers add.
    pub exchange: Arc<Exchange>,
    /// Sends informational responses to the client, if it accepts any.
    pub interim: Option<Arc<dyn Interim>>,
    /// The target as the client sent it, if its query was changed before routing.
    pub original_target: Option<Arc<OriginalTarget>>,
    /// Who the client is, according to its certificate or the last middleware that authenticated it.
    pub identity: Option<Arc<Identity>>,
    /// The client's side of the connection, if it requests a protocol upgrade.
    pub upgrade: Option<Box<Upgrade>>,
    /// Whether `X-Forwarded-For` was removed on purpose (`headers` with an empty value), so that nothing is
    /// appended.
    pub omit_forwarded_for: bool,
    /// Whether a middleware has another response if no server takes the request. Nothing behind it waits for a server
    /// (`loadBalancer.hold`), or long for a connection to one, or replaces the failure.
    pub has_substitute: bool,
}

/// Forwards informational responses (1xx, RFC 9110 section 15.2) of a server to the client.
pub trait Interim: Send + Sync {
    /// Forwards one informational response.
    fn send(&self, status: http::StatusCode, headers: &http::HeaderMap);
}

impl Context {
    /// Creates the context of an HTTP/1.1 request before routing.
    pub fn new(connection: Arc<Connection>) -> Self {
        Self::of(Arc::new(Exchange::begin(connection, Version::HTTP_11)))
    }

    /// Creates the context of a request before routing.
    pub fn of(exchange: Arc<Exchange>) -> Self {
        Self {
            identity: exchange.connection.identity.clone(),
            exchange,
            interim: None,
            original_target: None,
            upgrade: None,
            omit_forwarded_for: false,
            has_substitute: false,
        }
    }

    /// Creates a context for a separate request of the gateway on behalf of this one. It has its own
    /// exchange, and the client sees at most its response.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self { exchange: self.exchange.aside(), interim: None, upgrade: None, ..self.clone() }
    }

    /// Returns the client's connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.exchange.connection
    }

    /// Returns true if the client's connection uses TLS.
    pub fn is_tls(&self) -> bool {
        self.exchange.connection.tls.is_some()
    }

    /// Records who the client is, for everything that follows and for readers of the exchange.
    pub fn identify(&mut self, identity: impl Into<Arc<Identity>>) {
        let identity = identity.into();
        self.exchange.identify(identity.clone());
        self.identity = Some(identity);
    }
}

/// A target in whose query `;` was treated as `&` (Go's `AllowQuerySemicolons`): redirects keep the original.
#[derive(Clone, Debug)]
pub struct OriginalTarget {
    /// The target as it is processed.
    pub served: Box<str>,
    /// The target with the query as received.
    pub received: Box<str>,
}

/// The client's side of a connection that is being upgraded.
#[derive(Clone)]
pub struct Upgrade {
    /// Resolves to the byte stream after the upgrade.
    pub side: Arc<dyn ClientSide>,
    held: SmallVec<[Arc<dyn Any + Send + Sync>; 1]>,
}

impl Upgrade {
    /// Creates an upgrade that holds nothing yet.
    pub fn new(side: Arc<dyn ClientSide>) -> Self {
        Self { side, held: SmallVec::new() }
    }

    /// Keeps `thing` alive as long as the upgraded connection.
    pub fn hold(&mut self, thing: Arc<dyn Any + Send + Sync>) {
        self.held.push(thing);
    }
}

/// The client's byte stream after a protocol upgrade.
pub trait ClientSide: Send + Sync {
    /// Waits for the client to upgrade. Works once; a second call fails, as it does when the client has
    /// disconnected.
    fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;
}

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The client: the TCP peer, or the address in a trusted PROXY header.
    pub peer: SocketAddr,
    /// The local address.
    pub local: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    /// Name of the entry point.
    pub entry_point: Arc<str>,
    /// The result of the handshake; `None` on a plain-text connection.
    pub tls: Option<TlsInfo>,
    /// Appended to `X-Forwarded-For` for servers: the peer's address, unless the settings disable it.
    pub forwarded_for: Option<HeaderValue>,
    /// Who the client is according to its verified certificate.
    pub identity: Option<Arc<Identity>>,
}

impl Connection {
    /// Creates a plain-text connection, for tests and for requests of the gateway itself.
    pub fn plain(peer: SocketAddr) -> Self {
        Self {
            peer,
            local: peer,
            accepted: Instant::now(),
            entry_point: Arc::from("web"),
            tls: None,
            forwarded_for: None,
            identity: None,
        }
    }
}

/// The result of a TLS handshake.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// The server name that the client requested, in lower case.
    pub server_name: Option<String>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// The cipher suite's name in Go and at IANA.
    pub cipher: &'static str,
    /// The client's certificate chain in DER, leaf first; empty without one.
    pub client_certificates: Vec<Vec<u8>>,
}
