//! Header fields that concern one connection only, removed on the way to a server and on the way back.
//!
//! RFC 9110 section 7.6.1; the list is that of Go's `httputil.ReverseProxy`, which Traefik uses.

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, PRAGMA,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{Method, Version, request};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes what concerns the client's connection only. Gives the protocol that the client wants to change to;
/// `is_tunnel`: it can, whatever its version.
///
/// `h2c` is no such protocol: its upgrade would smuggle requests past the router (RFC 9113 dropped it).
/// `Trailer` stays, because it announces what the body will end with.
pub(super) fn clean_request(head: &mut request::Parts, is_tunnel: bool) -> Option<HeaderValue> {
    let headers = &mut head.headers;
    let found = own_fields(headers);
    let mut upgrade = None;
    if found.contains(&CONNECTION) {
        // Over HTTP/2 and HTTP/3 only a tunnel has one.
        let may = head.version == Version::HTTP_11 || is_tunnel;
        if may && lists(headers, &CONNECTION, "upgrade") {
            upgrade = headers.get(UPGRADE).filter(|protocol| !is_h2c(protocol)).cloned();
        }
        remove_listed(headers);
        headers.remove(HTTP2_SETTINGS);
    }
    let trailers = found.contains(&TE) && lists(headers, &TE, "trailers");
    for name in found {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // As Go's HTTP library does it.
    if headers.get(USER_AGENT).is_some_and(HeaderValue::is_empty) {
        headers.remove(USER_AGENT);
    }
    if headers.get(PRAGMA).is_some_and(|pragma| pragma == "no-cache") && !headers.contains_key(CACHE_CONTROL)
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
    upgrade
}

/// Removes what concerns the server's connection only. False when the body is in a transfer coding that is not
/// understood here: what remains could not be read by anybody.
pub(super) fn clean_response(headers: &mut HeaderMap) -> bool {
    let found = own_fields(headers);
    if found.contains(&CONNECTION) {
        remove_listed(headers);
    }
    let mut understood = true;
    if let Some(coding) = headers.get(TRANSFER_ENCODING).filter(|_| found.contains(&TRANSFER_ENCODING)) {
        understood = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        // The chunks say how long the body is, whatever stands here (RFC 9112 section 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    for name in found.into_iter().filter(|name| name != PROXY_AUTHORIZATION) {
        headers.remove(name);
    }
    understood
}

/// Sets `Host` when the client sent none (HTTP/1.0), or an empty one.
pub(super) fn fill_host(headers: &mut HeaderMap, authority: &HeaderValue) {
    if headers.get(HOST).is_none_or(HeaderValue::is_empty) {
        headers.insert(HOST, authority.clone());
    }
}

/// Says of a request without a body what servers expect: a length of 0 where a method usually has a body, nothing
/// elsewhere (RFC 9110 section 8.6). It has no trailers to announce.
pub(super) fn without_body(head: &mut request::Parts) {
    head.headers.remove(TRAILER);
    if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    } else {
        head.headers.remove(CONTENT_LENGTH);
    }
}

/// Says of a request with a body of unknown length that there is one, where the HTTP library would think there cannot
/// be (it drops the body of such a GET). HTTP/2 needs no word, and gets none.
pub(super) fn with_body(head: &mut request::Parts, body: &tidegate_core::Body) {
    if matches!(head.method, Method::GET | Method::HEAD)
        && !head.headers.contains_key(CONTENT_LENGTH)
        && http_body::Body::size_hint(body).exact().is_none()
    {
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Those of the fields for one connection that are there: one look at each field costs less than to look for each.
fn own_fields(headers: &HeaderMap) -> smallvec::SmallVec<[HeaderName; 4]> {
    let is_own = |name: &&HeaderName| match name.as_str().len() {
        2 => **name == TE,
        7 => **name == UPGRADE,
        10 => **name == CONNECTION || **name == KEEP_ALIVE,
        16 => **name == PROXY_CONNECTION,
        17 => **name == TRANSFER_ENCODING,
        18 => **name == PROXY_AUTHENTICATE,
        19 => **name == PROXY_AUTHORIZATION,
        _ => false,
    };
    headers.keys().filter(is_own).cloned().collect()
}

/// Removes the fields that `Connection` lists. `Host` and the like cannot be taken away by it: they do not concern
/// a connection, and a middleware may have set them.
fn remove_listed(headers: &mut HeaderMap) {
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

/// HTTP/2 may send cookies apart; HTTP/1 and applications want one field (RFC 9113 section 8.2.3).
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
        let upgrade = clean_request(&mut head, false);
        let mut left: Vec<_> =
            head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        (left, upgrade)
    }

    #[test]
    fn what_concerns_the_connection_is_removed() {
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
    fn answers_lose_the_same() {
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
    fn chunks_outweigh_a_length_and_other_codings_are_refused() {
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
    fn a_request_without_a_body_says_so_as_its_method_wants() {
        for (method, expected) in [("POST", Some("0")), ("PUT", Some("0")), ("GET", None), ("DELETE", None)] {
            let request = http::Request::builder().method(method).header("content-length", "0");
            let (mut head, ()) = request.header("trailer", "X").body(()).unwrap().into_parts();
            without_body(&mut head);
            let length = head.headers.get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(length, expected, "{method}");
            assert!(!head.headers.contains_key("trailer"));
        }
    }
}
