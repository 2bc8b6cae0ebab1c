//! Conditional requests: those of clients, which the cache answers, and its own, which validate what is stored
//! (RFC 9110 §13, RFC 9111 §4.3).

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::head::Head;
use crate::time::Timestamp;

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityTag<'a> {
    /// It begins with `W/`.
    pub weak: bool,
    /// What is between the quotes.
    pub opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Reads the one tag of `ETag` or `If-Range`. `None` if it is invalid, such as one without quotes.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let (tag, rest) = Self::split(text.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    fn split(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, text) = text.strip_prefix(b"W/").map_or((false, text), |rest| (true, rest));
        let text = text.strip_prefix(b"\"")?;
        let end = text.iter().position(|byte| *byte == b'"')?;
        let opaque = &text[..end];
        let valid = opaque.iter().all(|byte| *byte == 0x21 || *byte >= 0x23 && *byte != 0x7f);
        valid.then_some((Self { weak, opaque }, &text[end + 1..]))
    }

    /// The weak comparison (RFC 9110 §8.8.3.2).
    pub fn weakly_equals(self, other: EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// The strong comparison (RFC 9110 §8.8.3.2).
    pub fn strongly_equals(self, other: EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }
}

/// The valid entity tag of a head, if it has exactly one.
pub(super) fn entity_tag(headers: &HeaderMap) -> Option<EntityTag<'_>> {
    let mut lines = headers.get_all(ETAG).iter();
    match (lines.next(), lines.next()) {
        (Some(value), None) => EntityTag::parse(value.as_bytes()),
        _ => None,
    }
}

pub(super) fn date_of(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    headers.get(name).and_then(Timestamp::from_http_date)
}

/// Whether a response can be validated.
pub(super) fn has_validator(headers: &HeaderMap) -> bool {
    entity_tag(headers).is_some() || date_of(headers, &LAST_MODIFIED).is_some()
}

/// Whether the conditions of a GET or HEAD make the answer from `head` a 304 (RFC 9110 §13.2.2, RFC 9111 §4.3.2):
/// `If-None-Match`, or without it `If-Modified-Since`.
pub fn is_not_modified(head: &Head, request: &HeaderMap) -> bool {
    if !head.status.is_success() {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        return none_match_fails(head, request);
    }
    let mut since = request.get_all(IF_MODIFIED_SINCE).iter();
    let (Some(value), None) = (since.next(), since.next()) else { return false };
    let Some(since) = Timestamp::from_http_date(value) else { return false };
    let modified = date_of(&head.headers, &LAST_MODIFIED)
        .or_else(|| date_of(&head.headers, &DATE))
        .unwrap_or(head.policy.received);
    modified <= since
}

fn none_match_fails(head: &Head, request: &HeaderMap) -> bool {
    let stored = entity_tag(&head.headers);
    request.get_all(IF_NONE_MATCH).iter().any(|line| {
        let mut rest = line.as_bytes().trim_ascii();
        if rest == b"*" {
            return true;
        }
        while !rest.is_empty() {
            let Some((tag, after)) = EntityTag::split(rest) else { return false };
            if stored.is_some_and(|stored| stored.weakly_equals(tag)) {
                return true;
            }
            rest = after.trim_ascii_start();
            let Some(after) = rest.strip_prefix(b",") else { return false };
            rest = after.trim_ascii_start();
        }
        false
    })
}

/// The fields of a 304 for a stored response (RFC 9110 §15.4.5): without those that describe the content it lacks.
pub fn not_modified_headers(head: &Head, now: Timestamp) -> HeaderMap {
    let mut headers = head.response_headers(now);
    for name in [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE] {
        headers.remove(name);
    }
    headers
}

/// Removes the conditions and ranges of a client from a request whose response is to be stored: the server is to
/// send all of it, and the cache evaluates them (RFC 9111 §4.3.2).
pub fn remove_conditions(request: &mut HeaderMap) {
    for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE] {
        request.remove(name);
    }
}

/// Replaces the conditions of a request by those that validate stored responses (RFC 9111 §4.3.1): the entity tags of
/// all `candidates`, and `Last-Modified` if there is one candidate. False if none has a validator.
pub fn validate(request: &mut HeaderMap, candidates: &[&Head]) -> bool {
    remove_conditions(request);
    let mut tags: Vec<u8> = Vec::new();
    for head in candidates.iter().filter(|head| entity_tag(&head.headers).is_some()) {
        let Some(tag) = head.headers.get(ETAG) else { continue };
        if !tags.is_empty() {
            tags.extend_from_slice(b", ");
        }
        tags.extend_from_slice(tag.as_bytes().trim_ascii());
    }
    if let (false, Ok(value)) = (tags.is_empty(), HeaderValue::from_bytes(&tags)) {
        request.insert(IF_NONE_MATCH, value);
    }
    if let [head] = candidates
        && date_of(&head.headers, &LAST_MODIFIED).is_some()
        && let Some(modified) = head.headers.get(LAST_MODIFIED)
    {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
    request.contains_key(IF_NONE_MATCH) || request.contains_key(IF_MODIFIED_SINCE)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::rules::{Rules, Times, storable};

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn stored(lines: &[(&'static str, &str)]) -> Head {
        let now = Timestamp::from_millis(784_111_777_000);
        let mut headers = map(lines);
        headers.insert("cache-control", HeaderValue::from_static("max-age=50"));
        let times = Times { requested: now, received: now };
        storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap()
    }

    #[test]
    fn entity_tags_have_quotes() {
        let tag = |weak, opaque: &'static str| Some(EntityTag { weak, opaque: opaque.as_bytes() });
        assert_eq!(EntityTag::parse(b"\"a\""), tag(false, "a"));
        assert_eq!(EntityTag::parse(b" W/\"\" "), tag(true, ""));
        for text in ["a", "\"a", "w/\"a\"", "W\"a\"", "\"a\"b", "\"a b\"", "", "\"", "W/"] {
            assert_eq!(EntityTag::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn if_none_match_is_answered() {
        let head = stored(&[("etag", "W/\"b\"")]);
        for (text, expected) in [
            ("\"b\"", true),
            ("W/\"b\"", true),
            ("*", true),
            ("\"a\", \"b\"", true),
            ("\"a,\" , W/\"b\",\"c\"", true),
            ("\"a\"", false),
            ("b", false),
            ("\"a\" \"b\"", false),
            ("x, \"b\"", false),
            ("", false),
        ] {
            assert_eq!(is_not_modified(&head, &map(&[("if-none-match", text)])), expected, "{text}");
        }
        let both = map(&[("if-none-match", "\"a\""), ("if-modified-since", "Sun, 06 Nov 2094 08:49:37 GMT")]);
        assert!(!is_not_modified(&head, &both), "If-None-Match has precedence");
        assert!(!is_not_modified(
            &Head { status: StatusCode::NOT_FOUND, ..head },
            &map(&[("if-none-match", "*")])
        ));
    }

    #[test]
    fn if_modified_since_is_answered() {
        let since = |head: &Head, text| is_not_modified(head, &map(&[("if-modified-since", text)]));
        let head = stored(&[("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT")]);
        assert!(since(&head, "Sun, 06 Nov 1994 08:00:00 GMT"));
        assert!(since(&head, "Sunday, 06-Nov-94 08:00:01 GMT"));
        assert!(!since(&head, "Sun, 06 Nov 1994 07:59:59 GMT"));
        assert!(!since(&head, "yesterday"));
        let undated = stored(&[]);
        assert!(since(&undated, "Sun, 06 Nov 1994 08:49:37 GMT"), "Date replaces Last-Modified");
        assert!(!since(&undated, "Sun, 06 Nov 1994 08:49:36 GMT"));
        assert!(!is_not_modified(&head, &HeaderMap::new()));
    }

    #[test]
    fn a_304_has_no_fields_about_content() {
        let head = stored(&[
            ("etag", "\"a\""),
            ("content-type", "text/plain"),
            ("content-location", "/a"),
            ("x", "1"),
        ]);
        let headers = not_modified_headers(&head, head.policy.received);
        assert!(!headers.contains_key(CONTENT_TYPE));
        for name in ["etag", "cache-control", "content-location", "date", "age", "x"] {
            assert!(headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn validations_replace_the_conditions_of_clients() {
        let (tagged, dated) =
            (stored(&[("etag", "\"a\"")]), stored(&[("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT")]));
        let weak = stored(&[("etag", "W/\"b\""), ("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT")]);
        let mut request =
            map(&[("if-none-match", "\"x\""), ("range", "bytes=0-1"), ("if-range", "\"x\""), ("a", "b")]);
        assert!(validate(&mut request, &[&tagged]));
        assert_eq!(request, map(&[("a", "b"), ("if-none-match", "\"a\"")]));
        assert!(validate(&mut request, &[&dated]));
        assert_eq!(request, map(&[("a", "b"), ("if-modified-since", "Sun, 06 Nov 1994 08:00:00 GMT")]));
        assert!(validate(&mut request, &[&tagged, &weak]));
        assert_eq!(request, map(&[("a", "b"), ("if-none-match", "\"a\", W/\"b\"")]));
        assert!(!validate(&mut request, &[&stored(&[("etag", "unquoted")])]));
        assert_eq!(request, map(&[("a", "b")]));
    }
}
