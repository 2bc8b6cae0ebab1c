//! `Cache-Control` of requests and responses (RFC 9111 §5.2).
//!
//! What cannot be read is taken for the more careful meaning: a lifetime that is not a number is zero, and so are
//! two lifetimes that differ (RFC 9111 §4.2.1). A field with a quoted string that does not end may hide any
//! directive, so it forbids storing.

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName};

use crate::time::seconds;

/// How much of a response `no-cache` or `private` covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Whole,
    /// Only these fields (RFC 9111 §5.2.2.4, §5.2.2.7). They are never stored.
    Fields(Vec<HeaderName>),
}

/// What `Cache-Control`, or a targeted field in its place, says about a response (RFC 9111 §5.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// The field is present, whatever it contains.
    pub present: bool,
    /// `no-store` (§5.2.2.5), or a field that is broken.
    pub no_store: bool,
    /// `no-cache` (§5.2.2.4).
    pub no_cache: Option<Scope>,
    /// `private` (§5.2.2.7).
    pub private: Option<Scope>,
    /// `public` (§5.2.2.9).
    pub public: bool,
    /// `must-revalidate` (§5.2.2.2).
    pub must_revalidate: bool,
    /// `proxy-revalidate` (§5.2.2.8).
    pub proxy_revalidate: bool,
    /// `must-understand` (§5.2.2.3).
    pub must_understand: bool,
    /// `no-transform` (§5.2.2.6).
    pub no_transform: bool,
    /// `immutable` (RFC 8246).
    pub immutable: bool,
    /// `max-age` (§5.2.2.1) in seconds. Invalid values are 0.
    pub max_age: Option<u32>,
    /// `s-maxage` (§5.2.2.10) in seconds. Invalid values are 0.
    pub s_maxage: Option<u32>,
    /// `stale-while-revalidate` (RFC 5861 §3) in seconds.
    pub stale_while_revalidate: Option<u32>,
    /// `stale-if-error` (RFC 5861 §4) in seconds.
    pub stale_if_error: Option<u32>,
}

/// The value of a directive, without its syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    /// No `=`.
    Absent,
    /// A token or the content of a quoted string.
    Text(Vec<u8>),
    /// Neither.
    Invalid,
}

impl Argument {
    /// delta-seconds (§1.2.2): digits only, and anything too large is 2³¹.
    fn seconds(&self) -> Option<u32> {
        let Self::Text(text) = self else { return None };
        let all_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        all_digits.then(|| {
            seconds(
                text.iter()
                    .fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
            )
        })
    }

    fn scope(&self) -> Scope {
        let Self::Text(text) = self else { return Scope::Whole };
        let names = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
        match names.map(HeaderName::from_bytes).collect::<Result<Vec<_>, _>>() {
            Ok(names) if !names.is_empty() => Scope::Fields(names),
            _ => Scope::Whole,
        }
    }
}

impl ResponseDirectives {
    /// Reads all `Cache-Control` fields of a response.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            directives.present = true;
            for element in Elements::new(value.as_bytes()) {
                match element {
                    Element::Directive(name, argument) => directives.apply(&name, &argument),
                    Element::Unterminated => directives.no_store = true,
                }
            }
        }
        directives
    }

    pub(super) fn apply(&mut self, name: &str, argument: &Argument) {
        // A directive that only permits has no argument; one that forbids does so with any.
        let plain = *argument == Argument::Absent;
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => widen(&mut self.no_cache, argument.scope()),
            "private" => widen(&mut self.private, argument.scope()),
            "public" => self.public |= plain,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "no-transform" => self.no_transform = true,
            "immutable" => self.immutable |= plain,
            "max-age" => lifetime(&mut self.max_age, argument),
            "s-maxage" => lifetime(&mut self.s_maxage, argument),
            "stale-while-revalidate" => lifetime(&mut self.stale_while_revalidate, argument),
            "stale-if-error" => lifetime(&mut self.stale_if_error, argument),
            _ => {}
        }
    }
}

fn widen(scope: &mut Option<Scope>, more: Scope) {
    *scope = Some(match (scope.take(), more) {
        (None, more) => more,
        (Some(Scope::Fields(mut names)), Scope::Fields(more)) => {
            names.extend(more);
            Scope::Fields(names)
        }
        _ => Scope::Whole,
    });
}

fn lifetime(slot: &mut Option<u32>, argument: &Argument) {
    let value = argument.seconds().unwrap_or(0);
    *slot = Some(if slot.is_some_and(|before| before != value) { 0 } else { value });
}

/// What a request asks of caches (RFC 9111 §5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `no-cache` (§5.2.1.4), or `Pragma: no-cache` without `Cache-Control` (§5.4).
    pub no_cache: bool,
    /// `no-store` (§5.2.1.5).
    pub no_store: bool,
    /// `only-if-cached` (§5.2.1.7).
    pub only_if_cached: bool,
    /// `max-age` (§5.2.1.1) in seconds. Invalid values are 0.
    pub max_age: Option<u32>,
    /// `min-fresh` (§5.2.1.3) in seconds.
    pub min_fresh: Option<u32>,
    /// `max-stale` (§5.2.1.2) in seconds; without a value, `u32::MAX`.
    pub max_stale: Option<u32>,
    /// `stale-if-error` (RFC 5861 §4) in seconds.
    pub stale_if_error: Option<u32>,
}

impl RequestDirectives {
    /// Reads all `Cache-Control` fields of a request, or `Pragma` if it has none.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            directives.no_cache = headers.get_all(PRAGMA).iter().any(|value| {
                Elements::new(value.as_bytes())
                    .any(|element| matches!(element, Element::Directive(name, _) if name == "no-cache"))
            });
            return directives;
        }
        for value in headers.get_all(CACHE_CONTROL) {
            for element in Elements::new(value.as_bytes()) {
                match element {
                    Element::Directive(name, argument) => directives.apply(&name, &argument),
                    Element::Unterminated => directives.no_cache = true,
                }
            }
        }
        directives
    }

    fn apply(&mut self, name: &str, argument: &Argument) {
        match name {
            "no-cache" => self.no_cache = true,
            "no-store" => self.no_store = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => {
                let value = argument.seconds().unwrap_or(0);
                self.max_age = Some(self.max_age.map_or(value, |before| before.min(value)));
            }
            "min-fresh" => match argument.seconds() {
                Some(value) => {
                    self.min_fresh = Some(self.min_fresh.map_or(value, |before| before.max(value)));
                }
                None => self.no_cache = true,
            },
            "max-stale" => {
                let value =
                    if *argument == Argument::Absent { u32::MAX } else { argument.seconds().unwrap_or(0) };
                self.max_stale = Some(self.max_stale.map_or(value, |before| before.min(value)));
            }
            "stale-if-error" => lifetime(&mut self.stale_if_error, argument),
            _ => {}
        }
    }
}

pub(super) enum Element {
    /// Name in lower case, and value.
    Directive(String, Argument),
    /// A quoted string without its end: what follows is unknown.
    Unterminated,
}

/// Elements of a list of directives: `#( token [ "=" ( token / quoted-string ) ] )`.
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: text }
    }

    /// Takes bytes while `matches` holds.
    fn take_while(&mut self, matches: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !matches(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// Takes the content of a quoted string whose first quote is already taken.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(content),
                b'\\' => {
                    let (escaped, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    content.push(*escaped);
                }
                _ => content.push(*byte),
            }
        }
    }

    /// Takes everything before the next comma that is outside of quotes. `None` if a quoted string does not end.
    fn skip_element(&mut self) -> Option<()> {
        loop {
            self.take_while(|byte| byte != b',' && byte != b'"');
            match self.rest.split_first() {
                Some((b'"', rest)) => {
                    self.rest = rest;
                    self.quoted()?;
                }
                _ => return Some(()),
            }
        }
    }

    fn argument(&mut self) -> Option<Argument> {
        let Some(rest) = self.rest.strip_prefix(b"=") else { return Some(Argument::Absent) };
        self.rest = rest;
        if let Some(rest) = self.rest.strip_prefix(b"\"") {
            self.rest = rest;
            return self.quoted().map(Argument::Text);
        }
        let token = self.take_while(is_token);
        Some(if token.is_empty() { Argument::Invalid } else { Argument::Text(token.to_vec()) })
    }
}

impl Iterator for Elements<'_> {
    type Item = Element;

    fn next(&mut self) -> Option<Element> {
        loop {
            self.take_while(|byte| matches!(byte, b' ' | b'\t' | b','));
            if self.rest.is_empty() {
                return None;
            }
            let name = self.take_while(is_token).to_ascii_lowercase();
            let Some(mut argument) = self.argument() else {
                self.rest = &[];
                return Some(Element::Unterminated);
            };
            self.take_while(|byte| matches!(byte, b' ' | b'\t'));
            if self.rest.first().is_some_and(|byte| *byte != b',') {
                argument = Argument::Invalid;
                if self.skip_element().is_none() {
                    self.rest = &[];
                    return Some(Element::Unterminated);
                }
            }
            if let (Ok(name), false) = (String::from_utf8(name.clone()), name.is_empty()) {
                return Some(Element::Directive(name, argument));
            }
        }
    }
}

/// tchar of RFC 9110 §5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let value = |line: &&str| HeaderValue::from_bytes(line.as_bytes()).unwrap();
        lines.iter().map(|line| (CACHE_CONTROL, value(line))).collect()
    }

    fn response(lines: &[&str]) -> ResponseDirectives {
        ResponseDirectives::from_headers(&headers(lines))
    }

    #[test]
    fn lifetimes_are_digits_and_everything_else_is_zero() {
        for (text, expected) in [
            ("max-age=3600", 3600),
            ("MaX-AgE=3600", 3600),
            ("max-age=003600", 3600),
            ("max-age=\"3600\"", 3600),
            ("max-age=2147483649", 1 << 31),
            ("max-age=99999999999999999999999999", 1 << 31),
            ("max-age='3600'", 0),
            ("max-age=-3600", 0),
            ("max-age=3600.0", 0),
            ("max-age=a100", 0),
            ("max-age=100a", 0),
            ("max-age =100", 0),
            ("max-age= 100", 0),
            ("max-age", 0),
            ("max-age=", 0),
            ("max-age=\"\"", 0),
            ("max-age=100 x", 0),
            ("max-age=1, max-age=2", 0),
            ("max-age=2, max-age=2", 2),
            ("extension=\"max-age=3600\", max-age=1", 1),
            ("max-age=1, extension=\"max-age=3600\"", 1),
            ("extension=\"a\\\", max-age=3600\", max-age=1", 1),
            (", ,max-age=5,,", 5),
            ("a b \"c, max-age=7\", max-age=5", 5),
        ] {
            assert_eq!(response(&[text]).max_age, Some(expected), "{text}");
        }
        assert_eq!(response(&["max-age=1", "max-age=2"]).max_age, Some(0), "two lines");
        assert_eq!(response(&["x-max-age=1"]).max_age, None);
    }

    #[test]
    fn what_forbids_does_so_in_any_form() {
        for text in
            ["no-store", "nO-StOrE", "no-store=1", "no-store foo", "a=\"b, max-age=5", "max-age=5, x=\"\\"]
        {
            assert!(response(&[text]).no_store, "{text}");
        }
        for text in ["a=\"no-store\"", "x-no-store", "no-stores", "="] {
            assert!(!response(&[text]).no_store, "{text}");
        }
        assert!(!response(&["public=yes"]).public);
        assert!(response(&["public"]).public);
    }

    #[test]
    fn fields_of_private_and_no_cache_are_names() {
        let names = |list: &[&'static str]| {
            Some(Scope::Fields(list.iter().map(|name| HeaderName::from_static(name)).collect()))
        };
        assert_eq!(response(&["private=\"set-cookie, X-A\""]).private, names(&["set-cookie", "x-a"]));
        assert_eq!(response(&["no-cache=a, no-cache=\"b\""]).no_cache, names(&["a", "b"]));
        for text in
            ["private", "private=\"\"", "private=\"a b\"", "private=\"a\", private", "private, private=a"]
        {
            assert_eq!(response(&[text]).private, Some(Scope::Whole), "{text}");
        }
    }

    #[test]
    fn requests_are_read_for_the_more_careful_meaning() {
        let request = |lines: &[&str]| RequestDirectives::from_headers(&headers(lines));
        assert_eq!(request(&["max-stale"]).max_stale, Some(u32::MAX));
        assert_eq!(request(&["max-stale=5, max-stale"]).max_stale, Some(5));
        assert_eq!(request(&["max-stale=x"]).max_stale, Some(0));
        assert_eq!(request(&["max-age=10", "max-age=5"]).max_age, Some(5));
        assert_eq!(request(&["max-age=x"]).max_age, Some(0));
        assert!(request(&["min-fresh=x"]).no_cache);
        assert!(request(&["x=\""]).no_cache);
        let mut pragma = HeaderMap::new();
        pragma.insert(PRAGMA, HeaderValue::from_static("x, No-Cache"));
        assert!(RequestDirectives::from_headers(&pragma).no_cache);
        pragma.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!RequestDirectives::from_headers(&pragma).no_cache, "Cache-Control replaces it");
    }
}
