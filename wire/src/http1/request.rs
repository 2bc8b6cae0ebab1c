//! Heads of requests (RFC 9112 section 3), as servers parse them.

use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Request, Uri, Version, request};

use super::error::{Error, ErrorKind};
use super::fields::{Field, Fields, Seen};
use super::limits::Limits;
use super::lines::{LineEnds, Lines, blame};
use super::message::{Framing, Options, decimal};
use super::names::{self, Role};
use super::spelling::Spelling;
use crate::target::{MAX_TARGET, escape_of, is_host, must_be_escaped};

/// Maximum number of empty lines before a request. Some clients send one after a body (RFC 9112 section 2.2).
const MAX_EMPTY_LINES: u8 = 8;
/// Room in the map for fields that are added to a request: growing would cost as much as four of them.
const ADDED: usize = 8;
/// Maximum number of bytes of a request line besides its target.
const MAX_METHOD: usize = 256;

/// A complete head. Names, values and target are slices of the buffer.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method; the target in the form in which it was sent, in which characters that [`Uri`] cannot hold are
    /// escaped; HTTP/1.0 or HTTP/1.1; the fields, in the order in which their names first occur. Boxed, since a head
    /// is moved often.
    pub parts: Box<request::Parts>,
    /// How the names were spelt.
    pub spelling: Spelling,
    /// How the end of the body is found.
    pub framing: Framing,
    /// What the fields say about the connection.
    pub options: Options,
}

impl RequestHead {
    /// Returns true if the client lets the connection persist.
    pub fn persists(&self) -> bool {
        self.options.persists(self.parts.version)
    }
}

/// Parses one head after the other from a buffer.
///
/// Complete lines are parsed once, also if the head arrives byte by byte. What is invalid is refused as soon as its
/// line is complete.
#[derive(Debug, Default)]
pub struct RequestParser {
    line: Option<RequestLine>,
    fields: Fields,
    empty_lines: u8,
}

#[derive(Debug)]
struct RequestLine {
    method: Method,
    target: Range<usize>,
    version: Version,
}

impl RequestParser {
    /// Parses a head at the start of the buffer and removes it. Returns `None` if it is incomplete: the next call needs
    /// the same bytes with more after them.
    ///
    /// # Errors
    /// The first violation. What follows must not be parsed.
    pub fn parse(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<Option<RequestHead>, Error> {
        loop {
            let Some(line) = self.fields.lines.next(input, LineEnds::Strict)? else {
                return self.check_size(input.len(), limits).map(|()| None);
            };
            if line.end + 2 > limits.head as usize {
                return Err(self.too_large(limits.head as usize));
            }
            match &self.line {
                None if line.is_empty() => self.skip_empty_line(input)?,
                None => {
                    let parsed = request_line(&input[line.clone()], limits);
                    let parsed = parsed.map_err(|error| blame(error, input, line))?;
                    let is_complete = self.fields.begin(input, (parsed.version, false), limits);
                    self.line = Some(parsed);
                    if is_complete {
                        return self.finish(input, limits).map(Some);
                    }
                }
                Some(_) if line.is_empty() => return self.finish(input, limits).map(Some),
                Some(request) => {
                    let pushed = self.fields.push(input, line.clone(), limits.fields);
                    let noted = pushed.and_then(|field| note(&mut self.fields.seen, &field, request.version));
                    noted.map_err(|error| blame(error, input, line))?;
                }
            }
        }
    }

    /// Returns true if no byte of a head has been parsed.
    pub fn is_at_start(&self) -> bool {
        self.fields.lines.is_at_start()
    }

    /// Returns what to report if the incomplete head must not grow further: its target or its fields are too large.
    pub fn too_large(&self, at: usize) -> Error {
        let kind = if self.line.is_some() { ErrorKind::HeadTooLarge } else { ErrorKind::TargetTooLong };
        Error::new(kind, at)
    }

    /// Gives the memory back that is kept from head to head.
    pub fn release(&mut self) {
        self.fields = Fields::default();
    }

    /// Returns the number of bytes that are allocated.
    pub fn allocated(&self) -> usize {
        self.fields.allocated()
    }

    fn check_size(&self, length: usize, limits: &Limits) -> Result<(), Error> {
        let is_long = self.line.is_none() && length > limits.target as usize + MAX_METHOD;
        if length > limits.head as usize || is_long { Err(self.too_large(length)) } else { Ok(()) }
    }

    fn skip_empty_line(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        input.advance(self.fields.lines.consumed());
        self.fields.lines = Lines::default();
        self.empty_lines += 1;
        if self.empty_lines > MAX_EMPTY_LINES {
            return Err(Error::new(ErrorKind::EmptyLines, 0));
        }
        Ok(())
    }

    fn finish(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<RequestHead, Error> {
        let head = input.split_to(self.fields.lines.consumed()).freeze();
        let Seen { host, length, chunked, options, .. } = self.fields.seen;
        self.empty_lines = 0;
        let wrong = |kind| Error::new(kind, head.len());
        let RequestLine { method, target, version } =
            self.line.take().ok_or(Error::new(ErrorKind::RequestLine, 0))?;
        if !host && version == Version::HTTP_11 && method != Method::CONNECT {
            return Err(wrong(ErrorKind::NoHost));
        }
        let framing = match (chunked, length) {
            (true, Some(_)) => return Err(wrong(ErrorKind::TwoLengths)),
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::None,
        };
        let at = target.start;
        let mut parts = Box::new(Request::new(()).into_parts().0);
        parts.uri = uri(&head, target, &method, limits).map_err(|kind| Error::new(kind, at))?;
        (parts.method, parts.version) = (method, version);
        let spelling = self.fields.build(&head, &mut parts.headers, ADDED)?;
        Ok(RequestHead { parts, spelling, framing, options })
    }
}

/// Notes a field that the codec understands.
fn note(seen: &mut Seen, field: &Field<'_>, version: Version) -> Result<(), Error> {
    if field.role == Role::Other {
        return Ok(());
    }
    let wrong = |kind| Err(Error::new(kind, field.at));
    let value = field.value;
    match field.role {
        Role::Host if seen.host => return wrong(ErrorKind::RepeatedHost),
        Role::Host if !is_host(value) => return wrong(ErrorKind::Host),
        Role::Host => seen.host = true,
        Role::ContentLength => {
            // Leading zeros are valid, but some parsers read such numbers as octal.
            let is_octal = value.len() > 1 && value[0] == b'0';
            let Some(length) = decimal(value).filter(|_| !is_octal && seen.length.is_none()) else {
                return wrong(ErrorKind::ContentLength);
            };
            seen.length = Some(length);
        }
        Role::TransferEncoding if version == Version::HTTP_10 => {
            return wrong(ErrorKind::OldTransferEncoding);
        }
        Role::TransferEncoding if seen.chunked || !value.eq_ignore_ascii_case(b"chunked") => {
            return wrong(ErrorKind::TransferEncoding);
        }
        Role::TransferEncoding => seen.chunked = true,
        Role::Connection => {
            seen.options.read_connection(value);
        }
        Role::Upgrade => seen.options.upgrade = true,
        Role::Expect => seen.options.read_expect(value),
        Role::Te => seen.options.read_te(value),
        Role::OneConnection | Role::NoTrailer | Role::Other => {}
    }
    Ok(())
}

/// Parses a request line. Its target is only checked.
fn request_line(line: &[u8], limits: &Limits) -> Result<RequestLine, Error> {
    let wrong = |at| Error::new(ErrorKind::RequestLine, at);
    let end = line.iter().position(|byte| !names::is_token(*byte)).unwrap_or(line.len());
    if end == 0 || line.get(end) != Some(&b' ') {
        return Err(wrong(end));
    }
    let method = Method::from_bytes(&line[..end]).map_err(|_| wrong(0))?;
    let start = end + 1;
    let Some(length) = memchr::memchr(b' ', &line[start..]) else { return Err(wrong(line.len())) };
    let (target, version) = (start..start + length, &line[start + length + 1..]);
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(Error::new(ErrorKind::Version, target.end + 1));
        }
        _ => return Err(wrong(target.end + 1)),
    };
    if length > limits.target as usize {
        return Err(Error::new(ErrorKind::TargetTooLong, start));
    }
    check_target(&line[target.clone()], &method).map_err(|(kind, at)| Error::new(kind, start + at))?;
    Ok(RequestLine { method, target, version })
}

/// Checks that a target has one of the forms of RFC 9112 section 3.2, no control character, no fragment, and no invalid
/// escape in its path.
fn check_target(target: &[u8], method: &Method) -> Result<(), (ErrorKind, usize)> {
    // No early exit, so that the loop can be vectorised.
    if target.iter().fold(false, |found, byte| found | (*byte <= b' ') | (*byte == 0x7f)) {
        return Err((ErrorKind::Target, target.iter().position(u8::is_ascii_control).unwrap_or(0)));
    }
    if let Some(first) = memchr::memchr2(b'#', b'%', target) {
        check_escapes(target, first, *method == Method::CONNECT)?;
    }
    let has_form = match target {
        [] => false,
        [b'/', ..] => *method != Method::CONNECT,
        b"*" => *method == Method::OPTIONS,
        _ => target.iter().take_while(|byte| **byte != b'?').any(|byte| *byte == b':'),
    };
    if has_form { Ok(()) } else { Err((ErrorKind::Target, 0)) }
}

/// Checks a target from its first escape or fragment on.
fn check_escapes(target: &[u8], first: usize, connect: bool) -> Result<(), (ErrorKind, usize)> {
    let path = if connect { 0 } else { memchr::memchr(b'?', target).unwrap_or(target.len()) };
    for at in memchr::memchr2_iter(b'#', b'%', &target[first..]).map(|at| first + at) {
        if target[at] == b'#' {
            return Err((ErrorKind::Fragment, at));
        }
        let digits = target.get(at + 1..at + 3).unwrap_or_default();
        if at < path && (digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err((ErrorKind::Target, at));
        }
    }
    Ok(())
}

/// Makes a target of the head into a URI.
fn uri(head: &Bytes, target: Range<usize>, method: &Method, limits: &Limits) -> Result<Uri, ErrorKind> {
    let uri = match Uri::from_maybe_shared(head.slice(target.clone())) {
        Ok(uri) => uri,
        Err(_) => {
            let escaped = escaped(&head[target]).ok_or(ErrorKind::Target)?;
            if escaped.len() > MAX_TARGET.min(limits.target as usize) {
                return Err(ErrorKind::TargetTooLong);
            }
            Uri::from_maybe_shared(Bytes::from(escaped)).map_err(|_| ErrorKind::Target)?
        }
    };
    // Only CONNECT has an authority without a scheme.
    let has_form = match uri.scheme_str() {
        Some(scheme) => {
            let is_known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
            is_known && *method != Method::CONNECT
        }
        None => uri.authority().is_some() == (*method == Method::CONNECT),
    };
    // Without user information.
    let is_plain = uri.authority().is_none_or(|authority| is_host(authority.as_str().as_bytes()));
    if has_form && is_plain { Ok(uri) } else { Err(ErrorKind::Target) }
}

/// Escapes the characters that [`Uri`] cannot hold; `None` if there are none.
#[cold]
fn escaped(target: &[u8]) -> Option<Vec<u8>> {
    let query = memchr::memchr(b'?', target).unwrap_or(target.len());
    let is_one = |(at, byte): (usize, &u8)| must_be_escaped(*byte, at >= query);
    if target.len() > MAX_TARGET || !target.iter().enumerate().any(is_one) {
        return None;
    }
    let mut escaped = Vec::with_capacity(target.len() + 16);
    for (at, byte) in target.iter().enumerate() {
        if is_one((at, byte)) {
            escaped.extend_from_slice(&escape_of(*byte));
        } else {
            escaped.push(*byte);
        }
    }
    Some(escaped)
}
