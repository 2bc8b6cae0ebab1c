//! Encodes the segments of keys in characters that every store accepts: Consul rejects `*` since 1.21.5.

use std::borrow::Cow;

/// Prefix of the two hexadecimal digits of an encoded byte.
const ESCAPE: &[u8] = b"__";

/// Encodes a name as one segment of a key: letters, digits, `.`, `_` and `-` are kept, every other byte
/// becomes `__` and two upper-case hexadecimal digits.
pub fn encode(name: &str) -> Cow<'_, str> {
    let bytes = name.as_bytes();
    let plain = |at: usize, byte: u8| match byte {
        // Segments of only dots would change the path.
        b'.' => at > 0 || !matches!(name, "." | ".."),
        b'_' => !is_escape(&bytes[at..]),
        _ => byte.is_ascii_alphanumeric() || byte == b'-',
    };
    if bytes.iter().enumerate().all(|(at, byte)| plain(at, *byte)) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 16);
    for (at, byte) in bytes.iter().enumerate() {
        match plain(at, *byte) {
            true => out.push(char::from(*byte)),
            false => out.push_str(&format!("__{byte:02X}")),
        }
    }
    Cow::Owned(out)
}

/// Encodes each segment of a path like [`encode`]. Empty segments are removed.
pub fn encode_path(path: &str) -> String {
    let steps: Vec<_> = path.split('/').filter(|step| !step.is_empty()).map(encode).collect();
    steps.join("/")
}

/// Decodes a segment from [`encode`]. Other text is returned unchanged.
pub fn decode(step: &str) -> Cow<'_, str> {
    let bytes = step.as_bytes();
    if !bytes.windows(4).any(is_escape) {
        return Cow::Borrowed(step);
    }
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 2..at + 4).filter(|_| is_escape(&bytes[at..]));
        let value = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match value.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(step), Cow::Owned)
}

/// Returns true if these bytes start with an encoded byte.
fn is_escape(bytes: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    bytes.strip_prefix(ESCAPE).is_some_and(|rest| rest.len() >= 2 && rest.iter().take(2).all(is_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_encoded_as_segments() {
        for (name, step) in [
            ("a.test", "a.test"),
            ("my_resolver-1", "my_resolver-1"),
            ("le__2024", "le__5F_2024"),
            ("*.a.test", "__2A.a.test"),
            ("__2A.a", "__5F_2A.a"),
            ("_*", "___2A"),
            ("..", "__2E."),
            ("a/b c", "a__2Fb__20c"),
            ("lä", "l__C3__A4"),
        ] {
            assert_eq!(encode(name), step);
            assert_eq!(decode(step), name);
        }
        assert_eq!(encode_path("/t//*/acme/"), "t/__2A/acme");
        assert_eq!(decode("*.a.test"), "*.a.test", "as written by older versions");
    }

    proptest! {
        #[test]
        fn every_name_round_trips(name in "[_2AF*./é]{0,12}|.{0,20}") {
            let step = encode(&name);
            prop_assert!(step.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
            prop_assert_eq!(decode(&step), name.as_str());
            decode(&name);
        }
    }
}
