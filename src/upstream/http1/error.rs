//! Why an exchange fails.

use std::io;

use tidegate_core::BodyError;
use tidegate_wire::http1::{Error, ErrorKind, SendError};

/// Why an exchange of HTTP/1 failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum Http1Error {
    /// The body of the request failed.
    #[error("{0}")]
    Body(BodyError),
    /// The body of the request is not as long as its head says.
    #[error("{0}")]
    Request(#[from] SendError),
    /// The server has sent something else than a response.
    #[error("{0}")]
    Malformed(Error),
    /// The server has closed the connection before its response was complete.
    #[error("connection closed before the response was complete")]
    Closed,
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Error> for Http1Error {
    fn from(error: Error) -> Self {
        match error.kind {
            ErrorKind::IncompleteHead | ErrorKind::IncompleteBody => Self::Closed,
            _ => Self::Malformed(error),
        }
    }
}

impl From<Http1Error> for BodyError {
    fn from(error: Http1Error) -> Self {
        let kind = match error {
            Http1Error::Body(error) => return error,
            Http1Error::Io(error) => return Self::Io(error),
            Http1Error::Closed => io::ErrorKind::UnexpectedEof,
            Http1Error::Malformed(_) | Http1Error::Request(_) => io::ErrorKind::InvalidData,
        };
        Self::Io(io::Error::new(kind, error.to_string()))
    }
}

impl Http1Error {
    /// Returns true if the server has closed the connection.
    pub(in crate::upstream) fn is_closed(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
        match self {
            Self::Closed => true,
            Self::Io(error) => matches!(
                error.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof
            ),
            Self::Body(_) | Self::Request(_) | Self::Malformed(_) => false,
        }
    }
}
