//! The body type of requests and responses.
//!
//! Bodies from the wire pass through without a box. What must happen when a body ends (a connection returns
//! to its pool, a permit is released, a record is closed) is attached to it as [`Guard`]s.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use smallvec::SmallVec;

mod collect;
mod error;
mod map;
mod prefixed;
mod tee;

pub use collect::{CollectError, Collected, Unfinished};
pub use error::{BodyError, BodyErrorKind};
pub use tee::{Tee, Teed};

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was read to the end.
    Complete,
    /// It failed.
    Failed(BodyErrorKind),
    /// It was dropped early: its reader is gone or wants no more.
    Dropped,
}

/// An observer of a body that learns how it ends.
pub trait Guard: Send {
    /// Called with the length of each data frame, in bytes.
    fn data(&mut self, _length: usize) {}
    /// Called with the trailers, if there are any.
    fn trailers(&mut self, _trailers: &http::HeaderMap) {}
    /// Called exactly once, when the body ends.
    fn end(self: Box<Self>, end: End);
}

/// The result of polling a body: a frame, an error, the end, or pending.
pub type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A source of frames for [`Body::of_frames`]: the part of our own bodies that differs between them.
pub trait Frames: Send + Unpin + 'static {
    /// Polls for the next frame.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled;

    /// Returns true when the body is known to have ended.
    fn is_end_stream(&self) -> bool {
        false
    }

    /// Returns the known bounds of the remaining length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }

    /// Changes the minimum min_rate. Returns false if the source does not watch it.
    fn set_min_rate(&mut self, _min_rate: MinDataRate) -> bool {
        false
    }
}

/// How slowly a body may arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinDataRate {
    /// Maximum time without progress; `None` for no limit.
    pub stall: Option<std::time::Duration>,
    /// Minimum rate in bytes per second, averaged over the time spent waiting for the body; 0 for none.
    pub rate: u64,
}

/// A request or response body.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    /// Those that have not learned of the end yet.
    guards: SmallVec<[Box<dyn Guard>; 1]>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Option<Bytes>),
    Incoming(Incoming),
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>),
    Frames(Box<dyn Frames>),
}

impl Body {
    /// Creates an empty body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Creates a body with known content.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let kind = if bytes.is_empty() { Kind::Empty } else { Kind::Full(Some(bytes)) };
        Self::of(kind)
    }

    /// Wraps a body from a connection.
    pub fn incoming(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }

    /// Creates a body from frames that are produced as they are read.
    pub fn of_frames(frames: impl Frames) -> Self {
        Self::of(Kind::Frames(Box::new(frames)))
    }

    /// Boxes any other body.
    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self::of(Kind::Boxed(Box::pin(body)))
    }

    /// Attaches a guard to this body.
    #[must_use]
    pub fn with_guard(mut self, guard: Box<dyn Guard>) -> Self {
        self.guard(guard);
        self
    }

    /// Attaches a guard to this body, in its place.
    pub fn guard(&mut self, guard: Box<dyn Guard>) {
        self.guards.push(guard);
    }

    /// Changes the minimum min_rate. Returns false if nothing watches it.
    pub fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        match &mut self.kind {
            Kind::Frames(frames) => frames.set_min_rate(min_rate),
            _ => false,
        }
    }

    /// Returns the content if it is available as a whole; empty bodies count too.
    pub fn as_bytes(&self) -> Option<Bytes> {
        match &self.kind {
            Kind::Empty => Some(Bytes::new()),
            Kind::Full(bytes) => Some(bytes.clone().unwrap_or_default()),
            _ => None,
        }
    }

    /// Returns the number of bytes of a body that is available as a whole.
    pub fn whole_length(&self) -> Option<usize> {
        match &self.kind {
            Kind::Empty => Some(0),
            Kind::Full(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len)),
            _ => None,
        }
    }

    /// Reads the next frame; `None` at the end.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await
    }

    /// Ends the body for its guards because of a failure. Does nothing if it has already ended.
    pub fn fail(&mut self, error: &BodyError) {
        self.finish(End::Failed(error.kind()));
    }

    fn of(kind: Kind) -> Self {
        Self { kind, guards: SmallVec::new() }
    }

    fn finish(&mut self, end: End) {
        for guard in self.guards.drain(..) {
            guard.end(end);
        }
    }

    /// Returns true for a body without content, trailers and guards.
    fn is_plainly_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty) && self.guards.is_empty()
    }

    fn inner_is_end(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Incoming(incoming) => incoming.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Frames(frames) => frames.is_end_stream(),
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Polled {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Kind::Boxed(body) => body.as_mut().poll_frame(cx),
            Kind::Frames(frames) => frames.poll_next(cx),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        let polled = std::task::ready!(this.poll_inner(cx));
        if this.guards.is_empty() {
            return Poll::Ready(polled);
        }
        match &polled {
            Some(Ok(frame)) => {
                for guard in &mut this.guards {
                    if let Some(data) = frame.data_ref() {
                        guard.data(data.len());
                    } else if let Some(trailers) = frame.trailers_ref() {
                        guard.trailers(trailers);
                    }
                }
                // Nothing follows trailers, and not every reader polls again.
                if frame.is_trailers() || this.inner_is_end() {
                    this.finish(End::Complete);
                }
            }
            Some(Err(error)) => this.fail(error),
            None => this.finish(End::Complete),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner_is_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Incoming(incoming) => incoming.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
            Kind::Frames(frames) => frames.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.guards.is_empty() {
            self.finish(if self.inner_is_end() { End::Complete } else { End::Dropped });
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "Empty",
            Kind::Full(_) => "Full",
            Kind::Incoming(_) => "Incoming",
            Kind::Boxed(_) => "Boxed",
            Kind::Frames(_) => "Frames",
        };
        f.debug_struct("Body").field("kind", &kind).field("guards", &self.guards.len()).finish()
    }
}
