//! Cookies: their names, their attributes, and values that need more than one.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};

use super::options::SameSite;

/// Maximum length of one cookie's value in bytes. Browsers accept 4096 with name and attributes.
const MAX_VALUE: usize = 3600;
/// Maximum number of cookies of one value.
const MAX_CHUNKS: usize = 6;
/// What the names of all cookies of this middleware begin with by default.
pub(super) const PREFIX: &str = "tidegate-oidc";

/// The name and the attributes of a cookie.
#[derive(Clone, Debug)]
pub(super) struct CookieStyle {
    /// Name with its prefix.
    pub(super) name: String,
    attributes: String,
}

/// What browsers do with a cookie (RFC 6265bis section 4.1.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a> {
    pub(super) path: &'a str,
    /// Empty for one host.
    pub(super) domain: &'a str,
    pub(super) secure: bool,
    pub(super) http_only: bool,
    pub(super) same_site: SameSite,
}

/// A value that does not fit in the allowed number of cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl CookieStyle {
    /// Creates a style. Browsers enforce what the prefixes `__Host-` and `__Secure-` say (RFC 6265bis section 4.1.3).
    pub(super) fn new(name: &str, attributes: &Attributes<'_>) -> Self {
        let Attributes { path, domain, secure, http_only, same_site } = *attributes;
        let prefix = match (secure, domain.is_empty() && path == "/") {
            (true, true) => "__Host-",
            (true, false) => "__Secure-",
            (false, _) => "",
        };
        let mut attributes = format!("; Path={path}");
        if !domain.is_empty() {
            let _ = write!(attributes, "; Domain={domain}");
        }
        if secure {
            attributes.push_str("; Secure");
        }
        if http_only {
            attributes.push_str("; HttpOnly");
        }
        attributes.push_str(match same_site {
            SameSite::Lax => "; SameSite=Lax",
            SameSite::Strict => "; SameSite=Strict",
            SameSite::None => "; SameSite=None",
        });
        Self { name: format!("{prefix}{name}"), attributes }
    }

    /// Returns the field that sets a cookie for some seconds; the browser removes it if there are none.
    pub(super) fn field(&self, suffix: &str, value: &str, seconds: u64) -> Option<HeaderValue> {
        let text = format!("{}{suffix}={value}{}; Max-Age={seconds}", self.name, self.attributes);
        HeaderValue::from_str(&text).ok()
    }

    /// Returns the fields that set a value of any length, and remove cookies of a longer one that the request has.
    pub(super) fn fields(
        &self,
        value: &str,
        seconds: u64,
        request: &HeaderMap,
    ) -> Result<Vec<HeaderValue>, TooLong> {
        let mut rest = value;
        let mut chunks = Vec::new();
        while rest.len() > MAX_VALUE && rest.is_char_boundary(MAX_VALUE) {
            let (chunk, after) = rest.split_at(MAX_VALUE);
            chunks.push(chunk);
            rest = after;
        }
        chunks.push(rest);
        if chunks.len() > MAX_CHUNKS {
            return Err(TooLong);
        }
        let count = chunks.len();
        let mut fields = Vec::with_capacity(count);
        for (index, chunk) in chunks.into_iter().enumerate() {
            fields.extend(match (index, count) {
                (0, 1) => self.field("", chunk, seconds),
                (0, _) => self.field("", &format!("{count}.{chunk}"), seconds),
                _ => self.field(&format!("-{index}"), chunk, seconds),
            });
        }
        fields.extend(self.removed_chunks(count.max(1), request));
        Ok(fields)
    }

    /// Returns the fields that remove the value.
    pub(super) fn removal(&self, request: &HeaderMap) -> Vec<HeaderValue> {
        let first = find(request, &self.name).and_then(|_| self.field("", "", 0));
        first.into_iter().chain(self.removed_chunks(1, request)).collect()
    }

    fn removed_chunks(&self, from: usize, request: &HeaderMap) -> impl Iterator<Item = HeaderValue> {
        (from..MAX_CHUNKS).filter_map(move |index| {
            let suffix = format!("-{index}");
            find(request, &format!("{}{suffix}", self.name))?;
            self.field(&suffix, "", 0)
        })
    }

    /// Returns the value that the request has. What is incomplete is no value.
    pub(super) fn value<'a>(&self, request: &'a HeaderMap) -> Option<Cow<'a, str>> {
        let first = find(request, &self.name)?;
        let Some((count, first)) = first.split_once('.') else { return Some(Cow::Borrowed(first)) };
        let count: usize = count.parse().ok().filter(|count| (2..=MAX_CHUNKS).contains(count))?;
        let mut value = first.to_owned();
        for index in 1..count {
            value.push_str(find(request, &format!("{}-{index}", self.name))?);
        }
        Some(Cow::Owned(value))
    }

    /// Returns true for the name of one of the value's cookies.
    pub(super) fn is_own(&self, name: &str) -> bool {
        name.strip_prefix(self.name.as_str())
            .is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('-'))
    }
}

/// Returns the pairs of all `Cookie` fields whose names and values are text.
pub(super) fn pairs(request: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let texts = |(name, value)| Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?));
    request
        .get_all(COOKIE)
        .iter()
        .flat_map(|field| split(field.as_bytes()))
        .filter_map(named)
        .filter_map(texts)
}

/// Returns the first value of a cookie.
fn find<'a>(request: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = request.get_all(COOKIE).iter().flat_map(|field| split(field.as_bytes())).filter_map(named);
    let (_, value) = all.find(|(found, _)| *found == name.as_bytes())?;
    std::str::from_utf8(value).ok()
}

/// Splits a field at semicolons. Sessions make long fields, so this is a fast search.
fn split(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let current = rest?;
        let (pair, after) = match memchr::memchr(b';', current).and_then(|at| current.split_at_checked(at)) {
            Some((pair, after)) => (pair, after.get(1..)),
            None => (current, None),
        };
        rest = after;
        Some(pair)
    })
}

/// Returns name and value of a pair.
fn named(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let pair = pair.trim_ascii();
    let (name, value) = pair.split_at_checked(memchr::memchr(b'=', pair)?)?;
    Some((name, value.get(1..)?))
}

/// Removes cookies for whose names `is_own` is true. Others keep their form.
pub(super) fn remove(request: &mut HeaderMap, is_own: impl Fn(&str) -> bool) {
    let is_own_pair = |pair: &[u8]| {
        let name = memchr::memchr(b'=', pair).and_then(|at| pair.get(..at)).unwrap_or(pair);
        std::str::from_utf8(name.trim_ascii()).is_ok_and(&is_own)
    };
    let mut is_changed = false;
    let mut kept_fields: Vec<HeaderValue> = Vec::new();
    for field in request.get_all(COOKIE) {
        let mut kept: Vec<u8> = Vec::new();
        for pair in split(field.as_bytes()) {
            if is_own_pair(pair) {
                is_changed = true;
                continue;
            }
            if !kept.is_empty() {
                kept.push(b';');
            }
            kept.extend_from_slice(pair);
        }
        // Parts of a valid field are valid.
        if let (false, Ok(field)) = (kept.is_empty(), HeaderValue::from_bytes(kept.trim_ascii())) {
            kept_fields.push(field);
        }
    }
    if is_changed {
        request.remove(COOKIE);
        for field in kept_fields {
            request.append(COOKIE, field);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: Attributes<'_> =
        Attributes { path: "/", domain: "", secure: true, http_only: true, same_site: SameSite::Lax };

    fn style() -> CookieStyle {
        CookieStyle::new("s", &HOST)
    }

    /// The request of a browser that has received these fields.
    fn request(fields: &[HeaderValue]) -> HeaderMap {
        let pairs = fields.iter().map(|field| field.to_str().unwrap().split(';').next().unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, pairs.collect::<Vec<_>>().join("; ").parse().unwrap());
        headers
    }

    #[test]
    fn attributes_follow_the_options() {
        let field = |style: CookieStyle| style.field("", "v", 60).unwrap().to_str().unwrap().to_owned();
        assert_eq!(field(style()), "__Host-s=v; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60");
        let shared = CookieStyle::new(
            "s",
            &Attributes { domain: "a.test", http_only: false, same_site: SameSite::None, ..HOST },
        );
        assert_eq!(field(shared), "__Secure-s=v; Path=/; Domain=a.test; Secure; SameSite=None; Max-Age=60");
        let plain = CookieStyle::new("s", &Attributes { secure: false, same_site: SameSite::Strict, ..HOST });
        assert_eq!(field(plain), "s=v; Path=/; HttpOnly; SameSite=Strict; Max-Age=60");
        let part = CookieStyle::new("s", &Attributes { path: "/a", ..HOST });
        assert_eq!(field(part), "__Secure-s=v; Path=/a; Secure; HttpOnly; SameSite=Lax; Max-Age=60");
    }

    #[test]
    fn long_values_are_split_and_joined() {
        for length in [0, 1, MAX_VALUE, MAX_VALUE + 1, MAX_VALUE * MAX_CHUNKS] {
            let value = "abc".repeat(length)[..length].to_owned();
            let fields = style().fields(&value, 60, &HeaderMap::new()).unwrap();
            assert!(fields.iter().all(|field| field.len() < 4096));
            assert_eq!(style().value(&request(&fields)).unwrap(), value.as_str(), "{length}");
            // A part is missing.
            if fields.len() > 1 {
                assert_eq!(style().value(&request(&fields[..fields.len() - 1])), None);
            }
        }
        assert_eq!(
            style().fields(&"a".repeat(MAX_VALUE * MAX_CHUNKS + 1), 60, &HeaderMap::new()),
            Err(TooLong)
        );
    }

    #[test]
    fn shorter_values_remove_the_rest_of_longer_ones() {
        let long = request(&style().fields(&"a".repeat(MAX_VALUE * 3), 60, &HeaderMap::new()).unwrap());
        let shown = |fields: Vec<HeaderValue>| -> Vec<String> {
            let name = |field: &HeaderValue| field.to_str().unwrap().split('=').next().unwrap().to_owned();
            fields.iter().map(name).collect()
        };
        assert_eq!(shown(style().fields("b", 60, &long).unwrap()), ["__Host-s", "__Host-s-1", "__Host-s-2"]);
        assert_eq!(shown(style().removal(&long)), ["__Host-s", "__Host-s-1", "__Host-s-2"]);
        assert!(style().removal(&HeaderMap::new()).is_empty());
    }

    #[test]
    fn counts_are_checked() {
        for first in ["0.a", "1.a", "7.a", "99999999999999999999.a", "-1.a", ".a", "x.a"] {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, format!("__Host-s={first}; __Host-s-1=b").parse().unwrap());
            assert_eq!(style().value(&headers), None, "{first}");
        }
    }

    #[test]
    fn own_cookies_are_removed_and_others_kept() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; __Host-s=2; b=\"x;y\"; __Host-s-1=3"));
        headers.append(COOKIE, HeaderValue::from_static("__Host-s=4"));
        headers.append(COOKIE, HeaderValue::from_bytes(b"c=\xe9; __Host-sx=1").unwrap());
        remove(&mut headers, |name| style().is_own(name));
        let left: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(left, [&b"a=1; b=\"x;y\""[..], b"c=\xe9; __Host-sx=1"]);
    }

    proptest! {
        #[test]
        fn no_field_panics_and_others_cookies_survive(text in "[-_A-Za-z0-9.=; \"]{0,60}") {
            let mut headers = HeaderMap::new();
            headers.append(COOKIE, text.parse().unwrap());
            headers.append(COOKIE, HeaderValue::from_static("__Host-s=2.a; other=1; __Host-s-1=b"));
            let _ = style().value(&headers);
            let others = |headers: &HeaderMap| -> Vec<(String, String)> {
                let owned = |(name, value): (&str, &str)| (name.to_owned(), value.trim().to_owned());
                pairs(headers).filter(|(name, _)| !style().is_own(name.trim())).map(owned).collect()
            };
            let before = others(&headers);
            remove(&mut headers, |name| style().is_own(name));
            prop_assert_eq!(others(&headers), before);
            prop_assert!(pairs(&headers).all(|(name, _)| !style().is_own(name.trim())));
        }
    }
}
