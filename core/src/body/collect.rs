//! Reading a whole body into memory.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::prefixed::WithTrailers;
use super::{Body, BodyError};

/// The whole content of a body. It can be sent any number of times: clones share the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// All data frames, joined.
    pub bytes: Bytes,
    /// The trailers, if there were any.
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

/// A body that was read in part.
#[derive(Debug)]
pub struct Unfinished {
    /// What was read of it.
    pub read: Bytes,
    /// What was not read. Its guards have seen `read` already.
    pub rest: Body,
}

impl Unfinished {
    /// Returns the body as if nothing of it had been read.
    pub fn into_body(self) -> Body {
        Body::prefixed([self.read], self.rest)
    }
}

/// Why a body was not collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The body is larger than allowed. It can still be read from its beginning.
    #[error("body larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
        /// The body.
        body: Box<Unfinished>,
    },
    /// The body broke off.
    #[error(transparent)]
    Failed(#[from] BodyError),
}

impl CollectError {
    /// Returns the body for another reader: a body that was too large is read from its beginning, and one that failed
    /// fails at once.
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
    /// Reads the whole body, trailers included.
    ///
    /// # Errors
    /// [`CollectError::TooLarge`] if it has more than `limit` bytes; a body that announces more is not read at all.
    /// [`CollectError::Failed`] if it breaks off; what was read is dropped.
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

/// Data frames that become one piece of memory. A single one is kept as it is, others are copied: a small frame may be
/// part of a much larger buffer, which it would keep in memory.
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

    /// Returns how many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    pub(super) fn join(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}
