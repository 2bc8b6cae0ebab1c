//! The parts of an identity as header values.
//!
//! They may come from tokens of others, so they cannot be sent as they are: a line feed would begin another header, and a
//! comma another group. What could be confused is percent-encoded.

use http::HeaderValue;

/// Maximum length of a value in bytes.
const MAX_LENGTH: usize = 8 * 1024;

/// Returns a single text; `None` if it is empty or too long. Encodes `%`, everything but visible ASCII, and spaces at the
/// ends, which servers remove.
pub(super) fn single(text: &str) -> Option<HeaderValue> {
    let last = text.len().saturating_sub(1);
    value(&encoded(text, |at, byte| byte == b'%' || byte == b' ' && (at == 0 || at == last)))
}

/// Returns a list; `None` if it is empty. Also encodes spaces and commas in its items. Items that do not fit are left
/// out.
pub(super) fn list<'a>(items: impl Iterator<Item = &'a str>, separator: char) -> Option<HeaderValue> {
    let mut all = String::new();
    for item in items {
        let item = encoded(item, |_, byte| matches!(byte, b'%' | b',' | b' '));
        if all.len() + item.len() < MAX_LENGTH && !item.is_empty() {
            if !all.is_empty() {
                all.push(separator);
            }
            all.push_str(&item);
        }
    }
    value(&all)
}

fn value(text: &str) -> Option<HeaderValue> {
    let fits = !text.is_empty() && text.len() <= MAX_LENGTH;
    if fits { HeaderValue::from_str(text).ok() } else { None }
}

fn encoded(text: &str, is_special: impl Fn(usize, u8) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b' '..=b'~' if !is_special(at, byte) => encoded.push(char::from(byte)),
            byte => encoded.push_str(percent_encoding::percent_encode_byte(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: Option<HeaderValue>) -> String {
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn texts_are_sent_as_they_are_where_that_is_safe() {
        for (given, expected) in [
            ("ann", "ann"),
            ("CN=bob,O=Ex", "CN=bob,O=Ex"),
            ("Ann Smith", "Ann Smith"),
            (" ann ", "%20ann%20"),
            ("jörg", "j%C3%B6rg"),
            ("100%", "100%25"),
            ("a\r\nX-Admin: 1", "a%0D%0AX-Admin: 1"),
            ("a\0\tb\x7f", "a%00%09b%7F"),
            ("", ""),
        ] {
            assert_eq!(text(single(given)), expected, "{given:?}");
        }
        assert_eq!(single(&"a".repeat(MAX_LENGTH + 1)), None);
    }

    #[test]
    fn an_item_cannot_become_two() {
        let groups = |items: &[&str]| text(list(items.iter().copied(), ','));
        assert_eq!(groups(&["ops", "dev"]), "ops,dev");
        assert_eq!(groups(&["a,admin", " ops", ""]), "a%2Cadmin,%20ops");
        assert_eq!(text(list(["read", "a b"].into_iter(), ' ')), "read a%20b");
        assert_eq!(list(std::iter::empty(), ','), None);
        let long = "g".repeat(MAX_LENGTH - 10);
        assert_eq!(groups(&[&long, "does-not-fit", "fits"]), format!("{long},fits"));
    }

    proptest! {
        #[test]
        fn values_can_be_decoded(texts in prop::collection::vec("\\PC{1,8}", 1..5)) {
            let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(decode(&text(single(&texts[0]))), texts[0].clone());
            let sent = text(list(texts.iter().map(String::as_str), ','));
            prop_assert_eq!(sent.split(',').map(decode).collect::<Vec<_>>(), texts);
        }
    }
}
