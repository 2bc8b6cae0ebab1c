//! The chunked transfer coding (RFC 9112 section 7.1).
//!
//! Sizes are read byte by byte, and extensions are dropped as they arrive, so nothing is buffered but an incomplete
//! line of the trailer section.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::error::{Error, ErrorKind};
use super::fields::Fields;
use super::limits::Limits;
use super::lines::LineEnds;
use super::names::Role;
use super::piece::{Piece, Sender, Trailers};

/// Maximum length of the line of a chunk size in bytes, with its extensions.
const MAX_LINE: u32 = 4096;
/// Maximum number of digits of a size.
const MAX_DIGITS: u8 = 15;

/// Decodes a chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    sender: Sender,
    /// Length of the current line of a chunk size.
    line: u32,
    /// Length of all extensions so far.
    extensions: u32,
    /// Number of bytes decoded, for errors.
    at: u64,
}

#[derive(Debug)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    /// White space after a size.
    Space(u64),
    Extension(u64),
    SizeEnd(u64),
    /// Bytes left of a chunk.
    Data(u64),
    DataCr,
    DataLf,
    /// The trailer section; its lines once there is one.
    Trailers(Option<Box<Fields>>),
    Done,
}

impl State {
    const START: Self = Self::Size { size: 0, digits: 0 };
}

impl Chunked {
    pub(super) fn new(sender: Sender) -> Self {
        Self { state: State::START, sender, line: 0, extensions: 0, at: 0 }
    }

    /// Returns the number of bytes left of the current chunk; `None` if its size is not known yet.
    pub(super) fn left(&self) -> Option<u64> {
        if let State::Data(left) = self.state { Some(left) } else { None }
    }

    /// Returns the number of bytes decoded.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Returns true after the end.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub(super) fn decode(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<Option<Piece>, Error> {
        loop {
            match &mut self.state {
                State::Data(_) if input.is_empty() => return Ok(None),
                State::Data(left) => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= length as u64;
                    if *left == 0 {
                        self.state = State::DataCr;
                    }
                    self.at += length as u64;
                    return Ok(Some(Piece::Data(input.split_to(length).freeze())));
                }
                State::Trailers(_) => return self.trailers(input, limits),
                State::Done => return Ok(Some(Piece::End)),
                _ if input.is_empty() => return Ok(None),
                _ => {
                    let length = self.framing(input, limits)?;
                    input.advance(length);
                }
            }
        }
    }

    /// Reads up to the next data or trailer section, and returns the number of bytes read.
    fn framing(&mut self, input: &[u8], limits: &Limits) -> Result<usize, Error> {
        for (at, byte) in input.iter().enumerate() {
            let next = self.step(*byte, limits).map_err(|kind| Error { kind, at: self.at + at as u64 })?;
            self.state = next;
            if matches!(self.state, State::Data(_) | State::Trailers(_)) {
                self.at += at as u64 + 1;
                return Ok(at + 1);
            }
        }
        self.at += input.len() as u64;
        Ok(input.len())
    }

    fn step(&mut self, byte: u8, limits: &Limits) -> Result<State, ErrorKind> {
        match (&self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() && *digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Ok(State::Size { size: size << 4 | digit, digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => Err(ErrorKind::ChunkSize),
            (State::Size { size, .. } | State::Extension(size), b'\r') => Ok(State::SizeEnd(*size)),
            (State::Space(size), b'\r') if self.sender == Sender::Server => Ok(State::SizeEnd(*size)),
            (State::Size { size, .. } | State::Space(size), b' ' | b'\t') => {
                let space = State::Space(*size);
                self.count(limits)?;
                Ok(space)
            }
            (State::Size { size, .. } | State::Space(size), b';') => {
                let extension = State::Extension(*size);
                self.count(limits)?;
                Ok(extension)
            }
            (State::Extension(_), 0x7f) => Err(ErrorKind::Extension),
            (State::Extension(size), b'\t' | 0x20..) => {
                let extension = State::Extension(*size);
                self.count(limits)?;
                Ok(extension)
            }
            (State::Extension(_), _) => Err(ErrorKind::Extension),
            (State::SizeEnd(size), b'\n') => {
                let size = *size;
                self.line = 0;
                Ok(if size == 0 { State::Trailers(None) } else { State::Data(size) })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::START),
            (State::DataCr | State::DataLf, _) => Err(ErrorKind::ChunkEnd),
            _ => Err(ErrorKind::ChunkSize),
        }
    }

    /// Counts a byte that is dropped.
    fn count(&mut self, limits: &Limits) -> Result<(), ErrorKind> {
        self.line += 1;
        self.extensions += 1;
        let fits = self.line < MAX_LINE - u32::from(MAX_DIGITS) && self.extensions <= limits.extensions;
        if fits { Ok(()) } else { Err(ErrorKind::ExtensionsTooLarge) }
    }

    fn trailers(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<Option<Piece>, Error> {
        let State::Trailers(section) = &mut self.state else { return Ok(None) };
        if section.is_none() {
            match &input[..] {
                [b'\r', b'\n', ..] => {
                    input.advance(2);
                    self.at += 2;
                    self.state = State::Done;
                    return Ok(Some(Piece::End));
                }
                [] | [b'\r'] => return Ok(None),
                _ => {}
            }
        }
        let fields = section.get_or_insert_default();
        let start = self.at;
        let wrong = |error: Error| {
            let is_large = error.kind == ErrorKind::TooManyFields;
            let kind = if is_large { ErrorKind::TrailersTooLarge } else { ErrorKind::Trailer };
            Error { kind, at: start + error.at }
        };
        let too_large =
            Error { kind: ErrorKind::TrailersTooLarge, at: start.saturating_add(limits.trailers.into()) };
        loop {
            let Some(line) = fields.lines.next(input, LineEnds::Strict).map_err(wrong)? else {
                return if input.len() > limits.trailers as usize { Err(too_large) } else { Ok(None) };
            };
            if line.end + 2 > limits.trailers as usize {
                return Err(too_large);
            }
            if line.is_empty() {
                break;
            }
            let field = fields.push(input, line, limits.fields).map_err(wrong)?;
            field.check_value().map_err(wrong)?;
            if field.role != Role::Other {
                fields.pop();
            }
        }
        let section: Bytes = input.split_to(fields.lines.consumed()).freeze();
        let is_empty = fields.is_empty();
        let mut headers = HeaderMap::new();
        let spelling = fields.build(&section, &mut headers, 0).map_err(wrong)?;
        self.at += section.len() as u64;
        self.state = State::Done;
        Ok(Some(if is_empty {
            Piece::End
        } else {
            Piece::Trailers(Box::new(Trailers { headers, spelling }))
        }))
    }
}
