//! The protocols of client connections.

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
pub(in crate::entrypoint) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First byte of a TLS connection: a handshake record.
pub(in crate::entrypoint) const TLS_HANDSHAKE: u8 = 0x16;

/// The protocol of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Protocol {
    /// Returns true if requests are streams of frames: HTTP/2 and HTTP/3.
    pub(in crate::entrypoint) fn is_framed(self) -> bool {
        self != Self::Http1
    }
}
