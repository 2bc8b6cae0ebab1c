//! What is wrong with a message, and where.

use http::StatusCode;

use super::refusal::Refusal;

/// A message that cannot be parsed. After one, nothing on the connection can be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}, at byte {at} of the {}", if kind.is_in_head() { "head" } else { "body" })]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// The offset of the violation from the start of the head, or of the body with its framing.
    pub at: u64,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, at: usize) -> Self {
        Self { kind, at: at as u64 }
    }

    /// Returns the response to a request with this error.
    pub fn refusal(&self) -> Refusal {
        self.kind.refusal()
    }

    /// Returns the status of that response.
    pub fn status(&self) -> StatusCode {
        self.refusal().status()
    }
}

/// A violation of the rules of RFC 9112, or of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A line that does not end with CR LF.
    #[error("invalid line end: expected CR LF")]
    LineEnd,
    /// More empty lines before a request than any client sends.
    #[error("too many empty lines: expected a request")]
    EmptyLines,
    /// Not three parts with one space between them, or an invalid method.
    #[error("invalid request line: expected method, target and version")]
    RequestLine,
    /// A target in none of the forms of RFC 9112 section 3.2.
    #[error("invalid target: expected a path, an HTTP URL, or a host and a port")]
    Target,
    /// A target with a fragment.
    #[error("invalid target: expected no fragment")]
    Fragment,
    /// A target that exceeds [`Limits::target`](super::Limits::target).
    #[error("target too long")]
    TargetTooLong,
    /// Another version.
    #[error("unsupported version: expected HTTP/1.0 or HTTP/1.1")]
    Version,
    /// A first line of a response in another form.
    #[error("invalid status line: expected version and status")]
    StatusLine,
    /// A field line without a colon, or with another name than a token.
    #[error("invalid field name: expected a token and a colon")]
    FieldName,
    /// White space between name and colon.
    #[error("invalid field name: expected no space before the colon")]
    SpaceBeforeColon,
    /// A line that continues the one before.
    #[error("folded field line: expected a field name")]
    Folded,
    /// A control character in a value.
    #[error("invalid field value: expected no control characters")]
    FieldValue,
    /// More field lines than [`Limits::fields`](super::Limits::fields).
    #[error("too many field lines")]
    TooManyFields,
    /// A head that exceeds [`Limits::head`](super::Limits::head).
    #[error("head too large")]
    HeadTooLarge,
    /// A request of HTTP/1.1 without `Host`.
    #[error("missing Host")]
    NoHost,
    /// A second `Host`.
    #[error("repeated Host: expected one")]
    RepeatedHost,
    /// A `Host` that is neither a name nor an address.
    #[error("invalid Host: expected a name or an address, with an optional port")]
    Host,
    /// A length that is no decimal number of a body, or several.
    #[error("invalid Content-Length: expected one decimal number")]
    ContentLength,
    /// A transfer coding that is not `chunked`, or a second one.
    #[error("unsupported Transfer-Encoding: expected `chunked`")]
    TransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0, which does not have it.
    #[error("unexpected Transfer-Encoding in HTTP/1.0")]
    OldTransferEncoding,
    /// A request with both `Transfer-Encoding` and `Content-Length`.
    #[error("ambiguous length: expected Transfer-Encoding or Content-Length, not both")]
    TwoLengths,
    /// A chunk size that is no hexadecimal number, or too large.
    #[error("invalid chunk size: expected a hexadecimal number")]
    ChunkSize,
    /// A chunk extension with a control character.
    #[error("invalid chunk extension: expected no control characters")]
    Extension,
    /// Chunk extensions that exceed [`Limits::extensions`](super::Limits::extensions), or the length of a line.
    #[error("chunk extensions too large")]
    ExtensionsTooLarge,
    /// Another byte after a chunk than CR LF.
    #[error("invalid chunk: expected CR LF after its data")]
    ChunkEnd,
    /// A line of the trailer section that is no field line.
    #[error("invalid trailer: expected a field line")]
    Trailer,
    /// A trailer section that exceeds [`Limits::trailers`](super::Limits::trailers) or
    /// [`Limits::fields`](super::Limits::fields).
    #[error("trailers too large")]
    TrailersTooLarge,
    /// The connection ended within a head.
    #[error("incomplete head: expected more bytes")]
    IncompleteHead,
    /// The connection ended within a body.
    #[error("incomplete body: expected more bytes")]
    IncompleteBody,
    /// Bytes of a server to which no request was sent.
    #[error("unexpected response: expected a request first")]
    Unsolicited,
    /// A status 101 to a request that did not ask for another protocol.
    #[error("unexpected status 101: expected another status, as no upgrade was requested")]
    UnexpectedUpgrade,
}

impl ErrorKind {
    /// Returns true for what is wrong with a head, and false for what is wrong with a body.
    pub fn is_in_head(self) -> bool {
        !matches!(
            self,
            Self::ChunkSize
                | Self::Extension
                | Self::ExtensionsTooLarge
                | Self::ChunkEnd
                | Self::Trailer
                | Self::TrailersTooLarge
                | Self::IncompleteBody
        )
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Fragment => Refusal::Fragment,
            Self::TargetTooLong => Refusal::TargetTooLong,
            Self::Version => Refusal::Version,
            Self::SpaceBeforeColon => Refusal::HeaderName,
            Self::TooManyFields | Self::HeadTooLarge | Self::TrailersTooLarge => Refusal::TooLarge,
            Self::NoHost => Refusal::NoHost,
            Self::Host => Refusal::Host,
            Self::TransferEncoding => Refusal::TransferEncoding,
            _ => Refusal::Malformed,
        }
    }
}
