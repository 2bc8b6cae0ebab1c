//! Bodies that are partly in memory, and bodies that fail.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use smallvec::SmallVec;

use super::{Body, BodyError, Frames, MinDataRate, Polled};

impl Body {
    /// Returns a body of `read`, followed by `rest`, to undo reading the start of a body.
    ///
    /// The guards of `rest` stay with it. They saw `read` when it was read, and do not see it again.
    pub fn prefixed(read: impl IntoIterator<Item = Bytes>, rest: Self) -> Self {
        let mut read: SmallVec<[Bytes; 2]> = read.into_iter().filter(|piece| !piece.is_empty()).collect();
        if read.is_empty() {
            return rest;
        }
        if read.len() == 1 && rest.is_plainly_empty() {
            return Self::full(read.remove(0));
        }
        Self::of_frames(Prefixed { read: read.into_iter(), rest })
    }

    /// Returns a body that fails on the first read.
    pub fn failed(error: BodyError) -> Self {
        Self::of_frames(Failed(Some(error)))
    }
}

struct Prefixed {
    read: smallvec::IntoIter<[Bytes; 2]>,
    rest: Body,
}

impl Frames for Prefixed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.read.next() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.as_slice().is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.read.as_slice().iter().map(|piece| piece.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        self.rest.set_min_rate(min_rate)
    }
}

struct Failed(Option<BodyError>);

impl Frames for Failed {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Polled {
        Poll::Ready(self.0.take().map(Err))
    }
}

/// Content in memory with trailers.
pub(super) struct WithTrailers {
    content: Bytes,
    trailers: Option<HeaderMap>,
}

impl WithTrailers {
    pub(super) fn new(content: Bytes, trailers: HeaderMap) -> Self {
        Self { content, trailers: Some(trailers) }
    }
}

impl Frames for WithTrailers {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Polled {
        if self.content.is_empty() {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.content)))))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none()
    }

    /// Not exact: with a known length, HTTP/1 would omit the trailers.
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.content.len() as u64);
        hint
    }
}
