//! How large the parts of a message may be.

use crate::target::MAX_TARGET;

/// Limits of what a peer may send. Each is reported as the error that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of a head in bytes, including the empty line at its end.
    pub head: u32,
    /// Maximum length of a request target in bytes, at most [`MAX_TARGET`].
    pub target: u32,
    /// Maximum number of field lines of a head, and of a trailer section.
    pub fields: u32,
    /// Maximum size of a trailer section in bytes.
    pub trailers: u32,
    /// Maximum number of bytes of the chunk extensions of one body, which are dropped.
    pub extensions: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 1 << 20,
            target: MAX_TARGET as u32,
            fields: 1024,
            trailers: 16 << 10,
            extensions: 16 << 10,
        }
    }
}
