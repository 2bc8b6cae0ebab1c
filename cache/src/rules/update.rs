//! What 304 responses and responses to HEAD change in a stored response (RFC 9111 §3.2, §4.3.4, §4.3.5).

use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderName, StatusCode};

use super::conditions::{date_of, entity_tag};
use super::fields;
use super::freshness::Times;
use super::settings::Rules;
use super::store::{NotStored, storable};
use crate::head::Head;

/// Fields that describe the stored bytes, so they change only with these (RFC 9111 §3.2).
const OF_CONTENT: [HeaderName; 8] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    ETAG,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
];

/// The result of a 304 for a stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshened {
    /// The stored response with its new fields: store and send it.
    Updated(Box<Head>),
    /// The same, but it must not be stored any longer: remove it, and send it to this client only.
    Unstorable(Box<Head>, NotStored),
}

/// Selects the stored response that a 304 is about (RFC 9111 §4.3.4). `None` if it is about none of them, in which
/// case the request must be sent again without conditions.
pub fn select(candidates: &[&Head], not_modified: &HeaderMap) -> Option<usize> {
    let mut fits = candidates.iter().enumerate().filter(|(_, head)| is_about(&head.headers, not_modified));
    let (index, _) = fits.next()?;
    let named = not_modified.contains_key(ETAG);
    // Without a tag it must be clear which one is meant.
    (named || candidates.len() == 1).then_some(index)
}

/// Whether the validators of a 304, as far as it has any, are those of a stored response.
fn is_about(stored: &HeaderMap, not_modified: &HeaderMap) -> bool {
    if not_modified.contains_key(ETAG) {
        return match (entity_tag(stored), entity_tag(not_modified)) {
            // Weakly even for a strong one: servers that compress weaken the tag of the content, but not of a 304.
            (Some(stored), Some(new)) => stored.weakly_equals(new),
            // One that is invalid on both sides validates nothing: it must be the same text.
            _ => stored.get(ETAG) == not_modified.get(ETAG),
        };
    }
    match (date_of(stored, &LAST_MODIFIED), date_of(not_modified, &LAST_MODIFIED)) {
        (Some(stored), Some(new)) => stored == new,
        _ => true,
    }
}

/// Updates a stored response by a 304 that [`select`] has assigned to it. `request` as for [`storable`].
pub fn freshen(
    rules: &Rules,
    request: &HeaderMap,
    stored: &Head,
    not_modified: &HeaderMap,
    times: Times,
) -> Freshened {
    let headers = merged(&stored.headers, not_modified);
    match storable(rules, request, stored.status, &headers, times) {
        Ok(head) => Freshened::Updated(Box::new(head)),
        Err(reason) => {
            let mut headers = headers;
            headers.remove(AGE);
            Freshened::Unstorable(Box::new(Head { headers, ..stored.clone() }), reason)
        }
    }
}

/// The stored fields, with those of `new` in their place, except what describes the content or the connection.
fn merged(stored: &HeaderMap, new: &HeaderMap) -> HeaderMap {
    let mut new = new.clone();
    fields::remove_unstorable(&mut new);
    for name in OF_CONTENT {
        new.remove(name);
    }
    let mut headers = stored.clone();
    // The age starts again with the new response, and its date if it has none.
    headers.remove(AGE);
    headers.remove(DATE);
    for name in new.keys() {
        headers.remove(name);
    }
    for (name, value) in &new {
        // Fails only for more fields than a map can have.
        headers.try_append(name.clone(), value.clone()).unwrap_or_default();
    }
    headers
}

/// What a response to HEAD says about a stored response (RFC 9111 §4.3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadUpdate {
    /// It is still the same: store it with its new fields.
    Updated(Box<Head>),
    /// It has changed, or must not be stored any longer: remove it.
    Invalid,
    /// Nothing, such as a status other than 200.
    Unrelated,
}

/// Compares a response to HEAD with the stored response to GET. `request` as for [`storable`].
pub fn update_by_head(
    rules: &Rules,
    request: &HeaderMap,
    stored: &Head,
    status: StatusCode,
    response: &HeaderMap,
    times: Times,
) -> HeadUpdate {
    if status != StatusCode::OK || stored.status != StatusCode::OK {
        return HeadUpdate::Unrelated;
    }
    let same = |name: &HeaderName| response.get(name) == stored.headers.get(name);
    let differs = |name: &HeaderName| response.contains_key(name) && !same(name);
    // A response to HEAD may leave out what only its content would tell.
    if !same(&ETAG)
        || !same(&LAST_MODIFIED)
        || differs(&CONTENT_LENGTH)
        || differs(&CONTENT_ENCODING)
        || differs(&CONTENT_TYPE)
    {
        return HeadUpdate::Invalid;
    }
    let headers = merged(&stored.headers, response);
    match storable(rules, request, stored.status, &headers, times) {
        Ok(head) => HeadUpdate::Updated(Box::new(head)),
        Err(_) => HeadUpdate::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::time::Timestamp;

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn times(seconds: u64) -> Times {
        let at = Timestamp::from_millis(784_111_777_000 + seconds * 1000);
        Times { requested: at, received: at }
    }

    fn stored(lines: &[(&'static str, &str)]) -> Head {
        let mut headers = map(lines);
        headers.append("cache-control", HeaderValue::from_static("max-age=50"));
        storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times(0)).unwrap()
    }

    fn freshened(head: &Head, lines: &[(&'static str, &str)]) -> Freshened {
        freshen(&Rules::default(), &HeaderMap::new(), head, &map(lines), times(100))
    }

    #[test]
    fn fields_are_replaced_except_those_of_the_content() {
        let head = stored(&[
            ("etag", "\"a\""),
            ("x", "1"),
            ("x", "2"),
            ("y", "1"),
            ("content-length", "5"),
            ("content-encoding", "gzip"),
            ("content-md5", "m"),
            ("content-type", "a/b"),
            ("age", "7"),
        ]);
        let Freshened::Updated(new) = freshened(
            &head,
            &[
                ("etag", "W/\"a\""),
                ("x", "3"),
                ("content-length", "0"),
                ("content-encoding", "br"),
                ("content-md5", "n"),
                ("content-type", "c/d"),
                ("connection", "z"),
                ("z", "1"),
                ("cache-control", "max-age=9"),
            ],
        ) else {
            panic!("not updated")
        };
        for (name, expected) in [
            ("etag", "\"a\""),
            ("x", "3"),
            ("y", "1"),
            ("content-length", "5"),
            ("content-encoding", "gzip"),
            ("content-md5", "m"),
            ("content-type", "c/d"),
            ("cache-control", "max-age=9"),
            ("date", "Sun, 06 Nov 1994 08:51:17 GMT"),
        ] {
            let values: Vec<_> = new.headers.get_all(name).iter().collect();
            assert_eq!(values, [expected], "{name}");
        }
        assert!(!new.headers.contains_key("z") && !new.headers.contains_key("connection"));
        assert_eq!((new.policy.lifetime, new.policy.age(times(103).received)), (9, 3));
    }

    #[test]
    fn a_304_can_end_storing() {
        let head = stored(&[("etag", "\"a\"")]);
        for (lines, expected) in [
            ([("cache-control", "private")], NotStored::Private),
            ([("cache-control", "no-store")], NotStored::NoStore),
            ([("set-cookie", "a=b")], NotStored::SetCookie),
            ([("vary", "*")], NotStored::Vary),
        ] {
            assert!(
                matches!(freshened(&head, &lines), Freshened::Unstorable(_, reason) if reason == expected),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_304_belongs_to_the_response_with_its_validators() {
        let (a, b) = (stored(&[("etag", "\"a\"")]), stored(&[("etag", "W/\"b\"")]));
        let dated = stored(&[("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT")]);
        assert_eq!(select(&[&a, &b], &map(&[("etag", "\"b\"")])), Some(1));
        assert_eq!(select(&[&a, &b], &map(&[("etag", "\"c\"")])), None);
        assert_eq!(select(&[&a, &b], &map(&[])), None, "ambiguous");
        assert_eq!(select(&[&a], &map(&[])), Some(0));
        assert_eq!(select(&[&dated], &map(&[("last-modified", "Sun, 06 Nov 1994 08:00:00 GMT")])), Some(0));
        assert_eq!(select(&[&dated], &map(&[("last-modified", "Sun, 06 Nov 1994 08:00:01 GMT")])), None);
        assert_eq!(select(&[&dated], &map(&[("etag", "\"a\"")])), None);
        assert_eq!(select(&[], &map(&[])), None);
    }

    #[test]
    fn a_response_to_head_updates_or_invalidates() {
        let head = stored(&[("etag", "\"a\""), ("content-length", "5")]);
        let update = |status, lines: &[(&'static str, &str)]| {
            update_by_head(&Rules::default(), &HeaderMap::new(), &head, status, &map(lines), times(10))
        };
        let HeadUpdate::Updated(new) = update(StatusCode::OK, &[("etag", "\"a\""), ("x", "1")]) else {
            panic!("not updated")
        };
        assert_eq!((new.headers["x"].as_bytes(), new.policy.age(times(10).received)), (b"1".as_slice(), 0));
        assert_eq!(update(StatusCode::OK, &[("etag", "\"b\"")]), HeadUpdate::Invalid);
        assert_eq!(update(StatusCode::OK, &[]), HeadUpdate::Invalid, "no validator any more");
        assert_eq!(
            update(StatusCode::OK, &[("etag", "\"a\""), ("content-length", "6")]),
            HeadUpdate::Invalid
        );
        assert_eq!(
            update(StatusCode::OK, &[("etag", "\"a\""), ("cache-control", "no-store")]),
            HeadUpdate::Invalid
        );
        assert_eq!(update(StatusCode::NOT_FOUND, &[]), HeadUpdate::Unrelated);
    }
}
