//! Bodies whose data is changed as it passes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};

use super::{Body, Frames, Kind, MinDataRate, Polled};

impl Body {
    /// Transforms each data frame. Trailers pass unchanged. A frame that becomes empty is dropped.
    ///
    /// The guards of the body stay with it and see the original frames. The length of the new body is
    /// unknown, unless the content is available as a whole: it is then transformed at once.
    #[must_use]
    pub fn map_data(self, mut change: impl FnMut(Bytes) -> Bytes + Send + Unpin + 'static) -> Self {
        match (&self.kind, self.guards.is_empty()) {
            (Kind::Empty, _) => self,
            (Kind::Full(Some(bytes)), true) => Self::full(change(bytes.clone())),
            _ => Self::of_frames(MapData { inner: self, change }),
        }
    }
}

struct MapData<F> {
    inner: Body,
    change: F,
}

impl<F: FnMut(Bytes) -> Bytes + Send + Unpin + 'static> Frames for MapData<F> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            match frame?.into_data() {
                Ok(data) => {
                    let changed = (self.change)(data);
                    if !changed.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(changed))));
                    }
                }
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        self.inner.set_min_rate(min_rate)
    }
}
