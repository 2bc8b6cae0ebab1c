//! HTTP/1 (RFC 9112): both sides of a connection, without I/O.
//!
//! Each byte is read once, in a buffer of the caller, and what is found are slices of it. What two parsers could read in
//! two ways is not parsed: it is an [`Error`] that says what is wrong, where, and which response it deserves. Nothing
//! grows beyond [`Limits`] with what a peer sends.
//!
//! | module | is |
//! |---|---|
//! | [`server`], [`client`] | one connection: which message is read and sent, and whether another may follow |
//! | [`request`], [`response`] | heads, as they are parsed |
//! | [`body`] | bodies, as they are decoded |
//! | [`encode`] | heads and bodies, as they are written |
//!
//! Heads are parsed line by line, so one that arrives byte by byte costs no more than another. Names keep their
//! [`Spelling`], fields their order. A body in chunks has its extensions dropped.

pub mod body;
mod chunked;
pub mod client;
pub mod encode;
mod error;
mod fields;
mod limits;
mod lines;
mod message;
mod names;
mod piece;
mod refusal;
pub mod request;
pub mod response;
mod send;
pub mod server;
mod spelling;

pub use error::{Error, ErrorKind};
pub use limits::Limits;
pub use message::{Asked, Framing, Options};
pub use piece::{Piece, Sender, Trailers};
pub use refusal::Refusal;
pub use send::{Payload, SendError};
pub use spelling::{Rule, Spelling};
