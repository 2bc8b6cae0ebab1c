//! The responses to requests that are not understood.

use http::StatusCode;

/// The response to an invalid head, with the texts of Go's server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// Anything without its own text.
    #[default]
    Malformed,
    /// White space before a colon.
    HeaderName,
    /// HTTP/1.1 without `Host`.
    NoHost,
    /// An invalid `Host`.
    Host,
    /// An unsupported version.
    Version,
    /// A transfer encoding other than `chunked`.
    TransferEncoding,
    /// A target with a fragment: a 400 without text.
    Fragment,
    /// A head that exceeds the available memory.
    TooLarge,
    /// A target that is too long, or a request line that exceeds the available memory.
    TargetTooLong,
}

impl Refusal {
    /// Returns the complete response. One with a text has no length, as the connection closes after it.
    pub fn response(self) -> &'static [u8] {
        macro_rules! answer {
            ($status:literal, $text:literal) => {
                concat!(
                    "HTTP/1.1 ",
                    $status,
                    "\r\nContent-Type: text/plain; charset=utf-8\r\n",
                    "Connection: close\r\n\r\n",
                    $text
                )
                .as_bytes()
            };
        }
        match self {
            Self::Malformed => answer!("400 Bad Request", "400 Bad Request"),
            Self::HeaderName => answer!("400 Bad Request", "400 Bad Request: invalid header name"),
            Self::NoHost => answer!("400 Bad Request", "400 Bad Request: missing required Host header"),
            Self::Host => answer!("400 Bad Request", "400 Bad Request: malformed Host header"),
            Self::Version => answer!(
                "505 HTTP Version Not Supported",
                "505 HTTP Version Not Supported: unsupported protocol version"
            ),
            Self::TooLarge => {
                answer!("431 Request Header Fields Too Large", "431 Request Header Fields Too Large")
            }
            Self::TargetTooLong => answer!("414 URI Too Long", "414 URI Too Long"),
            Self::TransferEncoding => answer!("501 Not Implemented", "Unsupported transfer encoding"),
            Self::Fragment => b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        }
    }

    /// Returns the status of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::HeaderName | Self::NoHost | Self::Host | Self::Fragment => {
                StatusCode::BAD_REQUEST
            }
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
        }
    }
}
