//! How PostgreSQL gets to TLS: the client asks for it in plain text, and begins the handshake when the server agrees.
//!
//! Source: PostgreSQL's protocol, sections "SSL Session Encryption" and "Message Formats" (SSLRequest).

/// What a client sends to ask for TLS: the length of the message, and the code 80877103.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The answer of one byte by which a server agrees.
pub const AGREED: u8 = b'S';

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// No request for TLS.
    Absent,
    /// The beginning of a request: more bytes are needed.
    Partial,
    /// A request. Whatever follows was sent before the answer.
    SslRequest,
}

/// Looks for a request for TLS at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    if bytes.starts_with(&SSL_REQUEST) {
        Parsed::SslRequest
    } else if SSL_REQUEST.starts_with(bytes) {
        Parsed::Partial
    } else {
        Parsed::Absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_whole_and_in_part() {
        for end in 0..SSL_REQUEST.len() {
            assert_eq!(parse(&SSL_REQUEST[..end]), Parsed::Partial, "{end}");
        }
        assert_eq!(parse(&SSL_REQUEST), Parsed::SslRequest);
        assert_eq!(parse(&[&SSL_REQUEST[..], b"x"].concat()), Parsed::SslRequest);
        assert_eq!(parse(b"\0\0\0\x08\x04\xd2\x16\x30"), Parsed::Absent, "the code of a GSSENCRequest");
        assert_eq!(parse(b"GET"), Parsed::Absent);
    }
}
