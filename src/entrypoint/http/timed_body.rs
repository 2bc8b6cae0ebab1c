//! Bodies that fail when their sender is too slow.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_core::body::MinDataRate;
use tidegate_core::{Body, BodyError, Frames, Polled};
use tokio::sync::oneshot;

/// Decides when a body is late.
pub(in crate::entrypoint) trait Watch: Send + Unpin + 'static {
    /// Records a frame. Returns false if it is late.
    fn on_frame(&mut self, frame: &Frame<Bytes>) -> bool;

    /// Ready when the next frame is late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Replaces the minimum rate. Returns false if this watch has none.
    fn set_min_rate(&mut self, _: MinDataRate) -> bool {
        false
    }
}

/// A body that fails when its watch considers it late.
pub(in crate::entrypoint) struct TimedBody<W: Watch> {
    /// `None` once the body is late.
    inner: Option<Body>,
    watch: W,
    /// Receives the rest if the body is dropped before its end.
    leftover: Option<oneshot::Sender<Body>>,
}

impl<W: Watch> TimedBody<W> {
    /// Returns the body, observed by `watch`.
    pub(in crate::entrypoint) fn watched(inner: Body, watch: W) -> Body {
        Body::of_frames(Self { inner: Some(inner), watch, leftover: None })
    }

    /// Like [`TimedBody::watched`], but sends the rest to `leftover` if the body is dropped before its end.
    pub(in crate::entrypoint) fn with_leftover(
        inner: Body,
        watch: W,
        leftover: oneshot::Sender<Body>,
    ) -> Body {
        Body::of_frames(Self { inner: Some(inner), watch, leftover: Some(leftover) })
    }
}

impl<W: Watch> Drop for TimedBody<W> {
    fn drop(&mut self) {
        if let (Some(inner), Some(leftover)) = (self.inner.take(), self.leftover.take())
            && !inner.is_end_stream()
        {
            // Without a receiver the rest is dropped.
            let _ = leftover.send(inner);
        }
    }
}

impl<W: Watch> Frames for TimedBody<W> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let late = match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if self.watch.on_frame(&frame) => {
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(Some(Ok(_))) => true,
            Poll::Ready(other) => return Poll::Ready(other),
            Poll::Pending => self.watch.poll_late(cx).is_ready(),
        };
        if !late {
            return Poll::Pending;
        }
        self.inner = None;
        Poll::Ready(Some(Err(BodyError::TimedOut)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        self.watch.set_min_rate(min_rate)
    }
}
