//! Normalizes target and host of a request, so that routers, middlewares and servers see the same.

use std::borrow::Cow;

use http::header::HOST;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use tidegate_core::{OriginalTarget, Reason, Response, reply};
use tidegate_wire::target::is_host;

use crate::settings::{EncodedCharacters, EntryPointHttp};

/// How an entry point normalizes targets.
#[derive(Clone, Debug)]
pub(in crate::entrypoint) struct TargetRules {
    sanitize: bool,
    encode_semicolons: bool,
    /// Escapes (`%2F`) that a path may not contain.
    denied: Vec<&'static str>,
}

impl TargetRules {
    /// Reads the settings of an entry point.
    pub(in crate::entrypoint) fn new(http: &EntryPointHttp) -> Self {
        let allowed = http.encoded_characters.clone().unwrap_or_default();
        let EncodedCharacters {
            allow_encoded_slash: slash,
            allow_encoded_back_slash: back_slash,
            allow_encoded_null_character: null,
            allow_encoded_semicolon: semicolon,
            allow_encoded_percent: percent,
            allow_encoded_question_mark: question_mark,
            allow_encoded_hash: hash,
        } = allowed;
        let denied = [
            (slash, "%2F"),
            (back_slash, "%5C"),
            (null, "%00"),
            (semicolon, "%3B"),
            (percent, "%25"),
            (question_mark, "%3F"),
            (hash, "%23"),
        ];
        Self {
            sanitize: http.sanitize_path,
            encode_semicolons: http.encode_query_semicolons,
            denied: denied.into_iter().filter(|(allowed, _)| !allowed).map(|(_, escape)| escape).collect(),
        }
    }

    /// Normalizes a request: target in origin form, host in `Host`. Returns the target as it was received if redirects
    /// need it. The error is the response to a malformed request.
    pub(in crate::entrypoint) fn apply(
        &self,
        head: &mut http::request::Parts,
    ) -> Result<Option<OriginalTarget>, Box<Response>> {
        if head.method == Method::CONNECT {
            return Err(refused(StatusCode::NOT_IMPLEMENTED, Reason::MalformedRequest));
        }
        normalize_host(head)?;
        let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if target == "*" {
            let asks = head.method == Method::OPTIONS;
            return Err(if asks {
                Box::new(reply::empty(StatusCode::OK, Reason::ServerOptions))
            } else {
                refused(StatusCode::BAD_REQUEST, Reason::MalformedRequest)
            });
        }
        let origin_form = head.uri.scheme().is_none() && head.uri.authority().is_none();
        let (path, query) = (head.uri.path(), head.uri.query());
        // The absolute form of HTTP/1 may omit the path (`http://h?q`), `:path` of HTTP/2 may not.
        let pathless = target.starts_with('?') && is_framed(head.version);
        if !path.starts_with('/') || pathless {
            return Err(refused(StatusCode::BAD_REQUEST, Reason::MalformedRequest));
        }
        let new_path = self.normalize_path(path).ok_or_else(|| bad_request("400 Bad Request"))?;
        let new_query = query.map(|query| self.normalize_query(query));
        let unchanged = matches!(new_path, Cow::Borrowed(_)) && !matches!(new_query, Some(Cow::Owned(_)));
        if unchanged && origin_form {
            return Ok(None);
        }
        let target = match &new_query {
            Some(query) => format!("{new_path}?{query}"),
            None => new_path.to_string(),
        };
        let original = match (query, &new_query) {
            (Some(query), Some(Cow::Owned(_))) if !self.encode_semicolons => {
                let received = format!("{new_path}?{query}").into();
                Some(OriginalTarget { served: target.as_str().into(), received })
            }
            _ => None,
        };
        let target = PathAndQuery::try_from(target).map_err(|_| bad_request("400 Bad Request"))?;
        head.uri = Uri::from(target);
        Ok(original)
    }

    /// Returns true if a normalized path contains an escape that this entry point denies.
    pub(in crate::entrypoint) fn denies(&self, path: &str) -> bool {
        !self.denied.is_empty()
            && path.contains('%')
            && self.denied.iter().any(|escape| path.contains(escape))
    }

    /// Returns the normalized path, or `None` if an escape is malformed.
    fn normalize_path<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        let path = normalize_escapes(path)?;
        if !self.sanitize || !has_dot_segments(&path) {
            return Some(path);
        }
        Some(Cow::Owned(remove_dot_segments(&path)))
    }

    fn normalize_query<'a>(&self, query: &'a str) -> Cow<'a, str> {
        if !query.contains(';') {
            return Cow::Borrowed(query);
        }
        Cow::Owned(query.replace(';', if self.encode_semicolons { "%3B" } else { "&" }))
    }
}

/// Returns a 400 that names the reason and closes the connection, as Go's server does.
fn bad_request(text: &'static str) -> Box<Response> {
    let mut response = reply::bare(StatusCode::BAD_REQUEST, text, Reason::MalformedRequest);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    with_close(response)
}

/// Returns a response without a body that closes the connection.
pub(in crate::entrypoint) fn refused(status: StatusCode, reason: Reason) -> Box<Response> {
    with_close(reply::empty(status, reason))
}

fn with_close(mut response: Response) -> Box<Response> {
    response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    Box::new(response)
}

/// Puts the requested host into `Host`, also from the target (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn normalize_host(head: &mut http::request::Parts) -> Result<(), Box<Response>> {
    let authority = head.uri.authority();
    let scheme = head.uri.scheme();
    if scheme.is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(refused(StatusCode::BAD_REQUEST, Reason::MalformedRequest));
    }
    // Without a scheme it is the authority form, which only CONNECT may use.
    if authority.is_some() && scheme.is_none() && !is_framed(head.version) {
        return Err(refused(StatusCode::BAD_REQUEST, Reason::MalformedRequest));
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, more) = (hosts.next(), hosts.next().is_some());
    if more {
        return Err(bad_request("400 Bad Request: too many Host headers"));
    }
    match (authority, first) {
        (_, None) if head.version == Version::HTTP_11 => {
            return Err(bad_request("400 Bad Request: missing required Host header"));
        }
        (None, None) => return Ok(()),
        (None, Some(host)) => {
            return if is_host(host.as_bytes()) { Ok(()) } else { Err(malformed_host()) };
        }
        (Some(_), Some(host)) if !is_host(host.as_bytes()) => return Err(malformed_host()),
        (Some(authority), Some(host))
            if is_framed(head.version)
                && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(bad_request("400 Bad Request: Host unlike :authority"));
        }
        _ => {}
    }
    let text = authority.map_or("", |authority| authority.as_str());
    if !is_host(text.as_bytes()) {
        return Err(malformed_host());
    }
    let value = HeaderValue::from_str(text).map_err(|_| malformed_host())?;
    replace_host(&mut head.headers, value);
    Ok(())
}

/// Returns true for versions that send the target in pseudo-headers: HTTP/2 and HTTP/3.
fn is_framed(version: Version) -> bool {
    matches!(version, Version::HTTP_2 | Version::HTTP_3)
}

fn replace_host(headers: &mut HeaderMap, value: HeaderValue) {
    headers.insert(HOST, value);
}

fn malformed_host() -> Box<Response> {
    bad_request("400 Bad Request: malformed Host header")
}

/// Decodes escaped unreserved characters, writes other escapes in upper case (RFC 3986 section 6.2.2), and escapes
/// bytes that are invalid in a path, as Go does.
fn normalize_escapes(path: &str) -> Option<Cow<'_, str>> {
    let bytes = path.as_bytes();
    let Some(first) = bytes.iter().position(|&byte| byte == b'%' || needs_escape(byte)) else {
        return Some(Cow::Borrowed(path));
    };
    let mut out = String::with_capacity(path.len() + 8);
    out.push_str(path.get(..first)?);
    let mut at = first;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != b'%' {
            if needs_escape(byte) {
                push_escape(&mut out, byte);
            } else {
                out.push(char::from(byte));
            }
            continue;
        }
        let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        let value = u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()?;
        if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
            out.push(char::from(value));
        } else {
            push_escape(&mut out, value);
        }
        at += 2;
    }
    Some(if out == path { Cow::Borrowed(path) } else { Cow::Owned(out) })
}

/// Returns true for bytes that the HTTP library accepts although they are invalid by RFC 3986 section 3.3.
fn needs_escape(byte: u8) -> bool {
    !byte.is_ascii() || matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

fn push_escape(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.extend([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)])));
}

/// Returns true if a path may have an empty, `.` or `..` segment.
fn has_dot_segments(path: &str) -> bool {
    memchr::memchr_iter(b'/', path.as_bytes())
        .any(|at| matches!(path.as_bytes()[at + 1..], [b'/' | b'.', ..]))
}

/// Merges slashes and resolves dot segments as Go's `URL.JoinPath` does: a trailing slash stays, `/a/.` becomes `/a`.
fn remove_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            segment => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    if out.is_empty() || path.ends_with('/') {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(method: &str, target: &str, host: &str) -> http::request::Parts {
        let builder = http::Request::builder().method(method).uri(target).header("host", host);
        builder.body(()).unwrap().into_parts().0
    }

    fn rules(change: impl FnOnce(&mut EntryPointHttp)) -> TargetRules {
        let mut http = EntryPointHttp::default();
        change(&mut http);
        TargetRules::new(&http)
    }

    fn applied(rules: &TargetRules, target: &str) -> Result<String, u16> {
        let mut head = head("GET", target, "a.test");
        rules.apply(&mut head).map_err(|response| response.status().as_u16())?;
        Ok(head.uri.to_string())
    }

    #[test]
    fn paths_are_normalized() {
        let rules = rules(|_| {});
        for (target, expected) in [
            ("/", "/"),
            ("/a/../b//c%2fd%7e", "/b/c%2Fd~"),
            ("/a/%2e%2e/b", "/b"),
            ("/../../x/", "/x/"),
            ("/a/.", "/a"),
            ("/a/..", "/"),
            ("//", "/"),
            ("/.hidden/..x", "/.hidden/..x"),
            ("/a?x=1;y=2", "/a?x=1&y=2"),
            ("/a?b=/../c", "/a?b=/../c"),
            ("/%00%5c", "/%00%5C"),
            ("http://a.test/x", "/x"),
            ("http://a.test?q", "/?q"),
        ] {
            assert_eq!(applied(&rules, target), Ok(expected.to_owned()), "{target}");
        }
        assert_eq!(applied(&rules, "/%zz"), Err(400));
        assert_eq!(applied(&rules, "/%4"), Err(400));
        assert_eq!(applied(&rules, "ftp://a.test/x"), Err(400));
    }

    #[test]
    fn options_for_paths_queries_and_escapes_apply() {
        let off = rules(|http| {
            http.sanitize_path = false;
            http.encode_query_semicolons = true;
        });
        assert_eq!(applied(&off, "/a/..//%7e?x;y"), Ok("/a/..//~?x%3By".to_owned()));
        let strict = rules(|http| {
            let allowed = EncodedCharacters { allow_encoded_slash: false, ..EncodedCharacters::default() };
            http.encoded_characters = Some(allowed);
        });
        assert!(strict.denies("/a%2Fb") && !strict.denies("/a%5Cb") && !off.denies("/a%2Fb"));
    }

    #[test]
    fn hosts_are_normalized_and_checked() {
        let rules = rules(|_| {});
        let mut absolute = head("GET", "http://other.test:81/x", "a.test");
        rules.apply(&mut absolute).unwrap();
        assert_eq!(absolute.headers[HOST], "other.test:81");
        for host in ["a b", "a/b", "u@h", "a:x", "a:123456", "[::1", "[::1]x", "a\\b", "a?"] {
            let status = rules.apply(&mut head("GET", "/", host)).unwrap_err().status();
            assert_eq!(status, 400, "{host}");
        }
        for host in ["", "a.test", "a.test:80", "[::1]", "[::1]:8080", "A-_b.", "a:"] {
            assert!(rules.apply(&mut head("GET", "/", host)).is_ok(), "{host}");
        }
        let mut none = http::Request::builder().uri("/").body(()).unwrap().into_parts().0;
        let refused = rules.apply(&mut none).unwrap_err();
        assert_eq!(refused.body().as_bytes().unwrap(), "400 Bad Request: missing required Host header");
        none.version = Version::HTTP_10;
        assert!(rules.apply(&mut none).is_ok());
    }

    #[test]
    fn connect_and_asterisk_targets_are_not_routed() {
        let rules = rules(|_| {});
        let status = |method: &str, target: &str| {
            rules.apply(&mut head(method, target, "a.test")).map(drop).map_err(|r| r.status().as_u16())
        };
        assert_eq!(status("CONNECT", "a.test:443"), Err(501));
        assert_eq!(status("OPTIONS", "*"), Err(200));
        assert_eq!(status("GET", "*"), Err(400));
        assert_eq!(status("GET", "a.test:80"), Err(400));
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(path in "(/|\\.|%2[eEfF]|%5c|[a-z]){0,20}") {
            let rules = rules(|_| {});
            let path = format!("/{path}");
            let once = rules.normalize_path(&path).unwrap().into_owned();
            prop_assert_eq!(rules.normalize_path(&once).unwrap(), once.as_str());
            prop_assert!(once.starts_with('/') && !once.contains("//") && !once.split('/').any(|s| s == ".."));
        }
    }

    #[test]
    fn invalid_bytes_in_paths_are_escaped() {
        for (path, expected) in [
            ("/a\\b\"c", "/a%5Cb%22c"),
            ("/{a}|^", "/%7Ba%7D%7C%5E"),
            ("/\u{e9}%c3%a9", "/%C3%A9%C3%A9"),
            ("/%7e%41%2f", "/~A%2F"),
            ("/a:b@c!$&'()*+,;=[d]", "/a:b@c!$&'()*+,;=[d]"),
        ] {
            assert_eq!(normalize_escapes(path).as_deref(), Some(expected));
        }
        assert_eq!(normalize_escapes("/%2"), None);
    }
}
