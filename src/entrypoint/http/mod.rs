//! Requests of every version of HTTP: normalised, routed, and passed through middlewares to their services.

pub(in crate::entrypoint) mod aliases;
pub(in crate::entrypoint) mod body;
pub(in crate::entrypoint) mod chosen_options;
pub(in crate::entrypoint) mod client_connection;
pub(in crate::entrypoint) mod closing;
pub(crate) mod forwarded;
pub(in crate::entrypoint) mod min_rate;
pub(in crate::entrypoint) mod presence;
pub(in crate::entrypoint) mod protocol;
pub(in crate::entrypoint) mod target;
pub(in crate::entrypoint) mod timed_body;
pub(in crate::entrypoint) mod timeouts;
pub(in crate::entrypoint) mod tunnel;
pub(crate) mod upgrade;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use futures_util::FutureExt;
use http::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HeaderName, HeaderValue, UPGRADE,
};
use http::{HeaderMap, Method, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tidegate_config::Kind;
use tidegate_core::{
    Body, BoxFuture, Context, End, Exchange, Guard, Interim, OriginalTarget, Reason, Request, Response,
    Upgrade, boxed, reply,
};

use crate::entrypoint::hold::EARLY;
use crate::entrypoint::http::body::{AnswerBody, OpenAnswer, request_body};
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::closing::Closing;
use crate::entrypoint::http::presence::{HTTP2_SETTINGS, Presence};
use crate::entrypoint::http::target::refused;
use crate::entrypoint::http1_2::header_budget::{HeaderReservation, MAX_HEADER_LINES};
use crate::entrypoint::http1_2::linger;
use crate::entrypoint::listener::Listener;
use crate::entrypoint::shutdown::Phase;
use crate::internal::PROVIDER;
use crate::snapshot::report::Status;
use crate::snapshot::{Route, Snapshot};

/// A request as its protocol hands it over.
pub(in crate::entrypoint) struct Arrived {
    pub(in crate::entrypoint) head: http::request::Parts,
    pub(in crate::entrypoint) body: Body,
    /// Takes interim answers for the client, where it can be sent any.
    pub(in crate::entrypoint) interim: Option<Arc<dyn Interim>>,
    /// The client's side, when it asks for another protocol.
    pub(in crate::entrypoint) upgrade: Option<Box<Upgrade>>,
}

/// Serves the requests of one connection.
#[derive(Clone)]
pub(in crate::entrypoint) struct HttpService(Arc<ClientConnection>);

impl HttpService {
    /// For the requests of this connection.
    pub(in crate::entrypoint) fn new(client: Arc<ClientConnection>) -> Self {
        Self(client)
    }
}

/// An answer did not begin within `writeTimeout`: its stream is reset (HTTP/2).
#[derive(Debug, thiserror::Error)]
#[error("no answer within writeTimeout")]
pub(in crate::entrypoint) struct Unanswered;

impl hyper::service::Service<hyper::Request<Incoming>> for HttpService {
    type Response = http::Response<AnswerBody>;
    type Error = Unanswered;
    // In a box of its own, so that an idle connection does not hold the room of a request.
    type Future = BoxFuture<'static, Result<Self::Response, Unanswered>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let client = self.0.clone();
        let open = OpenAnswer::new(client.progress.clone());
        let deadline = client
            .listener
            .limits
            .write
            .filter(|_| client.protocol.is_framed())
            .map(|limit| Instant::now() + limit);
        boxed(move || async move {
            let mut timer = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
            let mut serving = pin!(handle_request(&client, request, open, deadline));
            // One place that polls, so that it is compiled into this future.
            std::future::poll_fn(|cx| match (serving.as_mut().poll(cx), &mut timer) {
                (Poll::Ready(answer), _) => Poll::Ready(Ok(answer)),
                (Poll::Pending, Some(timer)) => timer.as_mut().poll(cx).map(|()| Err(Unanswered)),
                (Poll::Pending, None) => Poll::Pending,
            })
            .await
        })
    }
}

async fn handle_request(
    client: &ClientConnection,
    request: hyper::Request<Incoming>,
    open: OpenAnswer,
    deadline: Option<Instant>,
) -> http::Response<AnswerBody> {
    let is_head = request.method() == Method::HEAD;
    let is_old = request.version() == Version::HTTP_10;
    let (mut head, incoming) = request.into_parts();
    let framed = client.protocol.is_framed();
    let min_rate = framed.then(|| min_rate::of_request(client.listener.limits.min_rate(), &head.headers));
    let (body, upload) = request_body(incoming, min_rate);
    let (answering, mut leftover) = upload.unzip();
    let waits = leftover.is_some() && head.headers.contains_key(EXPECT);
    let mut upgrade = head.extensions.remove::<OnUpgrade>().map(upgrade::of_library);
    let tunnel = framed && head.method == Method::CONNECT && begin_tunnel(&mut head);
    if let Some(upgrade) = upgrade.as_mut().filter(|_| tunnel) {
        // The connection counts as busy for as long as the tunnel is there.
        upgrade.hold(Arc::new(OpenAnswer::new(client.progress.clone())));
    }
    // Over HTTP/2 there is no way to send them.
    let interim = (!framed).then(|| client.progress.clone() as Arc<dyn Interim>);
    let (mut response, closing) = respond(client, Arrived { head, body, interim, upgrade }).await;
    if tunnel {
        response = tunnel::answer(response);
    }
    if client.progress.has_interim() {
        std::future::poll_fn(|cx| client.progress.poll_interim(cx)).await;
    }
    if let Some(alternative) =
        client.listener.alternative.as_ref().filter(|_| client.connection.tls.is_some())
    {
        add_first(response.headers_mut(), ALT_SVC, alternative);
    }
    if let Some(leftover) = &mut leftover
        && response.status().is_redirection()
        && !waits
    {
        Box::pin(linger::drain_before(leftover)).await;
    }
    // Clients that see a success go on sending, and some read nothing more: only a reset gets through to them.
    let leftover = leftover.filter(|_| !response.status().is_success());
    let headless = is_head || response.status() == StatusCode::NOT_MODIFIED;
    let (mut head, body) = response.into_parts();
    // The version is ours, whatever the server's was (RFC 9112 section 2.3). To a client of HTTP/1.0, the library promises to keep
    // the connection unless the answer is of that version, too.
    let ends_by_close = is_old
        && (head.headers.get(CONNECTION).is_some_and(|value| value == "close")
            || !head.headers.contains_key(CONTENT_LENGTH) && body.size_hint().exact().is_none());
    head.version = if ends_by_close { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut body = AnswerBody::new(body, (open, closing), client.protocol, headless);
    body.bind(answering, leftover, deadline.map(Into::into));
    http::Response::from_parts(head, body)
}

/// Makes an upgrade of an extended CONNECT.
pub(in crate::entrypoint) fn begin_tunnel(head: &mut http::request::Parts) -> bool {
    let protocol = head.extensions.remove::<hyper::ext::Protocol>();
    protocol.is_some_and(|protocol| tunnel::translate(head, protocol.as_str()))
}

/// The answer to a request, whatever it came by, and the end of its exchange, which comes with the end of the body.
pub(in crate::entrypoint) async fn respond(
    client: &ClientConnection,
    arrived: Arrived,
) -> (Response, Option<Closing>) {
    let presence = Presence::of(&arrived.head.headers);
    let mut closing = None;
    let routed =
        AssertUnwindSafe(route_request(client, arrived, presence, &mut closing)).catch_unwind().await;
    let response = routed.unwrap_or_else(|panic| {
        let what =
            panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        tracing::error!(entry_point = %client.listener.name, panic = what, "a request handler panicked");
        reply::status_text(StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError)
    });
    let finish = if client.protocol.is_framed() { finish_framed } else { finish_http1 };
    let mut response = finish(client, response, presence.upgrade, closing.as_mut());
    if response.status() == StatusCode::NOT_MODIFIED {
        // The client has the content, and what it is, already (RFC 9110 section 15.4.5).
        response.headers_mut().remove(CONTENT_TYPE);
    }
    (response, closing)
}

/// What HTTP/1 clients are told of their connection.
fn finish_http1(
    client: &ClientConnection,
    mut response: Response,
    wants_upgrade: bool,
    closing: Option<&mut Closing>,
) -> Response {
    if let Some(closing) = closing {
        closing.record_response(&response);
    }
    let is_over = is_over(client);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        client.progress.upgrade();
    } else if is_over || wants_upgrade {
        // What the client sent behind its request for another protocol may be of that protocol.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What becomes of the connection of HTTP/2 and HTTP/3 clients, and what a tunnel's answer may be.
fn finish_framed(
    client: &ClientConnection,
    mut response: Response,
    wants_upgrade: bool,
    closing: Option<&mut Closing>,
) -> Response {
    if wants_upgrade {
        response = tunnel::settled(response);
    }
    if let Some(closing) = closing {
        closing.record_response(&response);
    }
    if is_over(client) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        client.progress.leave();
    }
    response
}

/// Counts a request. True when its connection has lived or served long enough (Traefik's `keepAliveMaxTime`,
/// `keepAliveMaxRequests`), and for every connection while the gateway stops.
fn is_over(client: &ClientConnection) -> bool {
    let served = client.requests.fetch_add(1, Ordering::Relaxed) + 1;
    (client.listener.max_requests > 0 && served >= client.listener.max_requests)
        || client.listener.max_time.is_some_and(|limit| client.connection.accepted.elapsed() >= limit)
        || client.listener.shutdown.has_reached(Phase::Draining)
}

/// Adds a header before those of its name that are there.
fn add_first(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let there: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
    headers.insert(&name, value.clone());
    for value in there {
        headers.append(&name, value);
    }
}

async fn route_request(
    client: &ClientConnection,
    arrived: Arrived,
    presence: Presence,
    closing: &mut Option<Closing>,
) -> Response {
    let listener = &*client.listener;
    let Arrived { mut head, body, interim, upgrade } = arrived;
    let exchange = Arc::new(Exchange::begin(client.connection.clone(), head.version));
    // Until there is an answer.
    let _held = match client.progress.has_large().then(|| hold_head(listener, &head.headers)) {
        Some(None) => {
            *closing = Some(Closing::new(exchange, None));
            return reply::status_text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::HeadTooLarge);
        }
        held => held,
    };
    let original_target = match prepare(client, &mut head, presence) {
        Ok(original) => original.map(Arc::new),
        Err(response) => {
            *closing = Some(Closing::new(exchange, None));
            return *response;
        }
    };
    let context = Context { interim, original_target, upgrade, ..Context::of(exchange) };
    let mut request = Request::new(head, body, context);
    let mut snapshot = listener.snapshots.load();
    if !listener.opening.is_open() && !is_early(listener, &snapshot, &request) {
        listener.opening.opened().await;
        snapshot = listener.snapshots.load();
    }
    if is_misdirected(client, &snapshot, &request) {
        *closing = Some(Closing::new(request.context.exchange, None));
        return misdirected();
    }
    let routes = snapshot.entry_points.get(listener.index);
    let index =
        routes.map(|routes| if client.connection.tls.is_some() { &routes.tls } else { &routes.plain });
    let route = index.and_then(|index| index.find(&request));
    let timed = timeouts::begin(client, &mut request, route.and_then(|route| route.timeouts.as_ref()));
    *closing = Some(begin_exchange(listener, &mut request, route.map(|route| &**route)));
    let Some(route) = route else { return reply::not_found(Reason::NoRouter) };
    if client.tls_options.as_ref().is_some_and(|chosen| chosen.differ_for_route(route)) {
        return misdirected();
    }
    if listener.target.denies(request.path()) {
        return reply::empty(StatusCode::BAD_REQUEST, Reason::EncodedCharacters);
    }
    match timed {
        None => route.chain.run(request).await,
        // In a box of its own: most requests have no use for its room.
        Some(timed) => Box::pin(timed.answer(&route.chain, request)).await,
    }
}

/// True for a request that is answered before the first configuration is complete: one for the gateway's own `/ping` or
/// `/ready`, whose routers no other can overrule.
fn is_early(listener: &Listener, snapshot: &Snapshot, request: &Request) -> bool {
    let routes = snapshot.entry_points.get(listener.index).filter(|_| listener.early);
    let Some(route) = routes.and_then(|routes| routes.plain.find(request)) else { return false };
    let object = snapshot.report.object(Kind::Router, &route.info.router);
    EARLY.iter().any(|path| route.info.router[..] == format!("{}@{PROVIDER}", &path[1..]))
        && object.is_some_and(|object| object.priority == i64::MAX && object.status != Status::Disabled)
}

/// Completes what is known of the exchange when its route is, and begins its line in the access log, when it will be
/// written.
fn begin_exchange(listener: &Listener, request: &mut Request, route: Option<&Route>) -> Closing {
    let logged = route.is_none_or(|route| route.observability.access_logs);
    let log = listener.log.as_ref().filter(|_| logged);
    // Nobody else knows of it yet.
    if let Some(exchange) = Arc::get_mut(&mut request.context.exchange) {
        exchange.keep_headers = log.is_some_and(|log| log.keeps_headers());
        if let Some(route) = route {
            exchange.set_route(route.info.clone());
        }
    }
    let exchange = request.context.exchange.clone();
    if !request.body.is_end_stream() {
        let received = Box::new(Received(exchange.clone()));
        request.body = std::mem::take(&mut request.body).with_guard(received);
    }
    Closing::new(exchange, log.map(|log| Box::new(log.begin(request))))
}

/// Counts the bytes of a request body.
struct Received(Arc<Exchange>);

impl Guard for Received {
    fn data(&mut self, length: usize) {
        self.0.add_received(length);
    }

    fn end(self: Box<Self>, _: End) {}
}

/// Everything that is decided before routing. The error is the answer to a request that cannot be served.
fn prepare(
    client: &ClientConnection,
    head: &mut http::request::Parts,
    presence: Presence,
) -> Result<Option<OriginalTarget>, Box<Response>> {
    let original = client.listener.target.apply(head)?;
    let expected = if presence.expect { head.headers.get(EXPECT) } else { None };
    if expected.is_some_and(|expected| !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(refused(StatusCode::EXPECTATION_FAILED, Reason::ExpectationFailed));
    }
    client.listener.aliases.apply(&mut head.headers)?;
    if client.protocol.is_framed() {
        join_cookies(&mut head.headers);
        head.headers.remove(HTTP2_SETTINGS);
        // The HTTP/1 library counts by itself.
        if head.headers.len() > MAX_HEADER_LINES {
            return Err(Box::new(reply::empty(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Reason::HeadTooLarge,
            )));
        }
        if is_doubtful_length(&head.headers) {
            return Err(Box::new(reply::empty(StatusCode::BAD_REQUEST, Reason::MalformedRequest)));
        }
    } else if presence.upgrade || presence.http2_settings {
        refuse_h2c(&mut head.headers);
    }
    client.listener.forwarded.apply(head, &client.peer, presence);
    Ok(original)
}

/// Counts what a head holds. `None`: there is no room for it.
fn hold_head(listener: &Listener, headers: &HeaderMap) -> Option<HeaderReservation> {
    let mut held = HeaderReservation::new(listener.heads.clone());
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    held.grow(bytes).then_some(held)
}

/// True for a length of several values, or with a leading zero, which some take for an octal number. HTTP/1 requests
/// are refused for it earlier.
fn is_doubtful_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next();
    lengths.next().is_some() || first.is_some_and(|value| value.len() > 1 && value.as_bytes()[0] == b'0')
}

/// Joins the cookies that HTTP/2 and HTTP/3 may split (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(COOKIE).iter();
    let (Some(first), true) = (values.next(), values.next().is_some()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for value in headers.get_all(COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&whole) {
        headers.insert(COOKIE, value);
    }
}

/// An upgrade to HTTP/2 would carry requests past us to the server.
fn refuse_h2c(headers: &mut HeaderMap) {
    let is_h2c = |value: &HeaderValue| {
        value.as_bytes().split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"h2c"))
    };
    if headers.get_all(UPGRADE).iter().any(is_h2c) {
        headers.remove(UPGRADE);
    }
    headers.remove(HTTP2_SETTINGS);
}

/// The answer to a request that has to be made on another connection (RFC 9110 section 15.5.20).
fn misdirected() -> Response {
    reply::error(StatusCode::MISDIRECTED_REQUEST, "Misdirected Request", Reason::Misdirected)
}

/// True when the requested host has other TLS options than the handshake was made with.
fn is_misdirected(client: &ClientConnection, snapshot: &Snapshot, request: &Request) -> bool {
    let (Some(tls), Some(chosen)) = (&client.connection.tls, &client.tls_options) else {
        return client.connection.tls.is_some();
    };
    chosen.differ_for_host(snapshot, client.listener.index, tls, request)
}
