//! The protocols in which clients send requests.

/// The protocol of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Protocol {
    /// True where requests come as streams of frames: HTTP/2 and HTTP/3.
    pub(super) fn is_framed(self) -> bool {
        self != Self::Http1
    }
}
