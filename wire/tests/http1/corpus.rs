//! Requests that are nearly valid, made from a seed, and what becomes of them: for comparisons with other parsers.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tidegate_wire::http1::encode::Fields;
use tidegate_wire::http1::server::{Event, Response, Server};
use tidegate_wire::http1::{ErrorKind, Limits, Payload, Spelling};

/// A request as a parser has understood it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case with their values, sorted.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// How the bytes of a connection end for a parser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// After a message.
    Complete,
    /// Within a message.
    Partial,
    /// After a message, after which the connection is closed. Bytes may be left.
    Closed,
    /// The bytes are refused.
    Refused(Option<ErrorKind>),
}

/// What a parser makes of the bytes of a connection: the complete messages, and what comes after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) messages: Vec<Message>,
    pub(crate) end: End,
}

/// Returns what this codec makes of the bytes, which arrive in pieces of these sizes, again and again. Each request is
/// answered as soon as it is complete.
pub(crate) fn verdict(bytes: &[u8], sizes: &[usize]) -> Verdict {
    let mut server = Server::new(Limits::default());
    let (mut messages, mut current) = (Vec::new(), None);
    let mut rest = bytes;
    let mut sizes = sizes.iter().cycle();
    let end = loop {
        match step(&mut server, &mut current) {
            Err(kind) => break End::Refused(Some(kind)),
            Ok(Step::Complete(message)) => messages.push(message),
            Ok(Step::Partial) => {}
            Ok(Step::Nothing) if server.is_closed() => break End::Closed,
            Ok(Step::Nothing) if rest.is_empty() => {
                let is_idle = server.phase() == tidegate_wire::http1::server::Phase::Idle;
                break if is_idle { End::Complete } else { End::Partial };
            }
            Ok(Step::Nothing) => {
                let (piece, after) = rest.split_at((*sizes.next().unwrap_or(&1)).clamp(1, rest.len()));
                server.input().extend_from_slice(piece);
                rest = after;
            }
        }
    };
    Verdict { messages, end }
}

/// Returns true if an incomplete head is refused once its lines are complete. Other parsers refuse some bytes earlier.
pub(crate) fn is_refused_later(bytes: &[u8]) -> bool {
    let complete = [bytes, b"\r\n\r\n"].concat();
    matches!(verdict(&complete, &[usize::MAX]).end, End::Refused(_))
}

enum Step {
    Nothing,
    Partial,
    Complete(Message),
}

fn step(server: &mut Server, current: &mut Option<Message>) -> Result<Step, ErrorKind> {
    let is_complete = match server.poll().map_err(|error| error.kind)? {
        None => return Ok(Step::Nothing),
        Some(Event::Head(head)) => {
            *current = Some(Message {
                method: head.parts.method.to_string(),
                target: head.parts.uri.to_string(),
                fields: fields(&head.parts.headers),
                body: Vec::new(),
            });
            !head.framing.has_body()
        }
        Some(Event::Data(data)) => {
            current.as_mut().unwrap().body.extend_from_slice(&data);
            false
        }
        Some(Event::Trailers(_)) => false,
        Some(Event::End) => true,
        Some(Event::Upgraded(_)) => unreachable!("no upgrade is accepted"),
    };
    let Some(message) = current.take_if(|_| is_complete) else { return Ok(Step::Partial) };
    let headers = HeaderMap::new();
    let fields = Fields { headers: &headers, spelling: &Spelling::LOWER };
    // A success would open a tunnel.
    let is_connect = message.method == "CONNECT";
    let status = if is_connect { StatusCode::NOT_IMPLEMENTED } else { StatusCode::OK };
    let response = Response { status, reason: None, fields, payload: Payload::Length(2) };
    server.respond(response, &mut Vec::new()).unwrap();
    if message.method != "HEAD" {
        server.send_data(Bytes::from_static(b"ok"), true).unwrap();
    }
    Ok(Step::Complete(message))
}

/// Returns fields as they are compared.
pub(crate) fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    fields.sort();
    fields
}

/// Returns the bytes in a buffer that can be parsed.
pub(crate) fn buffer(bytes: impl AsRef<[u8]>) -> BytesMut {
    BytesMut::from(bytes.as_ref())
}

/// Numbers from a seed (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

const LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "POST /p HTTP/1.1",
    "HEAD /h?a=b HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "DELETE /%61 HTTP/1.1",
    "GET http://h/x HTTP/1.1",
    "PUT /a HTTP/1.0",
    "M-SEARCH /m HTTP/1.1",
    "CONNECT h:1 HTTP/1.1",
    "GET /a<b HTTP/1.1",
];

const FIELDS: &[&str] = &[
    "Content-Length: 5",
    "Content-Length: 0",
    "Transfer-Encoding: chunked",
    "transfer-encoding: CHUNKED",
    "Connection: close",
    "Connection: keep-alive, x",
    "X: y",
    "X:",
    "x-Odd:\tv \t",
    "Expect: 100-continue",
    "Upgrade: foo",
    "Accept: */*",
    "Cookie: a=b; c=d",
    "TE: trailers",
];

/// Fields that parsers treat in different ways.
const ODD_FIELDS: &[&str] = &[
    "Content-Length: +5",
    "Content-Length: 05",
    "Content-Length: 5, 5",
    "Content-Length : 5",
    "Content-Length:",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: xchunked",
    " folded",
    "\tfolded",
    "no colon",
    ": empty",
    "Host: h",
    "Host: a b",
    "X: a\rb",
    "X: a\nb",
    "X: \0",
    "X\u{e9}: a",
    "X: \u{e9}",
    "X: \x7f",
];

const BODIES: &[&str] = &[
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;x=y\r\nhello\r\n0\r\n\r\n",
    "2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n",
    "0\r\n\r\n",
    "A\r\n0123456789\r\n00\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\nhello\n0\n\n",
];

const ODD_BYTES: &[u8] = b"\r\n \t:;,\0\x7f#%?/\"<`\x80\xff0a+-";

/// Returns the bytes of a connection: one to three requests, mostly valid, perhaps all of them three times, with up to
/// three mutations.
pub(crate) fn connection(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(3) {
        request(random, &mut bytes);
    }
    if random.below(4) == 0 {
        bytes = bytes.repeat(3);
    }
    for _ in 0..random.below(4) {
        mutate(random, &mut bytes);
    }
    bytes
}

fn request(random: &mut Random, bytes: &mut Vec<u8>) {
    let mut lines = vec![random.pick(LINES).to_owned()];
    if random.below(20) > 0 {
        lines.push("Host: h".to_owned());
    }
    for _ in 0..random.below(4) {
        lines.push(random.pick(FIELDS).to_owned());
    }
    if random.below(6) == 0 {
        let place = 1 + random.below(lines.len());
        lines.insert(place, random.pick(ODD_FIELDS).to_owned());
    }
    let is = |line: &str, value: &str| line.to_lowercase().contains(value);
    let body = if random.below(8) == 0 {
        random.pick(BODIES)
    } else if lines.iter().any(|line| is(line, "transfer-encoding")) {
        random.pick(&BODIES[2..7])
    } else if lines.iter().any(|line| is(line, "content-length: 5")) {
        "hello"
    } else {
        ""
    };
    bytes.extend_from_slice(lines.join("\r\n").as_bytes());
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body.as_bytes());
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let odd = ODD_BYTES[random.below(ODD_BYTES.len())];
    match random.below(6) {
        0 => bytes[at] = odd,
        1 => bytes.insert(at, odd),
        2 => drop(bytes.remove(at)),
        3 => bytes.truncate(at),
        4 => {
            let end = (at + 1 + random.below(8)).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        _ => {
            // Line ends are where parsers differ most.
            let ends: Vec<_> = (0..bytes.len()).filter(|at| matches!(bytes[*at], b'\r' | b'\n')).collect();
            if let Some(at) = ends.get(random.below(ends.len())) {
                bytes.remove(*at);
            }
        }
    }
}
