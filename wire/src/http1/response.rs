//! Heads of responses (RFC 9112 section 4), as clients parse them.
//!
//! Servers are trusted more than clients, and old ones are sloppy: a line may end with LF alone, a length may be
//! repeated, and `Transfer-Encoding` overrides it. A body whose end is not clear is refused all the same.

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode, Version, response};

use super::error::{Error, ErrorKind};
use super::fields::{Field, Fields, Seen};
use super::limits::Limits;
use super::lines::{LineEnds, blame};
use super::message::{Asked, Framing, Options, decimal, trim};
use super::names::Role;
use super::spelling::Spelling;

/// Room in the map for fields that are added to a response.
const ADDED: usize = 4;

/// A complete head. Names, values and reason are slices of the buffer.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// HTTP/1.0 or HTTP/1.1; the status, of which informational ones precede the response; the fields, in the order in
    /// which their names first occur. There is no `Content-Length` beside a `Transfer-Encoding`. What `framing` and
    /// `options` say completely is left out: a `Transfer-Encoding` of a response with a body, and a `Connection` with
    /// nothing else than `close` or `keep-alive`. Boxed, since a head is moved often.
    pub parts: Box<response::Parts>,
    /// The reason, unless it is the usual one of the status.
    pub reason: Option<Reason>,
    /// How the names were spelt.
    pub spelling: Spelling,
    /// How the end of the body is found.
    pub framing: Framing,
    /// What the fields say about the connection.
    pub options: Options,
    /// `headers` has fields that concern this connection only.
    pub hop_by_hop: bool,
}

impl ResponseHead {
    /// Returns true if the server lets the connection persist.
    pub fn persists(&self) -> bool {
        self.options.persists(self.parts.version) && self.framing != Framing::UntilClose
    }
}

/// A reason phrase: text without control characters (RFC 9112 section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Bytes);

impl Reason {
    /// Returns the phrase; `None` if it has control characters.
    pub fn new(phrase: Bytes) -> Option<Self> {
        let is_text = |byte: &u8| *byte >= 0x20 && *byte != 0x7f || *byte == b'\t';
        phrase.iter().all(is_text).then_some(Self(phrase))
    }

    /// Returns the phrase as it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Parses one head after the other from a buffer.
#[derive(Debug, Default)]
pub struct ResponseParser {
    line: Option<StatusLine>,
    fields: Fields,
}

#[derive(Debug)]
struct StatusLine {
    version: Version,
    status: StatusCode,
    reason: std::ops::Range<usize>,
    /// The status has no body, so fields about it do not matter.
    bodiless: bool,
}

impl ResponseParser {
    /// Parses a head at the start of the buffer and removes it. Returns `None` if it is incomplete: the next call needs
    /// the same bytes with more after them.
    ///
    /// # Errors
    /// The first violation. What follows must not be parsed.
    pub fn parse(
        &mut self,
        input: &mut BytesMut,
        asked: Asked,
        limits: &Limits,
    ) -> Result<Option<ResponseHead>, Error> {
        loop {
            let Some(line) = self.fields.lines.next(input, LineEnds::AlsoLf)? else {
                let fits = input.len() <= limits.head as usize;
                return if fits { Ok(None) } else { Err(too_large(limits)) };
            };
            if line.end + 1 > limits.head as usize {
                return Err(too_large(limits));
            }
            match &self.line {
                None => {
                    let parsed = status_line(&input[line.clone()], asked);
                    let parsed = parsed.map_err(|error| blame(error, input, line))?;
                    let is_complete = self.fields.begin(input, (parsed.version, parsed.bodiless), limits);
                    self.line = Some(parsed);
                    if is_complete {
                        return self.finish(input).map(Some);
                    }
                }
                Some(_) if line.is_empty() => return self.finish(input).map(Some),
                Some(status) => {
                    let pushed = self.fields.push(input, line.clone(), limits.fields);
                    let noted = pushed.and_then(|field| note(&mut self.fields.seen, &field, status));
                    if noted.map_err(|error| blame(error, input, line))? {
                        self.fields.pop();
                    }
                }
            }
        }
    }

    /// Returns true if no byte of a head has been parsed.
    pub fn is_at_start(&self) -> bool {
        self.fields.lines.is_at_start()
    }

    /// Gives memory back, except what is known of the last head: up to 1 KiB of lines, their copy and their map. Idle
    /// connections to servers are used again.
    pub fn release(&mut self) {
        self.fields.release();
    }

    /// Returns the number of bytes that are allocated.
    pub fn allocated(&self) -> usize {
        self.fields.allocated()
    }

    fn finish(&mut self, input: &mut BytesMut) -> Result<ResponseHead, Error> {
        let section = input.split_to(self.fields.lines.consumed()).freeze();
        let Seen { length, chunked, options, hop_by_hop, .. } = self.fields.seen;
        let Some(StatusLine { version, status, reason, bodiless }) = self.line.take() else {
            return Err(Error::new(ErrorKind::StatusLine, 0));
        };
        let framing = match (bodiless, chunked, length) {
            (true, ..) => Framing::None,
            (false, true, _) => Framing::Chunked,
            (false, false, Some(length)) => Framing::Length(length),
            (false, false, None) => Framing::UntilClose,
        };
        let mut parts = Box::new(Response::new(()).into_parts().0);
        (parts.version, parts.status) = (version, status);
        let spelling = self.fields.build(&section, &mut parts.headers, ADDED)?;
        if framing == Framing::Chunked && length.is_some() {
            parts.headers.remove(CONTENT_LENGTH);
        }
        let mut head = ResponseHead { parts, reason: None, spelling, framing, options, hop_by_hop };
        let usual = status.canonical_reason().unwrap_or_default().as_bytes();
        let phrase = &section[reason.clone()];
        if !phrase.is_empty() && phrase != usual {
            let at = reason.start;
            let reason = Reason::new(section.slice(reason)).ok_or(Error::new(ErrorKind::StatusLine, at))?;
            head.reason = Some(reason);
        }
        Ok(head)
    }
}

/// Notes a field that the codec understands. Returns true if it is to be left out.
fn note(seen: &mut Seen, field: &Field<'_>, line: &StatusLine) -> Result<bool, Error> {
    let wrong = |kind| Err(Error::new(kind, field.at));
    match field.role {
        Role::ContentLength if line.bodiless => {}
        Role::ContentLength => {
            for one in field.value.split(|byte| *byte == b',') {
                let length = decimal(trim(one));
                if length.is_none() || seen.length.is_some_and(|other| Some(other) != length) {
                    return wrong(ErrorKind::ContentLength);
                }
                seen.length = length;
            }
        }
        Role::TransferEncoding if line.bodiless => seen.hop_by_hop = true,
        Role::TransferEncoding if line.version == Version::HTTP_10 => {
            return wrong(ErrorKind::OldTransferEncoding);
        }
        Role::TransferEncoding if seen.chunked || !field.value.eq_ignore_ascii_case(b"chunked") => {
            return wrong(ErrorKind::TransferEncoding);
        }
        Role::TransferEncoding => {
            seen.chunked = true;
            return Ok(true);
        }
        Role::Connection => {
            let is_plain = seen.options.read_connection(field.value);
            seen.hop_by_hop |= !is_plain;
            return Ok(is_plain);
        }
        Role::Upgrade => {
            seen.options.upgrade = true;
            seen.hop_by_hop = true;
        }
        Role::Te | Role::OneConnection => seen.hop_by_hop = true,
        Role::Expect | Role::Host | Role::NoTrailer | Role::Other => {}
    }
    Ok(false)
}

fn too_large(limits: &Limits) -> Error {
    Error::new(ErrorKind::HeadTooLarge, limits.head as usize)
}

/// Parses a status line. The reason may be missing, with the space before it.
fn status_line(line: &[u8], asked: Asked) -> Result<StatusLine, Error> {
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::HTTP_11,
        Some(b"HTTP/1.0 ") => Version::HTTP_10,
        Some(start) if start.starts_with(b"HTTP/") => return Err(Error::new(ErrorKind::Version, 5)),
        _ => return Err(Error::new(ErrorKind::StatusLine, 0)),
    };
    let wrong = || Error::new(ErrorKind::StatusLine, 9);
    let status = line.get(9..12).and_then(|digits| StatusCode::from_bytes(digits).ok()).ok_or_else(wrong)?;
    let reason = match line.get(12) {
        None => 12..12,
        Some(b' ') => 13..line.len(),
        Some(_) => return Err(Error::new(ErrorKind::StatusLine, 12)),
    };
    Ok(StatusLine { version, status, reason, bodiless: asked.is_bodiless(status) })
}
