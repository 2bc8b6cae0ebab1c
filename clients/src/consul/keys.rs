//! The steps of keys, which hold only characters that every store takes: Consul rejects `*` since 1.21.5.

use std::borrow::Cow;

/// Precedes the two digits of an encoded byte.
const ESCAPE: &[u8] = b"__";

/// Writes a name as one step of a key: letters, digits, `.`, `_` and `-` stay, every other byte becomes `__` and two
/// hexadecimal digits in upper case.
pub fn encode(name: &str) -> Cow<'_, str> {
    let bytes = name.as_bytes();
    let plain = |at: usize, byte: u8| match byte {
        // A path that has steps of dots only is another path.
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

/// Writes each step of a path like [`encode`]. Empty steps are left out.
pub fn encode_path(path: &str) -> String {
    let steps: Vec<_> = path.split('/').filter(|step| !step.is_empty()).map(encode).collect();
    steps.join("/")
}

/// The name that [`encode`] has written. What it would not have written stays as it is.
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

/// True when these bytes begin with an encoded one.
fn is_escape(bytes: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    bytes.strip_prefix(ESCAPE).is_some_and(|rest| rest.len() >= 2 && rest.iter().take(2).all(is_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_steps() {
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
        assert_eq!(decode("*.a.test"), "*.a.test", "as older versions wrote it");
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in "[_2AF*./é]{0,12}|.{0,20}") {
            let step = encode(&name);
            prop_assert!(step.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
            prop_assert_eq!(decode(&step), name.as_str());
            decode(&name);
        }
    }
}
