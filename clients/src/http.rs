//! A minimal HTTP/1.1 client for the APIs of container engines, agents and stores.
//!
//! Connect and response times, stalls, response sizes and idle connections are limited. So every request
//! detects a peer that has disappeared silently, such as behind a firewall that dropped the connection.

use std::marker::PhantomData;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tidegate_core::values::Secret;
use tokio::time::{Instant, timeout, timeout_at};

use crate::OptionError;
use crate::connect::{ConnectError, Connector};
use crate::dial::Peer;

/// Default timeout for connecting, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time without data within a response.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of idle connections.
const MAX_IDLE: usize = 16;

/// Failure of an exchange over HTTP.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The HTTP handshake on a new connection failed.
    #[error("{0}")]
    Handshake(#[source] hyper::Error),
    /// The request is invalid.
    #[error("{path}: {source}")]
    Request {
        /// The path of the request.
        path: String,
        /// The cause.
        source: http::Error,
    },
    /// The request could not be sent, or the response is not HTTP.
    #[error("{path}: {source}")]
    Exchange {
        /// The path of the request.
        path: String,
        /// The cause.
        source: hyper::Error,
    },
    /// No response began in time.
    #[error("{path}: no response within {limit:?}")]
    NoAnswer {
        /// The path of the request.
        path: String,
        /// The time limit.
        limit: Duration,
    },
    /// The response was not complete in time.
    #[error("{path}: incomplete response after {limit:?}")]
    Incomplete {
        /// The path of the request.
        path: String,
        /// The time limit.
        limit: Duration,
    },
    /// The response stalled.
    #[error("{path}: the response stalled for {limit:?}")]
    Stalled {
        /// The path of the request.
        path: String,
        /// The time limit.
        limit: Duration,
    },
    /// The body of the response is incomplete or too large.
    #[error("{path}: {source}")]
    Body {
        /// The path of the request.
        path: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl HttpError {
    /// True if the connection was closed before anything of the request was sent.
    fn is_unsent(&self) -> bool {
        matches!(self, Self::Exchange { source, .. } if source.is_canceled())
    }
}

/// Failure of a stream of JSON values.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A value is not the expected JSON.
    #[error("unexpected event: {0}")]
    Value(#[source] serde_json::Error),
    /// A value exceeds the maximum length.
    #[error("an event is too long")]
    TooLong,
    /// The body is incomplete.
    #[error("{0}")]
    Body(#[source] hyper::Error),
}

/// A connection to the server.
struct Sender {
    requests: SendRequest<Full<Bytes>>,
    /// The peer, if the server has a host name.
    peer: Option<Peer>,
}

impl Sender {
    /// Waits until the connection is ready for a request. Returns false if it is closed, or the server's name
    /// no longer has its address.
    async fn is_usable(&mut self) -> bool {
        if self.requests.ready().await.is_err() {
            return false;
        }
        match &self.peer {
            Some(peer) => peer.is_current().await,
            None => true,
        }
    }
}

/// Limits of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Timeout for the head of the response, including connecting.
    pub head: Duration,
    /// Timeout for the complete response, including connecting.
    pub time: Duration,
    /// Maximum size of the response body, in bytes.
    pub size: usize,
}

/// A client of one server.
pub struct HttpClient {
    connector: Connector,
    headers: HeaderMap,
    connect_timeout: Duration,
    idle: Mutex<Vec<Sender>>,
}

impl HttpClient {
    /// Creates a client that sends these headers with every request; `Host` and `User-Agent` are added unless present.
    /// `option` holds the endpoint, for errors.
    pub fn new(
        connector: Connector,
        mut headers: HeaderMap,
        option: &'static str,
    ) -> Result<Self, OptionError> {
        let host =
            HeaderValue::from_str(&connector.host()).map_err(|_| OptionError::new(option, "invalid host"))?;
        headers.entry(header::HOST).or_insert(host);
        let agent = HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        headers.entry(header::USER_AGENT).or_insert(agent);
        Ok(Self { connector, headers, connect_timeout: CONNECT_TIMEOUT, idle: Mutex::new(Vec::new()) })
    }

    /// Sets the time limit for connecting, TLS included.
    #[must_use]
    pub fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Returns the endpoint, for messages.
    pub fn endpoint(&self) -> &str {
        self.connector.endpoint()
    }

    /// Closes idle connections.
    pub fn close_idle(&self) {
        self.idle.lock().clear();
    }

    /// Gets a path and reads the whole response, with any status.
    pub async fn get(&self, path: &str, limits: Limits) -> Result<Response<Bytes>, HttpError> {
        self.send(request(Method::GET, path, Bytes::new())?, limits).await
    }

    /// Like [`get`](Self::get), but always on a new connection, so that there are no retries. For long polls.
    pub async fn get_on_new_connection(
        &self,
        path: &str,
        limits: Limits,
    ) -> Result<Response<Bytes>, HttpError> {
        let request = request(Method::GET, path, Bytes::new())?;
        let send = async {
            let mut sender = self.connect().await?;
            let response = self.send_on(&mut sender, request).await?;
            Ok((sender, response))
        };
        self.whole(path, send, limits).await
    }

    /// Sends a request and reads the whole response, with any status.
    pub async fn send(&self, request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, HttpError> {
        let repeatable = request.method().is_safe();
        self.send_whole(request, repeatable, limits).await
    }

    /// Like [`send`](Self::send), for a request that can be repeated although it is not a `GET`.
    pub async fn send_idempotent(
        &self,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, HttpError> {
        self.send_whole(request, true, limits).await
    }

    async fn send_whole(
        &self,
        request: Request<Bytes>,
        repeatable: bool,
        limits: Limits,
    ) -> Result<Response<Bytes>, HttpError> {
        let path = request.uri().path().to_owned();
        self.whole(&path, self.send_pooled(request, repeatable), limits).await
    }

    /// Waits for the whole response, and keeps the connection for the next request.
    async fn whole(
        &self,
        path: &str,
        send: impl Future<Output = Result<(Sender, Response<Incoming>), HttpError>>,
        limits: Limits,
    ) -> Result<Response<Bytes>, HttpError> {
        let (end, head) = (Instant::now() + limits.time, limits.head.min(limits.time));
        let outcome = async {
            let sent = timeout(head, send).await;
            let (sender, response) =
                sent.map_err(|_| HttpError::NoAnswer { path: path.to_owned(), limit: head })??;
            let read = self.read(path, sender, response, limits.size);
            let incomplete = |_| Err(HttpError::Incomplete { path: path.to_owned(), limit: limits.time });
            timeout_at(end, read).await.unwrap_or_else(incomplete)
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            // If one connection is dead, the others probably are too, and each would take as long to fail.
            self.close_idle();
        }
        outcome
    }

    async fn read(
        &self,
        path: &str,
        mut sender: Sender,
        response: Response<Incoming>,
        max_size: usize,
    ) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = response.into_parts();
        let mut body = Limited::new(body, max_size);
        let mut frames = Collected::default();
        loop {
            let frame = timeout(STALL_TIMEOUT, body.frame()).await;
            match frame.map_err(|_| HttpError::Stalled { path: path.to_owned(), limit: STALL_TIMEOUT })? {
                Some(Ok(frame)) => frames.push(frame.into_data().unwrap_or_default()),
                Some(Err(source)) => return Err(HttpError::Body { path: path.to_owned(), source }),
                None => break,
            }
        }
        let body = frames.whole();
        if sender.requests.ready().await.is_ok() {
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push(sender);
            }
        }
        Ok(Response::from_parts(head, body))
    }

    /// Gets a path on a new connection and returns the response with a streaming body.
    pub async fn open(&self, path: &str, time: Duration) -> Result<Response<Incoming>, HttpError> {
        self.open_with(request(Method::GET, path, Bytes::new())?, time).await
    }

    /// Like [`open`](Self::open), with any request.
    pub async fn open_with(
        &self,
        request: Request<Bytes>,
        time: Duration,
    ) -> Result<Response<Incoming>, HttpError> {
        let path = request.uri().path().to_owned();
        let work = async {
            let mut sender = self.connect().await?;
            self.send_on(&mut sender, request).await
        };
        timeout(time, work).await.map_err(|_| HttpError::NoAnswer { path, limit: time })?
    }

    /// Sends on an idle connection or a new one. Skips idle connections that turn out to be closed.
    async fn send_pooled(
        &self,
        request: Request<Bytes>,
        repeatable: bool,
    ) -> Result<(Sender, Response<Incoming>), HttpError> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(mut sender) = idle else { break };
            if !sender.is_usable().await {
                continue;
            }
            match self.send_on(&mut sender, request.clone()).await {
                Ok(response) => return Ok((sender, response)),
                Err(error) if repeatable || error.is_unsent() => self.close_idle(),
                Err(error) => return Err(error),
            }
        }
        let mut sender = self.connect().await?;
        let response = self.send_on(&mut sender, request).await?;
        Ok((sender, response))
    }

    async fn send_on(
        &self,
        sender: &mut Sender,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, HttpError> {
        let path = request.uri().path().to_owned();
        let (mut head, body) = request.into_parts();
        for (name, value) in &self.headers {
            head.headers.entry(name).or_insert_with(|| value.clone());
        }
        let request = Request::from_parts(head, Full::new(body));
        sender.requests.send_request(request).await.map_err(|source| HttpError::Exchange { path, source })
    }

    async fn connect(&self) -> Result<Sender, HttpError> {
        let (stream, peer) = self.connector.connect_within(self.connect_timeout).await?;
        let (requests, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(HttpError::Handshake)?;
        // Ends when the sender and the response are dropped.
        tokio::spawn(connection);
        Ok(Sender { requests, peer })
    }
}

/// The parts of a body, read so far.
#[derive(Default)]
struct Collected {
    parts: Vec<Bytes>,
}

impl Collected {
    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    fn whole(mut self) -> Bytes {
        match self.parts.len() {
            0 | 1 => self.parts.pop().unwrap_or_default(),
            _ => self.parts.concat().into(),
        }
    }
}

/// JSON values, one after another in the body of one response.
pub struct JsonStream<T> {
    body: Incoming,
    buffer: BytesMut,
    max_length: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonStream<T> {
    /// Reads the values of a body; each has at most `max_length` bytes.
    pub fn new(body: Incoming, max_length: usize) -> Self {
        Self { body, buffer: BytesMut::new(), max_length, kind: PhantomData }
    }

    /// Returns the next value. An error ends the stream, as does `None`.
    pub async fn next(&mut self) -> Result<Option<T>, StreamError> {
        let mut searched = 0;
        loop {
            if let Some(end) = line_end(&self.buffer, searched) {
                let line = self.buffer.split_to(end + 1);
                searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(StreamError::Value);
            }
            searched = self.buffer.len();
            // Some engines do not end events with a line break.
            if self.buffer.last() == Some(&b'}')
                && let Ok(event) = serde_json::from_slice(&self.buffer)
            {
                self.buffer.clear();
                return Ok(Some(event));
            }
            if self.buffer.len() > self.max_length {
                return Err(StreamError::TooLong);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(StreamError::Body(error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Returns the position of the first line break at or after `from`.
fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    Some(from + bytes.get(from..)?.iter().position(|byte| *byte == b'\n')?)
}

/// Builds a request for a path.
pub fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Bytes>, HttpError> {
    let request = Request::builder().method(method).uri(path).body(body);
    request.map_err(|source| HttpError::Request { path: path.to_owned(), source })
}

/// Returns the value of `Authorization` for basic authentication; `None` if it is not a valid header value.
pub fn basic(username: &str, password: &Secret) -> Option<HeaderValue> {
    let credentials = STANDARD.encode(format!("{username}:{}", password.expose()));
    let mut value = HeaderValue::from_str(&format!("Basic {credentials}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Percent-encodes text for a path or query, except for unreserved characters (RFC 3986 section 2.3).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
