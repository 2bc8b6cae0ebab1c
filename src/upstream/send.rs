//! Sends a request on a connection, and retries on another if it did not arrive or is idempotent.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{Request, StatusCode, Uri, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tidegate_core::{
    Attempt, Body, BodyError, ConnectCause, End, Exchange, Guard, Interim, Response, UpstreamError,
};
use tidegate_wire::http1::response::ResponseHead;
use tokio::sync::oneshot;

use super::connect::{Connected, Scheme, Stream, connect};
use super::finish::Finish;
use super::http1::{Http1, Http1Error, Release, response_body};
use super::lease::{Lease, stream_of};
use super::pool::{Opening, Shared, Streams};
use super::repeat::Repeatable;
use super::upgrade::Change;
use super::{Endpoint, InFlight, fields, upgrade};

/// Maximum number of retries after a kept connection turned out to be dead.
const MAX_STALE: usize = 3;
/// Maximum size of a response head in bytes.
const MAX_HEAD: usize = 1024 * 1024;
/// Fixed HTTP/2 windows, because an adaptive window shrinks h2's budget for small frames.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Assumed maximum number of streams until the server sends it.
const ASSUMED_STREAMS: usize = 100;
/// Maximum number of buffered bytes of a request body per HTTP/2 stream.
const STREAM_BUFFER: usize = 128 * 1024;

/// A request that is ready for a server. It stays where it is, as it would be copied at each step otherwise.
pub(crate) struct Outgoing<'a> {
    pub(crate) head: &'a mut request::Parts,
    pub(crate) body: &'a mut Body,
    /// The client's side of an upgrade, if requested.
    pub(crate) upgrade: &'a mut Option<Box<tidegate_core::Upgrade>>,
    /// The exchange of this attempt.
    pub(crate) exchange: Option<&'a Arc<Exchange>>,
    /// Maximum time to wait for a connection, beside the timeouts of the transport.
    pub(crate) connect_limit: Option<Duration>,
}

/// A failed attempt.
pub(crate) struct Failure {
    pub(crate) error: UpstreamError,
    /// No byte of the request was sent, and all of it is still there.
    pub(crate) is_unsent: bool,
}

impl Endpoint {
    /// Sends a request; see [`Endpoint::send`]. Its head is prepared for the server. Returns in the error whether it
    /// can be sent to another one.
    pub(crate) async fn try_send(
        self: &Arc<Self>,
        outgoing: Outgoing<'_>,
        interim: Option<&dyn Interim>,
    ) -> Result<Response, Failure> {
        let Outgoing { head, body, upgrade, exchange, connect_limit } = outgoing;
        let in_flight = InFlight::begin(self);
        let cleaned = fields::clean_request(head, upgrade.is_some());
        fields::fill_host(&mut head.headers, &cleaned, &self.authority);
        if body.is_end_stream() {
            fields::without_body(head, &cleaned);
        } else {
            fields::with_body(head, body);
        }
        let change = match cleaned.upgrade {
            Some(protocol) => upgrade.take().map(|client| Change { protocol, client }),
            None => None,
        };
        if !head.extensions.is_empty() {
            head.extensions.clear();
        }
        let asked = exchange.and_then(|exchange| exchange.last_attempt()).map(|attempt| attempt.sent);
        let mut stale = 0;
        loop {
            let (is_upgrade, fresh) = (change.is_some(), stale >= MAX_STALE);
            let lease = match connect_limit {
                None => self.lease(is_upgrade, fresh, asked).await,
                Some(limit) => Box::pin(self.within(limit, self.lease(is_upgrade, fresh, asked))).await,
            };
            let mut lease = match lease {
                Ok(lease) => lease,
                Err(error) => return Err(unsent(error, head, change, upgrade)),
            };
            let reused = lease.opened().is_none();
            note_connection(exchange.map(|exchange| &**exchange), &lease);
            let repeatable = Repeatable::new(head, body, &lease);
            match self.exchange(&mut lease, (&mut *head, &mut *body), interim, change.is_some()).await {
                Ok(answer) => return self.answer(answer, lease, change, (in_flight, exchange)),
                Err(Lost { unsent: Some(request), .. }) if reused && stale < MAX_STALE => {
                    (*head, *body) = request.into_parts();
                    stale += 1;
                }
                Err(Lost { error: Some(error), unsent: None }) if error.is_closed() => {
                    if !repeatable.restore(head) {
                        return Err(self.fail(&error).into());
                    }
                    if !reused {
                        // A server that shuts down drops connections it has not accepted yet: another one may
                        // respond.
                        return Err(unsent(self.lost(error.to_string()), head, change, upgrade));
                    }
                    stale = MAX_STALE;
                }
                Err(Lost { error, unsent: Some(request) }) => {
                    (*head, *body) = request.into_parts();
                    let error = self.lost(error.map_or_else(|| "closed".into(), |e| e.to_string()));
                    return Err(unsent(error, head, change, upgrade));
                }
                Err(Lost { error: Some(error), .. }) => return Err(self.fail(&error).into()),
                Err(Lost { error: None, .. }) => {
                    return Err(UpstreamError::ResponseTimeout { server: self.target.address.clone() }.into());
                }
            }
        }
    }

    /// Returns an error for a request that can be sent to another server.
    fn lost(&self, reason: String) -> UpstreamError {
        UpstreamError::Lost { server: self.target.address.clone(), reason, sent: false }
    }

    /// Gives up waiting for a connection after `limit`.
    async fn within(
        &self,
        limit: Duration,
        lease: impl Future<Output = Result<Lease, UpstreamError>>,
    ) -> Result<Lease, UpstreamError> {
        let timeout = || UpstreamError::ConnectTimeout { server: self.target.address.clone() };
        tokio::time::timeout(limit, lease).await.unwrap_or_else(|_| Err(timeout()))
    }

    /// Returns a connection for one request: a kept one unless `fresh`, or a new one. `asked`: when the attempt began,
    /// if that is known.
    async fn lease(
        self: &Arc<Self>,
        upgrade: bool,
        fresh: bool,
        asked: Option<Instant>,
    ) -> Result<Lease, UpstreamError> {
        if upgrade {
            return Box::pin(self.open_for_upgrade()).await;
        }
        let worker = crate::worker::index();
        let idle = self.transport.idle_timeout();
        if let Some(peers) = &self.peers
            && peers.is_due()
            && self.pool(worker).lock().len() > 0
        {
            Box::pin(self.confirm(peers)).await;
        }
        let (opening, single) = {
            let mut pool = self.pool(worker).lock();
            if !fresh
                && self.target.scheme != Scheme::H2c
                && let Some(connection) = pool.take(asked.unwrap_or_else(Instant::now))
            {
                return Ok(Lease::Own { connection, opened: None });
            }
            if !fresh
                && self.target.scheme != Scheme::Http
                && let Some(shared) = pool.share(idle)
            {
                return Ok(stream_of(shared, None));
            }
            (pool.opening.clone(), self.target.scheme != Scheme::Http && !pool.http1)
        };
        // Boxed, so that the future of a request with a kept connection stays small.
        if single {
            Box::pin(self.open_single(worker, opening, fresh)).await
        } else {
            Box::pin(self.open(worker)).await
        }
    }

    async fn open_for_upgrade(&self) -> Result<Lease, UpstreamError> {
        let connected = connect(&self.target, &self.transport, true).await?;
        let connection = Http1::new(connected.stream.for_tunnel(), None);
        Ok(Lease::Own { connection, opened: Some(connected.opened) })
    }

    /// Opens a connection that concurrent requests share, or waits for it.
    async fn open_single(
        self: &Arc<Self>,
        worker: usize,
        opening: Opening,
        fresh: bool,
    ) -> Result<Lease, UpstreamError> {
        let idle = self.transport.idle_timeout();
        let asked = Instant::now();
        let mut last_failure = opening.lock().await;
        if let Some(shared) = self.pool(worker).lock().share(idle).filter(|_| !fresh) {
            return Ok(stream_of(shared, None));
        }
        // Requests that waited for a failed attempt share its error, as consecutive attempts would take too
        // long.
        if let Some((_, error)) = last_failure.as_ref().filter(|(at, _)| *at > asked) {
            return Err(error.clone());
        }
        let opened = self.open(worker).await;
        *last_failure = opened.as_ref().err().map(|error| (Instant::now(), error.clone()));
        opened
    }

    async fn open(self: &Arc<Self>, worker: usize) -> Result<Lease, UpstreamError> {
        let Connected { stream, http2, named, opened } =
            connect(&self.target, &self.transport, false).await?;
        let peer = named.map(|(peer, answer)| {
            self.keep_to(&answer);
            peer
        });
        if !http2 {
            if self.target.scheme == Scheme::Https {
                self.pool(worker).lock().http1 = true;
            }
            return Ok(Lease::Own { connection: Http1::new(stream, peer), opened: Some(opened) });
        }
        let shared = self.open_http2(stream, peer).await?;
        shared.streams.open.fetch_add(1, Ordering::Relaxed);
        let mut pool = self.pool(worker).lock();
        pool.http1 = false;
        pool.add(shared.clone());
        Ok(stream_of(shared, Some(opened)))
    }

    async fn open_http2(&self, stream: Stream, peer: Option<IpAddr>) -> Result<Shared, UpstreamError> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(STREAM_BUFFER)
            // Until the server sends its limit, it may reject more than one stream.
            .initial_max_send_streams(1)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
        if let Some((silence, answer)) = self.transport.ping() {
            builder.keep_alive_interval(silence).keep_alive_timeout(answer).keep_alive_while_idle(true);
        }
        let (sender, mut connection) =
            builder.handshake(TokioIo::new(stream.for_http2())).await.map_err(|e| self.not_connected(&e))?;
        let streams =
            Arc::new(Streams { open: AtomicUsize::new(0), limit: AtomicUsize::new(ASSUMED_STREAMS) });
        let shared = streams.clone();
        tokio::spawn(std::future::poll_fn(move |cx| {
            let ended = Pin::new(&mut connection).poll(cx).map(|_| ());
            shared.limit.store(connection.current_max_send_streams(), Ordering::Relaxed);
            ended
        }));
        Ok(Shared::new(sender, peer, streams, self.transport.idle_timeout()))
    }

    /// Sends on a connection and waits for the head of the response.
    async fn exchange(
        &self,
        lease: &mut Lease,
        (head, body): (&mut request::Parts, &mut Body),
        interim: Option<&dyn Interim>,
        is_upgrade: bool,
    ) -> Result<Answer, Lost> {
        let limit = self.transport.response_header_timeout();
        let sent = if limit.is_zero() { None } else { watch_end(body) };
        let answer = async {
            match lease {
                Lease::Own { connection, .. } => {
                    origin_form(head);
                    let answer = match connection.begin(head, std::mem::take(body), is_upgrade) {
                        Ok(()) => connection.exchange(interim).await,
                        Err(error) => Err(error),
                    };
                    answer.map(Answer::Http1).map_err(|error| Error::Http1(error).into())
                }
                // Boxed, as the library's request and response are large, and most requests do not need this memory.
                Lease::Stream { sender, .. } => {
                    absolute_form(head, self.target.scheme);
                    let request = Request::from_parts(take(head), std::mem::take(body));
                    let sent = Box::pin(sender.try_send_request(request)).await;
                    sent.map(|answer| Answer::Http2(Box::new(answer))).map_err(Lost::from)
                }
            }
        };
        let answer = if limit.is_zero() { answer.await } else { Box::pin(within(limit, sent, answer)).await };
        if let Err(Lost { error: Some(error), .. }) = &answer
            && let Lease::Stream { count, .. } = lease
            && error.is_closed()
        {
            self.pool(crate::worker::index()).lock().forget(&count.0);
        }
        answer
    }

    fn answer(
        self: &Arc<Self>,
        answer: Answer,
        lease: Lease,
        change: Option<Change>,
        (in_flight, exchange): (InFlight, Option<&Arc<Exchange>>),
    ) -> Result<Response, Failure> {
        let (mut response, stream) = match (answer, lease) {
            (Answer::Http1(mut head), Lease::Own { connection, .. }) => {
                if head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
                    return upgrade::accept(head, connection, change, in_flight)
                        .map_err(|error| self.malformed(error.to_string()).into());
                }
                // After a rejected upgrade, the state of the connection is unreliable.
                let reuse = change.is_none();
                let release = Release { endpoint: self.clone(), worker: crate::worker::index(), reuse };
                if head.hop_by_hop && !fields::clean_response(&mut head.parts.headers) {
                    return Err(self.malformed("its transfer coding is not chunked".into()).into());
                }
                (Response::from_parts(head.parts, response_body(connection, head.framing, release)), None)
            }
            (Answer::Http2(response), Lease::Stream { count, .. }) => {
                let mut response = response.map(Body::incoming);
                if !fields::clean_response(response.headers_mut()) {
                    return Err(self.malformed("its transfer coding is not chunked".into()).into());
                }
                (response.into(), Some(count))
            }
            _ => return Err(UpstreamError::Internal("response of another protocol".into()).into()),
        };
        if let Some(length) = response.body.whole_length() {
            exchange
                .and_then(|exchange| exchange.last_attempt())
                .into_iter()
                .for_each(|a| a.add_received(length));
        } else {
            let guard = Finish { _in_flight: in_flight, _stream: stream, exchange: exchange.cloned() };
            response.body.guard(Box::new(guard));
        }
        Ok(response)
    }

    fn not_connected(&self, error: &hyper::Error) -> UpstreamError {
        let (server, reason) = (self.target.address.clone(), error.to_string());
        UpstreamError::Connect { server, reason, cause: ConnectCause::Other }
    }

    fn malformed(&self, reason: String) -> UpstreamError {
        UpstreamError::Malformed { server: self.target.address.clone(), reason }
    }

    fn fail(&self, error: &Error) -> UpstreamError {
        if let Some(body) = error.of_body() {
            return match body {
                BodyError::TooLarge { .. } => UpstreamError::TooLarge,
                BodyError::TimedOut => UpstreamError::ClientTimeout,
                BodyError::Io(_) | BodyError::Other(_) => UpstreamError::Internal(body.to_string()),
                BodyError::Http(_) | BodyError::Gone(_) => UpstreamError::ClientGone,
            };
        }
        match error {
            Error::Http1(Http1Error::Malformed(error)) => self.malformed(error.to_string()),
            Error::Http2(error) if error.is_parse() => self.malformed(describe(error)),
            Error::Http1(Http1Error::Request(error)) => UpstreamError::Internal(error.to_string()),
            Error::Http2(error) if error.is_user() => UpstreamError::Internal(describe(error)),
            _ => UpstreamError::Lost {
                server: self.target.address.clone(),
                reason: error.to_string(),
                sent: true,
            },
        }
    }
}

/// The head of a response, and of HTTP/2 also its body.
enum Answer {
    Http1(ResponseHead),
    Http2(Box<http::Response<Incoming>>),
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Http1(Http1Error),
    #[error("{}", describe(.0))]
    Http2(hyper::Error),
}

impl Error {
    /// Returns true if the server has closed the connection.
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(error) => error.is_closed(),
            Self::Http2(error) => is_closed(error),
        }
    }

    /// Returns the error of the request's body.
    fn of_body(&self) -> Option<&BodyError> {
        match self {
            Self::Http1(Http1Error::Body(error)) => Some(error),
            Self::Http1(_) => None,
            Self::Http2(error) => cause(error),
        }
    }
}

/// Why there is no response: an error, or `None` for a timeout; with the request if it was not sent.
struct Lost {
    error: Option<Error>,
    unsent: Option<Box<Request<Body>>>,
}

impl From<hyper::client::conn::TrySendError<Request<Body>>> for Lost {
    fn from(mut failed: hyper::client::conn::TrySendError<Request<Body>>) -> Self {
        let unsent = failed.take_message().map(Box::new);
        Self { error: Some(Error::Http2(failed.into_error())), unsent }
    }
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        Self { error: Some(error), unsent: None }
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        Self { error, is_unsent: false }
    }
}

/// Records a new connection, and how long the request waited for a kept one if its times are asked for.
fn note_connection(exchange: Option<&Exchange>, lease: &Lease) {
    let Some(exchange) = exchange else { return };
    match lease.opened() {
        Some(opened) => exchange.last_attempt().into_iter().for_each(|attempt| attempt.connect(opened)),
        None if exchange.timing().is_some() => exchange.last_attempt().into_iter().for_each(Attempt::reuse),
        None => {}
    }
}

/// Prepares a request for another server.
#[cold]
fn unsent(
    error: UpstreamError,
    head: &mut request::Parts,
    change: Option<Change>,
    upgrade: &mut Option<Box<tidegate_core::Upgrade>>,
) -> Failure {
    if let Some(authority) = head.uri.authority()
        && !head.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        // HTTP/2 removed it from the headers; the next server may use HTTP/1.
        head.headers.insert(HOST, host);
    }
    if head.uri.scheme().is_some()
        && let Some(target) = head.uri.path_and_query()
    {
        head.uri = Uri::from(target.clone());
    }
    if change.is_some() {
        head.version = Version::HTTP_11;
    }
    if let Some(change) = change {
        *upgrade = Some(change.client);
    }
    Failure { error, is_unsent: true }
}

/// Returns true if the server has closed the connection.
fn is_closed(error: &hyper::Error) -> bool {
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        return true;
    }
    if let Some(io) = cause::<std::io::Error>(error) {
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof,
        };
        return matches!(
            io.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
        );
    }
    cause::<h2::Error>(error)
        .is_some_and(|error| error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

fn cause<T: std::error::Error + 'static>(error: &hyper::Error) -> Option<&T> {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Takes a head, and leaves an empty one.
fn take(head: &mut request::Parts) -> request::Parts {
    std::mem::replace(head, Request::new(()).into_parts().0)
}

fn origin_form(head: &mut request::Parts) {
    head.version = Version::HTTP_11;
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        let target = head.uri.path_and_query().cloned();
        head.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
}

/// Moves `Host` to the target for HTTP/2 (RFC 9113 section 8.3.1).
fn absolute_form(head: &mut request::Parts, scheme: Scheme) {
    head.version = Version::HTTP_2;
    let authority = match head.headers.get(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).ok(),
        None => head.uri.authority().cloned(),
    };
    let mut parts = http::uri::Parts::default();
    parts.path_and_query =
        Some(head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    if let Some(authority) = authority {
        parts.scheme = Some(if scheme == Scheme::Https { UriScheme::HTTPS } else { UriScheme::HTTP });
        parts.authority = Some(authority);
        if let Ok(uri) = Uri::from_parts(parts) {
            head.uri = uri;
            head.headers.remove(HOST);
        }
    }
}

/// Returns a receiver that resolves when the request body has been sent or dropped; `None` if there is none.
fn watch_end(body: &mut Body) -> Option<oneshot::Receiver<()>> {
    if body.is_end_stream() {
        return None;
    }
    let (sender, receiver) = oneshot::channel();
    *body = std::mem::take(body).with_guard(Box::new(Ended(sender)));
    Some(receiver)
}

struct Ended(oneshot::Sender<()>);

impl Guard for Ended {
    fn end(self: Box<Self>, _: End) {
        let _ = self.0.send(());
    }
}

/// Waits for a response for at most `limit` after the request was sent.
async fn within<T>(
    limit: Duration,
    sent: Option<oneshot::Receiver<()>>,
    answer: impl Future<Output = Result<T, Lost>>,
) -> Result<T, Lost> {
    let over = async {
        if let Some(sent) = sent {
            // On error, the guard was dropped with the body.
            let _ = sent.await;
        }
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        answer = answer => answer,
        () = over => Err(Lost { error: None, unsent: None }),
    }
}
