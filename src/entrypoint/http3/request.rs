//! A request stream: reads the head, handles the request, and sends the response.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Method, StatusCode, request};
use http_body::Body as _;
use hyper::ext::Protocol;
use quinn::{RecvStream, SendStream};
use tidegate_core::{Body, Reason, Response, reply};
use tidegate_wire::http3::frame::{Event, Fault, Frames, code};
use tidegate_wire::http3::head::{self, HeadError, RequestHead};
use tokio::time::Instant;

use super::answer::{Eviction, ResponseStream, Unwanted};
use super::hints::Hints;
use super::tunnel;
use super::upload::{Ending, Source, Spoiled, Upload, report};
use crate::entrypoint::header_budget::HeaderReservation;
use crate::entrypoint::http::body::OpenResponse;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::closing::Closing;
use crate::entrypoint::http::min_rate::{self, Responding};
use crate::entrypoint::http::tunnel::connect_response;
use crate::entrypoint::http::upgrade;
use crate::entrypoint::http::{ReceivedRequest, begin_tunnel, respond};
use crate::entrypoint::linger::{self, Leftover};

/// How long to wait for a body of methods that usually have none, as servers may refuse one. Go's HTTP library waits as
/// long.
const BODY_PROBE: Duration = Duration::from_millis(200);

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client has received its response.
    Answered,
    /// The work was wasted: the client cancelled, was too slow, or broke the protocol.
    Wasted,
}

/// Converts a head. The protocol of an extended CONNECT is kept if it can be served.
fn into_parts(head: RequestHead) -> Box<request::Parts> {
    let RequestHead { parts, protocol } = head;
    let mut parts = Box::new(parts);
    if protocol.is_some_and(|protocol| *protocol == *b"websocket") {
        parts.extensions.insert(Protocol::from_static("websocket"));
    }
    parts
}

/// Handles a request stream of `quic`.
pub(super) async fn handle_request(
    client: Arc<ClientConnection>,
    quic: quinn::Connection,
    (sending, receiving): (SendStream, RecvStream),
) -> Ended {
    let limits = client.listener.limits;
    let largest = client.listener.max_header_bytes;
    let deadline = limits.write.map(|limit| Instant::now() + limit);
    let eviction = Eviction { quic: quic.clone(), connections: client.listener.connections.clone() };
    let mut answer = ResponseStream::new(sending, deadline, eviction);
    // Encoding shortens fields by a third at most, so longer blocks exceed the limit.
    let source = Source::new(receiving, Frames::of_request(largest));
    let mut source = source.counted(HeaderReservation::new(client.listener.heads.clone()));
    let (mut head, length) = match read_head(&client, &mut source).await {
        Ok(head) => head,
        Err(NoHead::Gone) => return Ended::Wasted,
        Err(NoHead::Fault(fault)) => return refuse(&quic, &mut source, &mut answer, fault),
        Err(NoHead::Refused(status, reason)) => {
            client.listener.count_refused(reason);
            let _ = answer.send(reply::empty(status, reason), false).await;
            return Ended::Wasted;
        }
    };
    // Held until there is a response.
    let _held = source.take_held();
    if head.method == Method::CONNECT && begin_tunnel(&mut head) {
        return handle_tunnel(&client, &quic, (source, answer), head).await;
    }
    let is_head = head.method == Method::HEAD;
    // A client may end the stream shortly after the head.
    let patience =
        if length.is_none() && usually_lacks_body(&head.method) { BODY_PROBE } else { Duration::ZERO };
    let min_rate = min_rate::for_request(limits.min_rate(), &head.headers);
    let spoiled = Spoiled::default();
    let responding = Responding::stream();
    let (body, leftover) = match read_body(source, &quic, length, patience, (largest, spoiled.clone())).await
    {
        Ok(body) if body.is_end_stream() => (body, None),
        Ok(body) => {
            let (body, leftover) = min_rate::with_min_rate_and_leftover(body, min_rate, responding.clone());
            (body, Some(leftover))
        }
        Err(fault) => {
            answer.reset(fault.code);
            return Ended::Wasted;
        }
    };
    let hints = Arc::new(Hints::default());
    let arrived = ReceivedRequest { head, body, interim: Some(hints.clone()), upgrade: None };
    let Some(response) = response_with_hints(&client, &mut answer, arrived, &hints).await else {
        return Ended::Wasted;
    };
    responding.set(true);
    if let Some(code) = spoiled.get() {
        answer.reset(*code);
        return Ended::Wasted;
    }
    let sent = answer.interim(hints.take()).await.is_ok() && answer.send(response, is_head).await.is_ok();
    responding.set(false);
    if !sent {
        return Ended::Wasted;
    }
    deliver(&mut answer, leftover).await
}

/// Waits until the client has the response. The rest of its request is read, so that it reads the response; then it is
/// asked to stop. The connection may close once no stream is open, which would lose undelivered data.
async fn deliver(answer: &mut ResponseStream, leftover: Option<Leftover>) -> Ended {
    let drained = async {
        if let Some(leftover) = leftover {
            linger::drain(leftover).await;
        }
    };
    let (delivered, ()) = tokio::join!(answer.delivered(), drained);
    if delivered.is_ok() { Ended::Answered } else { Ended::Wasted }
}

/// Why the head of a stream cannot be handled.
enum NoHead {
    /// The client disconnected.
    Gone,
    /// The client broke the protocol.
    Fault(Fault),
    /// The request is refused with a status.
    Refused(StatusCode, Reason),
}

impl From<HeadError> for NoHead {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLarge => {
                Self::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::HeadTooLarge)
            }
            HeadError::TargetTooLong => Self::Refused(StatusCode::URI_TOO_LONG, Reason::TargetTooLong),
            other => Self::Fault(other.into()),
        }
    }
}

/// Reads the head and the announced length of the body.
async fn read_head(
    client: &ClientConnection,
    source: &mut Source,
) -> Result<(Box<request::Parts>, Option<u64>), NoHead> {
    let first = std::future::poll_fn(|cx| source.poll_event(cx));
    let first = match client.listener.limits.head {
        None => first.await,
        Some(limit) => match tokio::time::timeout(limit, first).await {
            Ok(first) => first,
            Err(_) => {
                Err(Fault::stream(code::REQUEST_INCOMPLETE, "timed out waiting for a request head").into())
            }
        },
    };
    let head = match first {
        Ok(Some(Event::Block(block))) => into_parts(head::request(&block, client.listener.max_header_bytes)?),
        Ok(Some(Event::TooLong)) => return Err(HeadError::TooLarge.into()),
        // The frame parser reports a stream that does not start with a head.
        Ok(Some(Event::Data(_)) | None) => return Err(HeadError::Malformed("no head").into()),
        Err(Ending::Gone(_)) => return Err(NoHead::Gone),
        Err(Ending::Fault(fault)) => return Err(NoHead::Fault(fault)),
    };
    let length = head::content_length(&head.headers)?;
    Ok((head, length))
}

/// Returns the response to a request, and sends informational responses meanwhile. Returns `None` if the client has
/// cancelled, or the deadline is reached.
async fn response_with_hints(
    client: &ClientConnection,
    answer: &mut ResponseStream,
    arrived: ReceivedRequest,
    hints: &Hints,
) -> Option<Response> {
    let mut responding = std::pin::pin!(respond(client, arrived));
    let mut over = std::pin::pin!(answer.over());
    let mut late = std::pin::pin!(answer.late());
    loop {
        tokio::select! {
            biased;
            (response, closing) = &mut responding => return Some(with_closing(response, closing)),
            () = std::future::poll_fn(|cx| hints.poll_any(cx)) => {
                answer.interim(hints.take()).await.ok()?;
            }
            () = &mut over => return None,
            () = &mut late => return None,
        }
    }
}

/// Handles a CONNECT for a WebSocket.
async fn handle_tunnel(
    client: &ClientConnection,
    quic: &quinn::Connection,
    (mut source, mut answer): (Source, ResponseStream),
    head: Box<request::Parts>,
) -> Ended {
    let (mut upgrade, give) = upgrade::pending();
    // The connection counts as busy while the tunnel is open.
    upgrade.hold(Arc::new(OpenResponse::new(client.progress.clone())));
    let arrived = ReceivedRequest { head, body: Body::empty(), interim: None, upgrade: Some(upgrade) };
    let response = tokio::select! {
        biased;
        (response, closing) = respond(client, arrived) => with_closing(response, closing),
        () = answer.over() => return Ended::Wasted,
    };
    let changed = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let response = connect_response(response);
    if !changed {
        return if answer.send(response, false).await.is_ok() { Ended::Answered } else { Ended::Wasted };
    }
    let (near, far) = tokio::io::duplex(tunnel::BUFFER);
    if answer.open(response).await.is_err() || give.send(Box::new(far)).is_err() {
        return Ended::Wasted;
    }
    match tunnel::copy(quic, &mut source, &mut answer, near).await {
        Ok(()) => Ended::Answered,
        Err(Unwanted) => Ended::Wasted,
    }
}

/// Ties the end of the exchange to the body of a response.
fn with_closing(response: Response, closing: Option<Closing>) -> Response {
    match closing {
        Some(closing) => response.map(|body| body.with_guard(Box::new(closing))),
        None => response,
    }
}

fn refuse(quic: &quinn::Connection, source: &mut Source, answer: &mut ResponseStream, fault: Fault) -> Ended {
    report(quic, source, fault);
    answer.reset(fault.code);
    Ended::Wasted
}

/// Returns true for methods whose requests rarely have a body.
fn usually_lacks_body(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS | Method::TRACE)
}

/// Returns the body of a request, which is empty if the stream ends together with the head, or within `patience`.
async fn read_body(
    mut source: Source,
    quic: &quinn::Connection,
    length: Option<u64>,
    patience: Duration,
    (largest_trailers, spoiled): (usize, Spoiled),
) -> Result<Body, Fault> {
    let mut look = std::future::poll_fn(|cx| Poll::Ready(source.poll_event(cx))).await;
    if look.is_pending() && !patience.is_zero() {
        let first = std::future::poll_fn(|cx| source.poll_event(cx));
        look = tokio::time::timeout(patience, first).await.map_or(Poll::Pending, Poll::Ready);
    }
    let (first, fault) = match look {
        Poll::Pending => (None, None),
        Poll::Ready(Ok(Some(event))) => (Some(event), None),
        Poll::Ready(Ok(None)) if length.unwrap_or(0) == 0 => return Ok(Body::empty()),
        Poll::Ready(Ok(None)) => (None, Some(Fault::stream(code::MESSAGE_ERROR, "less body than announced"))),
        Poll::Ready(Err(Ending::Fault(fault))) => (None, Some(fault)),
        Poll::Ready(Err(Ending::Gone(_))) => {
            (None, Some(Fault::stream(code::REQUEST_CANCELLED, "the client cancelled its request")))
        }
    };
    if let Some(fault) = fault {
        report(quic, &mut source, fault);
        return Err(fault);
    }
    Ok(Body::boxed(Upload::new(source, quic.clone(), first, length, largest_trailers, spoiled)))
}
