//! The receiving side of a request stream: head and body.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use quinn::{ReadError, RecvStream, VarInt};
use tidegate_core::BodyError;
use tidegate_wire::http3::frame::{Event, Fault, Frames, code};
use tidegate_wire::http3::head;

use crate::entrypoint::header_budget::HeaderReservation;

/// Maximum number of bytes per read.
const PIECE: usize = 64 * 1024;
/// Maximum number of reads without an event before the task yields.
const MAX_READS_PER_POLL: usize = 32;

/// Why a stream ended early.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client broke the protocol.
    Fault(Fault),
    /// The client cancelled the stream or disconnected.
    Gone(String),
}

impl From<Fault> for Ending {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The receiving side of a stream, parsed into events. When it is dropped, the client is asked to stop sending.
pub(super) struct Source {
    stream: RecvStream,
    frames: Frames,
    piece: Bytes,
    /// The memory of the head, until it is taken.
    held: Option<HeaderReservation>,
    taken: usize,
}

impl Source {
    /// Creates the source of a stream.
    pub(super) fn new(stream: RecvStream, frames: Frames) -> Self {
        Self { stream, frames, piece: Bytes::new(), held: None, taken: 0 }
    }

    /// Counts the memory of the head. Until the head is complete, all bytes read count.
    pub(super) fn counted(mut self, held: HeaderReservation) -> Self {
        self.held = Some(held);
        self
    }

    /// Takes the memory of the head. Further bytes are not counted.
    pub(super) fn take_held(&mut self) -> Option<HeaderReservation> {
        self.held.take()
    }

    /// Returns the next event, or `None` at the end.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Ending>> {
        for _ in 0..MAX_READS_PER_POLL {
            if let Some(event) = self.frames.next(&mut self.piece)? {
                return Poll::Ready(Ok(Some(event)));
            }
            match ready!(pin!(self.stream.read_chunk(PIECE, true)).poll(cx)) {
                Ok(Some(chunk)) => {
                    self.piece = chunk.bytes;
                    self.taken = self.taken.saturating_add(self.piece.len());
                    if self.held.as_mut().is_some_and(|held| !held.grow(self.taken)) {
                        return Poll::Ready(Ok(Some(Event::TooLong)));
                    }
                }
                Ok(None) => return Poll::Ready(self.frames.end().map(|()| None).map_err(Ending::from)),
                Err(error) => return Poll::Ready(Err(Ending::Gone(describe(&error)))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Asks the client to stop sending.
    pub(super) fn stop(&mut self, code: u32) {
        // This only fails if the client has already finished.
        let _ = self.stream.stop(VarInt::from_u32(code));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop(code::NO_ERROR);
    }
}

/// A request body.
pub(super) struct Upload {
    source: Source,
    quic: quinn::Connection,
    /// An event that was already read.
    first: Option<Event>,
    /// Remaining bytes, if the length was announced.
    left: Option<u64>,
    /// Maximum size of trailers, in bytes.
    largest_trailers: usize,
    trailers: Option<Frame<Bytes>>,
    /// Set if the body is incomplete or malformed.
    spoiled: Spoiled,
    ended: bool,
}

/// The error code of a request whose body failed.
pub(super) type Spoiled = Arc<OnceLock<u32>>;

impl Upload {
    /// Creates a body whose first event may be known. `length` is the announced one, in bytes.
    pub(super) fn new(
        source: Source,
        quic: quinn::Connection,
        first: Option<Event>,
        length: Option<u64>,
        largest_trailers: usize,
        spoiled: Spoiled,
    ) -> Self {
        Self { source, quic, first, left: length, largest_trailers, trailers: None, spoiled, ended: false }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Ending>> {
        match self.first.take() {
            Some(event) => Poll::Ready(Ok(Some(event))),
            None => self.source.poll_event(cx),
        }
    }

    fn take(&mut self, event: Option<Event>) -> Result<Option<Frame<Bytes>>, Ending> {
        let wrong = |what| Ending::Fault(Fault::stream(code::MESSAGE_ERROR, what));
        match event {
            Some(Event::Data(piece)) => {
                if let Some(left) = &mut self.left {
                    let rest = left.checked_sub(piece.len() as u64);
                    *left = rest.ok_or_else(|| wrong("more body than announced"))?;
                }
                Ok(Some(Frame::data(piece)))
            }
            Some(Event::Block(block)) => {
                let trailers = head::trailers(&block, self.largest_trailers);
                let trailers = trailers.map_err(|error| Ending::Fault(error.into()))?;
                Ok(Some(Frame::trailers(trailers)))
            }
            Some(Event::TooLong) => Err(wrong("trailers are too large")),
            None if self.left.is_some_and(|left| left > 0) => Err(wrong("less body than announced")),
            None => Ok(None),
        }
    }

    fn fail(&mut self, ending: Ending) -> BodyError {
        match ending {
            Ending::Gone(why) => {
                let _ = self.spoiled.set(code::REQUEST_CANCELLED);
                BodyError::Gone(why)
            }
            Ending::Fault(fault) => {
                let _ = self.spoiled.set(fault.code);
                report(&self.quic, &mut self.source, fault);
                BodyError::Gone(fault.what.to_owned())
            }
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            let polled = ready!(this.poll_event(cx));
            return Poll::Ready(match polled.and_then(|event| this.take(event)) {
                // Trailers must be last, so they are returned once the stream has ended.
                Ok(Some(frame)) if frame.is_trailers() => {
                    this.trailers = Some(frame);
                    continue;
                }
                Ok(Some(frame)) => Some(Ok(frame)),
                Ok(None) => {
                    this.ended = true;
                    this.trailers.take().map(Ok)
                }
                Err(ending) => {
                    this.ended = true;
                    Some(Err(this.fail(ending)))
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Reports a fault to the client.
pub(super) fn report(quic: &quinn::Connection, source: &mut Source, fault: Fault) {
    tracing::debug!(peer = %quic.remote_address(), code = fault.code, "HTTP/3: {}", fault.what);
    if fault.fatal {
        quic.close(VarInt::from_u32(fault.code), fault.what.as_bytes());
    } else {
        source.stop(fault.code);
    }
}

fn describe(error: &ReadError) -> String {
    match error {
        ReadError::Reset(_) => "the client cancelled its request".to_owned(),
        other => other.to_string(),
    }
}
