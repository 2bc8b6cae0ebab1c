//! Writes heads and the framing of bodies.
//!
//! Names, values, methods, targets and reasons are types that cannot hold a line end, and only [`Framing`] says how a
//! body ends: fields about it in the map are replaced. So what is written is one message to every parser.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version};

use super::message::{Framing, lists};
use super::names::{self, Role};
use super::response::Reason;
use super::spelling::{Speller, Spelling};

/// Space that is reserved for each field line.
const USUAL_LINE: usize = 48;
/// Space that is reserved for a first line and the fields that are added.
const USUAL_REST: usize = 128;

/// The fields of a head.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// The fields. `Connection` is left out, and what says how the body ends is replaced.
    pub headers: &'a HeaderMap,
    /// How their names are spelt.
    pub spelling: &'a Spelling,
}

/// What a head says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Nothing: what is usual in HTTP/1.1.
    Unsaid,
    /// It ends with this message.
    Close,
    /// It persists, which HTTP/1.0 has to be told.
    KeepAlive,
    /// It changes to another protocol.
    Upgrade,
}

/// Writes the head of a request of HTTP/1.1. Returns false if the connection ends with it, as `connection` or the
/// fields say.
pub fn request(
    method: &Method,
    uri: &Uri,
    fields: Fields<'_>,
    framing: Framing,
    connection: Connection,
    out: &mut Vec<u8>,
) -> bool {
    out.reserve(fields.headers.len() * USUAL_LINE + USUAL_REST);
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    write_target(method, uri, out);
    out.extend_from_slice(b" HTTP/1.1");
    write_fields(fields, framing, connection, out)
}

/// Writes the head of a response. Returns false if the connection ends with it, as `connection` or the fields say.
pub fn response(
    version: Version,
    status: StatusCode,
    reason: Option<&Reason>,
    fields: Fields<'_>,
    framing: Framing,
    connection: Connection,
    out: &mut Vec<u8>,
) -> bool {
    out.reserve(fields.headers.len() * USUAL_LINE + USUAL_REST);
    if status == StatusCode::OK && version == Version::HTTP_11 && reason.is_none() {
        out.extend_from_slice(b"HTTP/1.1 200 OK");
        return write_fields(fields, framing, connection, out);
    }
    let version: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    out.extend_from_slice(version);
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match reason {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    write_fields(fields, framing, connection, out)
}

/// Writes the end of a chunked body.
pub fn last_chunk(trailers: Option<Fields<'_>>, out: &mut Vec<u8>) {
    out.push(b'0');
    if let Some(Fields { headers, spelling }) = trailers {
        let mut speller = spelling.speller();
        for (name, value) in headers {
            let known = names::find(name);
            if known.is_none_or(|known| known.role == Role::Other) {
                speller.write(name, known, value.as_bytes(), out);
            }
        }
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Writes the target in the form that the method and the URI ask for (RFC 9112 section 3.2).
fn write_target(method: &Method, uri: &Uri, out: &mut Vec<u8>) {
    if *method == Method::CONNECT
        && let Some(authority) = uri.authority()
    {
        out.extend_from_slice(authority.as_str().as_bytes());
        return;
    }
    if let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) {
        out.extend_from_slice(scheme.as_bytes());
        out.extend_from_slice(b"://");
        out.extend_from_slice(authority.as_str().as_bytes());
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    if target.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
}

/// Writes the fields, how the body ends, what becomes of the connection, and the empty line.
fn write_fields(fields: Fields<'_>, framing: Framing, connection: Connection, out: &mut Vec<u8>) -> bool {
    let Fields { headers, spelling } = fields;
    let mut speller = spelling.speller();
    let (mut framed, mut closes) = (false, connection == Connection::Close);
    for (name, value) in headers {
        let known = names::find(name);
        match known.map_or(Role::Other, |known| known.role) {
            Role::ContentLength | Role::TransferEncoding => {
                if !framed {
                    write_framing(&mut speller, framing, out);
                }
                framed = true;
            }
            Role::Connection => closes |= lists(value.as_bytes(), b"close"),
            _ => speller.write(name, known, value.as_bytes(), out),
        }
    }
    if !framed {
        write_framing(&mut speller, framing, out);
    }
    let token: &[u8] = match connection {
        Connection::Upgrade => b"Upgrade",
        _ if closes => b"close",
        Connection::KeepAlive => b"keep-alive",
        Connection::Unsaid | Connection::Close => b"",
    };
    if !token.is_empty() {
        write_own(&mut speller, &CONNECTION, token, out);
    }
    out.extend_from_slice(b"\r\n\r\n");
    !closes
}

fn write_framing(speller: &mut Speller<'_>, framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Chunked => write_own(speller, &TRANSFER_ENCODING, b"chunked", out),
        Framing::Length(length) => {
            let (digits, start) = digits(length, 10);
            write_own(speller, &CONTENT_LENGTH, &digits[start..], out);
        }
    }
}

/// Writes a field of the codec itself.
fn write_own(speller: &mut Speller<'_>, name: &HeaderName, value: &[u8], out: &mut Vec<u8>) {
    speller.write(name, names::find(name), value, out);
}

/// Returns the digits of a number at the end of an array, and where they start.
fn digits(mut number: u64, base: u64) -> ([u8; 20], usize) {
    let (mut digits, mut start) = ([b'0'; 20], 20);
    while start > 0 {
        start -= 1;
        digits[start] = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
        if number == 0 {
            break;
        }
    }
    (digits, start)
}

/// Data with its framing, in up to three slices for one vectored write.
#[derive(Debug, Default)]
pub struct Frame {
    prefix: Prefix,
    data: Bytes,
    suffix: &'static [u8],
}

/// The line of a chunk size.
#[derive(Debug, Default)]
struct Prefix {
    bytes: [u8; 18],
    start: u8,
}

impl Prefix {
    fn rest(&self) -> &[u8] {
        if self.start == 0 { &[] } else { &self.bytes[usize::from(self.start)..] }
    }
}

impl Frame {
    /// Data without framing.
    pub fn plain(data: Bytes) -> Self {
        Self { data, ..Self::default() }
    }

    /// A chunk; with `last`, also the end of the body. Without data there is no chunk, since an empty one is the end.
    pub fn chunk(data: Bytes, last: bool) -> Self {
        if data.is_empty() {
            return Self { suffix: if last { b"0\r\n\r\n" } else { b"" }, ..Self::default() };
        }
        let (digits, start) = digits(data.len() as u64, 16);
        let mut prefix = Prefix { bytes: *b"0000000000000000\r\n", start: (start - 4) as u8 };
        prefix.bytes[start - 4..16].copy_from_slice(&digits[start..]);
        // A chunk with sixteen digits would start at 0, which stands for none, but no data is as long.
        Self { prefix, data, suffix: if last { b"\r\n0\r\n\r\n" } else { b"\r\n" } }
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.prefix.rest().len() + self.data.len() + self.suffix.len()
    }

    fn chunk(&self) -> &[u8] {
        let prefix = self.prefix.rest();
        if !prefix.is_empty() {
            prefix
        } else if !self.data.is_empty() {
            &self.data
        } else {
            self.suffix
        }
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining(), "advance beyond the end of a frame");
        let length = self.prefix.rest().len().min(count);
        count -= length;
        if length > 0 {
            // An empty prefix starts at its end.
            self.prefix.start += length as u8;
        }
        let length = self.data.len().min(count);
        self.data.advance(length);
        self.suffix = &self.suffix[count - length..];
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = [self.prefix.rest(), &self.data, self.suffix];
        let mut count = 0;
        for (part, slice) in parts.into_iter().filter(|part| !part.is_empty()).zip(slices) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }
}
