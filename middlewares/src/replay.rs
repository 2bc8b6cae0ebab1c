//! A request body that can be sent more than once: what has been read of it is kept, up to a limit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tidegate_core::{Body, BodyError, Frames, Polled};

/// Largest piece that is read again at once.
const PIECE: usize = 64 * 1024;

/// The source of a body for each attempt to send a request.
///
/// Nothing is read ahead: each attempt reads what earlier ones have read, and goes on from there. Once more has
/// been read than the limit, nothing is kept any more, and there is no further attempt.
pub(crate) enum Replay {
    /// The content is here in one piece.
    Whole(Bytes),
    /// The content comes as it is read.
    Streaming(Arc<Mutex<Shared>>),
}

impl Replay {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(body: Body, limit: u64) -> Self {
        match body.as_bytes() {
            Some(bytes) => Self::Whole(bytes),
            None if body.is_end_stream() => Self::Whole(Bytes::new()),
            None => Self::Streaming(Arc::new(Mutex::new(Shared {
                inner: body,
                limit,
                kept: BytesMut::new(),
                lost: false,
                trailers: None,
                ended: false,
                attempt: 0,
            }))),
        }
    }

    /// The body for the next attempt. Bodies of earlier attempts fail from now on. `None` when part of the content is
    /// gone.
    pub(crate) fn next(&self) -> Option<Body> {
        match self {
            Self::Whole(bytes) => Some(Body::full(bytes.clone())),
            Self::Streaming(shared) => {
                let mut state = shared.lock();
                if state.lost {
                    return None;
                }
                state.attempt += 1;
                let attempt = state.attempt;
                drop(state);
                Some(Body::of_frames(Attempt { shared: shared.clone(), attempt, position: 0 }))
            }
        }
    }
}

/// What all attempts share.
pub(crate) struct Shared {
    inner: Body,
    limit: u64,
    kept: BytesMut,
    lost: bool,
    trailers: Option<http::HeaderMap>,
    ended: bool,
    attempt: u32,
}

impl Shared {
    fn keep(&mut self, data: &Bytes) {
        if self.lost {
            return;
        }
        if (self.kept.len() + data.len()) as u64 > self.limit {
            self.lost = true;
            self.kept = BytesMut::new();
        } else {
            self.kept.extend_from_slice(data);
        }
    }
}

struct Attempt {
    shared: Arc<Mutex<Shared>>,
    attempt: u32,
    position: usize,
}

impl Frames for Attempt {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut shared = self.shared.lock();
        if shared.attempt != self.attempt {
            return Poll::Ready(Some(Err(BodyError::Other("the request was sent again".into()))));
        }
        if self.position < shared.kept.len() {
            let mut rest = &shared.kept[self.position..];
            let piece = rest.copy_to_bytes(rest.len().min(PIECE));
            self.position += piece.len();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if shared.ended {
            return Poll::Ready(shared.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = ready!(Pin::new(&mut shared.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    shared.keep(data);
                    self.position = shared.kept.len();
                } else if let Some(trailers) = frame.trailers_ref() {
                    shared.trailers = Some(trailers.clone());
                    shared.ended = true;
                }
            }
            // A body that broke off once is not there for another attempt.
            Some(Err(_)) => shared.lost = true,
            None => shared.ended = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        shared.trailers.is_none()
            && self.position >= shared.kept.len()
            && (shared.ended || shared.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.shared.lock();
        let again = shared.kept.len().saturating_sub(self.position) as u64;
        let rest = shared.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + again);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + again);
        }
        hint
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::block_on;
    use std::collections::VecDeque;

    /// A body of pieces whose length is not known beforehand.
    pub(crate) fn pieces(pieces: &[&str]) -> Body {
        Body::boxed(Pieces(pieces.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())).collect()))
    }

    struct Pieces(VecDeque<Bytes>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    async fn one(body: &mut Body) -> Option<Result<Bytes, BodyError>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[test]
    fn a_later_attempt_reads_what_was_read_and_goes_on() {
        block_on(async {
            let replay = Replay::new(pieces(&["one", "two", "three"]), 100);
            let mut first = replay.next().unwrap();
            assert_eq!(one(&mut first).await.unwrap().unwrap(), "one");
            let second = replay.next().unwrap();
            assert!(one(&mut first).await.unwrap().is_err(), "the first attempt is over");
            assert_eq!(second.collect(100).await.unwrap(), "onetwothree");
            assert_eq!(replay.next().unwrap().collect(100).await.unwrap(), "onetwothree");
        });
    }

    #[test]
    fn a_body_beyond_the_limit_streams_once() {
        block_on(async {
            let replay = Replay::new(pieces(&["one", "two", "three"]), 5);
            assert_eq!(replay.next().unwrap().collect(100).await.unwrap(), "onetwothree");
            assert!(replay.next().is_none());
        });
    }

    #[test]
    fn known_content_is_not_copied() {
        let replay = Replay::new(Body::full("abc"), 0);
        for _ in 0..3 {
            assert_eq!(replay.next().unwrap().as_bytes().unwrap(), "abc");
        }
    }
}
