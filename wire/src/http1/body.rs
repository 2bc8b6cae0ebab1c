//! Bodies (RFC 9112 section 6): finds their data in a buffer, as slices of it.

use bytes::BytesMut;

use super::chunked::Chunked;
use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::message::Framing;
use super::piece::{Piece, Sender};

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder(State);

#[derive(Debug)]
enum State {
    /// Bytes left, and decoded.
    Length(u64, u64),
    Chunked(Chunked),
    /// Bytes decoded.
    UntilClose(u64),
    Done,
}

impl Decoder {
    /// Creates a decoder for a body.
    pub fn new(framing: Framing, sender: Sender) -> Self {
        Self(match framing {
            Framing::None => State::Done,
            Framing::Length(length) => State::Length(length, 0),
            Framing::Chunked => State::Chunked(Chunked::new(sender)),
            Framing::UntilClose => State::UntilClose(0),
        })
    }

    /// Takes the next part from the buffer. Returns `None` if more bytes are needed. The end may come more than once.
    ///
    /// # Errors
    /// The first violation of the framing. What follows must not be decoded.
    pub fn decode(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<Option<Piece>, Error> {
        match &mut self.0 {
            State::Done | State::Length(0, _) => Ok(Some(Piece::End)),
            State::Chunked(chunked) => chunked.decode(input, limits),
            State::Length(..) | State::UntilClose(_) if input.is_empty() => Ok(None),
            State::Length(left, decoded) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= length as u64;
                *decoded += length as u64;
                Ok(Some(Piece::Data(input.split_to(length).freeze())))
            }
            State::UntilClose(decoded) => {
                *decoded += input.len() as u64;
                Ok(Some(Piece::Data(input.split().freeze())))
            }
        }
    }

    /// Ends the input, of which everything has been decoded.
    ///
    /// # Errors
    /// If the body is incomplete.
    pub fn end_of_input(&mut self) -> Result<(), Error> {
        let at = match &self.0 {
            State::Length(left, decoded) if *left > 0 => *decoded,
            State::Chunked(chunked) if !chunked.is_done() => chunked.at(),
            State::Chunked(_) | State::Length(..) | State::UntilClose(_) | State::Done => {
                self.0 = State::Done;
                return Ok(());
            }
        };
        Err(Error { kind: ErrorKind::IncompleteBody, at })
    }

    /// Returns how many bytes are left: of a body with a known length, or of the current chunk. `None` if that is not
    /// known.
    pub fn left(&self) -> Option<u64> {
        match &self.0 {
            State::Done => Some(0),
            State::Length(left, _) => Some(*left),
            State::Chunked(chunked) => chunked.left(),
            State::UntilClose(_) => None,
        }
    }
}
