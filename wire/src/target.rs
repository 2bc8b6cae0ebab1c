//! The syntax of request targets and hosts_are_validated (RFC 3986), for all versions of HTTP.

/// Maximum length of a target in [`http::Uri`], in bytes.
pub const MAX_TARGET: usize = 65_534;

/// Returns true for a character that real clients send unescaped in a path or query but that [`http::Uri`]
/// rejects. It does not affect framing.
pub fn must_be_escaped(byte: u8, in_query: bool) -> bool {
    matches!((byte, in_query), (b'<' | b'>', _) | (b'`', false) | (b'"', true))
}

/// Returns the escape sequence of a character (RFC 3986 section 2.1).
pub fn escape_of(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// Returns true for a host with an optional port (RFC 3986 section 3.2.2), without user information. May be
/// empty.
pub fn is_host(host: &[u8]) -> bool {
    let port = if host.first() == Some(&b'[') {
        let Some(end) = memchr::memchr(b']', host) else { return false };
        let inner = &host[1..end];
        let fine = !inner.is_empty() && inner.iter().all(|b| b.is_ascii_hexdigit() || b":.%".contains(b));
        if !fine {
            return false;
        }
        &host[end + 1..]
    } else {
        // The colon before the port is the first byte that no name has.
        let end = host.iter().position(|byte| !IN_NAME[usize::from(*byte)]);
        &host[end.unwrap_or(host.len())..]
    };
    match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    }
}

/// The characters of a registered name (RFC 3986 section 3.2.2). A table, since it is used for each byte of
/// each request's host.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=%";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_validated() {
        for host in ["", "a.test", "a.test:80", "[::1]", "[::1]:8080", "A-_b.", "a:"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["a b", "a/b", "u@h", "a:x", "a:123456", "[::1", "[::1]x", "a\\b", "a?", "[]"] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn characters_are_escaped() {
        assert_eq!((&escape_of(b'<'), &escape_of(0xff)), (b"%3C", b"%FF"));
        let escaped =
            |in_query| (0..=u8::MAX).filter(|&byte| must_be_escaped(byte, in_query)).collect::<Vec<_>>();
        assert_eq!(escaped(false), b"<>`");
        assert_eq!(escaped(true), b"\"<>");
    }
}
