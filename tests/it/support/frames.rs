//! A client that sends arbitrary HTTP/2 frames, valid or not.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Types of frames (RFC 9113 section 6).
pub const DATA: u8 = 0;
/// Headers.
pub const HEADERS: u8 = 1;
/// Priority.
pub const PRIORITY: u8 = 2;
/// Reset of a stream.
pub const RST_STREAM: u8 = 3;
/// Settings.
pub const SETTINGS: u8 = 4;
/// Ping.
pub const PING: u8 = 6;
/// Shutdown of the connection.
pub const GOAWAY: u8 = 7;
/// Window update.
pub const WINDOW_UPDATE: u8 = 8;
/// Continuation of headers.
pub const CONTINUATION: u8 = 9;
/// Flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;

/// The outcome of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status.
    Status(u16),
    /// RST_STREAM with this error code.
    Reset(u32),
    /// GOAWAY with this error code, or only a close (`None`).
    Closed(Option<u32>),
    /// Nothing before the timeout.
    Silence,
}

impl Outcome {
    /// Returns true for a 400, or an error of the stream or the connection.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Status(400) | Self::Reset(1..) | Self::Closed(_))
    }
}

/// A connection on which preface and settings have been sent.
pub struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// Connects in plain text, with a timeout of 20 s.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut frames = Self { stream };
        assert!(frames.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(frames.send(SETTINGS, 0, 0, &[]));
        frames
    }

    /// Creates the server's side of a connection after its preface: sends settings.
    pub fn accepted(stream: TcpStream) -> Self {
        let mut frames = Self { stream };
        assert!(frames.send(SETTINGS, 0, 0, &[]));
        frames
    }

    /// Returns a second handle, to send while the first one reads.
    pub fn sender(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap() }
    }

    /// Sends bytes; returns false if the connection is closed.
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a frame; returns false if the connection is closed.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.bytes(&frame(kind, flags, stream, payload))
    }

    /// Sends a request without a body.
    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)]) -> bool {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
    }

    /// Reads one frame: type, flags, stream, payload.
    pub fn read(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Waits for the outcome of a stream.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let code = |payload: &[u8], at: usize| {
            payload.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        };
        let mut last = None;
        loop {
            match self.read() {
                Ok((HEADERS, _, id, payload)) if id == stream => return Outcome::Status(status(&payload)),
                Ok((RST_STREAM, _, id, payload)) if id == stream => {
                    return Outcome::Reset(code(&payload, 0).unwrap_or(0));
                }
                Ok((GOAWAY, _, _, payload)) if code(&payload, 4) != Some(0) => last = code(&payload, 4),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Outcome::Silence;
                }
                Err(_) => return Outcome::Closed(last),
            }
        }
    }

    /// Reads until the connection is closed; returns false if it stays open.
    pub fn is_cut(&mut self) -> bool {
        loop {
            match self.read() {
                Ok(_) => {}
                Err(error) => {
                    return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        }
    }
}

/// Returns a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Returns a header block of literals that use no table (RFC 7541 section 6.2.2), with unchanged bytes.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// Encodes a length with a seven-bit prefix (RFC 7541 section 5.1).
fn integer(bytes: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return bytes.push(value as u8);
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
}

/// Returns the status of a response; 0 if its encoding is one that our servers do not use.
fn status(block: &[u8]) -> u16 {
    let begin = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap_or(block.len());
    match block.get(begin..) {
        Some([0x88, ..]) => 200,
        Some([0x89, ..]) => 204,
        Some([0x8c, ..]) => 400,
        Some([0x8d, ..]) => 404,
        Some([0x8e, ..]) => 500,
        // A name with a number of its own and a value: plain, or in Huffman's code (RFC 7541 sections 5.2 and 6.2).
        Some([0x08 | 0x18 | 0x48, length, text @ ..]) => {
            let text = text.get(..usize::from(length & 0x7f)).unwrap_or_default();
            let plain = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            if length & 0x80 == 0 { plain.unwrap_or(0) } else { digits(text) }
        }
        _ => 0,
    }
}

/// Decodes Huffman-coded digits: 0 to 2 have five bits, the others six.
fn digits(code: &[u8]) -> u16 {
    let bits: Vec<u16> =
        code.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1))).collect();
    let (mut at, mut number) = (0, 0);
    let take = |at: usize, length: usize| {
        bits.get(at..at + length).map(|bits| bits.iter().fold(0, |n, bit| n << 1 | bit))
    };
    while let Some(short) = take(at, 5) {
        let (digit, length) = match (short, take(at, 6)) {
            (0..=2, _) => (short, 5),
            (_, Some(long @ 0x19..=0x1f)) => (long - 0x16, 6),
            _ => break,
        };
        at += length;
        number = number * 10 + digit;
    }
    number
}
