//! The one body type that flows through the gateway, in both directions.
//!
//! Bodies from the wire pass through without a box; what must happen when a body ends (a connection goes
//! back to its pool, a permit is released, a record is closed) hangs on it as [`Guard`]s.

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
    /// It was read to its end.
    Complete,
    /// It failed.
    Failed(BodyErrorKind),
    /// It was dropped before its end: its reader has left, or wants no more.
    Dropped,
}

/// Something that must know how a body ends.
pub trait Guard: Send {
    /// Called with the length of each data frame, in bytes.
    fn data(&mut self, _length: usize) {}
    /// Called with the trailers, when there are any.
    fn trailers(&mut self, _trailers: &http::HeaderMap) {}
    /// Called exactly once, when the body is over.
    fn end(self: Box<Self>, end: End);
}

/// What reading on in a body gives: a frame, an error, the end, or nothing yet.
pub type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// A source of frames that [`Body::of_frames`] makes a body of: what a body of ours is, without what it has in common
/// with all others.
pub trait Frames: Send + Unpin + 'static {
    /// The next frame.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled;

    /// True when it is known that nothing more comes.
    fn is_end_stream(&self) -> bool {
        false
    }

    /// What is known of the length of what is left.
    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }

    /// Changes how fast it must come. False: it does not watch that.
    fn set_pace(&mut self, _pace: Pace) -> bool {
        false
    }
}

/// How fast a body must come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Longest time without any of it. `None`: any.
    pub stall: Option<std::time::Duration>,
    /// Fewest bytes in a second, on average over the time in which we wait for it; 0: any.
    pub rate: u64,
}

/// A request or response body.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    /// Those that do not know the end yet.
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
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body of known content.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let kind = if bytes.is_empty() { Kind::Empty } else { Kind::Full(Some(bytes)) };
        Self::of(kind)
    }

    /// A body as it comes from a connection.
    pub fn incoming(incoming: Incoming) -> Self {
        Self::of(Kind::Incoming(incoming))
    }

    /// A body of frames that are made as they are read.
    pub fn of_frames(frames: impl Frames) -> Self {
        Self::of(Kind::Frames(Box::new(frames)))
    }

    /// Any other body.
    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self::of(Kind::Boxed(Box::pin(body)))
    }

    /// Hangs something on the end of this body.
    #[must_use]
    pub fn with_guard(mut self, guard: Box<dyn Guard>) -> Self {
        self.guards.push(guard);
        self
    }

    /// Changes how fast it must come. False: nobody watches that.
    pub fn set_pace(&mut self, pace: Pace) -> bool {
        match &mut self.kind {
            Kind::Frames(frames) => frames.set_pace(pace),
            _ => false,
        }
    }

    /// The content, when it is already here in one piece (or there is none).
    pub fn as_bytes(&self) -> Option<Bytes> {
        match &self.kind {
            Kind::Empty => Some(Bytes::new()),
            Kind::Full(bytes) => Some(bytes.clone().unwrap_or_default()),
            _ => None,
        }
    }

    /// Reads the next frame; `None` at the end.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await
    }

    /// Ends the body for its guards because of a failure. Does nothing when the body has already ended.
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

    /// True for a body without content, trailers and guards.
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
                // Nothing comes behind trailers, and not every reader asks.
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
