//! How PostgreSQL negotiates TLS: the client requests it in plain text, and starts the handshake if the
//! server agrees.
//!
//! Source: PostgreSQL's protocol, sections "SSL Session Encryption" and "Message Formats" (SSLRequest).

/// A client's request for TLS: the length of the message, and the code 80877103.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The one-byte response with which a server agrees.
pub const AGREED: u8 = b'S';

/// The result of parsing the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not a request for TLS.
    Absent,
    /// The start of a request: more bytes are needed.
    Partial,
    /// A request. Anything after it was sent before the response.
    SslRequest,
}

/// Checks for a request for TLS at the start of `bytes`.
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
    fn a_request_is_recognised_whole_and_in_part() {
        for end in 0..SSL_REQUEST.len() {
            assert_eq!(parse(&SSL_REQUEST[..end]), Parsed::Partial, "{end}");
        }
        assert_eq!(parse(&SSL_REQUEST), Parsed::SslRequest);
        assert_eq!(parse(&[&SSL_REQUEST[..], b"x"].concat()), Parsed::SslRequest);
        assert_eq!(parse(b"\0\0\0\x08\x04\xd2\x16\x30"), Parsed::Absent, "the code of a GSSENCRequest");
        assert_eq!(parse(b"GET"), Parsed::Absent);
    }
}
