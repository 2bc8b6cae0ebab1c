//! The parts of a body.

use bytes::Bytes;
use http::HeaderMap;

use super::spelling::Spelling;

/// Who sent the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A client, which must send what every parser reads in the same way.
    Client,
    /// A server. Some fill up the line of a chunk size with spaces.
    Server,
}

/// A part of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes of the content, never none.
    Data(Bytes),
    /// Fields after the content, without those that may not be there (RFC 9110 section 6.5.1).
    Trailers(Box<Trailers>),
    /// Its end.
    End,
}

/// Fields after a body.
#[derive(Clone, Debug)]
pub struct Trailers {
    /// The fields.
    pub headers: HeaderMap,
    /// How their names were spelt.
    pub spelling: Spelling,
}
