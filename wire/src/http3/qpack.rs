//! Reads and writes header blocks of HTTP/3 without a dynamic table (RFC 9204).
//!
//! A peer without a dynamic table sends self-contained blocks, which do not depend on any other stream.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::frame;
use super::tables::{CODE_LENGTHS, FIELDS};

/// Overhead of each field (RFC 9114 section 4.2.2).
const FIELD_OVERHEAD: usize = 32;

/// Initial capacity for a name or value in bytes, so that most need no further allocation.
const TEXT_CAPACITY: usize = 128;

/// Why a block is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is malformed, or refers to entries that do not exist.
    #[error("invalid header block")]
    Malformed,
    /// The fields exceed the limit.
    #[error("the header block exceeds the limit")]
    TooLarge,
}

/// Parses a block and passes each name and value to `field`, without validating them. `limit` is the maximum
/// size of all fields in bytes, with an overhead of 32 each (RFC 9114 section 4.2.2).
///
/// # Errors
/// [`Error`] if the block is invalid or exceeds the limit, and any error of `field`.
pub fn read<E: From<Error>>(
    block: &[u8],
    limit: usize,
    mut field: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = Reader(block);
    let required = rest.number(8)?;
    rest.number(7)?;
    if required != 0 {
        return Err(Error::Malformed.into());
    }
    let (mut size, mut name, mut value) =
        (0, Vec::with_capacity(TEXT_CAPACITY), Vec::with_capacity(TEXT_CAPACITY));
    while let Some(&first) = rest.0.first() {
        name.clear();
        value.clear();
        if first & 0x80 != 0 {
            let entry = rest.entry(first & 0x40 != 0, 6)?;
            name.extend_from_slice(entry.0.as_bytes());
            value.extend_from_slice(entry.1.as_bytes());
        } else if first & 0x40 != 0 {
            let entry = rest.entry(first & 0x10 != 0, 4)?;
            name.extend_from_slice(entry.0.as_bytes());
            rest.text(7, &mut value)?;
        } else if first & 0x20 != 0 {
            rest.text(3, &mut name)?;
            rest.text(7, &mut value)?;
        } else {
            // Both forms with this prefix refer to the dynamic table.
            return Err(Error::Malformed.into());
        }
        size += name.len() + value.len() + FIELD_OVERHEAD;
        if size > limit {
            return Err(Error::TooLarge.into());
        }
        field(&name, &value)?;
    }
    Ok(())
}

/// Fields that are added to those of a header map.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added<'a> {
    /// `date`, unless the map has one.
    pub date: Option<&'a [u8]>,
    /// `content-length`, unless the map has one.
    pub length: Option<u64>,
}

/// Hop-by-hop fields, which are not written (RFC 9114 section 4.2).
const HOP_BY_HOP: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Length of the head of a HEADERS frame with a block of less than 16 KiB.
const FRAME_HEAD: usize = 3;
/// Room behind the block: for the head of a DATA frame.
const ROOM: usize = 16;

/// Returns the HEADERS frame of a response or, without a status, of trailers (RFC 9204 section 4.5), with room for the
/// head of a DATA frame. Hop-by-hop fields are left out.
pub fn write_frame(status: Option<StatusCode>, headers: &HeaderMap, added: Added<'_>) -> BytesMut {
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + ROOM + 64 + (headers.len() + 2) * 48);
    frame.put_slice(&[0; FRAME_HEAD + 2]);
    if let Some(status) = status {
        match FIELDS.iter().position(|(name, value)| *name == ":status" && *value == status.as_str()) {
            Some(index) => put_number(&mut frame, 0xc0, 6, index),
            None => {
                put_number(&mut frame, 0x50, 4, STATUS);
                put_text(&mut frame, 0, 7, status.as_str().as_bytes());
            }
        }
    }
    let Added { mut date, mut length } = added;
    for (name, value) in headers {
        if *name == DATE {
            date = None;
        } else if *name == CONTENT_LENGTH {
            length = None;
        } else if HOP_BY_HOP.contains(name) {
            continue;
        }
        put_field(&mut frame, name.as_str(), value.as_bytes());
    }
    if let Some(date) = date {
        put_field(&mut frame, DATE.as_str(), date);
    }
    if let Some(length) = length {
        let mut digits = [0; 20];
        put_field(&mut frame, CONTENT_LENGTH.as_str(), decimal(length, &mut digits));
    }
    let block = frame.len() - FRAME_HEAD;
    if let Some(head) = frame::short_block_head(block) {
        frame[..FRAME_HEAD].copy_from_slice(&head);
        return frame;
    }
    let mut long = BytesMut::with_capacity(frame.len() + ROOM);
    frame::put_block_head(&mut long, block);
    long.put_slice(&frame[FRAME_HEAD..]);
    long
}

/// Index of the first entry for `:status`.
const STATUS: usize = 24;

fn put_field(block: &mut BytesMut, name: &str, value: &[u8]) {
    // The bit `N`, which forbids intermediaries to compress it, stays clear: there are none after us.
    match NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, index)) => put_number(block, 0x50, 4, *index),
        None => put_text(block, 0x20, 3, name.as_bytes()),
    }
    put_text(block, 0, 7, value);
}

/// The most frequent fields of responses with their indexes. Searching more would cost more than it saves.
const NAMES: [(&str, usize); 8] = [
    ("content-type", 44),
    ("content-length", 4),
    ("date", 6),
    ("server", 92),
    ("cache-control", 36),
    ("etag", 7),
    ("set-cookie", 14),
    ("alt-svc", 83),
];

/// Writes a number with a prefix of `bits` bits after `flags` (RFC 7541 section 5.1).
fn put_number(block: &mut BytesMut, flags: u8, bits: u32, number: usize) {
    let full = (1usize << bits) - 1;
    if number < full {
        block.put_u8(flags | number as u8);
        return;
    }
    block.put_u8(flags | full as u8);
    let mut rest = number - full;
    while rest >= 0x80 {
        block.put_u8(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    block.put_u8(rest as u8);
}

/// Writes a number in decimal to the end of `digits`.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

fn put_text(block: &mut BytesMut, flags: u8, bits: u32, text: &[u8]) {
    put_number(block, flags, bits, text.len());
    block.put_slice(text);
}

/// The rest of a block.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Error> {
        let (first, rest) = self.0.split_first().ok_or(Error::Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self, bits: u32) -> Result<usize, Error> {
        let full = (1u64 << bits) - 1;
        let mut number = u64::from(self.byte()?) & full;
        if number == full {
            // Four more bytes suffice for any length allowed here.
            for step in 0..4 {
                let byte = self.byte()?;
                number += u64::from(byte & 0x7f) << (step * 7);
                if byte & 0x80 == 0 {
                    return usize::try_from(number).map_err(|_| Error::Malformed);
                }
            }
            return Err(Error::Malformed);
        }
        usize::try_from(number).map_err(|_| Error::Malformed)
    }

    /// Reads the entry that a field refers to; `in_static` tells whether it is in the static table.
    fn entry(&mut self, in_static: bool, bits: u32) -> Result<(&'static str, &'static str), Error> {
        let index = self.number(bits)?;
        if !in_static {
            return Err(Error::Malformed);
        }
        FIELDS.get(index).copied().ok_or(Error::Malformed)
    }

    /// Reads a text whose length has a prefix of `bits` bits; the bit before it tells whether it is
    /// Huffman-coded.
    fn text(&mut self, bits: u32, into: &mut Vec<u8>) -> Result<(), Error> {
        let coded = self.0.first().ok_or(Error::Malformed)? & (1 << bits) != 0;
        let length = self.number(bits)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Error::Malformed)?;
        self.0 = rest;
        if coded {
            return decode(text, into);
        }
        into.extend_from_slice(text);
        Ok(())
    }
}

/// The Huffman code.
struct Codes {
    /// For each length, the first code, the position of its letters, and their number.
    lengths: [(u32, usize, usize); 31],
    letters: [u8; 256],
    /// Letter and length of the code at the beginning of eight bits; the length is 0 if it is longer.
    short: [(u8, u8); 256],
}

static CODES: LazyLock<Codes> = LazyLock::new(|| {
    let mut order: Vec<u8> = (0..=u8::MAX).collect();
    order.sort_by_key(|letter| (CODE_LENGTHS[usize::from(*letter)], *letter));
    let mut codes = Codes { lengths: [(0, 0, 0); 31], letters: [0; 256], short: [(0, 0); 256] };
    codes.letters.copy_from_slice(&order);
    let (mut code, mut at) = (0u32, 0);
    for (length, entry) in codes.lengths.iter_mut().enumerate() {
        let count = CODE_LENGTHS.iter().filter(|l| usize::from(**l) == length).count();
        *entry = (code, at, count);
        at += count;
        code = (code + count as u32) << 1;
    }
    for first in 0..=u8::MAX {
        if let Some(found) = codes.search(u32::from(first) << 24, 1..=8) {
            codes.short[usize::from(first)] = found;
        }
    }
    codes
});

impl Codes {
    /// Returns the letter at the beginning of these bits, and the length of its code, if that is one of `lengths`.
    fn search(&self, bits: u32, lengths: RangeInclusive<u8>) -> Option<(u8, u8)> {
        lengths.into_iter().find_map(|length| {
            let (first, at, count) = self.lengths[usize::from(length)];
            let place = (bits >> (32 - u32::from(length))).checked_sub(first)? as usize;
            (place < count).then(|| (self.letters[at + place], length))
        })
    }

    /// Returns the letter at the beginning of these bits, and the length of its code; `None` for the end-of-string
    /// symbol.
    fn letter(&self, bits: u32) -> Option<(u8, u8)> {
        match self.short[(bits >> 24) as usize] {
            (_, 0) => self.search(bits, 9..=30),
            found => Some(found),
        }
    }
}

/// Decodes a Huffman-coded text (RFC 7541 section 5.2).
fn decode(text: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
    let codes = &*CODES;
    // The next bits are the lowest ones of `window`, `held` in number.
    let (mut window, mut held) = (0u64, 0u32);
    let mut rest = text.iter();
    loop {
        while held <= 56
            && let Some(byte) = rest.next()
        {
            window = window << 8 | u64::from(*byte);
            held += 8;
        }
        // Behind the end, there are ones.
        let bits = match held.checked_sub(32) {
            Some(more) => (window >> more) as u32,
            None => (window << (32 - held)) as u32 | u32::MAX >> held,
        };
        match codes.letter(bits) {
            Some((letter, length)) if u32::from(length) <= held => {
                into.push(letter);
                held -= u32::from(length);
            }
            // The last byte is padded with ones. A whole end-of-string symbol is not allowed.
            _ if held <= 7 && bits == u32::MAX => return Ok(()),
            _ => return Err(Error::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// Decodes bit by bit.
    fn decode_slowly(text: &[u8], into: &mut Vec<u8>) -> Result<(), Error> {
        let (mut code, mut length) = (0u32, 0usize);
        for bit in text.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
            code = code << 1 | u32::from(bit);
            length += 1;
            let (first, at, count) = *CODES.lengths.get(length).ok_or(Error::Malformed)?;
            let place = code.wrapping_sub(first) as usize;
            if code >= first && place < count {
                into.push(CODES.letters[at + place]);
                (code, length) = (0, 0);
            }
        }
        if length > 7 || code != (1 << length) - 1 { Err(Error::Malformed) } else { Ok(()) }
    }

    fn all(block: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let mut fields = Vec::new();
        read(block, 1000, |name, value| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            fields.push((text(name), text(value)));
            Ok::<(), Error>(())
        })?;
        Ok(fields)
    }

    #[test]
    fn examples_from_the_specifications_are_read() {
        // RFC 9204 appendix B.1.
        let block = b"\x00\x00\x51\x0b/index.html";
        assert_eq!(all(block).unwrap(), [(":path".into(), "/index.html".into())]);
        // RFC 7541 appendix C.4 and C.6.
        for (coded, plain) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            let mut text = Vec::new();
            decode(coded, &mut text).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), plain);
        }
    }

    #[test]
    fn written_blocks_can_be_read() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("content-type", "text/plain"), ("x-long-name-of-mine", "é"), ("set-cookie", "a=b")]
        {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers.append("set-cookie", HeaderValue::from_static("c=d"));
        headers.insert("x", HeaderValue::from_bytes(&[b'a'; 300]).unwrap());
        for (status, shown) in [(200, "200"), (418, "418")] {
            let frame = write_frame(StatusCode::from_u16(status).ok(), &headers, Added::default());
            let fields = all(&frame[FRAME_HEAD..]).unwrap();
            assert_eq!(fields[0], (":status".to_owned(), shown.to_owned()));
            assert_eq!(fields.len(), 1 + headers.len());
            assert!(fields.contains(&("set-cookie".into(), "c=d".into())), "{fields:?}");
            assert!(fields.iter().any(|(name, value)| name == "x" && value.len() == 300));
        }
        assert_eq!(&write_frame(None, &HeaderMap::new(), Added::default())[..], [1, 0x40, 2, 0, 0]);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 65_536, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn frames_are_completed() {
        let added = Added { date: Some(b"now"), length: Some(12) };
        let mut headers = HeaderMap::new();
        for name in HOP_BY_HOP {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        let fields = |headers: &HeaderMap| {
            let frame = write_frame(Some(StatusCode::OK), headers, added);
            all(&frame[FRAME_HEAD..]).unwrap()[1..].to_vec()
        };
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(fields(&headers), [field("date", "now"), field("content-length", "12")]);
        headers.insert(DATE, HeaderValue::from_static("then"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
        let mut known = fields(&headers);
        known.sort();
        assert_eq!(known, [field("content-length", "3"), field("date", "then")]);
        // A block of more than 16 KiB has a longer head.
        headers.insert("large", HeaderValue::from_bytes(&[b'x'; 20_000]).unwrap());
        let frame = write_frame(None, &headers, added);
        let length = frame.len() - 5;
        assert_eq!(frame[..5], [&[1][..], &(0x8000_0000 | length as u32).to_be_bytes()].concat());
        let mut large = 0;
        read(&frame[5..], 30_000, |_, value| {
            large = large.max(value.len());
            Ok::<(), Error>(())
        })
        .unwrap();
        assert_eq!(large, 20_000);
    }

    #[test]
    fn dynamic_references_and_truncated_blocks_are_refused() {
        for block in [
            &b""[..],
            b"\x00",
            b"\x01\x00",          // requires an insertion
            b"\x00\x00\x80",      // dynamic entry
            b"\x00\x00\x10",      // entry behind the base
            b"\x00\x00\x00\x01a", // name of an entry behind the base
            b"\x00\x00\x40\x01a", // name of a dynamic entry
            b"\x00\x00\xff\x24",  // entry 99
            b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x00\x00\x51\x0b/index",
            b"\x00\x00\x51\x81\x00",             // padding that is no padding
            b"\x00\x00\x51\x84\xff\xff\xff\xff", // end of text
        ] {
            assert_eq!(all(block), Err(Error::Malformed), "{block:?}");
        }
        let mut large = b"\x00\x00".to_vec();
        large.extend(std::iter::repeat_n(0xc1, 28));
        assert_eq!(all(&large), Err(Error::TooLarge));
    }

    proptest! {
        #[test]
        fn texts_are_decoded_as_bit_by_bit(
            text in proptest::collection::vec(prop_oneof![any::<u8>(), 0xf8u8.., Just(0xff)], 0..40),
            padding in 0u8..=8,
        ) {
            // Most texts end in the middle of a code, so the last byte is padded.
            let mut text = text;
            if let Some(last) = text.last_mut() {
                *last |= ((1u16 << padding) - 1) as u8;
            }
            let (mut fast, mut slow) = (Vec::new(), Vec::new());
            let results = (decode(&text, &mut fast), decode_slowly(&text, &mut slow));
            prop_assert_eq!(results.0, results.1);
            if results.0.is_ok() {
                prop_assert_eq!(fast, slow);
            }
        }

        #[test]
        fn no_block_panics(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&block);
            let _ = all(&[&[0, 0], &block[..]].concat());
        }
    }
}
