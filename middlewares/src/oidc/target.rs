//! URLs that users are sent to, and URLs that belong to the middleware.

use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, Method, Request as HttpRequest};
use percent_encoding::percent_decode_str;
use tidegate_core::{Exchange, Request};
use url::Url;

/// Maximum length of a URL that is remembered for the time after a login.
const MAX_TARGET: usize = 2048;

/// A URL or a path of the middleware's own, or that users are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On whatever host the request is for.
    Path(String),
    /// On one host.
    Url(Url),
}

impl Place {
    /// Reads an option.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return is_safe_path(text).then(|| Self::Path(text.to_owned()));
        }
        let url = Url::parse(text).ok()?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        (matches!(url.scheme(), "http" | "https") && url.host().is_some() && is_plain)
            .then_some(Self::Url(url))
    }

    /// Returns true if the request is for this place.
    pub(super) fn matches(&self, request: &Request) -> bool {
        match self {
            Self::Path(path) => request.path() == path,
            Self::Url(url) => {
                request.path() == url.path() && request.host().eq_ignore_ascii_case(host_of(url))
            }
        }
    }

    /// Returns true if it is on the host of this origin.
    pub(super) fn is_on(&self, origin: &Origin) -> bool {
        match self {
            Self::Path(_) => true,
            Self::Url(url) => origin.host.eq_ignore_ascii_case(host_of(url)),
        }
    }

    /// Returns the absolute URL for a client with this origin.
    pub(super) fn absolute(&self, origin: &Origin) -> String {
        match self {
            Self::Path(path) => format!("{origin}{path}"),
            Self::Url(url) => url.as_str().to_owned(),
        }
    }
}

/// Returns host and port, without the scheme's own port.
fn host_of(url: &Url) -> &str {
    &url[url::Position::BeforeHost..url::Position::AfterPort]
}

/// Scheme and host of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    is_secure: bool,
    /// Host with port.
    host: String,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.is_secure { "https" } else { "http" }, self.host)
    }
}

impl Origin {
    /// Returns the origin of a request; `None` if its host is not a plain name or address with an optional port.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let host = request.host();
        let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
        if host.is_empty() || !is_plain || request.head.headers.get_all(HOST).iter().count() > 1 {
            return None;
        }
        // The header is what a trusted proxy says, or the gateway itself.
        let proto = request.head.headers.get("x-forwarded-proto").map(|proto| proto.as_bytes());
        let is_secure = request.context.is_tls() || matches!(proto, Some(b"https" | b"wss"));
        Some(Self { is_secure, host: host.to_ascii_lowercase() })
    }

    /// Returns true if browsers store secure cookies of this origin.
    pub(super) fn keeps_secure_cookies(&self) -> bool {
        let name = self.name();
        self.is_secure
            || name == "localhost"
            || name.ends_with(".localhost")
            || name.starts_with("127.")
            || name == "[::1]"
    }

    /// Returns true if cookies of `domain` reach it.
    pub(super) fn is_within(&self, domain: &str) -> bool {
        let name = self.name();
        name == domain || name.strip_suffix(domain).is_some_and(|before| before.ends_with('.'))
    }

    fn name(&self) -> &str {
        match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => &self.host,
        }
    }
}

/// What logins need of a request.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) query: String,
    /// `None` if the host is not a plain one.
    pub(super) origin: Option<Origin>,
    pub(super) exchange: Arc<Exchange>,
    /// Whether a browser shows the response.
    pub(super) is_navigation: bool,
    /// The target as the client sent it.
    target: String,
}

impl Asked {
    /// Copies what is needed.
    pub(super) fn of(request: &Request) -> Self {
        Self {
            method: request.head.method.clone(),
            headers: request.head.headers.clone(),
            query: request.head.uri.query().unwrap_or_default().to_owned(),
            origin: Origin::of(request),
            exchange: request.context.exchange.clone(),
            is_navigation: is_navigation(request),
            target: request.original_target().to_owned(),
        }
    }

    /// Returns the absolute URL of the request, without the parameter `without`; the root if it is too long.
    pub(super) fn url(&self, origin: &Origin, without: &str) -> String {
        let target = &self.target;
        let (path, query) =
            target.split_once('?').map_or((&**target, None), |(path, query)| (path, Some(query)));
        let is_other = |pair: &&str| pair.split('=').next() != Some(without);
        let query: Vec<&str> =
            query.into_iter().flat_map(|query| query.split('&')).filter(is_other).collect();
        let mut url = format!("{origin}{path}");
        if !query.is_empty() {
            url.push('?');
            url.push_str(&query.join("&"));
        }
        // It goes into a header, and must not be read as another origin.
        let is_plain =
            target.starts_with('/') && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        if is_plain && url.len() <= MAX_TARGET { url } else { format!("{origin}/") }
    }
}

/// Returns true for a request of a browser that shows what it gets: others cannot follow a redirect to a login.
pub(super) fn is_navigation(request: &Request) -> bool {
    let headers = &request.head.headers;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let accepts_html = headers
        .get_all("accept")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("text/html"));
    matches!(request.head.method, Method::GET | Method::HEAD)
        && accepts_html
        && request.context.upgrade.is_none()
        && !headers.contains_key("upgrade")
        && text("x-requested-with").is_none_or(|value| !value.eq_ignore_ascii_case("xmlhttprequest"))
        && text("sec-fetch-mode").is_none_or(|value| value.eq_ignore_ascii_case("navigate"))
        && text("content-type").is_none_or(|value| !value.starts_with("application/grpc"))
}

/// Returns true for a path on the same host. What some client, proxy or framework might read as another host is not
/// one, in any encoding.
pub(super) fn is_safe_path(text: &str) -> bool {
    let mut decoded = text.to_owned();
    for _ in 0..4 {
        let path = decoded.split(['?', '#']).next().unwrap_or_default();
        let is_plain = decoded.starts_with('/')
            && !path.contains("//")
            && !decoded.contains('\\')
            && !decoded.chars().any(char::is_control);
        if !is_plain {
            return false;
        }
        let next = percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
        if next == decoded {
            break;
        }
        decoded = next;
    }
    text.len() <= MAX_TARGET
        && text.is_ascii()
        && text.parse::<http::uri::PathAndQuery>().is_ok()
        && HttpRequest::get(text).body(()).is_ok()
}

/// Returns the value of a query parameter that occurs once (RFC 6749 section 3.1).
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut values = url::form_urlencoded::parse(query.as_bytes()).filter(|(found, _)| found == name);
    let value = values.next()?.1.into_owned();
    if values.next().is_some() { None } else { Some(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{get, request};

    /// Spellings of another host that browsers, proxies or frameworks understand.
    pub(in crate::oidc) const EVIL: &[&str] = &[
        "//evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "\\/evil.test",
        "/%2Fevil.test",
        "/%2fevil.test",
        "%2F%2Fevil.test",
        "/%5Cevil.test",
        "/%252Fevil.test",
        "/%25252Fevil.test",
        "/a//evil.test",
        "/\t/evil.test",
        "/%09/evil.test",
        "/\n/evil.test",
        " //evil.test",
        "https://evil.test",
        "https:evil.test",
        "HTTPS:/evil.test",
        "javascript:alert(1)",
        "evil.test",
        "@evil.test",
        ".evil.test",
        "",
        "/\u{2f}\u{2f}evil.test",
        "/\u{ff0f}evil.test",
    ];

    #[test]
    fn only_paths_of_the_same_host_are_targets() {
        for path in ["/", "/a", "/a/b?c=d&e=f", "/a%20b", "/?u=https://x.test/y", "/a%3Fb"] {
            assert!(is_safe_path(path), "{path}");
        }
        for path in EVIL {
            assert!(!is_safe_path(path), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn paths_are_read_by_browsers_as_here(text in r"[/\\%25fFcC:@.?#a\t é-]{0,12}|/[-%/\\.a-z0-9]{0,20}") {
            let base = Url::parse("https://app.test/a/b").unwrap();
            let host = |path: &str| base.join(path).ok().and_then(|url| url.host_str().map(str::to_owned));
            if is_safe_path(&text) {
                let decoded = percent_decode_str(&text).decode_utf8_lossy().into_owned();
                for path in [&text, &decoded] {
                    prop_assert!(host(path).as_deref() == Some("app.test"), "{}", path);
                }
            }
        }
    }

    #[test]
    fn requested_urls_stay_on_their_host() {
        let url = |target: &str| {
            let mut request = get("https://app.test/");
            request.head.uri = target.parse().unwrap();
            Asked::of(&request).url(&Origin::of(&request).unwrap(), "x")
        };
        assert_eq!(url("/a?x=1&b=2&x"), "https://app.test/a?b=2");
        assert_eq!(url("/a?x=1"), "https://app.test/a");
        assert_eq!(url("//evil.test/"), "https://app.test//evil.test/");
        assert_eq!(url(&format!("/{}", "a".repeat(MAX_TARGET))), "https://app.test/");
    }

    #[test]
    fn hosts_are_plain() {
        let origin = |host: &str| {
            let request = request(http::Request::get("http://x.test/").header("host", host));
            Origin::of(&request).map(|origin| origin.to_string())
        };
        assert_eq!(origin("A.test:8080").unwrap(), "http://a.test:8080");
        assert_eq!(origin("[::1]:80").unwrap(), "http://[::1]:80");
        for host in ["", "a.test/x", "u@a.test", "a.test?x", "a test", "a.test\\x", "a.test#x"] {
            assert_eq!(origin(host), None, "{host}");
        }
    }

    #[test]
    fn cookies_reach_hosts_of_their_domain() {
        let origin = |host: &str| Origin { is_secure: false, host: host.into() };
        assert!(origin("a.test:1").is_within("a.test") && origin("x.a.test").is_within("a.test"));
        assert!(!origin("xa.test").is_within("a.test") && !origin("test").is_within("a.test"));
        for host in ["localhost:1", "a.localhost", "127.0.0.1:1", "[::1]:1"] {
            assert!(origin(host).keeps_secure_cookies(), "{host}");
        }
        assert!(!origin("a.test").keeps_secure_cookies() && !origin("localhost.test").keeps_secure_cookies());
    }
}
