//! The stream and the state of a connection, which its future and the body of its request share.
//!
//! They are usually on one thread, and the body is polled by the future of the connection, so the lock is free. A body
//! that is read by another task reads the stream itself, and wakes the connection when there is something to do for it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use http::{HeaderMap, StatusCode};
use parking_lot::{Mutex, MutexGuard};
use tidegate_core::body::MinDataRate;
use tidegate_core::{BodyError, Interim};
use tidegate_wire::http1::encode::Fields;
use tidegate_wire::http1::server::{Event, Phase, Server};
use tidegate_wire::http1::{Error, Limits, Piece, Spelling};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::entrypoint::header_budget::{HeaderReservation, MAX_HEADER_LINES};
use crate::entrypoint::linger::Wire;
use crate::entrypoint::listener::Listener;
use crate::output::Output;

/// Bytes per read of a head.
const HEAD_READ: usize = 4 * 1024;
/// Bytes per read of a body: few at first, and more while reads are full.
const BODY_READ: usize = 16 * 1024;
/// Maximum number of bytes per read of a body.
const MAX_BODY_READ: usize = 64 * 1024;
/// Bytes that a client may send ahead of its turn per read.
const AHEAD_READ: usize = 512;
/// Maximum number of bytes of an unread body that are dropped to keep the connection.
const MAX_DISCARDED: usize = 64 * 1024;
/// Maximum number of bytes of informational responses that are buffered for a slow client.
const MAX_INTERIM: usize = 16 * 1024;

/// The stream of a client.
pub(in crate::entrypoint) trait Stream:
    AsyncRead + AsyncWrite + Wire + Unpin + Send + Sync + 'static
{
}

impl<S: AsyncRead + AsyncWrite + Wire + Unpin + Send + Sync + 'static> Stream for S {}

/// The shared state of a connection.
pub(super) struct Shared<S>(Mutex<Io<S>>);

impl<S> Shared<S> {
    pub(super) fn new(stream: S, listener: &Listener) -> Arc<Self> {
        let limits = Limits {
            head: u32::try_from(listener.largest_head).unwrap_or(u32::MAX),
            fields: MAX_HEADER_LINES as u32,
            ..Limits::default()
        };
        Arc::new(Self(Mutex::new(Io {
            stream: Some(stream),
            codec: Server::new(limits),
            output: Output::default(),
            held: HeaderReservation::new(listener.heads.clone()),
            body: RequestBodyState::default(),
            is_polled: false,
            is_parked: false,
            is_write_blocked: false,
            waker: None,
            reads: 0,
            writes: 0,
            body_read: BODY_READ,
            received: 0,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Io<S>> {
        self.0.lock()
    }
}

impl<S: Stream> Interim for Shared<S> {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut io = self.lock();
        if io.output.head_left() > MAX_INTERIM {
            return;
        }
        let Io { codec, output, .. } = &mut *io;
        // It comes too late if there is a response.
        let fields = Fields { headers, spelling: &Spelling::LOWER };
        if codec.inform(status, fields, &mut output.head).is_ok() {
            io.wake();
        }
    }
}

/// What is known about the body of the current request.
#[derive(Debug, Default)]
pub(super) struct RequestBodyState {
    /// Its reader has neither read all of it nor dropped it.
    pub(super) is_open: bool,
    /// Its reader waits for the client.
    pub(super) is_awaited: bool,
    /// The client was too slow for the limits of the router.
    pub(super) is_late: bool,
    /// It was malformed or incomplete.
    pub(super) has_failed: bool,
    /// The limits of the router; `None` for those of the entry point.
    pub(super) limits: Option<MinDataRate>,
    /// The task of the reader, if that is not the task of the connection.
    reader: Option<Waker>,
}

/// The stream of a connection with its state.
pub(super) struct Io<S> {
    /// `None` after an upgrade, and after the end of the connection.
    stream: Option<S>,
    pub(super) codec: Server,
    pub(super) output: Output,
    /// The memory of the head.
    pub(super) held: HeaderReservation,
    pub(super) body: RequestBodyState,
    /// The future of the connection polls a request, and looks at the state afterwards.
    is_polled: bool,
    /// The connection is idle and has no buffers.
    is_parked: bool,
    pub(super) is_write_blocked: bool,
    /// The task of the connection.
    waker: Option<Waker>,
    pub(super) reads: u32,
    pub(super) writes: u32,
    /// Bytes of the next read of a body.
    body_read: usize,
    /// Bytes read.
    pub(super) received: u64,
}

impl<S> Io<S> {
    /// Records that the future of the connection polls a request or a response: it looks at the state afterwards.
    pub(super) fn begin_poll(&mut self, cx: &Context<'_>) {
        self.is_polled = true;
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    /// Records that it has polled it.
    pub(super) fn end_poll(&mut self) {
        self.is_polled = false;
    }

    /// Wakes the connection, unless it looks at the state anyway.
    fn wake(&self) {
        if let Some(waker) = self.waker.as_ref().filter(|_| !self.is_polled) {
            waker.wake_by_ref();
        }
    }

    /// Begins a request.
    pub(super) fn begin_body(&mut self, has_body: bool) {
        self.body = RequestBodyState { is_open: has_body, ..RequestBodyState::default() };
    }

    /// Records that the reader of a body is done with it.
    pub(super) fn close_body(&mut self) {
        (self.body.is_open, self.body.is_awaited) = (false, false);
        self.body.reader = None;
        self.wake();
    }

    /// Records that the body is malformed or incomplete: nothing can follow it.
    pub(super) fn fail_body(&mut self) {
        self.body.has_failed = true;
        self.codec.close_after_response();
    }

    /// Makes the reader of the body fail, since the client is too slow.
    pub(super) fn fail_late_body(&mut self) {
        (self.body.is_late, self.body.is_awaited) = (true, false);
        if let Some(reader) = self.body.reader.take() {
            reader.wake();
        }
    }

    /// Takes the stream, after an upgrade or at the end of the connection.
    pub(super) fn take_stream(&mut self) -> Option<S> {
        if let Some(reader) = self.body.reader.take() {
            reader.wake();
        }
        self.stream.take()
    }

    /// Returns the stream.
    ///
    /// # Errors
    /// If the connection has ended.
    pub(super) fn stream(&mut self) -> io::Result<&mut S> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Counts the memory of an incomplete head. Returns false if the budget does not allow it.
    pub(super) fn reserve_head(&mut self) -> bool {
        !HeaderReservation::counts(self.codec.incomplete_head()) || self.held.grow(self.codec.allocated())
    }

    /// Frees all memory of an idle connection.
    pub(super) fn park(&mut self) {
        self.is_parked = self.codec.release();
        self.output.release();
        self.held.release();
    }
}

impl<S: Stream> Io<S> {
    /// Writes everything there is.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let left = self.output.left();
        let polled = self.output.poll_drain(stream, cx);
        self.writes = self.writes.wrapping_add(u32::from(self.output.left() != left));
        self.is_write_blocked = polled.is_pending();
        polled
    }

    /// Writes everything there is, and then that nothing follows.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let polled = Pin::new(self.stream()?).poll_shutdown(cx);
        self.is_write_blocked = polled.is_pending();
        polled
    }

    /// Reads what belongs to the current message.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if self.is_parked {
            ready!(stream.poll_readable(cx))?;
            self.is_parked = false;
        }
        let is_body = self.codec.phase() == Phase::Body;
        let left = self.codec.body_left().and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        let size = if is_body { left.clamp(HEAD_READ, self.body_read) } else { HEAD_READ };
        let input = self.codec.input();
        input.reserve(size);
        let length = ready!(poll_read_buf(Pin::new(stream), cx, input))?;
        if is_body {
            let next = if length < size { size / 2 } else { size * 2 };
            self.body_read = next.clamp(BODY_READ, MAX_BODY_READ);
        }
        self.count(length);
        Poll::Ready(Ok(length))
    }

    /// Ready when the client is gone while its request is handled. What it sends ahead is kept, within limits.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.codec.phase() == Phase::Responding && self.codec.wants_input() {
            let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
            let mut room = [const { MaybeUninit::uninit() }; AHEAD_READ];
            let mut room = ReadBuf::uninit(&mut room);
            ready!(Pin::new(stream).poll_read(cx, &mut room))?;
            if room.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.codec.input().extend_from_slice(room.filled());
            self.count(room.filled().len());
        }
        Poll::Pending
    }

    /// Returns true if the client has sent something that is not read yet.
    pub(super) fn has_input(&self, cx: &mut Context<'_>) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.poll_readable(cx).is_ready())
    }

    /// Reads the next piece of the body. The client gets its 100 if it waits for one.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        self.body.is_awaited = false;
        let failure = loop {
            match self.codec.poll() {
                Ok(Some(Event::Data(data))) => return Poll::Ready(Ok(Piece::Data(data))),
                Ok(Some(Event::Trailers(trailers))) => return Poll::Ready(Ok(Piece::Trailers(trailers))),
                Ok(Some(Event::End)) => return Poll::Ready(Ok(Piece::End)),
                Ok(Some(Event::Head(_) | Event::Upgraded(_))) => break closed(),
                Ok(None) => {}
                Err(error) => break BodyError::Gone(error.to_string()),
            }
            if self.body.is_late {
                break BodyError::TimedOut;
            }
            if !self.codec.wants_input() {
                break closed();
            }
            self.codec.send_continue(&mut self.output.head);
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => self.codec.end_input(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => break BodyError::Gone(error.to_string()),
                Poll::Pending => {
                    self.body.is_awaited = true;
                    let is_own = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
                    self.body.reader = (!is_own).then(|| cx.waker().clone());
                    self.wake();
                    return Poll::Pending;
                }
            }
        };
        self.fail_body();
        Poll::Ready(Err(failure))
    }

    /// Looks for the end of a body of which all data has been read.
    ///
    /// # Errors
    /// If what follows is malformed.
    pub(super) fn look_ahead(&mut self) -> Result<Option<Event>, Error> {
        if self.codec.body_left() == Some(0) { self.codec.poll() } else { Ok(None) }
    }

    /// Drops the rest of a body that nobody reads, if it has arrived. Returns true if it is complete.
    pub(super) fn discard(&mut self, cx: &mut Context<'_>) -> bool {
        let mut discarded = 0;
        while discarded <= MAX_DISCARDED {
            match self.codec.poll() {
                Ok(Some(Event::End)) => return true,
                Ok(Some(Event::Data(data))) => discarded += data.len(),
                Ok(Some(_)) => {}
                Ok(None) if !self.codec.wants_input() => return false,
                Ok(None) => match self.poll_read(cx) {
                    Poll::Ready(Ok(length @ 1..)) => discarded += length,
                    _ => return false,
                },
                Err(_) => return false,
            }
        }
        false
    }

    fn count(&mut self, length: usize) {
        self.reads = self.reads.wrapping_add(1);
        self.received = self.received.wrapping_add(length as u64);
    }
}

fn closed() -> BodyError {
    BodyError::Gone("connection closed".into())
}
