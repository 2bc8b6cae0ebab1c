//! Paths as Go's `net/url` parses, formats and cleans them, which is what Traefik's users see.

use std::borrow::Cow;
use std::fmt::Write as _;

/// A `%` that is not followed by two hexadecimal digits, in Go's wording.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL escape {0:?}")]
pub(crate) struct EscapeError(pub(crate) String);

/// A path and its escaped form, like the fields `Path` and `RawPath` of Go's `url.URL`.
#[derive(Debug)]
pub(crate) struct UrlPath {
    /// Unescaped.
    pub(crate) path: Vec<u8>,
    /// The escaped form if it differs from that of [`escape`]; otherwise empty.
    pub(crate) raw: String,
}

impl UrlPath {
    /// Parses an escaped path (Go's `setPath`).
    pub(crate) fn parse(escaped: &str) -> Result<Self, EscapeError> {
        let path = unescape(escaped)?;
        let raw = if escape(&path) == escaped { String::new() } else { escaped.to_owned() };
        Ok(Self { path, raw })
    }

    /// Returns the escaped form (Go's `EscapedPath`): `raw` if it is a valid encoding of `path`.
    pub(crate) fn escaped(&self) -> String {
        let raw_counts = !self.raw.is_empty()
            && is_valid_encoding(&self.raw)
            && unescape(&self.raw).is_ok_and(|path| path == self.path);
        if raw_counts { self.raw.clone() } else { escape(&self.path) }
    }
}

/// Decodes every `%XX` (Go's `PathUnescape`).
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, EscapeError> {
    let mut decoded = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        if byte != b'%' {
            decoded.push(byte);
            i += 1;
            continue;
        }
        let Some(value) = hex_pair(bytes, i + 1) else {
            let bad = bytes.get(i..i + 3).unwrap_or(&bytes[i..]);
            return Err(EscapeError(String::from_utf8_lossy(bad).into_owned()));
        };
        decoded.push(value);
        i += 3;
    }
    Ok(decoded)
}

/// Escapes what is not allowed in a path, and the question mark (Go's mode `encodePath`).
pub(crate) fn escape(path: &[u8]) -> String {
    escape_with(path, |byte| !is_path_byte(byte))
}

/// Escapes the bytes that match `must`.
pub(crate) fn escape_with(text: &[u8], must: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for &byte in text {
        if must(byte) || !byte.is_ascii() {
            let _ = write!(escaped, "%{byte:02X}");
        } else {
            escaped.push(char::from(byte));
        }
    }
    escaped
}

/// Returns true when no byte needs escaping in an escaped path (Go's `validEncoded`).
pub(crate) fn is_valid_encoding(text: &str) -> bool {
    text.bytes().all(|byte| {
        is_path_byte(byte) || matches!(byte, b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'%')
    })
}

/// Letters, digits, `-`, `_`, `.`, `~`: equivalent whether escaped or not (RFC 3986 section 2.3).
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@')
}

fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |i: usize| bytes.get(i).and_then(|&b| char::from(b).to_digit(16));
    Some((digit(at)? * 16 + digit(at + 1)?) as u8)
}

/// Removes `prefix`, which is not escaped, from an escaped path; `None` when the path does not start with it.
pub(crate) fn strip_decoded_prefix<'a>(escaped: &'a str, prefix: &[u8]) -> Option<&'a str> {
    let bytes = escaped.as_bytes();
    let mut i = 0;
    for &wanted in prefix {
        let (found, length) = match bytes.get(i)? {
            b'%' => hex_pair(bytes, i + 1).map_or((b'%', 1), |value| (value, 3)),
            &byte => (byte, 1),
        };
        if found != wanted {
            return None;
        }
        i += length;
    }
    escaped.get(i..)
}

/// Returns the rest of an escaped path after removing a prefix, with a leading slash.
///
/// An escaped slash right after the prefix becomes that slash, as in Go, where `URL.RawPath` then no longer
/// matches `URL.Path`.
pub(crate) fn after_prefix(rest: &str) -> Cow<'_, str> {
    let begins_escaped = rest.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case("%2f"));
    match unescape(rest) {
        Ok(decoded) if begins_escaped => Cow::Owned(escape(&decoded)),
        _ => with_leading_slash(rest),
    }
}

/// Returns the path with a leading slash.
pub(crate) fn with_leading_slash(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) }
}

/// Returns true when an escaped path starts with a slash and has no empty segment except the last, and no `.`
/// or `..`, escaped or not. A stripped or replaced path that is not clean is refused: it could reach
/// something that the router's rule did not match.
pub(crate) fn is_clean(escaped: &str) -> bool {
    let Some(rest) = escaped.strip_prefix('/') else { return false };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if is_dots(segment) || (segment.is_empty() && segments.peek().is_some()) {
            return false;
        }
    }
    true
}

fn is_dots(segment: &str) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        let after =
            rest.strip_prefix('.').or_else(|| rest.strip_prefix("%2E")).or_else(|| rest.strip_prefix("%2e"));
        let Some(after) = after else { return false };
        rest = after;
        dots += 1;
    }
    dots == 1 || dots == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_read_and_write_as_in_go() {
        for (escaped, path, again) in [
            ("/a/b", "/a/b", "/a/b"),
            ("/a%2Fb", "/a/b", "/a%2Fb"),
            ("/a!b", "/a!b", "/a!b"),
            ("/a b", "/a b", "/a%20b"),
            ("/a?b", "/a?b", "/a%3Fb"),
            ("/a%2Fb c", "/a/b c", "/a/b%20c"),
            ("/\u{e9}", "/\u{e9}", "/%C3%A9"),
        ] {
            let parsed = UrlPath::parse(escaped).unwrap();
            assert_eq!(
                (parsed.path.as_slice(), parsed.escaped().as_str()),
                (path.as_bytes(), again),
                "{escaped}"
            );
        }
        assert_eq!(unescape("/%zz1").unwrap_err().to_string(), "invalid URL escape \"%zz\"");
        assert_eq!(unescape("/%4").unwrap_err().to_string(), "invalid URL escape \"%4\"");
    }

    #[test]
    fn prefixes_are_compared_unescaped() {
        assert_eq!(strip_decoded_prefix("/a%62c/d%2F", b"/abc"), Some("/d%2F"));
        assert_eq!(strip_decoded_prefix("/ab", b"/abc"), None);
        assert_eq!(strip_decoded_prefix("/x", b""), Some("/x"));
        assert_eq!(strip_decoded_prefix("/%C3%A9/", "/\u{e9}".as_bytes()), Some("/"));
    }

    #[test]
    fn an_escaped_slash_after_a_prefix_becomes_the_slash() {
        for (rest, expected) in [
            ("", "/"),
            ("x%2Fy", "/x%2Fy"),
            ("/x%2Fy", "/x%2Fy"),
            ("%2Fx%2fy", "/x/y"),
            ("%2f%zz", "/%2f%zz"),
        ] {
            assert_eq!(after_prefix(rest), expected, "{rest}");
        }
    }

    #[test]
    fn dots_and_empty_segments_are_not_clean() {
        for path in ["/", "/a", "/a/", "/a/b", "/...", "/.a", "/%2e%2e%2e"] {
            assert!(is_clean(path), "{path}");
        }
        for path in ["", "a", "//", "//a", "/a//b", "/.", "/..", "/a/../b", "/%2e%2E/a", "/a/.%2e", "/./"] {
            assert!(!is_clean(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn escaping_is_reversible(path in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(&escape(&path)).unwrap(), path);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}", prefix in ".{0,6}") {
            let _ = UrlPath::parse(&text).map(|p| p.escaped());
            let _ = strip_decoded_prefix(&text, prefix.as_bytes());
            let _ = is_clean(&text);
        }
    }
}
