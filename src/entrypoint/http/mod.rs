//! Handles requests of every version of HTTP: normalizes and routes them, and passes them through their chains.

pub(in crate::entrypoint) mod aliases;
pub(in crate::entrypoint) mod body;
pub(in crate::entrypoint) mod chosen_options;
pub(in crate::entrypoint) mod client_connection;
pub(in crate::entrypoint) mod closing;
pub(in crate::entrypoint) mod date;
pub(crate) mod forwarded;
pub(in crate::entrypoint) mod min_rate;
pub(in crate::entrypoint) mod prepare;
pub(in crate::entrypoint) mod presence;
pub(crate) mod preview;
pub(in crate::entrypoint) mod protocol;
pub(in crate::entrypoint) mod proxy_status;
pub(in crate::entrypoint) mod server_timing;
pub(in crate::entrypoint) mod target;
pub(in crate::entrypoint) mod timed_body;
pub(in crate::entrypoint) mod timeouts;
pub(in crate::entrypoint) mod tunnel;
pub(crate) mod upgrade;

use std::any::Any;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use http::header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use tidegate_config::Kind;
use tidegate_core::{
    Body, BodyErrorKind, Context, End, Exchange, Guard, Interim, OpenSpan, Reason, Request, Response,
    SpanKind, Upgrade, reply,
};
use tidegate_middlewares::error_pages::Asked;

use crate::entrypoint::header_budget::HeaderReservation;
use crate::entrypoint::hold::EARLY;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::closing::Closing;
use crate::entrypoint::http::prepare::Preparation;
use crate::entrypoint::http::presence::Presence;
use crate::entrypoint::listener::Listener;
use crate::entrypoint::shutdown::Phase;
use crate::internal::PROVIDER;
use crate::observability::Observers;
use crate::observability::statistics::Counting;
use crate::snapshot::report::Status;
use crate::snapshot::{Route, Snapshot, begin_span};
use crate::tls::revocation::Refusal;

/// A request as its protocol delivers it.
pub(in crate::entrypoint) struct ReceivedRequest {
    pub(in crate::entrypoint) head: Box<http::request::Parts>,
    pub(in crate::entrypoint) body: Body,
    /// Sends informational responses to the client, if the protocol can.
    pub(in crate::entrypoint) interim: Option<Arc<dyn Interim>>,
    /// The client's side of an upgrade, if the request asks for one.
    pub(in crate::entrypoint) upgrade: Option<Box<Upgrade>>,
}

/// Tells a client that its entry point also serves HTTP/3.
pub(in crate::entrypoint) fn advertise(client: &ClientConnection, response: &mut Response) {
    let alternative = client.listener.alternative.as_ref();
    if let Some(alternative) = alternative.filter(|_| client.connection.tls.is_some()) {
        prepend_header(response.headers_mut(), ALT_SVC, alternative);
    }
}

/// Turns an extended CONNECT into an upgrade. Returns false for any other request.
pub(in crate::entrypoint) fn begin_tunnel(head: &mut http::request::Parts) -> bool {
    let protocol = head.extensions.remove::<hyper::ext::Protocol>();
    protocol.is_some_and(|protocol| tunnel::translate(head, protocol.as_str()))
}

/// Returns the response to a request of any version, and what ends its exchange when the body ends.
pub(in crate::entrypoint) async fn respond(
    client: impl Deref<Target = ClientConnection>,
    arrived: ReceivedRequest,
) -> (Response, Option<Closing>) {
    let client = &*client;
    let presence = Presence::from_headers(&arrived.head.headers);
    let asked = client.listener.has_error_pages.then(|| Box::new(Asked::of(&arrived.head)));
    let mut pending = Pending { client, closing: None };
    // Not the output of the future, which would be copied at each layer around it.
    let mut routed = None;
    let routing =
        async { routed = Some(route_request(client, arrived, presence, &mut pending.closing).await) };
    let outcome = AssertUnwindSafe(routing).catch_unwind().await;
    let mut closing = pending.closing.take();
    let mut response = routed.unwrap_or_else(|| internal_error(client, outcome.err()));
    if let Some(asked) = asked.filter(|_| response.reason.is_some()) {
        apply_error_pages(client, &mut response, &asked, closing.as_ref().map(Closing::exchange));
    }
    if let Some(proxy_status) = &client.listener.proxy_status {
        proxy_status.apply(&mut response, closing.as_ref().map(Closing::exchange));
    }
    if let Some(closing) = closing.as_ref().filter(|_| client.listener.server_timing.is_some()) {
        server_timing::apply(&mut response, closing.exchange());
    }
    let finish = if client.protocol.is_framed() { finish_framed } else { finish_http1 };
    finish(client, &mut response, presence.upgrade, closing.as_mut());
    if response.status() == StatusCode::NOT_MODIFIED {
        // The client has the content, and what it is, already (RFC 9110 section 15.4.5).
        response.headers_mut().remove(CONTENT_TYPE);
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    (response, closing)
}

/// Returns the response to a request whose handler has panicked.
#[cold]
fn internal_error(client: &ClientConnection, panic: Option<Box<dyn Any + Send>>) -> Response {
    let panic = panic.as_deref();
    let text = panic.and_then(|panic| panic.downcast_ref::<String>()).map(String::as_str);
    let what = text.or(panic.and_then(|panic| panic.downcast_ref::<&str>()).copied());
    tracing::error!(entry_point = %client.listener.name, panic = what, "a request handler panicked");
    reply::status_text(StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError)
}

/// Gives an error of the gateway the form that its entry point has for it.
#[cold]
fn apply_error_pages(
    client: &ClientConnection,
    response: &mut Response,
    asked: &Asked,
    exchange: Option<&Exchange>,
) {
    let snapshot = client.listener.snapshots.load();
    let routes = snapshot.entry_points.get(client.listener.index);
    if let Some(pages) = routes.and_then(|routes| routes.error_pages.as_ref()) {
        pages.apply(response, asked, exchange);
    }
}

/// A request without a response. It is dropped if its connection ends.
struct Pending<'a> {
    client: &'a ClientConnection,
    closing: Option<Closing>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(closing) = self.closing.as_mut().filter(|_| self.client.progress.is_cut()) {
            closing.finish(End::Failed(BodyErrorKind::TimedOut));
        }
    }
}

/// Completes a response over HTTP/1 with `Connection`.
fn finish_http1(
    client: &ClientConnection,
    response: &mut Response,
    wants_upgrade: bool,
    closing: Option<&mut Closing>,
) {
    if let Some(closing) = closing {
        closing.record_response(response);
    }
    let is_over = is_over(client);
    if response.status() != StatusCode::SWITCHING_PROTOCOLS && (is_over || wants_upgrade) {
        // Bytes after a request for an upgrade may already belong to the new protocol.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Completes a response over HTTP/2 or HTTP/3: refuses false successes of tunnels, and starts a due shutdown.
fn finish_framed(
    client: &ClientConnection,
    response: &mut Response,
    wants_upgrade: bool,
    closing: Option<&mut Closing>,
) {
    if wants_upgrade {
        tunnel::refuse_success(response);
    }
    if let Some(closing) = closing {
        closing.record_response(response);
    }
    if is_over(client) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        client.progress.leave();
    }
}

/// Counts a request. Returns true if its connection has reached `keepAliveMaxTime` or `keepAliveMaxRequests`, or if
/// the gateway is stopping.
fn is_over(client: &ClientConnection) -> bool {
    let served = client.requests.fetch_add(1, Ordering::Relaxed) + 1;
    (client.listener.max_requests > 0 && served >= client.listener.max_requests)
        || client.listener.max_time.is_some_and(|limit| client.connection.accepted.elapsed() >= limit)
        || client.listener.shutdown.has_reached(Phase::Draining)
}

/// Adds a header before existing ones of the same name.
fn prepend_header(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let existing: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
    headers.insert(&name, value.clone());
    for value in existing {
        headers.append(&name, value);
    }
}

async fn route_request(
    client: &ClientConnection,
    arrived: ReceivedRequest,
    presence: Presence,
    closing: &mut Option<Closing>,
) -> Response {
    let listener = &*client.listener;
    let ReceivedRequest { mut head, body, interim, upgrade } = arrived;
    let mut exchange = Exchange::begin(client.connection.clone(), head.version);
    exchange.keep_times = listener.keeps_times();
    // Before anything records the headers: the token is a secret.
    if listener.server_timing.as_ref().is_some_and(|timing| timing.take_token(&mut head.headers)) {
        exchange.record_timing();
    }
    let exchange = Arc::new(exchange);
    // Held until there is a response.
    let _held = match client.progress.has_large().then(|| hold_head(listener, &head.headers)) {
        Some(None) => {
            *closing = Some(refused_exchange(listener, exchange, &head));
            return reply::status_text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::HeadTooLarge);
        }
        held => held,
    };
    let original_target = match prepare(client).apply(&mut head, presence) {
        Ok(original) => original.map(Arc::new),
        Err(response) => {
            *closing = Some(refused_exchange(listener, exchange, &head));
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
    let identified = client.identify(&snapshot.consumers, &mut request.context);
    if is_misdirected(client, &snapshot, &request) {
        *closing = Some(refused_exchange(listener, request.context.exchange, &request.head));
        return misdirected();
    }
    let route = find_route(client, &snapshot, &request);
    let timed = timeouts::begin(client, &mut request, route.and_then(|route| route.timeouts.as_ref()));
    let begun = begin_exchange(listener, &mut request, route.map(|route| &**route), presence);
    *closing = Some(begun);
    let Some(route) = route else { return reply::not_found(Reason::NoRouter) };
    if identified.is_err() {
        return reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::ConsumerBroken);
    }
    if let Some(response) = refused_by_route(client, route, &request) {
        return response;
    }
    // Boxed, since most connections do not need this memory.
    if let Some(check) = &client.check
        && let Err(refusal) = Box::pin(client.check_certificate(check, &snapshot)).await
    {
        return refuse_certificate(client, refusal);
    }
    let span = begin_span(&request, SpanKind::Router);
    let response = match timed {
        None => route.chain.run(request).await,
        // Boxed, since most requests do not need this memory.
        Some(timed) => Box::pin(timed.run(&route.chain, request)).await,
    };
    OpenSpan::end(span, response.status().as_u16());
    response
}

fn find_route<'s>(
    client: &ClientConnection,
    snapshot: &'s Snapshot,
    request: &Request,
) -> Option<&'s Arc<Route>> {
    let routes = snapshot.entry_points.get(client.listener.index)?;
    let index = if client.connection.tls.is_some() { &routes.tls } else { &routes.plain };
    index.find(request)
}

/// Returns true if a request is handled before the first configuration is complete: one for the gateway's `/ping` or
/// `/ready`, whose routers no other can override.
fn is_early(listener: &Listener, snapshot: &Snapshot, request: &Request) -> bool {
    let routes = snapshot.entry_points.get(listener.index).filter(|_| listener.early);
    let Some(route) = routes.and_then(|routes| routes.plain.find(request)) else { return false };
    let object = snapshot.report.object(Kind::Router, &route.info.router);
    EARLY.iter().any(|path| route.info.router[..] == format!("{}@{PROVIDER}", &path[1..]))
        && object.is_some_and(|object| object.priority == i64::MAX && object.status != Status::Disabled)
}

/// Completes the exchange once the route is known, and starts its access log line if one will be written.
fn begin_exchange(
    listener: &Listener,
    request: &mut Request,
    route: Option<&Route>,
    presence: Presence,
) -> Closing {
    let observability = route.map_or(&listener.observability, |route| &route.observability);
    let log = listener.log.as_ref().filter(|_| observability.access_logs);
    let meter = listener.meter.as_ref().filter(|_| observability.metrics);
    let info = route.map(|route| &*route.info);
    let counted =
        meter.and_then(|meter| meter.counted(request, info, (presence.upgrade, presence.media_type)));
    let meter = meter.filter(|_| counted.is_some()).map(|meter| meter.begin(counted.as_ref()));
    let tracer = listener.tracer.as_ref().filter(|_| observability.tracing);
    let traced = tracer.and_then(|tracer| tracer.begin(request, info, observability));
    let (spans, trace) = traced.unzip();
    // The exchange is not shared yet.
    if let Some(exchange) = Arc::get_mut(&mut request.context.exchange) {
        exchange.counted = counted;
        exchange.keep_headers = log.is_some_and(|log| log.keeps_headers());
        if let Some(route) = route {
            exchange.set_route(route.info.clone());
        }
        if let Some(spans) = spans {
            exchange.set_spans(spans);
        }
    }
    let exchange = request.context.exchange.clone();
    if !request.body.is_end_stream() {
        let received = Box::new(ReceivedGuard(exchange.clone()));
        request.body = std::mem::take(&mut request.body).with_guard(received);
    }
    let line = log.map(|log| Box::new(log.begin(request, presence.forwarded_for)));
    let recording = listener
        .requests
        .as_ref()
        .map(|requests| requests.begin(listener.index, &exchange, &request.head, presence.forwarded_for));
    let audited = listener.audit.as_ref();
    let audited = audited.map(|log| Box::new(log.begin(&request.head, presence.forwarded_for)));
    let counting = begin_counting(listener, &request.head);
    let observers = Observers { line, meter, trace: trace.flatten(), recording, audited, counting };
    Closing::observed(exchange, observers)
}

/// Returns the end of an exchange that is refused before it is routed: only the API shows it, and its response is
/// counted.
fn refused_exchange(listener: &Listener, exchange: Arc<Exchange>, head: &http::request::Parts) -> Closing {
    let recording =
        listener.requests.as_ref().map(|requests| requests.begin(listener.index, &exchange, head, true));
    let meter = listener.meter.as_ref().filter(|_| listener.observability.metrics);
    let meter = meter.map(|meter| meter.begin(None));
    let counting = begin_counting(listener, head);
    Closing::observed(exchange, Observers { recording, meter, counting, ..Observers::default() })
}

/// Begins to count a request for the statistics of the API, if somebody asks for them.
fn begin_counting(listener: &Listener, head: &http::request::Parts) -> Option<Counting> {
    let statistics = listener.statistics.as_ref()?;
    statistics.begin(listener.index, &head.headers)
}

/// Counts the bytes of a request body.
struct ReceivedGuard(Arc<Exchange>);

impl Guard for ReceivedGuard {
    fn data(&mut self, length: usize) {
        self.0.add_received(length);
    }

    fn end(self: Box<Self>, _: End) {}
}

/// Returns how the requests of a client are normalized before they are routed.
fn prepare(client: &ClientConnection) -> Preparation<'_> {
    let Listener { target, aliases, own, forwarded, .. } = &*client.listener;
    let framed = client.protocol.is_framed();
    Preparation { target, aliases: *aliases, own, forwarded, peer: &client.peer, framed }
}

/// Reserves the memory of a head. Returns `None` if the budget is exhausted.
fn hold_head(listener: &Listener, headers: &HeaderMap) -> Option<HeaderReservation> {
    let mut held = HeaderReservation::new(listener.heads.clone());
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    held.grow(bytes).then_some(held)
}

/// Returns the response to a request that needs another connection (RFC 9110 section 15.5.20).
fn misdirected() -> Response {
    reply::error(StatusCode::MISDIRECTED_REQUEST, "Misdirected Request", Reason::Misdirected)
}

/// Returns the response to a request that its route does not accept on this connection, or with this path.
fn refused_by_route(client: &ClientConnection, route: &Route, request: &Request) -> Option<Response> {
    if client.tls_options.as_ref().is_some_and(|chosen| chosen.differ_for_route(route)) {
        return Some(misdirected());
    }
    let is_denied = client.listener.target.denies(request.path());
    is_denied.then(|| reply::empty(StatusCode::BAD_REQUEST, Reason::EncodedCharacters))
}

/// Returns the response to a client whose certificate no longer counts, and ends its connection, so that it may present
/// another one.
fn refuse_certificate(client: &ClientConnection, refusal: Refusal) -> Response {
    let status = match refusal {
        Refusal::Revoked | Refusal::Invalid => StatusCode::FORBIDDEN,
        Refusal::Unverified => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = reply::status_text(status, refusal.reason());
    match client.protocol.is_framed() {
        true => client.progress.leave(),
        false => drop(response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
    }
    response
}

/// Returns true if the requested host has other TLS options than the handshake used.
fn is_misdirected(client: &ClientConnection, snapshot: &Snapshot, request: &Request) -> bool {
    let (Some(tls), Some(chosen)) = (&client.connection.tls, &client.tls_options) else {
        return client.connection.tls.is_some();
    };
    chosen.differ_for_host(snapshot, client.listener.index, tls, request)
}
