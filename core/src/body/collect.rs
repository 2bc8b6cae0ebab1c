//! Collecting a body in memory.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::prefixed::WithTrailers;
use super::{Body, BodyError};

/// The whole content of a body. Can be sent any number of times: clones share the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// All data frames, joined.
    pub bytes: Bytes,
    /// The trailers, if any.
    pub trailers: Option<HeaderMap>,
}

impl From<Collected> for Body {
    fn from(collected: Collected) -> Self {
        match collected.trailers {
            None => Self::full(collected.bytes),
            Some(trailers) => Self::of_frames(WithTrailers::new(collected.bytes, trailers)),
        }
    }
}

/// A partly read body.
#[derive(Debug)]
pub struct Unfinished {
    /// The part that was read.
    pub read: Bytes,
    /// The rest. Its guards have already seen `read`.
    pub rest: Body,
}

impl Unfinished {
    /// Returns the body as if it had not been read.
    pub fn into_body(self) -> Body {
        Body::prefixed([self.read], self.rest)
    }
}

/// Why a body was not collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The body is larger than allowed. It can still be read from the start.
    #[error("body larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
        /// The body.
        body: Box<Unfinished>,
    },
    /// Reading the body failed.
    #[error(transparent)]
    Failed(#[from] BodyError),
}

impl CollectError {
    /// Returns the body for another reader: one that was too large starts from the beginning, and one that
    /// failed fails at once.
    pub fn into_body(self) -> Body {
        match self {
            Self::TooLarge { body, .. } => body.into_body(),
            Self::Failed(error) => Body::failed(error),
        }
    }
}

impl From<CollectError> for BodyError {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::TooLarge { limit, .. } => Self::TooLarge { limit },
            CollectError::Failed(error) => error,
        }
    }
}

impl Body {
    /// Reads the whole body, including trailers.
    ///
    /// # Errors
    /// [`CollectError::TooLarge`] if it has more than `limit` bytes; a body that declares more is not read at
    /// all.
    /// [`CollectError::Failed`] if reading it fails; what was read is dropped.
    pub async fn collect(mut self, limit: u64) -> Result<Collected, CollectError> {
        let mut pieces = Pieces::default();
        let mut trailers = None;
        let mut too_large = http_body::Body::size_hint(&self).lower() > limit;
        while !too_large && let Some(frame) = self.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    pieces.push(data);
                    too_large = pieces.len() as u64 > limit;
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        if too_large {
            let body = Box::new(Unfinished { read: pieces.join(), rest: self });
            return Err(CollectError::TooLarge { limit, body });
        }
        Ok(Collected { bytes: pieces.join(), trailers })
    }
}

/// Data frames that become one piece of memory. A single frame is kept as it is, several are copied: a small
/// frame may be part of a much larger buffer that it would keep alive.
#[derive(Default)]
pub(super) struct Pieces {
    /// Empty, or the only frame.
    first: Bytes,
    joined: BytesMut,
}

impl Pieces {
    pub(super) fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if !self.first.is_empty() {
            self.joined = BytesMut::from(std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
    }

    /// Returns the number of bytes.
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    pub(super) fn join(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}
