//! Bodies of gRPC-Web: base64 in requests, and trailers as a frame in responses.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tidegate_core::{Body, BodyError, Frames, Polled};

/// A body that hides its length.
pub(super) struct Unsized(pub(super) Body);

impl Frames for Unsized {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// Decodes a base64 body, which may consist of several parts, each with its own padding.
pub(super) struct Decoded {
    inner: Body,
    rest: Vec<u8>,
}

impl Decoded {
    pub(super) fn new(inner: Body) -> Self {
        Self { inner, rest: Vec::new() }
    }

    /// Decodes all complete groups of four characters.
    fn decode(&mut self, data: &[u8]) -> Result<Bytes, BodyError> {
        self.rest.extend(data.iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        let whole = self.rest.len() / 4 * 4;
        let mut decoded = Vec::with_capacity(whole / 4 * 3);
        let mut groups = &self.rest[..whole];
        while !groups.is_empty() {
            // A group with padding ends a part.
            let end = groups
                .chunks(4)
                .position(|group| group.contains(&b'='))
                .map_or(groups.len(), |i| (i + 1) * 4);
            let (part, others) = groups.split_at(end);
            STANDARD
                .decode_vec(part, &mut decoded)
                .map_err(|error| BodyError::Other(format!("invalid base64 in gRPC-Web text: {error}")))?;
            groups = others;
        }
        self.rest.drain(..whole);
        Ok(decoded.into())
    }
}

impl Frames for Decoded {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                if self.rest.is_empty() {
                    return Poll::Ready(None);
                }
                self.rest.clear();
                return Poll::Ready(Some(Err(BodyError::Other("incomplete base64 in gRPC-Web text".into()))));
            };
            let Ok(data) = frame?.into_data() else { continue };
            let decoded = self.decode(&data)?;
            if !decoded.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(decoded))));
            }
        }
    }
}

/// A gRPC body with its trailers as the last frame, optionally in base64.
pub(super) struct Framed {
    inner: Body,
    is_text: bool,
    ended: bool,
}

impl Framed {
    pub(super) fn new(inner: Body, is_text: bool) -> Self {
        Self { inner, is_text, ended: false }
    }

    fn frame(&self, data: Bytes) -> Frame<Bytes> {
        Frame::data(if self.is_text { STANDARD.encode(&data).into() } else { data })
    }
}

impl Frames for Framed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Poll::Ready(Some(Ok(self.frame(data)))),
                Err(frame) => {
                    self.ended = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    Poll::Ready(Some(Ok(self.frame(trailer_frame(&trailers)))))
                }
            },
            // Without trailers there is no status: an empty frame would be meaningless and hide the status in
            // the headers of a Trailers-Only response.
            end => {
                self.ended = true;
                Poll::Ready(end)
            }
        }
    }
}

/// Encodes trailers for gRPC-Web: a frame whose first bit is set, with lines sorted by name.
fn trailer_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines: Vec<(&str, &[u8])> =
        trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    lines.sort_by_key(|(name, _)| *name);
    let mut text = BytesMut::new();
    for (name, value) in lines {
        text.put_slice(name.as_bytes());
        text.put_slice(b": ");
        text.put_slice(value);
        text.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + text.len());
    frame.put_u8(0x80);
    frame.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    frame.put(text);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::block_on;
    use proptest::prelude::*;

    fn decode(parts: &[&str]) -> Result<Bytes, BodyError> {
        let decoded = block_on(Body::of_frames(Decoded::new(pieces(parts))).collect(1 << 20))?;
        Ok(decoded.bytes)
    }

    #[test]
    fn parts_with_separate_padding_are_joined() {
        assert_eq!(decode(&["YQ==YmM=", "\r\nZGVm"]).unwrap(), "abcdef");
        assert_eq!(decode(&["Y", "WJ", "j"]).unwrap(), "abc");
        assert!(decode(&["YWJ"]).is_err());
        assert!(decode(&["%%%%"]).is_err());
    }

    proptest! {
        #[test]
        fn any_split_decodes_to_the_content(content in proptest::collection::vec(any::<u8>(), 0..100), at in 0..140usize) {
            let text = STANDARD.encode(&content);
            let (a, b) = text.split_at(at.min(text.len()));
            prop_assert_eq!(decode(&[a, b]).unwrap(), content);
        }
    }
}
