//! Escapes texts in lines of the log.
//!
//! Almost all texts need no escaping. This is checked sixteen bytes at a time, and such texts are copied as a whole.

use std::io::Write as _;

/// Appends a text without quotes, and escapes what could start another column or line.
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
    push_escaped(line, text);
    line.push(b'"');
}

/// Appends the contents of a text in double quotes; see [`push_quoted`].
pub(super) fn push_escaped(line: &mut Vec<u8>, text: &str) {
    if is_ordinary::<0x20>(text.as_bytes()) {
        line.extend_from_slice(text.as_bytes());
    } else {
        text.chars().for_each(|c| push_clf_char(line, c));
    }
}

/// Appends a JSON string. Unlike JSON requires, all control characters are escaped, since terminals interpret some, and
/// Unicode line separators, as in Go. Invalid UTF-8 becomes U+FFFD.
pub(super) fn push_json(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    push_json_part(line, text);
    line.push(b'"');
}

/// Appends the contents of a JSON string, without quotes; see [`push_json`].
pub(super) fn push_json_part(line: &mut Vec<u8>, text: &[u8]) {
    if is_ordinary::<0x20>(text) {
        line.extend_from_slice(text);
    } else {
        String::from_utf8_lossy(text).chars().for_each(|c| push_json_char(line, c));
    }
}

/// Returns true for printable ASCII from `LOWEST` on, without `"` and `\`.
fn is_ordinary<const LOWEST: u8>(text: &[u8]) -> bool {
    let is_odd =
        |byte: &u8| (byte.wrapping_sub(LOWEST) >= 0x7f - LOWEST) | (*byte == b'"') | (*byte == b'\\');
    let (chunks, rest) = text.as_chunks::<16>();
    // Branch-free, so that the compiler vectorizes the check of a chunk.
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
    fn ambiguous_characters_are_escaped() {
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
    fn characters_are_escaped_at_any_position() {
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
