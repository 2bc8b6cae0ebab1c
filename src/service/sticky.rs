//! Sticky cookies, with Traefik's names and values.

use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use sha2::{Digest, Sha256};
use tidegate_config::service::{SameSite, StickyCookie};
use tidegate_core::BuildError;

use super::balance::fnv1a;

/// The cookie of one service.
pub(super) struct Sticky {
    name: String,
    /// The attributes after the value in `Set-Cookie`.
    attributes: String,
    values: Vec<Value>,
}

struct Value {
    /// The first 16 hex digits of the SHA-256 of the member's name.
    current: String,
    /// The value used by older Traefik versions: FNV-1a in hex.
    old: String,
}

/// The member named by a client's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Index of the member.
    pub(super) index: usize,
    /// Whether the cookie has an old value and must be set again.
    pub(super) old: bool,
}

impl Sticky {
    /// Builds the cookie of a service for its members: servers by URL, children by name.
    pub(super) fn build<'a>(
        service: &str,
        options: &StickyCookie,
        members: impl Iterator<Item = &'a str>,
    ) -> Result<Self, BuildError> {
        let name = cookie_name(service, options);
        let sticky = Self { attributes: attributes(options)?, name, values: members.map(value).collect() };
        HeaderValue::from_str(&sticky.text(""))
            .map_err(|_| BuildError::new("sticky.cookie: invalid characters in name, path or domain"))?;
        Ok(sticky)
    }

    /// Returns the member named by the client's cookie.
    pub(super) fn find(&self, headers: &HeaderMap) -> Option<Found> {
        let value = headers.get_all(COOKIE).iter().find_map(|header| cookie(header, &self.name))?;
        self.values.iter().enumerate().find_map(|(index, known)| {
            let old = known.old.as_bytes() == value;
            (old || known.current.as_bytes() == value).then_some(Found { index, old })
        })
    }

    /// Adds the cookie of a member to a response, before the cookies set by the server.
    pub(super) fn set(&self, index: usize, headers: &mut HeaderMap) {
        let Some(value) = self.values.get(index) else { return };
        let Ok(cookie) = HeaderValue::try_from(self.text(&value.current)) else { return };
        let others: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
        headers.insert(SET_COOKIE, cookie);
        for other in others {
            headers.append(SET_COOKIE, other);
        }
    }

    fn text(&self, value: &str) -> String {
        format!("{}={value}{}", self.name, self.attributes)
    }
}

/// Returns the name of a service's cookie: the configured one with invalid characters replaced by `_`, or one
/// derived from the name of the service.
pub(crate) fn cookie_name(service: &str, options: &StickyCookie) -> String {
    if options.name.is_empty() {
        return default_name(service);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^`|~".contains(c);
    options.name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

fn default_name(service: &str) -> String {
    use sha1::Digest as _;
    let hash = sha1::Sha1::digest(format!("_TRAEFIK_BACKEND_{service}"));
    format!("_{}", &hex(&hash)[..5])
}

fn value(member: &str) -> Value {
    Value { current: hex(&Sha256::digest(member)[..8]), old: format!("{:x}", fnv1a(member.as_bytes(), b"")) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns true for a valid host name or IPv4 address.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 255 && text.split('.').all(is_label)
}

/// Returns the attributes in the order of Go's `http.Cookie`.
fn attributes(options: &StickyCookie) -> Result<String, BuildError> {
    let mut text = String::new();
    let path = options.path.as_deref().unwrap_or("/");
    // As in Go, invalid characters in the path and an invalid domain are left out.
    let path: String = path.chars().filter(|c| (' '..='~').contains(c) && *c != ';').collect();
    if !path.is_empty() {
        text += &format!("; Path={path}");
    }
    let domain = options.domain.trim_start_matches('.');
    if is_domain(domain) {
        text += &format!("; Domain={domain}");
    }
    match options.max_age {
        0 => {}
        seconds => text += &format!("; Max-Age={}", seconds.max(0)),
    }
    if options.http_only {
        text += "; HttpOnly";
    }
    if options.secure {
        text += "; Secure";
    }
    let same_site = options.same_site.meaning();
    match same_site.map_err(|error| BuildError::new(format!("sticky.cookie.sameSite: {error}")))? {
        None => {}
        Some(SameSite::None) => text += "; SameSite=None",
        Some(SameSite::Lax) => text += "; SameSite=Lax",
        Some(SameSite::Strict) => text += "; SameSite=Strict",
    }
    Ok(text)
}

/// Returns the value of the first cookie with this name in a `Cookie` field.
fn cookie<'a>(header: &'a HeaderValue, name: &str) -> Option<&'a [u8]> {
    header.as_bytes().split(|byte| *byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://127.0.0.1:36050";

    fn sticky(options: &StickyCookie) -> Sticky {
        Sticky::build("st2@file", options, [URL, "http://127.0.0.1:36051"].into_iter()).unwrap()
    }

    fn set(options: &StickyCookie) -> String {
        let mut headers = HeaderMap::new();
        sticky(options).set(0, &mut headers);
        headers[SET_COOKIE].to_str().unwrap().to_owned()
    }

    #[test]
    fn cookies_equal_those_of_traefik() {
        // Recorded with Traefik 3.7.15.
        let plain = StickyCookie::default();
        assert_eq!(set(&plain), "_81548=0cba148bbfb9cf9e; Path=/");
        let full = StickyCookie {
            name: "st".into(),
            http_only: true,
            same_site: "lax".into(),
            max_age: 60,
            path: Some("/p".into()),
            ..plain.clone()
        };
        assert_eq!(set(&full), "st=0cba148bbfb9cf9e; Path=/p; Max-Age=60; HttpOnly; SameSite=Lax");
        let gone = StickyCookie {
            secure: true,
            same_site: "none".into(),
            max_age: -1,
            domain: "x.test".into(),
            ..plain
        };
        assert_eq!(
            set(&gone),
            "_81548=0cba148bbfb9cf9e; Path=/; Domain=x.test; Max-Age=0; Secure; SameSite=None"
        );
    }

    #[test]
    fn clients_are_recognised_by_new_and_old_cookies() {
        let sticky = sticky(&StickyCookie { name: "st".into(), ..Default::default() });
        let find = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.append(COOKIE, HeaderValue::from_str(text).unwrap());
            sticky.find(&headers)
        };
        assert_eq!(find("a=1; st=0cba148bbfb9cf9e; b=2"), Some(Found { index: 0, old: false }));
        assert_eq!(find("st=\"0e064e243c2cca7f\""), Some(Found { index: 1, old: false }));
        assert_eq!(find("st=bogus"), None);
        assert_eq!(find("xst=0cba148bbfb9cf9e"), None);
        let old = format!("st={:x}", fnv1a(URL.as_bytes(), b""));
        assert_eq!(find(&old), Some(Found { index: 0, old: true }));
    }

    #[test]
    fn the_sticky_cookie_precedes_those_of_the_server() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("a=1"));
        headers.append(SET_COOKIE, HeaderValue::from_static("b=2"));
        sticky(&StickyCookie { name: "st".into(), ..Default::default() }).set(1, &mut headers);
        let got: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(got, ["st=0e064e243c2cca7f; Path=/", "a=1", "b=2"]);
    }

    #[test]
    fn invalid_options_are_rejected() {
        let bad = StickyCookie { same_site: "some".into(), ..Default::default() };
        assert!(Sticky::build("s", &bad, [].into_iter()).err().unwrap().to_string().contains("`some`"));
    }

    #[test]
    fn invalid_paths_and_domains_are_left_out() {
        let given = |path: &str, domain: &str| {
            attributes(&StickyCookie { path: Some(path.into()), domain: domain.into(), ..Default::default() })
                .unwrap()
        };
        assert_eq!(given("/a\n;b", ".x.test"), "; Path=/ab; Domain=x.test");
        assert_eq!(given("", "10.0.0.1"), "; Domain=10.0.0.1");
        for wrong in ["a b", "x..y", "-x", "x;y", "é"] {
            assert_eq!(given("/", wrong), "; Path=/", "{wrong}");
        }
    }

    #[test]
    fn invalid_characters_in_names_are_replaced() {
        let named =
            |name: &str| cookie_name("s@file", &StickyCookie { name: name.into(), ..Default::default() });
        assert_eq!(named("a b;c"), "a_b_c");
        assert_eq!(named("a.b-c"), "a.b-c");
        assert_eq!(named(""), "_23300");
    }
}
