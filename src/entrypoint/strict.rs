//! Refuses HTTP/1 requests whose framing two parsers could read in two ways.
//!
//! The HTTP library forgives what request smuggling lives from: a `Content-Length` beside a `Transfer-Encoding`,
//! bare line feeds, folded headers, chunk extensions that end early. By the time a request reaches us as a value, that
//! is no longer visible. So this stands between the socket and the library and reads along: it finds each head and
//! each body by the strict rules of RFC 9112, and turns what breaks them into bytes that no parser accepts, which the
//! library answers with 400 and a close. It knows where heads and bodies begin, so the stream keeps its time by it.

/// Longest line of a chunked body's framing, in bytes.
const LONGEST_CHUNK_LINE: usize = 4096;
/// Longest head, in bytes, that is held for a line that came in pieces. The library's own limit is lower.
const LONGEST_LINE: usize = 1 << 20;

/// Where a violation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// In a request line or header: the request has not begun.
    Head,
    /// In the framing of a body: the request is under way.
    Body,
}

/// What the next bytes of a connection belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// A request that has not begun.
    Start = 0,
    /// A request line or header.
    Head = 1,
    /// A body.
    Body = 2,
    /// Another protocol.
    Opaque = 3,
}

impl Place {
    /// From its number; [`Place::Opaque`] for unknown ones.
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Start,
            1 => Self::Head,
            2 => Self::Body,
            _ => Self::Opaque,
        }
    }
}

/// Follows the framing of the requests of one connection.
#[derive(Debug, Default)]
pub struct Scanner {
    heads: u64,
    state: State,
    head: Head,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    refused: Option<Violation>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    RequestLine,
    Headers,
    /// This many bytes of a body of known length are left.
    Length(u64),
    ChunkSize,
    /// This many bytes of a chunk are left, its line end included.
    Chunk(u64),
    Trailers,
    /// What follows is no longer HTTP, or will not be read.
    Opaque,
}

/// What a head has said so far about how its request goes on.
#[derive(Debug, Default)]
struct Head {
    http10: bool,
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    upgrade: bool,
}

impl Scanner {
    /// Reads along the next bytes of the connection.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if let Some(violation) = self.refused {
            return Err(violation);
        }
        let outcome = self.advance(bytes);
        if let Err(violation) = outcome {
            self.refused = Some(violation);
        }
        outcome
    }

    /// What the next bytes belong to.
    pub fn place(&self) -> Place {
        match self.state {
            State::RequestLine if self.partial.is_empty() => Place::Start,
            State::RequestLine | State::Headers => Place::Head,
            State::Opaque => Place::Opaque,
            _ => Place::Body,
        }
    }

    /// How many heads have been read to their end.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    fn advance(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
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

    /// Takes one line, or keeps its beginning until the rest comes.
    fn line<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Violation> {
        let violation = self.violation();
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            if self.partial.len() + bytes.len() > LONGEST_LINE {
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

    fn take_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let violation = self.violation();
        let line = line.strip_suffix(b"\r\n").ok_or(violation)?;
        // Without an early end, so that many bytes are looked at together.
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
            // RFC 9112 2.2: an empty line before a request line is passed over.
            return Ok(());
        }
        let mut parts = line.split(|&byte| byte == b' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next())
        else {
            return Err(Violation::Head);
        };
        let version_known = version == b"HTTP/1.1" || version == b"HTTP/1.0";
        if method.is_empty() || !method.iter().all(|&b| is_token(b)) || target.is_empty() || !version_known {
            return Err(Violation::Head);
        }
        if memchr::memchr2(b'#', b'\t', target).is_some() {
            return Err(Violation::Head);
        }
        self.head = Head { http10: version == b"HTTP/1.0", ..Head::default() };
        self.state = State::Headers;
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Violation> {
        let name = field_name(line).ok_or(Violation::Head)?;
        let value = line[name.len() + 1..].trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.head.hosts += 1;
                if self.head.hosts > 1 {
                    return Err(Violation::Head);
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.head.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.head.length.is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                    return Err(Violation::Head);
                }
                let text = std::str::from_utf8(value).map_err(|_| Violation::Head)?;
                self.head.length = Some(text.parse().map_err(|_| Violation::Head)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.head.chunked || self.head.http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::Head);
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
        self.heads += 1;
        self.state = match (self.head.chunked, self.head.length) {
            (true, _) => State::ChunkSize,
            (false, Some(length)) if length > 0 => State::Length(length),
            // The other protocol begins; a refused upgrade closes the connection.
            _ if self.head.upgrade => State::Opaque,
            _ => State::RequestLine,
        };
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        if line.len() > LONGEST_CHUNK_LINE {
            return Err(Violation::Body);
        }
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let rest = line[digits..].trim_ascii_start();
        if digits == 0 || digits > 15 || !(rest.is_empty() || rest[0] == b';') {
            return Err(Violation::Body);
        }
        let text = std::str::from_utf8(&line[..digits]).map_err(|_| Violation::Body)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| Violation::Body)?;
        self.state = if size == 0 { State::Trailers } else { State::Chunk(size + 2) };
        Ok(())
    }

    /// Passes over a chunk and checks the line end behind it.
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

/// The name of a header line, when the line is one: a token and a colon, and no folding.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', line)?;
    let name = &line[..colon];
    (!name.is_empty() && name.iter().all(|&byte| is_token(byte))).then_some(name)
}

/// Control characters that no line may have; a tab is white space.
fn is_control(byte: u8) -> bool {
    byte < 0x20 && byte != b'\t' || byte == 0x7f
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// For each byte, whether it may be in a token.
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

    /// The same bytes in pieces must give the same verdict.
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
    fn sound_requests_pass_one_after_another() {
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
    fn an_upgrade_ends_the_reading() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00\nanything";
        assert_eq!(verdict(bytes), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = verdict(&bytes);
        }
    }
}
