//! How the head of a stored response is written: numbers in little endian, texts with their lengths before them.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::head::Head;
use crate::key::{Key, Tag, Variant};
use crate::rules::Policy;
use crate::time::Timestamp;

const ALWAYS_VALIDATE: u8 = 1;
const NEVER_STALE: u8 = 2;
const IMMUTABLE: u8 = 4;

/// Writes a key and a head.
pub(super) fn encode(key: &Key, head: &Head) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    text(&mut bytes, key.as_bytes());
    bytes.extend_from_slice(&head.status.as_u16().to_le_bytes());
    let policy = &head.policy;
    bytes.extend_from_slice(&policy.received.as_millis().to_le_bytes());
    for number in [policy.initial_age, policy.lifetime, policy.while_revalidate, policy.if_error] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    bytes.push(
        flag(policy.always_validate, ALWAYS_VALIDATE)
            | flag(policy.never_stale, NEVER_STALE)
            | flag(policy.immutable, IMMUTABLE),
    );
    count(&mut bytes, head.variant.fields().len());
    for (name, value) in head.variant.fields() {
        text(&mut bytes, name.as_str().as_bytes());
        bytes.push(u8::from(value.is_some()));
        text(&mut bytes, value.unwrap_or_default());
    }
    count(&mut bytes, head.tags.len());
    for tag in &head.tags {
        text(&mut bytes, tag);
    }
    count(&mut bytes, head.headers.len());
    for (name, value) in &head.headers {
        text(&mut bytes, name.as_str().as_bytes());
        text(&mut bytes, value.as_bytes());
    }
    bytes
}

fn count(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    count(bytes, text.len());
    bytes.extend_from_slice(text);
}

/// Reads what [`encode`] has written. `None` for anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<(Key, Head)> {
    let mut reader = Reader { rest: bytes };
    let key = Key::from_bytes(reader.text()?);
    let status = StatusCode::from_u16(u16::from_le_bytes(reader.array()?)).ok()?;
    let received = Timestamp::from_millis(u64::from_le_bytes(reader.array()?));
    let [initial_age, lifetime, while_revalidate, if_error] =
        [reader.number()?, reader.number()?, reader.number()?, reader.number()?];
    let [flags] = reader.array()?;
    let policy = Policy {
        received,
        initial_age,
        lifetime,
        while_revalidate,
        if_error,
        always_validate: flags & ALWAYS_VALIDATE != 0,
        never_stale: flags & NEVER_STALE != 0,
        immutable: flags & IMMUTABLE != 0,
    };
    let mut fields = Vec::new();
    for _ in 0..reader.number()? {
        let name = HeaderName::from_bytes(reader.text()?).ok()?;
        let [present] = reader.array()?;
        let value = reader.text()?;
        fields.push((name, (present == 1).then(|| value.into())));
    }
    let mut tags = Vec::new();
    for _ in 0..reader.number()? {
        tags.push(Tag::from(reader.text()?));
    }
    let mut headers = HeaderMap::new();
    for _ in 0..reader.number()? {
        let name = HeaderName::from_bytes(reader.text()?).ok()?;
        headers.try_append(name, HeaderValue::from_bytes(reader.text()?).ok()?).ok()?;
    }
    reader
        .rest
        .is_empty()
        .then(|| (key, Head { status, headers, policy, variant: Variant::from_fields(fields), tags }))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::VaryNames;

    fn head() -> Head {
        let mut headers = HeaderMap::new();
        headers.append("vary", HeaderValue::from_static("a, b"));
        headers.append("x", HeaderValue::from_bytes(b"\xff").unwrap());
        headers.append("x", HeaderValue::from_static(""));
        let mut request = HeaderMap::new();
        request.insert("a", HeaderValue::from_static(""));
        let variant = Variant::new(&VaryNames::from_headers(&headers).unwrap(), &request).unwrap();
        let policy = Policy {
            received: Timestamp::from_millis(1 << 45),
            initial_age: 1,
            lifetime: 2,
            while_revalidate: 3,
            if_error: u32::MAX,
            always_validate: true,
            never_stale: false,
            immutable: true,
        };
        Head { status: StatusCode::NOT_FOUND, headers, policy, variant, tags: vec![b"t".as_slice().into()] }
    }

    #[test]
    fn heads_survive_and_nothing_else_is_read() {
        let (key, head) = (Key::from_bytes(b"http://a/\0\0\xff"), head());
        let bytes = encode(&key, &head);
        assert_eq!(decode(&bytes), Some((key, head)));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None);
        }
        assert_eq!(decode(&[&bytes[..], b"x"].concat()), None);
        // No change of a byte may cause a panic, or much memory.
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                decode(&changed);
            }
        }
    }
}
