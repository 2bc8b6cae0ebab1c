//! Strict framing of HTTP/1 requests (RFC 9112): refuses what two parsers could interpret differently.
//!
//! HTTP libraries tolerate what request smuggling relies on: a `Content-Length` with a `Transfer-Encoding`,
//! bare line feeds, folded headers, chunk extensions that end early. A parsed request no longer shows any of
//! that. A [`Scanner`] reads the same bytes before a library does: it finds each head and body by the strict
//! rules, reports the first violation, and knows where heads and bodies start, so that timeouts can depend on
//! it.

pub use super::refusal::Refusal;
use crate::target::{is_host, must_be_escaped};

/// Maximum length of a line in the framing of a chunked body, in bytes.
const MAX_CHUNK_LINE_LEN: usize = 4096;
/// Maximum length in bytes of a line that is buffered while it arrives in pieces.
const MAX_LINE_LEN: usize = 1 << 20;
/// Maximum length of a target in bytes; URIs of the HTTP library are no longer.
const MAX_TARGET_LEN: usize = 65_534;

/// A violation of the rules, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// In a request line or header, before the request starts. [`Scanner::refusal`] returns the response.
    #[error("malformed request head")]
    Head,
    /// In the framing of a body, after the request has started.
    #[error("malformed request body")]
    Body,
}

/// What the next bytes of a connection belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// A request that has not started.
    Start = 0,
    /// A request line or header.
    Head = 1,
    /// A body.
    Body = 2,
    /// Another protocol.
    Opaque = 3,
}

impl Place {
    /// Converts from a number; unknown ones become [`Place::Opaque`].
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Start,
            1 => Self::Head,
            2 => Self::Body,
            _ => Self::Opaque,
        }
    }
}

/// Tracks the framing of the requests on one connection.
#[derive(Debug, Default)]
pub struct Scanner {
    heads: u64,
    state: State,
    head: Head,
    /// The start of an incomplete line.
    partial: Vec<u8>,
    refused: Option<Violation>,
    /// Number of bytes in the last scan before the line with the violation.
    sound: usize,
    /// Offset in the last scan at which the incomplete head starts; `None` if it started earlier.
    began: Option<usize>,
    /// Offsets in the last scan of characters in targets that the library rejects unescaped.
    unescaped: Vec<usize>,
    part: Part,
    refusal: Refusal,
}

/// The part of a request line being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Method,
    Path,
    Query,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    RequestLine,
    Headers,
    /// Bytes left of a body with known length.
    Length(u64),
    ChunkSize,
    /// Bytes left of a chunk, including its line end.
    Chunk(u64),
    Trailers,
    /// The rest is no longer HTTP, or will not be read.
    Opaque,
}

/// What is known from a head about the rest of its request.
#[derive(Debug, Default)]
struct Head {
    http10: bool,
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    upgrade: bool,
    connect: bool,
}

impl Scanner {
    /// Scans the next bytes of the connection, which may be split anywhere.
    ///
    /// # Errors
    /// The first violation, also for all bytes after it.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.sound = 0;
        self.began = None;
        self.unescaped.clear();
        if let Some(violation) = self.refused {
            return Err(violation);
        }
        let outcome = self.advance(bytes);
        if let Err(violation) = outcome {
            self.refused = Some(violation);
        }
        outcome
    }

    /// Returns what the next bytes belong to.
    pub fn place(&self) -> Place {
        match self.state {
            State::RequestLine if self.partial.is_empty() => Place::Start,
            State::RequestLine | State::Headers => Place::Head,
            State::Opaque => Place::Opaque,
            _ => Place::Body,
        }
    }

    /// Returns the number of bytes in the last scan before the last line read, which has the violation if
    /// there is one.
    pub fn sound(&self) -> usize {
        self.sound
    }

    /// Returns the response to the violation.
    pub fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// Returns the offsets in the last scan of characters in targets that must be escaped
    /// ([`must_be_escaped`]).
    pub fn unescaped(&self) -> &[usize] {
        &self.unescaped
    }

    /// Returns the offset in the last scan at which the current head starts; `None` if it started earlier.
    pub fn began(&self) -> Option<usize> {
        self.began
    }

    /// Refuses the current head, and everything after it, because of its size.
    pub fn refuse_large(&mut self) {
        self.refused = Some(Violation::Head);
        self.refusal = self.too_large();
        self.partial = Vec::new();
    }

    /// Returns which part of the current head is too large.
    fn too_large(&self) -> Refusal {
        if self.state == State::RequestLine { Refusal::TargetTooLong } else { Refusal::TooLarge }
    }

    /// Returns true after a violation.
    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Returns the number of bytes buffered of an incomplete line.
    pub fn kept(&self) -> usize {
        self.partial.len()
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), Violation> {
        self.refusal = refusal;
        Err(Violation::Head)
    }

    /// Returns the number of complete heads.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    fn advance(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        let whole = bytes.len();
        while !bytes.is_empty() {
            self.sound = whole - bytes.len();
            if self.state == State::RequestLine && self.partial.is_empty() {
                self.began = Some(self.sound);
            }
            match self.state {
                State::Opaque => return Ok(()),
                State::Length(left) => {
                    let here = left.min(bytes.len() as u64);
                    bytes = &bytes[here as usize..];
                    self.state = if left == here { State::RequestLine } else { State::Length(left - here) };
                }
                State::Chunk(left) => bytes = self.chunk(left, bytes)?,
                _ => bytes = self.line(bytes)?,
            }
        }
        Ok(())
    }

    /// Consumes one line, or buffers its start until the rest arrives.
    fn line<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        let violation = self.violation();
        let end = memchr::memchr(b'\n', bytes);
        if self.state == State::RequestLine {
            let line = end.map_or(bytes, |end| &bytes[..end]);
            // No early exit, so that the loop can be vectorised.
            let has_some =
                line.iter().fold(false, |some, byte| some | matches!(byte, b'"' | b'<' | b'>' | b'`'));
            if has_some || end.is_none() || !self.partial.is_empty() {
                self.note_unescaped(line);
            }
        }
        let Some(end) = end else {
            if self.partial.len() + bytes.len() > MAX_LINE_LEN {
                self.refusal = self.too_large();
                return Err(violation);
            }
            self.partial.extend_from_slice(bytes);
            return Ok(&[]);
        };
        let (line, rest) = bytes.split_at(end + 1);
        if self.partial.is_empty() {
            self.take_line(line)?;
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(line);
            self.take_line(&whole)?;
        }
        Ok(rest)
    }

    /// Checks the part of a request line that has arrived; it starts at [`sound`](Self::sound) in the last
    /// scan.
    fn note_unescaped(&mut self, line: &[u8]) {
        if self.partial.is_empty() {
            self.part = Part::Method;
        }
        for (at, byte) in line.iter().enumerate() {
            match (byte, self.part) {
                (b' ', Part::Method) => self.part = Part::Path,
                (b'?', Part::Path) => self.part = Part::Query,
                (_, Part::Method) => {}
                (&byte, part) if must_be_escaped(byte, part == Part::Query) => {
                    self.unescaped.push(self.sound + at);
                }
                _ => {}
            }
        }
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let violation = self.violation();
        let line = line.strip_suffix(b"\r\n").ok_or(violation)?;
        // No early exit, so that the loop can be vectorised.
        if line.iter().fold(false, |found, &byte| found | is_control(byte)) {
            return Err(violation);
        }
        match self.state {
            State::RequestLine => self.request_line(line),
            State::Headers if line.is_empty() => self.end_of_head(),
            State::Headers => self.header(line),
            State::ChunkSize => self.chunk_size(line),
            State::Trailers if line.is_empty() => {
                self.state = State::RequestLine;
                Ok(())
            }
            State::Trailers => field_name(line).map(drop).ok_or(violation),
            State::Length(_) | State::Chunk(_) | State::Opaque => Ok(()),
        }
    }

    fn violation(&self) -> Violation {
        match self.state {
            State::RequestLine | State::Headers => Violation::Head,
            _ => Violation::Body,
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        if line.is_empty() {
            // An empty line before a request line is ignored (RFC 9112 section 2.2).
            return Ok(());
        }
        let mut parts = line.split(|&byte| byte == b' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next())
        else {
            return Err(Violation::Head);
        };
        if method.is_empty() || !method.iter().all(|&b| is_token(b)) || !is_target(method, target) {
            return Err(Violation::Head);
        }
        if version != b"HTTP/1.1" && version != b"HTTP/1.0" {
            let known_form = matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit());
            return self.refuse(if known_form { Refusal::Version } else { Refusal::Malformed });
        }
        if memchr::memchr(b'\t', target).is_some() {
            return Err(Violation::Head);
        }
        if target.len() > MAX_TARGET_LEN {
            return self.refuse(Refusal::TargetTooLong);
        }
        if target.contains(&b'#') {
            return self.refuse(Refusal::Fragment);
        }
        self.head = Head { http10: version == b"HTTP/1.0", connect: method == b"CONNECT", ..Head::default() };
        self.state = State::Headers;
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some(name) = field_name(line) else {
            let colon = memchr::memchr(b':', line).unwrap_or(0);
            let padded = colon > 0 && line[..colon].ends_with(b" ") && !line.starts_with(b" ");
            return self.refuse(if padded { Refusal::HeaderName } else { Refusal::Malformed });
        };
        let value = line[name.len() + 1..].trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.head.hosts += 1;
                if self.head.hosts > 1 {
                    return Err(Violation::Head);
                }
                if !is_host(value) {
                    return self.refuse(Refusal::Host);
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.head.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                // Leading zeros are valid, but some parsers read such numbers as octal.
                let octal = value.len() > 1 && value[0] == b'0';
                if self.head.length.is_some() || !digits || octal {
                    return Err(Violation::Head);
                }
                let text = std::str::from_utf8(value).map_err(|_| Violation::Head)?;
                self.head.length = Some(text.parse().map_err(|_| Violation::Head)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.head.http10 {
                    return Err(Violation::Head);
                }
                if self.head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return self.refuse(Refusal::TransferEncoding);
                }
                self.head.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<(), Violation> {
        if self.head.chunked && self.head.length.is_some() {
            return Err(Violation::Head);
        }
        if self.head.hosts == 0 && !self.head.http10 && !self.head.connect {
            return self.refuse(Refusal::NoHost);
        }
        self.heads += 1;
        self.state = match (self.head.chunked, self.head.length) {
            (true, _) => State::ChunkSize,
            (false, Some(length)) if length > 0 => State::Length(length),
            // The other protocol starts; a refused upgrade closes the connection.
            _ if self.head.upgrade => State::Opaque,
            _ => State::RequestLine,
        };
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        if line.len() > MAX_CHUNK_LINE_LEN {
            return Err(Violation::Body);
        }
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let rest = &line[digits..];
        // Whitespace is allowed only before an extension (RFC 9112 section 7.1.1).
        let extension = rest.trim_ascii_start().first() == Some(&b';');
        if digits == 0 || digits > 15 || !(rest.is_empty() || extension) {
            return Err(Violation::Body);
        }
        let text = std::str::from_utf8(&line[..digits]).map_err(|_| Violation::Body)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| Violation::Body)?;
        self.state = if size == 0 { State::Trailers } else { State::Chunk(size + 2) };
        Ok(())
    }

    /// Skips a chunk and checks the line end after it.
    fn chunk<'b>(&mut self, left: u64, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        if left > 2 {
            let here = (left - 2).min(bytes.len() as u64);
            self.state = State::Chunk(left - here);
            return Ok(&bytes[here as usize..]);
        }
        let expected = if left == 2 { b'\r' } else { b'\n' };
        if bytes[0] != expected {
            return Err(Violation::Body);
        }
        self.state = if left == 2 { State::Chunk(1) } else { State::ChunkSize };
        Ok(&bytes[1..])
    }
}

/// Returns true for a target in one of the forms of RFC 9112 section 3.2 whose path has no invalid escape.
/// The forms are interpreted later.
fn is_target(method: &[u8], target: &[u8]) -> bool {
    if method == b"CONNECT" {
        return !target.is_empty();
    }
    let path = target.split(|&byte| byte == b'?').next().unwrap_or(target);
    let whole_escapes = memchr::memchr_iter(b'%', path)
        .all(|at| path.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    whole_escapes && (target.starts_with(b"/") || target == b"*" || memchr::memchr(b':', path).is_some())
}

/// Returns the name of a header line, if it is one: a token and a colon, without folding.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', line)?;
    let name = &line[..colon];
    (!name.is_empty() && name.iter().all(|&byte| is_token(byte))).then_some(name)
}

/// Returns true for control characters, which are not allowed in lines. A tab is whitespace.
fn is_control(byte: u8) -> bool {
    byte < 0x20 && byte != b'\t' || byte == 0x7f
}

/// Returns true for a token character (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Whether each byte may be in a token.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] = true;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Result<(), Violation> {
        Scanner::default().scan(bytes)
    }

    /// Checks that the same bytes in pieces give the same verdict.
    fn verdict(bytes: &[u8]) -> Result<(), Violation> {
        let expected = whole(bytes);
        for size in [1, 2, 3, 7, 64] {
            let mut scanner = Scanner::default();
            let mut outcome = Ok(());
            for piece in bytes.chunks(size) {
                outcome = scanner.scan(piece);
                if outcome.is_err() {
                    break;
                }
            }
            assert_eq!(outcome, expected, "in pieces of {size}: {}", String::from_utf8_lossy(bytes));
        }
        expected
    }

    #[test]
    fn valid_requests_pass_one_after_another() {
        let bytes: &[u8] = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
            POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\nGET / HTTP/1.0\r\n\r\n";
        assert_eq!(verdict(bytes), Ok(()));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for head in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(verdict(head.as_bytes()), Err(Violation::Head), "{head:?}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for body in [
            "5\nhello",
            "5;a\nb\r\n",
            "hello\r\n",
            "\r\n",
            "5\r\nhelloX",
            "-1\r\n",
            "1000000000000000\r\n",
            "5 x\r\n",
        ] {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(verdict(request.as_bytes()), Err(Violation::Body), "{body:?}");
        }
    }

    #[test]
    fn an_upgrade_ends_the_scan() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00\nanything";
        assert_eq!(verdict(bytes), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = verdict(&bytes);
        }
    }

    #[test]
    fn refusals_name_the_violation() {
        let refusal = |head: &str| {
            let mut scanner = Scanner::default();
            let outcome = scanner.scan(head.replace('\n', "\r\n").as_bytes());
            (outcome == Err(Violation::Head)).then(|| scanner.refusal())
        };
        for (head, expected) in [
            ("GET / HTTP/1.1\n\n", Some(Refusal::NoHost)),
            ("GET / HTTP/1.0\n\n", None),
            ("GET / HTTP/1.1\nHost: a b\n\n", Some(Refusal::Host)),
            ("GET / HTTP/2.0\nHost: a\n\n", Some(Refusal::Version)),
            ("GET / http/1.1\nHost: a\n\n", Some(Refusal::Malformed)),
            ("GET / HTTP/1.1\nHost: a\nX : 1\n\n", Some(Refusal::HeaderName)),
            ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip\n\n", Some(Refusal::TransferEncoding)),
            ("GET /a#b HTTP/1.1\nHost: a\n\n", Some(Refusal::Fragment)),
            ("GET foo HTTP/1.1\nHost: a\n\n", Some(Refusal::Malformed)),
            ("GET /%zz HTTP/1.1\nHost: a\n\n", Some(Refusal::Malformed)),
            ("GET /?%zz HTTP/1.1\nHost: a\n\n", None),
            ("OPTIONS * HTTP/1.1\nHost: a\n\n", None),
            ("CONNECT a:1 HTTP/1.1\nHost: a\n\n", None),
        ] {
            assert_eq!(refusal(head), expected, "{head:?}");
        }
    }
}
