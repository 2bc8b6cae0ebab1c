//! A request body that can be sent more than once: what has been read is kept, up to a limit.

use bytes::Bytes;
use http_body::Body as _;
use tidegate_core::{Body, Tee};

/// Provides the body for each attempt to send a request.
///
/// Nothing is read ahead: each attempt replays what earlier ones have read and continues from there. Once
/// more than the limit has been read, nothing is kept, and no further attempt is possible.
pub(crate) struct Replay {
    limit: u64,
    source: Source,
}

enum Source {
    /// The whole content is available.
    Whole(Bytes),
    /// Not read yet.
    Unread(Body),
    /// Being read by an attempt.
    Copied(Tee),
    /// Part of the content is lost.
    Gone,
}

impl Replay {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(body: Body, limit: u64) -> Self {
        let source = match body.as_bytes() {
            Some(bytes) => Source::Whole(bytes),
            None if body.is_end_stream() => Source::Whole(Bytes::new()),
            None => Source::Unread(body),
        };
        Self { limit, source }
    }

    /// Returns the body for the next attempt. Bodies of earlier attempts fail from now on. `None` when part
    /// of the content is lost.
    pub(crate) fn next(&mut self) -> Option<Body> {
        let body = match std::mem::replace(&mut self.source, Source::Gone) {
            Source::Whole(bytes) => {
                self.source = Source::Whole(bytes.clone());
                return Some(Body::full(bytes));
            }
            Source::Unread(body) => body,
            Source::Copied(tee) => tee.reclaim()?,
            Source::Gone => return None,
        };
        let (body, tee) = body.tee(self.limit);
        self.source = Source::Copied(tee);
        Some(body)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::block_on;
    use http_body::{Body as HttpBody, Frame};
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tidegate_core::{BodyError, Polled};

    /// A body of chunks whose length is not known in advance.
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
        Some(body.frame().await?.map(|frame| frame.into_data().unwrap()))
    }

    #[test]
    fn a_later_attempt_replays_what_was_read_and_continues() {
        block_on(async {
            let mut replay = Replay::new(pieces(&["one", "two", "three"]), 100);
            let mut first = replay.next().unwrap();
            assert_eq!(one(&mut first).await.unwrap().unwrap(), "one");
            let second = replay.next().unwrap();
            assert!(one(&mut first).await.unwrap().is_err(), "the first attempt is over");
            assert_eq!(second.collect(100).await.unwrap().bytes, "onetwothree");
            assert_eq!(replay.next().unwrap().collect(100).await.unwrap().bytes, "onetwothree");
        });
    }

    #[test]
    fn a_body_beyond_the_limit_streams_once() {
        block_on(async {
            let mut replay = Replay::new(pieces(&["one", "two", "three"]), 5);
            assert_eq!(replay.next().unwrap().collect(100).await.unwrap().bytes, "onetwothree");
            assert!(replay.next().is_none());
        });
    }

    #[test]
    fn known_content_is_not_copied() {
        let mut replay = Replay::new(Body::full("abc"), 0);
        for _ in 0..3 {
            assert_eq!(replay.next().unwrap().as_bytes().unwrap(), "abc");
        }
    }
}
