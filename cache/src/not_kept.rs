//! Why a response that is received is not stored after all.

/// Why a response that is received is not stored after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// It exceeds the limit of one response.
    #[error("response larger than {0} bytes")]
    TooLarge(u64),
    /// Too much is being received at once, or the disk is too slow.
    #[error("too many responses are being received")]
    Busy,
    /// Its body has fewer or more bytes than `Content-Length` says.
    #[error("{received} bytes received, expected {expected}")]
    Incomplete {
        /// What `Content-Length` says.
        expected: u64,
        /// What has arrived.
        received: u64,
    },
    /// It was purged while it was received.
    #[error("purged while it was received")]
    Purged,
    /// The store has preferred others.
    #[error("not admitted")]
    NotAdmitted,
    /// The store on disk is not open yet, is used by another process, or pauses after an error.
    #[error("store not available")]
    Unavailable,
    /// The disk has failed or is full.
    #[error("cannot write: {0}")]
    Failed(std::io::ErrorKind),
}
