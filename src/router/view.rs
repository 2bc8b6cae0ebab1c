//! A request as seen by rules: host in lower case, path with only reserved characters escaped.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

use tidegate_core::{Identity, Request};

/// The values that matchers compare, computed at most once per request.
pub(super) struct View<'a> {
    pub(super) request: &'a Request,
    /// Computed when it is asked for, since not all routes have rules about the host.
    dotted_host: OnceCell<Cow<'a, str>>,
    /// The normalised path.
    pub(super) path: Cow<'a, str>,
    /// The client's address, in IPv4 form if mapped.
    pub(super) peer: IpAddr,
}

impl<'a> View<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        Self {
            request,
            dotted_host: OnceCell::new(),
            path: routing_path(request.path()),
            peer: request.context.exchange.connection.peer.ip().to_canonical(),
        }
    }

    /// Returns the host in lower case, without port; a trailing dot is kept (`HostRegexp` sees it).
    pub(super) fn dotted_host(&self) -> &str {
        self.dotted_host.get_or_init(|| {
            let host = without_port(self.request.host());
            match host.bytes().any(|b| b.is_ascii_uppercase()) {
                true => Cow::Owned(host.to_ascii_lowercase()),
                false => Cow::Borrowed(host),
            }
        })
    }

    /// Returns the host without port and trailing dot.
    pub(super) fn host(&self) -> &str {
        let host = self.dotted_host();
        host.strip_suffix('.').unwrap_or(host)
    }

    /// Returns the client's identity, if it was authenticated.
    pub(super) fn identity(&self) -> Option<&'a Identity> {
        self.request.context.identity.as_deref()
    }

    /// Returns key and value, still escaped, of each query parameter. `;` separates like `&`, as in Traefik.
    pub(super) fn query(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let query = self.request.head.uri.query().unwrap_or("");
        query
            .split(['&', ';'])
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .filter(|(key, value)| well_escaped(key) && well_escaped(value))
    }
}

/// Returns a host without its port and, for IPv6, without its brackets.
pub(crate) fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(host, |(address, _)| address);
    }
    // Hosts are too short for a search that looks at many bytes at once.
    let is_colon = |byte: u8| byte == b':';
    match host.bytes().position(is_colon) {
        // More than one colon: an IPv6 address without brackets.
        Some(colon) if !host.bytes().skip(colon + 1).any(is_colon) => &host[..colon],
        _ => host,
    }
}

/// Returns the bytes of an escaped query part, like Go's `url.QueryUnescape`. The part must be well escaped.
pub(super) fn unescaped(part: &str) -> impl Iterator<Item = u8> {
    let bytes = part.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let &byte = bytes.get(at)?;
        if byte == b'%'
            && let Some(value) = escape_at(bytes, at)
        {
            at += 3;
            return Some(value);
        }
        at += 1;
        Some(if byte == b'+' { b' ' } else { byte })
    })
}

fn well_escaped(part: &str) -> bool {
    let bytes = part.as_bytes();
    memchr::memchr_iter(b'%', bytes).all(|at| escape_at(bytes, at).is_some())
}

/// Returns the byte of the `%XX` at this offset.
fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |offset: usize| bytes.get(at + offset).and_then(|&b| char::from(b).to_digit(16));
    Some((digit(1)? * 16 + digit(2)?) as u8)
}

/// Returns the path that rules are compared with: everything is decoded except the reserved characters of RFC
/// 3986 section 2.2 and `%`, which stay escaped with upper-case digits. Does not allocate for a path without
/// escapes.
fn routing_path(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    if memchr::memchr(b'%', bytes).is_none() {
        return Cow::Borrowed(path);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte == b'%').then(|| escape_at(bytes, at)).flatten() {
            Some(value) if is_reserved(value) => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.extend([b'%', DIGITS[usize::from(value >> 4)], DIGITS[usize::from(value & 15)]]);
                at += 3;
            }
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    // Invalid UTF-8 counts as U+FFFD, as in Go's regular expressions.
    Cow::Owned(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

fn is_reserved(byte: u8) -> bool {
    b"!#$&'()*+,/:;=?@[]%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reserved_characters_stay_escaped() {
        for (path, seen) in [
            ("/plain", "/plain"),
            ("/x%22y%5cd%7E%20", "/x\"y\\d~ "),
            ("/a%2fb%2Fc%25%21", "/a%2Fb%2Fc%25%21"),
            ("/%C3%A9%c3%a9", "/éé"),
            ("/%ff", "/\u{fffd}"),
            ("/%zz%2", "/%zz%2"),
        ] {
            assert_eq!(routing_path(path), seen, "{path}");
        }
    }

    #[test]
    fn ports_are_removed() {
        for (host, name) in [
            ("a.test", "a.test"),
            ("a.test:80", "a.test"),
            ("[::1]", "::1"),
            ("[::1]:80", "::1"),
            ("::1", "::1"),
            ("[::1", "[::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
