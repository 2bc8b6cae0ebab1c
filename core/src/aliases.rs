//! Header names that services may confuse with each other.

use http::HeaderName;

/// Returns true when services may confuse the two headers: names that differ only in `_` or `.` instead of `-`, which
/// CGI, WSGI, PHP and nginx treat as equal.
pub fn is_same(a: &HeaderName, b: &HeaderName) -> bool {
    let plain = |byte: u8| if matches!(byte, b'_' | b'.') { b'-' } else { byte };
    let (a, b) = (a.as_str().as_bytes(), b.as_str().as_bytes());
    a.len() == b.len() && a.iter().zip(b).all(|(&x, &y)| plain(x) == plain(y))
}
