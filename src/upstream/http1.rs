//! A connection of HTTP/1 to a server. It has no task: whoever sends a request on it, or reads the response, polls it.

mod body;
mod error;
mod release;
mod upload;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{StatusCode, request};
use http_body::Body as _;
use tidegate_core::{Body, Interim};
use tidegate_wire::http1::client::{Client, Event, Request};
use tidegate_wire::http1::encode::Fields;
use tidegate_wire::http1::response::ResponseHead;
use tidegate_wire::http1::{Limits, Payload, Spelling};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::connect::Stream;
use super::fields;
use crate::output::Output;

pub(super) use body::response_body;
pub(super) use error::Http1Error;
pub(super) use release::Release;

/// Limits of what servers may send.
const LIMITS: Limits =
    Limits { head: 1 << 20, target: 0, fields: 1024, trailers: 64 << 10, extensions: 64 << 10 };
/// Maximum size of a forwarded informational response in bytes.
const MAX_INTERIM: usize = 16 * 1024;
/// Maximum size of the first read of a response.
const FIRST_READ: usize = 16 * 1024;
/// Space for the head of a request.
const USUAL_HEAD: usize = 1024;

/// A connection, and the exchange on it.
pub(super) struct Http1 {
    stream: Stream,
    codec: Client,
    output: Output,
    /// The rest of the request's body.
    body: Option<Body>,
    /// The address of the peer, if the server has a host name.
    pub(super) peer: Option<IpAddr>,
}

impl Http1 {
    /// Wraps a new stream.
    pub(super) fn new(stream: Stream, peer: Option<IpAddr>) -> Box<Self> {
        Box::new(Self { stream, codec: Client::new(LIMITS), output: Output::default(), body: None, peer })
    }

    /// Returns true if a request can be sent. Notices that the server has closed the connection, or has sent what it was
    /// not asked for. Does not wait.
    pub(super) fn is_usable(&mut self) -> bool {
        if !self.codec.is_reusable() {
            return false;
        }
        if let Some(is_quiet) = self.stream.is_quiet() {
            return is_quiet;
        }
        // Whatever the task has done before: a connection that is not looked at would seem open.
        let looking = pin!(tokio::task::unconstrained(poll_fn(|cx| self.poll_unasked(cx))));
        looking.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Ready when the server closes the connection, or sends what it was not asked for.
    fn poll_unasked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(|_| ())
    }

    /// Begins a request: what is sent first is written into the buffer.
    ///
    /// # Errors
    /// If the connection is not [usable](Self::is_usable).
    pub(super) fn begin(
        &mut self,
        head: &request::Parts,
        body: Body,
        is_upgrade: bool,
    ) -> Result<(), Http1Error> {
        let payload = payload(head, &body);
        if self.output.head.capacity() == 0 {
            self.output.head = Vec::with_capacity(USUAL_HEAD);
        }
        let fields = Fields { headers: &head.headers, spelling: &Spelling::USUAL };
        let (method, uri) = (&head.method, &head.uri);
        self.codec
            .request(Request { method, uri, fields, payload, upgrade: is_upgrade }, &mut self.output.head)?;
        // An empty body may still turn out to be malformed: the request waits for its end.
        self.body = (!body.is_end_stream()).then_some(body);
        Ok(())
    }

    /// Sends the request, and waits for the head of its response. Informational responses before it are passed to
    /// `interim`. The body may still be on its way afterwards: [`Self::is_sending`].
    ///
    /// # Errors
    /// If the connection or the body fails. It cannot be used any more then.
    pub(super) async fn exchange(
        &mut self,
        interim: Option<&dyn Interim>,
    ) -> Result<ResponseHead, Http1Error> {
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            loop {
                match ready!(self.poll_event(cx))? {
                    Event::Head(head) => return Poll::Ready(Ok(head)),
                    Event::Informational(mut head) => relay(&mut head, interim),
                    Event::Data(_) | Event::Trailers(_) | Event::End | Event::Upgraded(_) => {
                        return Poll::Ready(Err(Http1Error::Closed));
                    }
                }
            }
        })
        .await
    }

    /// Returns true while the request is incomplete.
    pub(super) fn is_sending(&self) -> bool {
        self.body.is_some() || !self.output.is_empty()
    }

    /// After a response with status 101: the stream, and what the server has sent on it.
    pub(super) fn into_tunnel(mut self) -> (Stream, BytesMut) {
        let rest = match self.codec.poll() {
            Ok(Some(Event::Upgraded(rest))) => rest,
            _ => BytesMut::new(),
        };
        (self.stream, rest)
    }

    /// Writes as much of the request as there is. Ready when it is complete.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        loop {
            let mut is_waiting = false;
            if let Some(body) = &mut self.body
                && !self.output.has_frame()
            {
                match Self::poll_body(&mut self.codec, &mut self.output, Pin::new(body), cx) {
                    // The guards of the body learn that it was read to the end.
                    Poll::Ready(Ok(true)) => self.body = None,
                    Poll::Ready(Ok(false)) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => is_waiting = true,
                }
            }
            if is_waiting && !self.codec.is_sending() {
                return Poll::Pending;
            }
            ready!(self.output.poll_drain(&mut self.stream, cx))?;
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            if is_waiting {
                return Poll::Pending;
            }
        }
    }

    /// Takes the next part of a body. Ready with true when it has ended.
    fn poll_body(
        codec: &mut Client,
        output: &mut Output,
        mut body: Pin<&mut Body>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Http1Error>> {
        let is_empty = !codec.is_sending();
        let Some(part) = ready!(body.as_mut().poll_frame(cx)) else {
            if !is_empty {
                codec.send_end(None, &mut output.head)?;
            }
            return Poll::Ready(Ok(true));
        };
        let trailers = match part.map_err(Http1Error::Body)?.into_data() {
            Ok(data) if is_empty && data.is_empty() => return Poll::Ready(Ok(body.is_end_stream())),
            Err(_) if is_empty => return Poll::Ready(Ok(true)),
            Ok(data) => {
                let last = body.is_end_stream();
                output.set_frame(codec.send_data(data, last)?);
                return Poll::Ready(Ok(last));
            }
            Err(part) => part.into_trailers().unwrap_or_default(),
        };
        codec.send_end(Some(Fields { headers: &trailers, spelling: &Spelling::USUAL }), &mut output.head)?;
        Poll::Ready(Ok(true))
    }

    /// Reads until there is a part of the response.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Http1Error>> {
        loop {
            if let Some(event) = self.codec.poll()? {
                return Poll::Ready(Ok(event));
            }
            if !self.codec.wants_input() {
                return Poll::Ready(Err(Http1Error::Closed));
            }
            if ready!(self.poll_read(cx))? == 0 {
                self.codec.end_input();
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let is_sending = self.is_sending();
        let size = self.stream.read_size();
        let input = self.codec.input();
        let polled = if input.capacity() == 0 && size < FIRST_READ {
            poll_first(&mut self.stream, (input, size), cx)
        } else {
            input.reserve(size);
            poll_read_buf(Pin::new(&mut self.stream), cx, input)
        };
        match ready!(polled) {
            // A server that closes with unread request data resets the connection, which ends its response.
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionReset && is_sending && !self.stream.is_tls() =>
            {
                Poll::Ready(Ok(0))
            }
            outcome => Poll::Ready(outcome),
        }
    }

    /// Returns the content of a response's body that ends after `length` bytes, if all of it has been read.
    fn take_whole(&mut self, length: u64) -> Option<Bytes> {
        if self.codec.input().len() as u64 != length || self.is_sending() {
            return None;
        }
        let Ok(Some(Event::Data(data))) = self.codec.poll() else { return None };
        // The codec learns that it is the end.
        let ended = self.codec.poll();
        debug_assert!(matches!(ended, Ok(Some(Event::End))), "the length is known");
        Some(data)
    }

    /// Frees the memory of a connection that becomes idle. Returns false if it cannot be used again.
    fn park(&mut self) -> bool {
        self.output.release();
        !self.is_sending() && self.codec.is_reusable() && self.codec.release()
    }
}

/// Reads the first of a response. It gets a buffer of its size, as most responses are small.
#[inline(never)] // Its stack is large.
fn poll_first(
    stream: &mut Stream,
    (input, size): (&mut BytesMut, usize),
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; FIRST_READ];
    let mut room = ReadBuf::uninit(&mut room[..size]);
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    *input = BytesMut::from(room.filled());
    Poll::Ready(Ok(room.filled().len()))
}

/// How the end of a body is announced: as its source knows it, or as the client has.
fn payload(head: &request::Parts, body: &Body) -> Payload {
    let announced = || head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    if body.is_end_stream() {
        return if fields::announces_none(&head.method) { Payload::Length(0) } else { Payload::None };
    }
    body.size_hint().exact().or_else(announced).map_or(Payload::Unknown, Payload::Length)
}

/// Passes an informational response on. The client gets a 100 when its body is read.
fn relay(head: &mut ResponseHead, interim: Option<&dyn Interim>) {
    let Some(client) = interim.filter(|_| head.parts.status != StatusCode::CONTINUE) else { return };
    let headers = &mut head.parts.headers;
    let _ = fields::clean_response(headers);
    headers.remove(CONTENT_LENGTH);
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size <= MAX_INTERIM {
        client.send(head.parts.status, &head.parts.headers);
    }
}
