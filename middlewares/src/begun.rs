//! A body of which the beginning was looked at, and which is whole all the same.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_core::{Body, BodyError, Frames, Polled};

use crate::sniff;

/// Reads as much of a body as is needed to guess its type. A body that streams is held back until its first piece
/// only.
pub(crate) async fn begin(mut body: Body) -> (Vec<u8>, Body) {
    let mut begin = Vec::new();
    let mut read = VecDeque::new();
    let streams = body.size_hint().exact().is_none();
    while begin.len() < sniff::LOOKED_AT && !body.is_end_stream() {
        let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await else { break };
        if let Ok(Some(data)) = frame.as_ref().map(Frame::data_ref) {
            begin.extend_from_slice(&data[..data.len().min(sniff::LOOKED_AT)]);
        }
        let failed = frame.is_err();
        read.push_back(frame);
        if failed || (streams && !begin.is_empty()) {
            break;
        }
    }
    let body = if read.is_empty() { body } else { Body::of_frames(Begun { read, rest: body }) };
    (begin, body)
}

/// A body whose first frame was read if it was there already. `None`: it has ended without any.
pub(crate) async fn unless_empty(mut body: Body) -> Option<Body> {
    let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
    match first {
        Poll::Pending => Some(body),
        Poll::Ready(None) => None,
        Poll::Ready(Some(frame)) => {
            Some(Body::of_frames(Begun { read: VecDeque::from([frame]), rest: body }))
        }
    }
}

/// A body of which the first frames have been read.
struct Begun {
    read: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

impl Frames for Begun {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let data = |frame: &Result<Frame<Bytes>, _>| {
            frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len)
        };
        let read: usize = self.read.iter().map(data).sum();
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + read as u64),
            None => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::block_on;

    #[test]
    fn what_was_looked_at_is_still_there() {
        block_on(async {
            let (seen, body) = begin(pieces(&["ab", "cd"])).await;
            assert_eq!(seen, b"ab", "a stream is held back for its first piece only");
            assert_eq!(body.collect(10).await.unwrap(), "abcd");
            let (seen, body) = begin(Body::full("abc")).await;
            assert_eq!((seen.as_slice(), body.size_hint().exact()), (&b"abc"[..], Some(3)));
            assert!(unless_empty(Body::empty()).await.is_none());
            assert!(unless_empty(pieces(&[])).await.is_none());
            let body = unless_empty(pieces(&["ab", "cd"])).await.unwrap();
            assert_eq!(body.collect(10).await.unwrap(), "abcd");
        });
    }
}
