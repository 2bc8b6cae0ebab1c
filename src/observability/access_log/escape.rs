//! Texts in a line of the log, with what could be taken for something else escaped.
//!
//! Nearly all texts stand for themselves. That is found out sixteen bytes at a time, and they are copied as a whole.

use std::io::Write as _;

/// Appends a text without quotes around it: what could be taken for another column or line is escaped.
pub(super) fn push_plain(line: &mut Vec<u8>, text: &str) {
    if is_ordinary::<0x21>(text.as_bytes()) {
        return line.extend_from_slice(text.as_bytes());
    }
    for c in text.chars() {
        match c {
            ' ' => line.extend_from_slice(b"\\x20"),
            c => push_clf_char(line, c),
        }
    }
}

/// Appends a text in double quotes, escaped as Go's `strconv.Quote` does.
pub(super) fn push_quoted(line: &mut Vec<u8>, text: &str) {
    line.push(b'"');
    if is_ordinary::<0x20>(text.as_bytes()) {
        line.extend_from_slice(text.as_bytes());
    } else {
        text.chars().for_each(|c| push_clf_char(line, c));
    }
    line.push(b'"');
}

/// Appends a JSON string. Those control characters are escaped, too, that JSON allows as they are, and line ends of
/// Unicode, as Go does: a terminal that shows the log obeys some of them. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn push_json(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    push_json_part(line, text);
    line.push(b'"');
}

/// As [`push_json`], without the quotes.
pub(super) fn push_json_part(line: &mut Vec<u8>, text: &[u8]) {
    if is_ordinary::<0x20>(text) {
        line.extend_from_slice(text);
    } else {
        String::from_utf8_lossy(text).chars().for_each(|c| push_json_char(line, c));
    }
}

/// True for printable ASCII from `LOWEST` on, without `"` and `\`.
fn is_ordinary<const LOWEST: u8>(text: &[u8]) -> bool {
    let is_odd =
        |byte: &u8| (byte.wrapping_sub(LOWEST) >= 0x7f - LOWEST) | (*byte == b'"') | (*byte == b'\\');
    let (chunks, rest) = text.as_chunks::<16>();
    // Without a branch for each byte, so that the compiler looks at all of a chunk at once.
    let is_odd_chunk = |chunk: &[u8; 16]| chunk.iter().fold(false, |odd, byte| odd | is_odd(byte));
    !chunks.iter().any(is_odd_chunk) && !rest.iter().any(is_odd)
}

// Writing to a Vec cannot fail.

fn push_clf_char(line: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' => line.extend_from_slice(&[b'\\', c as u8]),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        c if !c.is_control() => push_char(line, c),
        c if c.is_ascii() => drop(write!(line, "\\x{:02x}", u32::from(c))),
        c => drop(write!(line, "\\u{:04x}", u32::from(c))),
    }
}

fn push_json_char(line: &mut Vec<u8>, c: char) {
    match c {
        '"' | '\\' => line.extend_from_slice(&[b'\\', c as u8]),
        '\u{8}' => line.extend_from_slice(b"\\b"),
        '\u{c}' => line.extend_from_slice(b"\\f"),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
            drop(write!(line, "\\u{:04x}", u32::from(c)));
        }
        c => push_char(line, c),
    }
}

fn push_char(line: &mut Vec<u8>, c: char) {
    line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        push(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_escaped() {
        let text = "a \"b\\ \t\r\n\u{1} \u{7f} \u{85} é \u{2028} 🦀";
        let plain = r#"a\x20\"b\\\x20\t\r\n\x01\x20\x7f\x20\u0085\x20é\x20"#;
        assert_eq!(written(|line| push_plain(line, text)), format!("{plain}\u{2028}\\x20🦀"));
        let quoted = r#""a \"b\\ \t\r\n\x01 \x7f \u0085 é "#;
        assert_eq!(written(|line| push_quoted(line, text)), format!("{quoted}\u{2028} 🦀\""));
        let json = r#""a \"b\\ \t\r\n\u0001 \u007f \u0085 é \u2028 🦀""#;
        assert_eq!(written(|line| push_json(line, text.as_bytes())), json);
        assert_eq!(written(|line| push_json(line, b"a\xff")), "\"a\u{fffd}\"");
    }

    #[test]
    fn characters_are_escaped_wherever_they_stand() {
        for odd in ['"', '\\', '\n', '\0', '\u{1f}', '\u{7f}', '\u{80}'] {
            for length in 0..40 {
                let text = format!("{}{odd}{}", "-".repeat(length), "~".repeat(40 - length));
                let json = written(|line| push_json(line, text.as_bytes()));
                assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
                let [plain, quoted] = [push_plain, push_quoted].map(|push| written(|line| push(line, &text)));
                for line in [json, plain, quoted] {
                    assert!(line.contains('\\') && !line.contains(char::is_control), "{line}");
                }
            }
        }
        assert_eq!(written(|line| push_plain(line, " ~")), "\\x20~");
        assert_eq!(written(|line| push_quoted(line, " ~")), "\" ~\"");
    }
}
