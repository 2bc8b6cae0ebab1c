//! A request on its way through the gateway, and what is known about where it came from.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{Body, Identity, Record};

/// The answer to a request. A response that stands for a failure carries its [`crate::UpstreamError`] as an
/// extension.
pub type Response = http::Response<Body>;

/// A request.
///
/// The target is in origin form, its path already normalised; the host stands in the `Host` header whatever the
/// protocol version. Middlewares change `head` and `body` in place.
pub struct Request {
    /// Method, target, version, headers and (for upgrades) hyper's `OnUpgrade` among the extensions.
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
    /// The connection it came by.
    pub connection: Arc<Connection>,
    /// What will be logged and counted, when anything will.
    pub record: Option<Arc<Record>>,
    /// `name@provider` of the router that took it; empty before routing.
    pub router: Arc<str>,
    /// The servers tried so far, when a middleware may send the request more than once.
    pub attempts: Option<Arc<Attempts>>,
    /// Takes interim answers for the client, when it can be sent any.
    pub interim: Option<Arc<dyn Interim>>,
    /// The target as the client sent it, when its query was changed before routing.
    pub original_target: Option<Arc<OriginalTarget>>,
    /// Who the client is: by its certificate, or as the last middleware that authenticates has found.
    pub identity: Option<Arc<Identity>>,
    /// `X-Forwarded-For` was deleted on purpose (`headers` with an empty value): nothing is appended to it.
    pub omit_forwarded_for: bool,
}

/// Takes interim answers of a server (1xx, RFC 9110 section 15.2) on their way to the client, before the answer itself.
pub trait Interim: Send + Sync {
    /// Sends one on.
    fn send(&self, status: http::StatusCode, headers: &http::HeaderMap);
}

impl Context {
    /// A context as it is before routing.
    pub fn new(connection: Arc<Connection>) -> Self {
        Self {
            identity: connection.identity.clone(),
            connection,
            record: None,
            router: Arc::from(""),
            attempts: None,
            interim: None,
            original_target: None,
            omit_forwarded_for: false,
        }
    }

    /// True when the client came over TLS.
    pub fn is_tls(&self) -> bool {
        self.connection.tls.is_some()
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

/// What a request holds on to until its connection is free again. It stands among the extensions of a request that asks
/// for another protocol; when the server agrees, it must be kept for as long as the changed connection lasts.
#[derive(Clone, Default)]
pub struct Held(SmallVec<[Arc<dyn std::any::Any + Send + Sync>; 1]>);

impl Held {
    /// Holds `thing` too.
    pub fn push(&mut self, thing: Arc<dyn std::any::Any + Send + Sync>) {
        self.0.push(thing);
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The client: the TCP peer, or what a trusted PROXY header says.
    pub peer: SocketAddr,
    /// Our side of it.
    pub local: SocketAddr,
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

/// The servers that one request has been sent to. The balancer notes each, and avoids them while there are others.
#[derive(Debug, Default)]
pub struct Attempts {
    tried: Mutex<SmallVec<[u64; 4]>>,
}

impl Attempts {
    /// Notes a server by its stable identity.
    pub fn note(&self, server: u64) {
        self.tried.lock().push(server);
    }

    /// True when the server was tried before.
    pub fn contains(&self, server: u64) -> bool {
        self.tried.lock().contains(&server)
    }

    /// How many servers were tried.
    pub fn count(&self) -> usize {
        self.tried.lock().len()
    }
}
