//! Why bodies fail.

/// Why a body failed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer's HTTP connection failed.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// A size limit was exceeded.
    #[error("body larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The client cancelled its request, or violated the protocol (HTTP/3).
    #[error("{0}")]
    Gone(String),
    /// No progress within the allowed time.
    #[error("body made no progress in time")]
    TimedOut,
    /// Compression, a temporary file, or another local operation failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl BodyError {
    /// Returns the kind of error, without its details.
    pub fn kind(&self) -> BodyErrorKind {
        match self {
            Self::Http(_) => BodyErrorKind::Http,
            Self::TooLarge { .. } => BodyErrorKind::TooLarge,
            Self::Gone(_) => BodyErrorKind::Gone,
            Self::TimedOut => BodyErrorKind::TimedOut,
            Self::Io(_) => BodyErrorKind::Io,
            Self::Other(_) => BodyErrorKind::Other,
        }
    }
}

/// The kind of a [`BodyError`], which can be copied and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyErrorKind {
    /// [`BodyError::Http`]
    Http,
    /// [`BodyError::TooLarge`]
    TooLarge,
    /// [`BodyError::Gone`]
    Gone,
    /// [`BodyError::TimedOut`]
    TimedOut,
    /// [`BodyError::Io`]
    Io,
    /// [`BodyError::Other`]
    Other,
}
