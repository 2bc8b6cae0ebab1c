//! Redirects, with URLs parsed and formatted like Go's `net/url`.

use http::header::{HeaderValue, LOCATION};
use http::{Method, StatusCode};
use tidegate_core::{Reason, Response, reply};

use crate::path::{self, UrlPath};

/// Returns a redirect to `url`: 302 or 301 for GET, 307 or 308 for other methods, which must keep their body.
/// Invalid URLs get 502, as in Traefik.
pub(crate) fn redirect(url: &str, method: &Method, permanent: bool) -> Response {
    let location = normalised(url).and_then(|location| HeaderValue::from_bytes(location.as_bytes()).ok());
    let Some(location) = location else {
        return reply::status_text(StatusCode::BAD_GATEWAY, Reason::Redirect);
    };
    let status = match (method == Method::GET, permanent) {
        (true, false) => StatusCode::FOUND,
        (true, true) => StatusCode::MOVED_PERMANENTLY,
        (false, false) => StatusCode::TEMPORARY_REDIRECT,
        (false, true) => StatusCode::PERMANENT_REDIRECT,
    };
    let mut response = reply::status_text(status, Reason::Redirect);
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Normalises a URL like Go's `url.Parse` and `String`: lower-case scheme, path and fragment escaped where
/// needed, query unchanged. `None` if it is not a valid URL.
pub(crate) fn normalised(url: &str) -> Option<String> {
    if url.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return None;
    }
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (scheme, rest) = split_scheme(url)?;
    let (before_query, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let mut out = String::with_capacity(url.len() + 8);
    if !scheme.is_empty() {
        out.push_str(&scheme.to_ascii_lowercase());
        out.push(':');
    }
    if !before_query.starts_with('/') && !scheme.is_empty() {
        out.push_str(before_query);
    } else {
        push_authority_and_path(before_query, !scheme.is_empty(), &mut out)?;
    }
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    if !fragment.is_empty() {
        out.push('#');
        out.push_str(&escaped_fragment(fragment)?);
    }
    Some(out)
}

/// Returns the scheme, or an empty string, and what follows its colon.
fn split_scheme(url: &str) -> Option<(&str, &str)> {
    for (at, c) in url.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return None,
            ':' => return Some((&url[..at], &url[at + 1..])),
            _ => break,
        }
    }
    Some(("", url))
}

fn push_authority_and_path(text: &str, has_scheme: bool, out: &mut String) -> Option<()> {
    let mut path = text;
    if !text.starts_with('/') {
        // Without a scheme, a colon in the first segment would be taken for its end.
        let first = text.split('/').next().unwrap_or(text);
        if first.contains(':') {
            return None;
        }
    } else if let Some(rest) = text.strip_prefix("//").filter(|rest| has_scheme || !rest.starts_with('/')) {
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, after) = rest.split_at(end);
        out.push_str("//");
        push_authority(authority, out)?;
        path = after;
    }
    out.push_str(&UrlPath::parse(path).ok()?.escaped());
    Some(())
}

fn push_authority(authority: &str, out: &mut String) -> Option<()> {
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let allowed = |b: u8| path::is_unreserved(b) || b"!$&'()*+,;=:%@".contains(&b);
            if !user.bytes().all(allowed) || path::unescape(user).is_err() {
                return None;
            }
            out.push_str(user);
            out.push('@');
            host
        }
        None => authority,
    };
    let port = match host.rfind(']') {
        Some(at) if host.starts_with('[') => &host[at + 1..],
        _ if host.starts_with('[') => return None,
        _ => host.rfind(':').map_or("", |at| &host[at..]),
    };
    let digits = port.strip_prefix(':').unwrap_or("");
    if !(port.is_empty() || port.starts_with(':')) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let allowed = |b: u8| path::is_unreserved(b) || !b.is_ascii() || b"!$&'()*+,;=:[]<>\"".contains(&b);
    if !host.bytes().all(allowed) {
        return None;
    }
    out.push_str(&path::escape_with(host.as_bytes(), |_| false));
    Some(())
}

fn escaped_fragment(fragment: &str) -> Option<String> {
    let decoded = path::unescape(fragment).ok()?;
    if path::is_valid_encoding(&fragment.replace('?', "")) {
        return Some(fragment.to_owned());
    }
    Some(path::escape_with(&decoded, |b| !(path::is_unreserved(b) || b"$&+,/:;=?@!()*".contains(&b))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_come_out_as_from_go() {
        for (url, expected) in [
            ("https://h.test/x?y=1", Some("https://h.test/x?y=1")),
            ("HTTPS://H.test", Some("https://H.test")),
            ("https://h.test/a|b%7C?x=|<>", Some("https://h.test/a%7Cb%7C?x=|<>")),
            ("http://x.test/h.test/a%2Fb|?x?a b", Some("http://x.test/h.test/a/b%7C?x?a b")),
            ("https://[::1]:8443/", Some("https://[::1]:8443/")),
            ("https://h.test/?", Some("https://h.test/?")),
            ("https://h.test/#a b", Some("https://h.test/#a%20b")),
            ("https://h.test/#", Some("https://h.test/")),
            ("/relative path", Some("/relative%20path")),
            ("//evil.test/x", Some("//evil.test/x")),
            ("", Some("")),
            ("mailto:a@b", Some("mailto:a@b")),
            ("https://u:p@h.test/", Some("https://u:p@h.test/")),
            ("http://a b/", None),
            ("http://h.test/%zz", None),
            ("http://h.test:8o/", None),
            ("http://h.test/\n", None),
            ("://x", None),
            ("a b:c", None),
        ] {
            assert_eq!(normalised(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn the_status_keeps_the_method() {
        for (method, permanent, status) in [
            (Method::GET, false, 302),
            (Method::GET, true, 301),
            (Method::POST, false, 307),
            (Method::POST, true, 308),
            (Method::HEAD, false, 307),
        ] {
            assert_eq!(redirect("http://x/", &method, permanent).status(), status);
        }
        assert_eq!(redirect("http://a b/", &Method::GET, false).status(), 502);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_the_result_is_stable(url in r"(https?:)?[/a-z0-9.:@\[\]%?# é|]{0,30}") {
            if let Some(once) = normalised(&url) {
                prop_assert!(!once.contains(['\r', '\n']));
                prop_assert_eq!(normalised(&once), Some(once.clone()));
            }
        }
    }
}
