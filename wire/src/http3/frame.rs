//! Parses and writes the frames of HTTP/3 streams (RFC 9114 section 7).
//!
//! Everything whose length the client controls is streamed, skipped, or limited.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Error codes (RFC 9114 section 8.1, RFC 9204 section 6).
pub mod code {
    /// The stream or connection is closed without an error.
    pub const NO_ERROR: u32 = 0x100;
    /// An error on this side.
    pub const INTERNAL_ERROR: u32 = 0x102;
    /// A stream was opened that is not allowed.
    pub const STREAM_CREATION_ERROR: u32 = 0x103;
    /// A stream that the connection needs was closed.
    pub const CLOSED_CRITICAL_STREAM: u32 = 0x104;
    /// A frame is not allowed in its place.
    pub const FRAME_UNEXPECTED: u32 = 0x105;
    /// A frame has an invalid layout or size.
    pub const FRAME_ERROR: u32 = 0x106;
    /// The peer causes too much work.
    pub const EXCESSIVE_LOAD: u32 = 0x107;
    /// A stream or push ID is invalid.
    pub const ID_ERROR: u32 = 0x108;
    /// The settings are invalid.
    pub const SETTINGS_ERROR: u32 = 0x109;
    /// The control stream did not start with SETTINGS.
    pub const MISSING_SETTINGS: u32 = 0x10a;
    /// The request was rejected before any processing.
    pub const REQUEST_REJECTED: u32 = 0x10b;
    /// The request or its response is no longer needed.
    pub const REQUEST_CANCELLED: u32 = 0x10c;
    /// The stream ended in the middle of a request.
    pub const REQUEST_INCOMPLETE: u32 = 0x10d;
    /// The request is malformed.
    pub const MESSAGE_ERROR: u32 = 0x10e;
    /// A header block is invalid.
    pub const QPACK_DECOMPRESSION_FAILED: u32 = 0x200;
    /// The peer's encoder stream is invalid.
    pub const QPACK_ENCODER_STREAM_ERROR: u32 = 0x201;
}

const DATA: u64 = 0x0;
const HEADERS: u64 = 0x1;
const CANCEL_PUSH: u64 = 0x3;
const SETTINGS: u64 = 0x4;
const PUSH_PROMISE: u64 = 0x5;
const GOAWAY: u64 = 0x7;
const MAX_PUSH_ID: u64 = 0xd;
/// Frame types of HTTP/2 that are forbidden in HTTP/3.
const HTTP2_FRAME_TYPES: [u64; 4] = [0x2, 0x6, 0x8, 0x9];

/// The setting for the maximum size of a field section.
const MAX_FIELD_SECTION_SIZE: u64 = 0x6;
/// The setting for extended CONNECT (RFC 9220 section 5).
const ENABLE_CONNECT_PROTOCOL: u64 = 0x8;
/// Settings that exist only in HTTP/2.
const HTTP2_SETTINGS: [u64; 4] = [0x2, 0x3, 0x4, 0x5];
/// Maximum length of SETTINGS in bytes.
const MAX_SETTINGS: usize = 4096;

/// A protocol violation by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// Whether the connection must be closed, not only the stream.
    pub fatal: bool,
    /// One of [`code`].
    pub code: u32,
    /// What is wrong.
    pub what: &'static str,
}

impl Fault {
    /// Creates a fault that closes the connection.
    pub const fn fatal(code: u32, what: &'static str) -> Self {
        Self { fatal: true, code, what }
    }

    /// Creates a fault that closes the stream.
    pub const fn stream(code: u32, what: &'static str) -> Self {
        Self { fatal: false, code, what }
    }
}

/// The next event in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A header block: the first is the head of the request, the second its trailers.
    Block(Bytes),
    /// Content, never empty.
    Data(Bytes),
    /// A header block that is longer than allowed.
    TooLong,
}

/// Splits a stream into frames (RFC 9114 sections 4.1, 6.2.1 and 7).
#[derive(Debug)]
pub struct Frames {
    stage: Stage,
    state: State,
    /// Type and length of the next frame, as far as received.
    head: [u8; 16],
    filled: usize,
    /// Maximum length of a header block in bytes.
    limit: usize,
}

/// What has been received, which determines what is allowed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Request stream: nothing yet.
    Fresh,
    /// Request stream: the head.
    Headed,
    /// Request stream: the trailers.
    Trailed,
    /// Control stream: nothing yet.
    Control,
    /// Control stream: the settings, then the last number of each kind.
    Settled { goaway: u64, max_push: Option<u64> },
}

#[derive(Debug)]
enum State {
    Start,
    Data(u64),
    Skip(u64),
    Collect { kind: u64, left: usize, payload: Payload },
}

/// A frame that is collected. One that arrives as a whole is not copied.
#[derive(Debug)]
enum Payload {
    Whole(Bytes),
    Pieces(BytesMut),
}

impl Payload {
    fn add(&mut self, piece: Bytes) {
        match self {
            Self::Whole(first) if first.is_empty() => *first = piece,
            Self::Whole(first) => {
                let mut pieces = BytesMut::with_capacity(first.len() + piece.len());
                pieces.extend_from_slice(first);
                pieces.extend_from_slice(&piece);
                *self = Self::Pieces(pieces);
            }
            Self::Pieces(pieces) => pieces.extend_from_slice(&piece),
        }
    }

    fn take(&mut self) -> Bytes {
        match std::mem::replace(self, Self::Whole(Bytes::new())) {
            Self::Whole(whole) => whole,
            Self::Pieces(pieces) => pieces.freeze(),
        }
    }
}

impl Frames {
    /// Creates a reader of a request stream. `limit` is the maximum length of a header block in bytes.
    pub fn of_request(limit: usize) -> Self {
        Self { stage: Stage::Fresh, state: State::Start, head: [0; 16], filled: 0, limit }
    }

    /// Creates a reader of the client's control stream.
    pub fn of_control() -> Self {
        Self { stage: Stage::Control, ..Self::of_request(0) }
    }

    /// Consumes `input` up to the end of the next event. `None` if more input is needed; `input` is then
    /// empty.
    ///
    /// # Errors
    /// The [`Fault`] of a frame that is not allowed or invalid.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, Fault> {
        while !input.is_empty() {
            match &mut self.state {
                State::Start => {
                    if let Some((kind, length)) = self.read_head(input) {
                        self.filled = 0;
                        if self.begin(kind, length)? {
                            return Ok(Some(Event::TooLong));
                        }
                        // An empty frame is complete with its head.
                        if let Some(event) = self.collected()? {
                            return Ok(Some(event));
                        }
                    }
                }
                State::Data(left) => {
                    let piece = input.split_to(within(*left, input.len()));
                    *left -= piece.len() as u64;
                    if *left == 0 {
                        self.state = State::Start;
                    }
                    return Ok(Some(Event::Data(piece)));
                }
                State::Skip(left) => {
                    let length = within(*left, input.len());
                    input.advance(length);
                    *left -= length as u64;
                    if *left == 0 {
                        self.state = State::Start;
                    }
                }
                State::Collect { left, payload, .. } => {
                    let piece = input.split_to((*left).min(input.len()));
                    *left -= piece.len();
                    payload.add(piece);
                    if let Some(event) = self.collected()? {
                        return Ok(Some(event));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Checks that the stream may end here.
    ///
    /// # Errors
    /// The [`Fault`] if it ends within a frame or without a head, or is the control stream.
    pub fn end(&self) -> Result<(), Fault> {
        match self.stage {
            Stage::Control | Stage::Settled { .. } => {
                Err(Fault::fatal(code::CLOSED_CRITICAL_STREAM, "the control stream ended"))
            }
            _ if self.filled > 0 || !matches!(self.state, State::Start) => {
                Err(Fault::fatal(code::FRAME_ERROR, "a stream ended within a frame"))
            }
            Stage::Fresh => Err(Fault::stream(code::REQUEST_INCOMPLETE, "a stream ended without a head")),
            Stage::Headed | Stage::Trailed => Ok(()),
        }
    }

    /// Reads type and length of the next frame; `None` if they are incomplete.
    fn read_head(&mut self, input: &mut Bytes) -> Option<(u64, u64)> {
        while !input.is_empty() && self.filled < self.head.len() {
            self.head[self.filled] = input.get_u8();
            self.filled += 1;
            let mut head = &self.head[..self.filled];
            if let (Some(kind), Some(length)) = (read_number(&mut head), read_number(&mut head)) {
                return Some((kind, length));
            }
        }
        None
    }

    /// Starts a frame. Returns true for a header block that is too long.
    fn begin(&mut self, kind: u64, length: u64) -> Result<bool, Fault> {
        let unexpected = Err(Fault::fatal(code::FRAME_UNEXPECTED, "unexpected frame"));
        if HTTP2_FRAME_TYPES.contains(&kind) {
            return unexpected;
        }
        let is_control = matches!(self.stage, Stage::Control | Stage::Settled { .. });
        match kind {
            SETTINGS if self.stage == Stage::Control => self.collect(kind, length, MAX_SETTINGS)?,
            _ if self.stage == Stage::Control => {
                return Err(Fault::fatal(
                    code::MISSING_SETTINGS,
                    "the control stream did not start with SETTINGS",
                ));
            }
            GOAWAY | MAX_PUSH_ID | CANCEL_PUSH if is_control => self.collect(kind, length, 8)?,
            DATA if self.stage == Stage::Headed => {
                self.state = if length == 0 { State::Start } else { State::Data(length) };
            }
            HEADERS if matches!(self.stage, Stage::Fresh | Stage::Headed) => {
                self.stage = if self.stage == Stage::Fresh { Stage::Headed } else { Stage::Trailed };
                if length > self.limit as u64 {
                    self.state = State::Skip(length);
                    return Ok(true);
                }
                self.collect(kind, length, self.limit)?;
            }
            DATA | HEADERS | SETTINGS | PUSH_PROMISE | GOAWAY | MAX_PUSH_ID | CANCEL_PUSH => {
                return unexpected;
            }
            // Unknown types are ignored (RFC 9114 section 9).
            _ => self.state = if length == 0 { State::Start } else { State::Skip(length) },
        }
        Ok(false)
    }

    fn collect(&mut self, kind: u64, length: u64, limit: usize) -> Result<(), Fault> {
        let left = usize::try_from(length).ok().filter(|length| *length <= limit);
        let left = left.ok_or(Fault::fatal(code::EXCESSIVE_LOAD, "frame too long"))?;
        self.state = State::Collect { kind, left, payload: Payload::Whole(Bytes::new()) };
        Ok(())
    }

    /// Interprets a collected frame once it is complete.
    fn collected(&mut self) -> Result<Option<Event>, Fault> {
        let State::Collect { kind, left: 0, payload } = &mut self.state else { return Ok(None) };
        let (kind, payload) = (*kind, payload.take());
        self.state = State::Start;
        match kind {
            HEADERS => return Ok(Some(Event::Block(payload))),
            SETTINGS => {
                check_settings(&payload)?;
                self.stage = Stage::Settled { goaway: u64::MAX, max_push: None };
            }
            _ => self.check_number(kind, &payload)?,
        }
        Ok(None)
    }

    fn check_number(&mut self, kind: u64, mut payload: &[u8]) -> Result<(), Fault> {
        let number = read_number(&mut payload).filter(|_| payload.is_empty());
        let number =
            number.ok_or(Fault::fatal(code::FRAME_ERROR, "expected a frame with a single number"))?;
        let wrong = Fault::fatal(code::ID_ERROR, "invalid stream or push ID");
        let Stage::Settled { goaway, max_push } = &mut self.stage else { return Err(wrong) };
        match kind {
            GOAWAY if number <= *goaway => *goaway = number,
            MAX_PUSH_ID if max_push.is_none_or(|last| number >= last) => *max_push = Some(number),
            // Nothing is ever pushed, so nothing can be cancelled.
            _ => return Err(wrong),
        }
        Ok(())
    }
}

/// Returns the head of a DATA frame with content of this length.
pub fn data_head(length: usize) -> Bytes {
    frame_head(DATA, length)
}

/// Appends the head of a DATA frame with content of this length.
pub fn put_data_head(bytes: &mut BytesMut, length: u64) {
    put_number(bytes, DATA);
    put_number(bytes, length);
}

/// Appends the head of a HEADERS frame with a block of this length.
pub(super) fn put_block_head(bytes: &mut BytesMut, length: usize) {
    put_number(bytes, HEADERS);
    put_number(bytes, length as u64);
}

/// Returns the head of a HEADERS frame with a block of less than 16 KiB, always in three bytes; `None` for a longer
/// one.
pub(super) fn short_block_head(length: usize) -> Option<[u8; 3]> {
    let length = u16::try_from(length).ok().filter(|length| *length < 0x4000)?;
    let [high, low] = (0x4000 | length).to_be_bytes();
    Some([HEADERS as u8, high, low])
}

/// Returns the start of a control stream: its type and the settings (RFC 9114 sections 6.2.1 and 7.2.4).
/// `limit` is the maximum size of a field section in bytes.
pub fn control_opening(limit: usize) -> Bytes {
    let mut settings = BytesMut::new();
    put_number(&mut settings, MAX_FIELD_SECTION_SIZE);
    put_number(&mut settings, limit as u64);
    put_number(&mut settings, ENABLE_CONNECT_PROTOCOL);
    put_number(&mut settings, 1);
    let mut opening = BytesMut::new();
    put_number(&mut opening, 0);
    opening.extend_from_slice(&frame_head(SETTINGS, settings.len()));
    opening.extend_from_slice(&settings);
    opening.freeze()
}

/// Returns a GOAWAY frame: streams from `first_refused` on are not processed (RFC 9114 section 7.2.6).
pub fn goaway(first_refused: u64) -> Bytes {
    let mut number = BytesMut::new();
    put_number(&mut number, first_refused);
    let mut frame = BytesMut::from(&frame_head(GOAWAY, number.len())[..]);
    frame.extend_from_slice(&number);
    frame.freeze()
}

/// Reads a number of one, two, four or eight bytes (RFC 9000 section 16). `None` if it is incomplete.
pub fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let (number, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(number[1..].iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)))
}

fn put_number(bytes: &mut impl BufMut, number: u64) {
    match number {
        0..0x40 => bytes.put_u8(number as u8),
        0x40..0x4000 => bytes.put_u16(0x4000 | number as u16),
        0x4000..0x4000_0000 => bytes.put_u32(0x8000_0000 | number as u32),
        // Lengths and stream numbers never exceed this.
        _ => bytes.put_u64(0xc000_0000_0000_0000 | number & 0x3fff_ffff_ffff_ffff),
    }
}

/// Returns the head of a frame, in one allocation.
fn frame_head(kind: u64, length: usize) -> Bytes {
    let mut head = [0; 16];
    let mut rest = &mut head[..];
    put_number(&mut rest, kind);
    put_number(&mut rest, length as u64);
    let left = rest.len();
    Bytes::copy_from_slice(&head[..head.len() - left])
}

fn within(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

fn check_settings(mut payload: &[u8]) -> Result<(), Fault> {
    let mut seen = Vec::new();
    while !payload.is_empty() {
        let (Some(name), Some(_)) = (read_number(&mut payload), read_number(&mut payload)) else {
            return Err(Fault::fatal(code::FRAME_ERROR, "truncated settings"));
        };
        if HTTP2_SETTINGS.contains(&name) || seen.contains(&name) {
            return Err(Fault::fatal(code::SETTINGS_ERROR, "duplicate setting, or one of HTTP/2"));
        }
        // The search is linear, so their number is limited.
        if seen.len() == MAX_SETTINGS / 64 {
            return Err(Fault::fatal(code::EXCESSIVE_LOAD, "too many settings"));
        }
        seen.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns all events of a stream that arrives in pieces of this size, and how it ends.
    fn read(mut frames: Frames, stream: &[u8], piece: usize) -> (Vec<Event>, Result<(), Fault>) {
        let mut events = Vec::new();
        for piece in stream.chunks(piece) {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match frames.next(&mut input) {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(fault) => return (events, Err(fault)),
                }
            }
        }
        let end = frames.end();
        (events, end)
    }

    fn fault(stream: &[u8]) -> u32 {
        read(Frames::of_request(8), stream, 64).1.unwrap_err().code
    }

    fn control(stream: &[u8]) -> u32 {
        let (events, end) = read(Frames::of_control(), stream, 64);
        assert_eq!(events, []);
        end.unwrap_err().code
    }

    #[test]
    fn a_request_with_all_kinds_of_frames() {
        // Unknown, head, empty content, content, unknown and empty, trailers, unknown.
        let stream = b"\x21\x02??\x01\x03abc\x00\x00\x00\x02de\x40\x5f\x00\x01\x02fg\x21\x01?";
        for piece in 1..stream.len() {
            let (events, end) = read(Frames::of_request(8), stream, piece);
            assert_eq!(end, Ok(()), "{piece}");
            assert_eq!(events.first(), Some(&Event::Block("abc".into())));
            assert_eq!(events.last(), Some(&Event::Block("fg".into())));
            let content: Vec<u8> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Data(piece) => Some(piece.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert_eq!(content, b"de");
        }
    }

    #[test]
    fn frames_out_of_order_and_early_ends_are_refused() {
        assert_eq!(fault(b""), code::REQUEST_INCOMPLETE);
        assert_eq!(fault(b"\x21\x00"), code::REQUEST_INCOMPLETE);
        for misplaced in [&b"\x00\x01x"[..], b"\x01\x01a\x01\x01b\x00\x01x", b"\x01\x01a\x01\x01b\x01\x01c"] {
            assert_eq!(fault(misplaced), code::FRAME_UNEXPECTED, "{misplaced:?}");
        }
        for kind in [0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xd] {
            assert_eq!(fault(&[1, 1, b'a', kind, 0]), code::FRAME_UNEXPECTED, "{kind}");
        }
        for cut in
            [&b"\x01"[..], b"\x01\x02a", b"\x01\x01a\x00\x02x", b"\x01\x01a\x21\x02x", b"\x01\x01a\x40"]
        {
            assert_eq!(fault(cut), code::FRAME_ERROR, "{cut:?}");
        }
    }

    #[test]
    fn long_blocks_are_not_collected() {
        let (events, end) = read(Frames::of_request(8), b"\x01\x80\xff\xff\xffabc", 64);
        assert_eq!(events, [Event::TooLong]);
        assert_eq!(end.unwrap_err().code, code::FRAME_ERROR);
    }

    #[test]
    fn the_control_stream_has_its_own_rules() {
        assert_eq!(control(b"\x04\x02\x06\x40"), code::FRAME_ERROR);
        assert_eq!(
            control(b"\x04\x02\x06\x01\x07\x01\x04\x07\x01\x00\x0d\x01\x05\x21\x01x"),
            code::CLOSED_CRITICAL_STREAM
        );
        assert_eq!(control(b"\x07\x01\x00"), code::MISSING_SETTINGS);
        assert_eq!(control(b"\x04\x00\x04\x00"), code::FRAME_UNEXPECTED);
        assert_eq!(control(b"\x04\x00\x00\x01x"), code::FRAME_UNEXPECTED);
        assert_eq!(control(b"\x04\x04\x06\x01\x06\x02"), code::SETTINGS_ERROR);
        assert_eq!(control(b"\x04\x02\x02\x01"), code::SETTINGS_ERROR);
        assert_eq!(control(b"\x04\x80\x01\x00\x00"), code::EXCESSIVE_LOAD);
        assert_eq!(control(b"\x04\x00\x07\x01\x01\x07\x01\x02"), code::ID_ERROR);
        assert_eq!(control(b"\x04\x00\x0d\x01\x02\x0d\x01\x01"), code::ID_ERROR);
        assert_eq!(control(b"\x04\x00\x03\x01\x00"), code::ID_ERROR);
        assert_eq!(control(b"\x04\x00\x07\x02\x00\x00"), code::FRAME_ERROR);
    }

    #[test]
    fn numbers_are_read_and_written() {
        for number in [0, 63, 64, 16383, 16384, 0x3fff_ffff, 0x4000_0000, 0x3fff_ffff_ffff_ffff] {
            let mut bytes = BytesMut::new();
            put_number(&mut bytes, number);
            assert_eq!(read_number(&mut &bytes[..]), Some(number));
            assert_eq!(read_number(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(&control_opening(1000)[..], b"\x00\x04\x05\x06\x43\xe8\x08\x01");
        assert_eq!(&goaway(8)[..], b"\x07\x01\x08");
    }

    proptest! {
        #[test]
        fn anything_is_cut_without_harm_and_alike(stream in proptest::collection::vec(any::<u8>(), 0..120), piece in 1usize..40) {
            let blocks = |events: Vec<Event>| events.into_iter().filter(|e| !matches!(e, Event::Data(_))).collect::<Vec<_>>();
            let (whole, whole_end) = read(Frames::of_request(64), &stream, usize::MAX);
            let (pieces, pieces_end) = read(Frames::of_request(64), &stream, piece);
            prop_assert_eq!(whole_end, pieces_end);
            prop_assert_eq!(blocks(whole), blocks(pieces));
            let _ = read(Frames::of_control(), &stream, piece);
        }
    }
}
