//! Bodies from the store.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::{Frame, SizeHint};
use tidegate_cache::disk::{OpenObject, ReadError};
use tidegate_core::{Body, BodyError, Frames, Polled};
use tokio::task::JoinHandle;

/// Pieces of a stored body.
pub(super) struct Pieces {
    rest: std::vec::IntoIter<Bytes>,
    remaining: u64,
}

impl Pieces {
    pub(super) fn body(pieces: impl Iterator<Item = Bytes>) -> Body {
        let pieces: Vec<Bytes> = pieces.collect();
        if let [piece] = &pieces[..] {
            return Body::full(piece.clone());
        }
        let remaining = pieces.iter().map(|piece| piece.len() as u64).sum();
        if remaining == 0 {
            Body::empty()
        } else {
            Body::of_frames(Self { rest: pieces.into_iter(), remaining })
        }
    }
}

impl Frames for Pieces {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Polled {
        let piece = self.rest.next();
        self.remaining -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

/// A block, and the body that it was read from.
type Block = (OpenObject, Result<Option<Bytes>, ReadError>);

/// A body on disk, of which one block is in memory at a time.
pub(super) struct FromDisk {
    /// `None` while a block is read.
    object: Option<OpenObject>,
    reading: Option<JoinHandle<Block>>,
    remaining: u64,
}

impl FromDisk {
    /// `length`: bytes that are selected.
    pub(super) fn body(object: OpenObject, length: u64) -> Body {
        if length == 0 {
            return Body::empty();
        }
        Body::of_frames(Self { object: Some(object), reading: None, remaining: length })
    }
}

impl Frames for FromDisk {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        if let Some(object) = &mut self.object
            && let Some(block) = object.read_from_memory()
        {
            self.remaining = self.remaining.saturating_sub(block.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(block))));
        }
        if let Some(mut object) = self.object.take() {
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let block = object.read();
                (object, block)
            }));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(reading.poll_unpin(cx));
        self.reading = None;
        let error = match read {
            Ok((object, Ok(Some(block)))) => {
                self.remaining = self.remaining.saturating_sub(block.len() as u64);
                self.object = Some(object);
                return Poll::Ready(Some(Ok(Frame::data(block))));
            }
            Ok((_, Ok(None))) => "stored response is too short".to_owned(),
            Ok((_, Err(error))) => error.to_string(),
            Err(error) => error.to_string(),
        };
        // The client must not take what it has for a complete response.
        Poll::Ready(Some(Err(BodyError::Other(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
