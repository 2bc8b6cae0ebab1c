//! Removes hop-by-hop header fields from requests and responses.
//!
//! See RFC 9110 section 7.6.1. The list is that of Go's `httputil.ReverseProxy`, which Traefik uses.

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, PRAGMA,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{Method, Version, request};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What is known of a request without its hop-by-hop fields.
pub(super) struct Cleaned {
    /// The protocol that the client wants to change to.
    pub(super) upgrade: Option<HeaderValue>,
    found: Found,
}

/// Removes hop-by-hop fields of a request. With `is_tunnel`, upgrades are possible in every HTTP version.
///
/// Upgrades to `h2c` are removed: they would smuggle requests past the router (RFC 9113 dropped them). `Trailer` is kept,
/// as it announces the trailers of the body.
pub(super) fn clean_request(head: &mut request::Parts, is_tunnel: bool) -> Cleaned {
    let headers = &mut head.headers;
    let found = Found::of(headers);
    let mut upgrade = None;
    if found.has(Found::CONNECTION) {
        // In HTTP/2 and HTTP/3, only tunnels can upgrade.
        let may = head.version == Version::HTTP_11 || is_tunnel;
        if may && lists(headers, &CONNECTION, "upgrade") {
            upgrade = headers.get(UPGRADE).filter(|protocol| !is_h2c(protocol)).cloned();
        }
        remove_listed(headers);
        headers.remove(HTTP2_SETTINGS);
    }
    let trailers = found.has(Found::TE) && lists(headers, &TE, "trailers");
    found.remove_own(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // As in Go's HTTP library.
    if found.has(Found::EMPTY_AGENT) && headers.get(USER_AGENT).is_some_and(HeaderValue::is_empty) {
        headers.remove(USER_AGENT);
    }
    if found.has(Found::PRAGMA)
        && headers.get(PRAGMA).is_some_and(|pragma| pragma == "no-cache")
        && !headers.contains_key(CACHE_CONTROL)
    {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    if let Some(protocol) = &upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if matches!(head.version, Version::HTTP_2 | Version::HTTP_3) {
        join_cookies(headers);
    }
    Cleaned { upgrade, found }
}

/// Removes hop-by-hop fields of a response. Returns false if the body has an unknown transfer coding, as it
/// could not be decoded without the field.
pub(super) fn clean_response(headers: &mut HeaderMap) -> bool {
    let found = Found::of(headers);
    if found.has(Found::CONNECTION) {
        remove_listed(headers);
    }
    let mut understood = true;
    if found.has(Found::TRANSFER_ENCODING)
        && let Some(coding) = headers.get(TRANSFER_ENCODING)
    {
        understood = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        // Chunked coding overrides the length (RFC 9112 section 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    found.without(Found::PROXY_AUTHORIZATION).remove_own(headers);
    understood
}

/// Sets `Host` if it is missing (HTTP/1.0) or empty.
pub(super) fn fill_host(headers: &mut HeaderMap, cleaned: &Cleaned, authority: &HeaderValue) {
    if !cleaned.found.has(Found::HOST) {
        headers.insert(HOST, authority.clone());
    }
}

/// Sets the length of a request without a body: 0 if the method usually has a body, none otherwise (RFC 9110 section
/// 8.6). Removes `Trailer`.
pub(super) fn without_body(head: &mut request::Parts, cleaned: &Cleaned) {
    if cleaned.found.has(Found::TRAILER) {
        head.headers.remove(TRAILER);
    }
    if announces_none(&head.method) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    } else if cleaned.found.has(Found::CONTENT_LENGTH) {
        head.headers.remove(CONTENT_LENGTH);
    }
}

/// Returns true for methods with which a request without a body says so.
pub(super) fn announces_none(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Sets chunked coding for a body of unknown length, as the HTTP library drops the body of such a GET. Not
/// needed in HTTP/2.
pub(super) fn with_body(head: &mut request::Parts, body: &tidegate_core::Body) {
    if matches!(head.method, Method::GET | Method::HEAD)
        && !head.headers.contains_key(CONTENT_LENGTH)
        && http_body::Body::size_hint(body).exact().is_none()
    {
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Which of the fields that matter here a head has. One pass is cheaper than a lookup for each name. The set is not
/// updated as fields are removed and added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found(u16);

impl Found {
    const CONNECTION: Self = Self(1);
    const KEEP_ALIVE: Self = Self(1 << 1);
    const PROXY_CONNECTION: Self = Self(1 << 2);
    const TE: Self = Self(1 << 3);
    const TRANSFER_ENCODING: Self = Self(1 << 4);
    const UPGRADE: Self = Self(1 << 5);
    const PROXY_AUTHENTICATE: Self = Self(1 << 6);
    const PROXY_AUTHORIZATION: Self = Self(1 << 7);
    /// The fields that concern one connection.
    const OWN: [(Self, HeaderName); 8] = [
        (Self::CONNECTION, CONNECTION),
        (Self::KEEP_ALIVE, KEEP_ALIVE),
        (Self::PROXY_CONNECTION, PROXY_CONNECTION),
        (Self::TE, TE),
        (Self::TRANSFER_ENCODING, TRANSFER_ENCODING),
        (Self::UPGRADE, UPGRADE),
        (Self::PROXY_AUTHENTICATE, PROXY_AUTHENTICATE),
        (Self::PROXY_AUTHORIZATION, PROXY_AUTHORIZATION),
    ];
    const ANY_OWN: Self = Self(0xff);
    /// A `Host` that is not empty.
    const HOST: Self = Self(1 << 8);
    /// An empty `User-Agent`.
    const EMPTY_AGENT: Self = Self(1 << 9);
    const PRAGMA: Self = Self(1 << 10);
    const TRAILER: Self = Self(1 << 11);
    const CONTENT_LENGTH: Self = Self(1 << 12);
    const NONE: Self = Self(0);

    fn of(headers: &HeaderMap) -> Self {
        // Bytes are compared one by one: most names differ in their length or the first.
        let one = |(name, value): (&HeaderName, &HeaderValue)| match name.as_str().as_bytes() {
            b"te" => Self::TE,
            b"host" if !value.is_empty() => Self::HOST,
            b"pragma" => Self::PRAGMA,
            b"upgrade" => Self::UPGRADE,
            b"trailer" => Self::TRAILER,
            b"connection" => Self::CONNECTION,
            b"keep-alive" => Self::KEEP_ALIVE,
            b"user-agent" if value.is_empty() => Self::EMPTY_AGENT,
            b"content-length" => Self::CONTENT_LENGTH,
            b"proxy-connection" => Self::PROXY_CONNECTION,
            b"transfer-encoding" => Self::TRANSFER_ENCODING,
            b"proxy-authenticate" => Self::PROXY_AUTHENTICATE,
            b"proxy-authorization" => Self::PROXY_AUTHORIZATION,
            _ => Self::NONE,
        };
        headers.iter().map(one).fold(Self::NONE, |found, one| Self(found.0 | one.0))
    }

    fn has(self, field: Self) -> bool {
        self.0 & field.0 != 0
    }

    fn without(self, field: Self) -> Self {
        Self(self.0 & !field.0)
    }

    /// Removes those of these fields that concern one connection.
    fn remove_own(self, headers: &mut HeaderMap) {
        if !self.has(Self::ANY_OWN) {
            return;
        }
        for (field, name) in &Self::OWN {
            if self.has(*field) {
                headers.remove(name);
            }
        }
    }
}

/// Removes the fields listed in `Connection`, except `Host` and the like: they are not hop-by-hop, and a
/// middleware may have set them.
fn remove_listed(headers: &mut HeaderMap) {
    // As a rule it lists nothing.
    let lists_none = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    if headers.get_all(CONNECTION).iter().all(lists_none) {
        return;
    }
    let mut listed = smallvec::SmallVec::<[HeaderName; 4]>::new();
    for token in headers.get_all(CONNECTION).iter().flat_map(tokens) {
        let plain = ["close", "keep-alive", "upgrade", "te"]
            .iter()
            .any(|known| token.eq_ignore_ascii_case(known.as_bytes()));
        if !plain && let Ok(name) = HeaderName::from_bytes(token) {
            listed.push(name);
        }
    }
    for name in listed {
        if name != HOST && name != CONTENT_LENGTH {
            headers.remove(name);
        }
    }
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers.get_all(name).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn is_h2c(protocol: &HeaderValue) -> bool {
    tokens(protocol).any(|token| token.eq_ignore_ascii_case(b"h2c"))
}

/// Joins cookies, which HTTP/2 may split, into the single field that HTTP/1 expects (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let mut joined = Vec::new();
    for value in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(pairs: &[(&str, &str)]) -> (Vec<String>, Option<HeaderValue>) {
        let mut builder = http::Request::builder();
        for (name, value) in pairs {
            builder = builder.header(*name, *value);
        }
        let (mut head, ()) = builder.body(()).unwrap().into_parts();
        let upgrade = clean_request(&mut head, false).upgrade;
        let mut left: Vec<_> =
            head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        (left, upgrade)
    }

    #[test]
    fn hop_by_hop_fields_are_removed() {
        let (left, upgrade) = cleaned(&[
            ("host", "x"),
            ("connection", "close, X-Secret , host"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip, trailers"),
            ("trailer", "X-Sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-keep", "1"),
        ]);
        assert_eq!(left, ["host: x", "te: trailers", "trailer: X-Sum", "x-keep: 1"]);
        assert_eq!(upgrade, None);
    }

    #[test]
    fn an_upgrade_is_kept_except_to_h2c() {
        let (left, upgrade) = cleaned(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(left, ["connection: Upgrade", "upgrade: websocket"]);
        assert_eq!(upgrade.unwrap(), "websocket");
        let (left, upgrade) = cleaned(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ]);
        assert!(left.is_empty() && upgrade.is_none(), "{left:?}");
    }

    #[test]
    fn hop_by_hop_fields_of_responses_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "X-Hop"), ("x-hop", "1"), ("keep-alive", "t"), ("x-keep", "yes")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert!(clean_response(&mut headers));
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-keep"));
    }

    #[test]
    fn chunked_overrides_a_length_and_unknown_codings_are_rejected() {
        for (coding, understood) in [("Chunked", true), ("gzip", false), ("gzip, chunked", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static(coding));
            assert_eq!(clean_response(&mut headers), understood, "{coding}");
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn cookies_are_joined() {
        let (mut head, ()) = http::Request::builder()
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap()
            .into_parts();
        clean_request(&mut head, false);
        assert_eq!(head.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn requests_without_a_body_have_a_length_if_the_method_expects_one() {
        for (method, expected) in [("POST", Some("0")), ("PUT", Some("0")), ("GET", None), ("DELETE", None)] {
            let request = http::Request::builder().method(method).header("content-length", "0");
            let (mut head, ()) = request.header("trailer", "X").body(()).unwrap().into_parts();
            let cleaned = clean_request(&mut head, false);
            without_body(&mut head, &cleaned);
            let length = head.headers.get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(length, expected, "{method}");
            assert!(!head.headers.contains_key("trailer"));
        }
    }
}
