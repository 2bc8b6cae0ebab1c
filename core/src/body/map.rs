//! Bodies whose data is changed on the way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};

use super::{Body, Frames, Kind, Pace, Polled};

impl Body {
    /// Changes each data frame. Trailers pass as they are. A frame that becomes empty is left out.
    ///
    /// The guards of the body stay with it: they see the frames as they were. The length of the new body is unknown,
    /// except where the content is already here in one piece: then it is changed at once.
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

    fn set_pace(&mut self, pace: Pace) -> bool {
        self.inner.set_pace(pace)
    }
}
