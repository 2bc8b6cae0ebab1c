//! Request bodies that are read into memory, to be sent to more than one service.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tidegate_core::{Body, BodyError, Frames, Polled};

/// A body that was read into memory.
pub(super) enum Gathered {
    /// All of it.
    Whole(Whole),
    /// It is larger than allowed: the same body, unread as far as anybody can tell.
    TooLarge(Body),
}

/// A whole body, which can be sent several times.
#[derive(Default)]
pub(super) struct Whole {
    content: Bytes,
    trailers: Option<HeaderMap>,
}

impl Whole {
    /// It, to be sent once more.
    pub(super) fn body(&self) -> Body {
        match &self.trailers {
            None => Body::full(self.content.clone()),
            Some(trailers) => {
                let first = Some(self.content.clone()).filter(|content| !content.is_empty());
                Body::of_frames(Rest { first, then: Then::Trailers(Some(trailers.clone())) })
            }
        }
    }
}

/// Reads a body of at most `limit` bytes into memory, trailers included.
pub(super) async fn gather(mut body: Body, limit: u64) -> Result<Gathered, BodyError> {
    if let Some(bytes) = body.as_bytes().filter(|bytes| bytes.len() as u64 <= limit) {
        return Ok(Gathered::Whole(Whole { content: bytes, trailers: None }));
    }
    if body.size_hint().lower() > limit {
        return Ok(Gathered::TooLarge(body));
    }
    let mut whole = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let data = match frame?.into_data() {
            Ok(data) => data,
            Err(other) => {
                trailers = other.into_trailers().ok();
                continue;
            }
        };
        whole.extend_from_slice(&data);
        if whole.len() as u64 > limit {
            let rest = Rest { first: Some(whole.freeze()), then: Then::Body(body) };
            return Ok(Gathered::TooLarge(Body::of_frames(rest)));
        }
    }
    Ok(Gathered::Whole(Whole { content: whole.freeze(), trailers }))
}

/// A body that ends before it has begun.
pub(super) fn failing(error: BodyError) -> Body {
    Body::of_frames(Rest { first: None, then: Then::Failure(Some(error)) })
}

/// What was read of a body, and what comes then.
struct Rest {
    first: Option<Bytes>,
    then: Then,
}

enum Then {
    /// What was not read yet.
    Body(Body),
    /// Why there is no more.
    Failure(Option<BodyError>),
    /// All was read.
    Trailers(Option<HeaderMap>),
}

impl Frames for Rest {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match &mut self.then {
            Then::Body(rest) => Pin::new(rest).poll_frame(cx),
            Then::Failure(error) => Poll::Ready(error.take().map(Err)),
            Then::Trailers(trailers) => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && match &self.then {
                Then::Body(rest) => rest.is_end_stream(),
                Then::Failure(_) => false,
                Then::Trailers(trailers) => trailers.is_none(),
            }
    }
}
