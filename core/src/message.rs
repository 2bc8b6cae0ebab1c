//! A request on its way through the gateway, and what is known about where it came from.

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

/// The answer to a request.
#[derive(Debug)]
pub struct Response {
    /// Status, version and headers.
    pub head: http::response::Parts,
    /// The body.
    pub body: Body,
    /// Why it does not come from a server; `None` when it does.
    pub reason: Option<Reason>,
    /// The failure to reach a server that it stands for.
    pub failure: Option<Box<UpstreamError>>,
}

impl Response {
    /// A response with status 200, as if from a server.
    pub fn new(body: Body) -> Self {
        Self::from_parts(http::Response::new(()).into_parts().0, body)
    }

    /// A response from its parts, as if from a server.
    pub fn from_parts(head: http::response::Parts, body: Body) -> Self {
        Self { head, body, reason: None, failure: None }
    }

    /// Head and body. What is known of its origin is lost, so this is for whoever sends it.
    pub fn into_parts(self) -> (http::response::Parts, Body) {
        (self.head, self.body)
    }

    /// Who has answered.
    pub fn origin(&self) -> Origin {
        self.reason.map_or(Origin::Server, Reason::origin)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The status, to change it.
    pub fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.head.status
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The headers, to change them.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    /// The body.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The body alone.
    pub fn into_body(self) -> Body {
        self.body
    }

    /// The same response with another body.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Body) -> Body) -> Self {
        Self { body: change(self.body), ..self }
    }

    /// The same response for another reason.
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
/// The target is in origin form, its path already normalised; the host stands in the `Host` header whatever the
/// protocol version. Middlewares change `head` and `body` in place.
pub struct Request {
    /// Method, target, version and headers. Nothing is among the extensions.
    pub head: http::request::Parts,
    /// The body.
    pub body: Body,
    /// Where it came from, and what has been decided about it.
    pub context: Context,
}

impl Request {
    /// A request from its parts.
    pub fn new(head: http::request::Parts, body: Body, context: Context) -> Self {
        Self { head, body, context }
    }

    /// The value of the `Host` header, port included; empty when there is none.
    pub fn host(&self) -> &str {
        self.head.headers.get(http::header::HOST).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// The target for a redirect: as the client sent it ([`Context::original_target`]), unless a middleware has changed
    /// it since.
    pub fn original_target(&self) -> &str {
        let target = self.head.uri.path_and_query().map_or("/", |target| target.as_str());
        match &self.context.original_target {
            Some(original) if &*original.served == target => &original.received,
            _ => target,
        }
    }

    /// The path, still escaped.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Replaces the escaped path and keeps the query. Fails when `path` has characters that a target may not have.
    pub fn set_path(&mut self, path: &str) -> Result<(), http::uri::InvalidUri> {
        let target = match self.head.uri.query() {
            Some(query) => http::uri::PathAndQuery::try_from(format!("{path}?{query}"))?,
            None => http::uri::PathAndQuery::try_from(path)?,
        };
        self.head.uri = http::Uri::from(target);
        Ok(())
    }
}

/// What is known about a request beside its content. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// What is known of the request as a whole. Whatever handles the request adds to it.
    pub exchange: Arc<Exchange>,
    /// Takes interim answers for the client, when it can be sent any.
    pub interim: Option<Arc<dyn Interim>>,
    /// The target as the client sent it, when its query was changed before routing.
    pub original_target: Option<Arc<OriginalTarget>>,
    /// Who the client is: by its certificate, or as the last middleware that authenticates has found.
    pub identity: Option<Arc<Identity>>,
    /// The client's side of the connection, when the client asks for another protocol.
    pub upgrade: Option<Box<Upgrade>>,
    /// `X-Forwarded-For` was deleted on purpose (`headers` with an empty value): nothing is appended to it.
    pub omit_forwarded_for: bool,
}

/// Takes interim answers of a server (1xx, RFC 9110 section 15.2) on their way to the client, before the answer itself.
pub trait Interim: Send + Sync {
    /// Sends one on.
    fn send(&self, status: http::StatusCode, headers: &http::HeaderMap);
}

impl Context {
    /// A context for a request of HTTP/1.1 as it is before routing.
    pub fn new(connection: Arc<Connection>) -> Self {
        Self::of(Arc::new(Exchange::begin(connection, Version::HTTP_11)))
    }

    /// A context as it is before routing.
    pub fn of(exchange: Arc<Exchange>) -> Self {
        Self {
            identity: exchange.connection.identity.clone(),
            exchange,
            interim: None,
            original_target: None,
            upgrade: None,
            omit_forwarded_for: false,
        }
    }

    /// A context for a request that the gateway makes because of this one. It has an exchange of its own, and the
    /// client sees nothing of it but the answer, if any.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self { exchange: self.exchange.aside(), interim: None, upgrade: None, ..self.clone() }
    }

    /// The connection that the request came by.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.exchange.connection
    }

    /// True when the client came over TLS.
    pub fn is_tls(&self) -> bool {
        self.exchange.connection.tls.is_some()
    }

    /// Says who the client is, to everything behind and to the readers of the exchange.
    pub fn identify(&mut self, identity: Identity) {
        let identity = Arc::new(identity);
        self.exchange.identify(identity.clone());
        self.identity = Some(identity);
    }
}

/// A target whose query had `;`, which were taken for `&` (Go's `AllowQuerySemicolons`): redirects keep them.
#[derive(Clone, Debug)]
pub struct OriginalTarget {
    /// The target as it is served.
    pub served: Box<str>,
    /// The same with the query as it was received.
    pub received: Box<str>,
}

/// A client's side of a connection that is to change protocol.
#[derive(Clone)]
pub struct Upgrade {
    /// Gives the stream of bytes once the client has changed.
    pub side: Arc<dyn ClientSide>,
    held: SmallVec<[Arc<dyn Any + Send + Sync>; 1]>,
}

impl Upgrade {
    /// An upgrade that nothing is held for yet.
    pub fn new(side: Arc<dyn ClientSide>) -> Self {
        Self { side, held: SmallVec::new() }
    }

    /// Holds `thing` for as long as the changed connection lasts.
    pub fn hold(&mut self, thing: Arc<dyn Any + Send + Sync>) {
        self.held.push(thing);
    }
}

/// Where the bytes of a client come from and go to once it has changed protocol.
pub trait ClientSide: Send + Sync {
    /// Waits until the client has changed. Works once; a second call fails, as does a client that has gone.
    fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;
}

/// A stream of bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The client: the TCP peer, or what a trusted PROXY header says.
    pub peer: SocketAddr,
    /// Our side of it.
    pub local: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    /// Name of the entry point.
    pub entry_point: Arc<str>,
    /// What the handshake settled; `None` on a plain-text connection.
    pub tls: Option<TlsInfo>,
    /// What is appended to `X-Forwarded-For` on the way to a server: the peer's address, unless the settings say
    /// otherwise.
    pub forwarded_for: Option<HeaderValue>,
    /// Who the client is by its certificate, when that was verified.
    pub identity: Option<Arc<Identity>>,
}

impl Connection {
    /// A plain-text connection, for tests.
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

/// What a TLS handshake settled.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// The server name that the client asked for, in lower case.
    pub server_name: Option<String>,
    /// `1.2` or `1.3`.
    pub version: &'static str,
    /// Name of the cipher suite as Go and IANA write it.
    pub cipher: &'static str,
    /// The client's certificate chain in DER, its own first; empty without one.
    pub client_certificates: Vec<Vec<u8>>,
}
