//! Inspects the start of a body without consuming it.

use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tidegate_core::{Body, BodyError, Collected};

use crate::sniff;

/// Reads as much of a body as is needed to guess its type. Waits for the first chunk only of a body that
/// streams.
pub(crate) async fn prefix(mut body: Body) -> (Vec<u8>, Body) {
    let mut beginning = Vec::new();
    let mut read = Vec::new();
    let streams = body.size_hint().exact().is_none();
    while beginning.len() < sniff::SNIFF_LEN && !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let (data, rest) = split(frame, body);
        body = rest;
        beginning.extend_from_slice(&data[..data.len().min(sniff::SNIFF_LEN)]);
        read.push(data);
        if streams && !beginning.is_empty() {
            break;
        }
    }
    (beginning, Body::prefixed(read, body))
}

/// Polls for the first frame. Returns `None` if the body has already ended without one.
pub(crate) async fn non_empty(mut body: Body) -> Option<Body> {
    let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
    match first {
        Poll::Pending => Some(body),
        Poll::Ready(None) => None,
        Poll::Ready(Some(frame)) => {
            let (data, rest) = split(frame, body);
            Some(Body::prefixed([data], rest))
        }
    }
}

/// Returns the data of a frame and the rest of the body; a frame without data is the last one.
fn split(frame: Result<Frame<Bytes>, BodyError>, rest: Body) -> (Bytes, Body) {
    match frame.map(Frame::into_data) {
        Ok(Ok(data)) => (data, rest),
        Ok(Err(frame)) => {
            let trailers = frame.into_trailers().ok();
            (Bytes::new(), Collected { bytes: Bytes::new(), trailers }.into())
        }
        Err(error) => (Bytes::new(), Body::failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::block_on;

    #[test]
    fn a_peeked_body_is_complete() {
        block_on(async {
            let (seen, body) = prefix(pieces(&["ab", "cd"])).await;
            assert_eq!(seen, b"ab", "a stream waits for its first chunk only");
            assert_eq!(body.collect(10).await.unwrap().bytes, "abcd");
            let (seen, body) = prefix(Body::full("abc")).await;
            assert_eq!((seen.as_slice(), body.size_hint().exact()), (&b"abc"[..], Some(3)));
            assert!(non_empty(Body::empty()).await.is_none());
            assert!(non_empty(pieces(&[])).await.is_none());
            let body = non_empty(pieces(&["ab", "cd"])).await.unwrap();
            assert_eq!(body.collect(10).await.unwrap().bytes, "abcd");
        });
    }
}
