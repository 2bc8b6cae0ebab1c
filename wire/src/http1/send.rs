//! The body that is sent: what its length lets it be.

use bytes::Bytes;

use super::encode::{self, Fields, Frame};
use super::message::Framing;

/// A message that must not be sent. Nothing of it has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A head while another message is being sent, or a response without a request.
    #[error("unexpected head: expected the end of the last message first")]
    UnexpectedHead,
    /// A body without a head, after its end, or of a message that has none.
    #[error("unexpected body data: expected a message with a body")]
    UnexpectedData,
    /// More data than the length that was announced.
    #[error("body too long: expected {left} bytes more")]
    TooLong {
        /// Number of bytes that may still be sent.
        left: u64,
    },
    /// The end of a body before the length that was announced.
    #[error("body too short: expected {left} bytes more")]
    TooShort {
        /// Number of bytes that are missing.
        left: u64,
    },
    /// An informational status where a final one is expected, or the reverse.
    #[error("unexpected status")]
    Status,
    /// A 101 to a client that did not ask for another protocol.
    #[error("unexpected status 101: expected another status, as no upgrade was requested")]
    UnexpectedUpgrade,
}

/// What is known about a body before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// There is none.
    None,
    /// Its length.
    Length(u64),
    /// Nothing: it comes in chunks, or until the connection ends.
    Unknown,
}

/// Frames one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyWriter {
    /// Bytes left.
    Length(u64),
    Chunked,
    UntilClose,
}

impl BodyWriter {
    /// Returns the writer for a body; `None` if there is nothing to write.
    pub(super) fn new(framing: Framing) -> Option<Self> {
        match framing {
            Framing::None | Framing::Length(0) => None,
            Framing::Length(length) => Some(Self::Length(length)),
            Framing::Chunked => Some(Self::Chunked),
            Framing::UntilClose => Some(Self::UntilClose),
        }
    }

    /// Frames data; `last` ends the body without trailers.
    pub(super) fn data(&mut self, data: Bytes, last: bool) -> Result<Frame, SendError> {
        match self {
            Self::Length(left) => {
                let rest = left.checked_sub(data.len() as u64).ok_or(SendError::TooLong { left: *left })?;
                if last && rest > 0 {
                    return Err(SendError::TooShort { left: rest });
                }
                *left = rest;
                Ok(Frame::plain(data))
            }
            Self::Chunked => Ok(Frame::chunk(data, last)),
            Self::UntilClose => Ok(Frame::plain(data)),
        }
    }

    /// Writes the end. Trailers are dropped unless the body is chunked.
    pub(super) fn end(self, trailers: Option<Fields<'_>>, out: &mut Vec<u8>) -> Result<(), SendError> {
        match self {
            Self::Length(left @ 1..) => Err(SendError::TooShort { left }),
            Self::Length(0) | Self::UntilClose => Ok(()),
            Self::Chunked => {
                encode::last_chunk(trailers, out);
                Ok(())
            }
        }
    }
}
