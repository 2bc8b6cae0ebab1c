//! The Basic Encoding Rules as LDAP restricts them (RFC 4511 section 5.1): definite lengths, tags below 31.

/// The tag of an integer.
pub(super) const INTEGER: u8 = 0x02;
/// The tag of an octet string.
pub(super) const OCTETS: u8 = 0x04;
/// The tag of an enumeration.
pub(super) const ENUMERATED: u8 = 0x0a;
/// The tag of a sequence.
pub(super) const SEQUENCE: u8 = 0x30;
/// The tag of a set.
pub(super) const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;

/// The bytes are not an element, or not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(super) struct Malformed;

/// Appends an element.
pub(super) fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    put_length(out, content.len());
    out.extend_from_slice(content);
}

/// Appends an element whose content is written by `content`.
pub(super) fn nested(out: &mut Vec<u8>, tag: u8, content: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    content(&mut inner);
    put(out, tag, &inner);
}

/// Appends a number with this tag, in as few bytes as possible.
pub(super) fn put_number(out: &mut Vec<u8>, tag: u8, number: u32) {
    // A leading zero byte keeps the number positive.
    let bytes = (u64::from(number)).to_be_bytes();
    let needed = |bytes: &[u8]| bytes.len() > 1 && bytes[0] == 0 && bytes[1] < 0x80;
    let mut short = &bytes[..];
    while needed(short) {
        short = &short[1..];
    }
    put(out, tag, short);
}

/// Appends a truth value.
pub(super) fn put_bool(out: &mut Vec<u8>, value: bool) {
    put(out, BOOLEAN, &[if value { 0xff } else { 0 }]);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
            let long = &bytes[first..];
            // A usize has at most 8 bytes.
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            out.extend_from_slice(long);
        }
    }
}

/// Returns the tag of the first element, the length of its header and that of its content. `None` if more bytes are
/// needed to tell.
pub(super) fn header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Malformed> {
    let [tag, first, rest @ ..] = bytes else { return Ok(None) };
    if tag & 0x1f == 0x1f {
        return Err(Malformed);
    }
    if *first < 0x80 {
        return Ok(Some((*tag, 2, usize::from(*first))));
    }
    // Active Directory pads lengths to four bytes; no message needs more.
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return Err(Malformed);
    }
    let Some(length) = rest.get(..count) else { return Ok(None) };
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    Ok(Some((*tag, 2 + count, length)))
}

/// Reads elements one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads the elements of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns true if nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next element's tag and content.
    pub(super) fn next(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (tag, start, length) = header(self.0)?.ok_or(Malformed)?;
        let end = start.checked_add(length).ok_or(Malformed)?;
        let content = self.0.get(start..end).ok_or(Malformed)?;
        self.0 = &self.0[end..];
        Ok((tag, content))
    }

    /// Returns the content of the next element, which has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        let (found, content) = self.next()?;
        if found == tag { Ok(content) } else { Err(Malformed) }
    }

    /// Returns the elements within the next one, which has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Result<Self, Malformed> {
        self.expect(tag).map(Self)
    }

    /// Returns the next element, a number with this tag. Negative ones are malformed.
    pub(super) fn number(&mut self, tag: u8) -> Result<u32, Malformed> {
        let content = self.expect(tag)?;
        let is_negative = content.first().ok_or(Malformed)? & 0x80 != 0;
        if is_negative || content.len() > 5 {
            return Err(Malformed);
        }
        let number = content.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        u32::try_from(number).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padded_lengths_are_accepted_and_indefinite_ones_are_not() {
        assert_eq!(header(&[0x30, 0x84, 0, 0, 0, 5]), Ok(Some((0x30, 6, 5))));
        assert_eq!(header(&[0x30, 0x84, 0, 0]), Ok(None));
        assert_eq!(header(&[0x30, 0x80, 0, 0]), Err(Malformed));
        assert_eq!(header(&[0x30, 0x85, 0, 0, 0, 0, 5]), Err(Malformed));
        assert_eq!(header(&[0x3f, 1]), Err(Malformed));
        assert_eq!(Reader::new(&[4, 5, 1]).next(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(content in prop::collection::vec(any::<u8>(), 0..70_000), number: u32, tag in 0_u8..31) {
            let mut out = Vec::new();
            put(&mut out, tag, &content);
            put_number(&mut out, INTEGER, number);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.next(), Ok((tag, &content[..])));
            prop_assert_eq!(reader.number(INTEGER), Ok(number));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while reader.next().is_ok() {}
            let _ = Reader::new(&bytes).number(INTEGER);
        }
    }
}
