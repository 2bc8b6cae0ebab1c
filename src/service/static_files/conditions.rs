//! Conditional requests (RFC 9110 section 13) and ranges (section 14).

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};

/// What identifies a representation.
pub(super) struct Validators {
    /// A strong entity tag, in quotes.
    pub(super) tag: String,
    /// Modification time, in whole seconds; `None` if it is in the future or before 1970.
    pub(super) modified: Option<SystemTime>,
}

/// What the conditions of a request require.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precondition {
    /// The request is carried out.
    Met,
    /// The client has this representation: 304.
    NotModified,
    /// The request is refused: 412.
    Failed,
}

/// Which part of a representation is requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// Bytes that it does not have: 416.
    Unsatisfiable,
}

impl Validators {
    /// Creates validators. A modification time after `now` is not used, since a date must not be in the future.
    pub(super) fn new(tag: String, seconds: i64, now: SystemTime) -> Self {
        let modified = u64::try_from(seconds).ok().and_then(|seconds| {
            UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).filter(|modified| *modified <= now)
        });
        Self { tag, modified }
    }

    /// Evaluates the conditions of a GET or HEAD request in the order of RFC 9110 section 13.2.2.
    pub(super) fn evaluate(&self, headers: &HeaderMap) -> Precondition {
        if headers.contains_key(IF_MATCH) {
            if !self.is_listed(headers, &IF_MATCH, true) {
                return Precondition::Failed;
            }
        } else if let (Some(since), Some(modified)) = (date(headers, &IF_UNMODIFIED_SINCE), self.modified)
            && modified > since
        {
            return Precondition::Failed;
        }
        if headers.contains_key(IF_NONE_MATCH) {
            if self.is_listed(headers, &IF_NONE_MATCH, false) {
                return Precondition::NotModified;
            }
        } else if let (Some(since), Some(modified)) = (date(headers, &IF_MODIFIED_SINCE), self.modified)
            && modified <= since
        {
            return Precondition::NotModified;
        }
        Precondition::Met
    }

    /// Returns the requested part of a representation of `size` bytes.
    ///
    /// Malformed ranges, other units and several ranges are ignored, as RFC 9110 section 14.2 permits.
    pub(super) fn part(&self, headers: &HeaderMap, size: u64, now: SystemTime) -> Part {
        let Some(range) = single(headers, &RANGE) else { return Part::Whole };
        if headers.contains_key(IF_RANGE) && !self.range_is_current(headers, now) {
            return Part::Whole;
        }
        parse_range(range, size)
    }

    /// Returns true if `If-Range` names this representation. A date is compared exactly, and only if the file
    /// has not changed within the last second (RFC 9110 section 8.8.2.2).
    fn range_is_current(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        let Some(text) = single(headers, &IF_RANGE) else { return false };
        if text.starts_with('"') || text.starts_with("W/") {
            return text == self.tag;
        }
        let is_old = |modified: &SystemTime| {
            now.duration_since(*modified).is_ok_and(|age| age >= Duration::from_secs(2))
        };
        let modified = self.modified.filter(is_old);
        modified.is_some() && httpdate::parse_http_date(text).ok() == modified
    }

    /// Returns true if a list of entity tags contains this one, or is `*`. Weak tags equal no strong one.
    fn is_listed(&self, headers: &HeaderMap, name: &HeaderName, strong: bool) -> bool {
        headers.get_all(name).iter().any(|value| {
            let Ok(list) = value.to_str() else { return false };
            list.trim() == "*" || tags(list).any(|(is_weak, tag)| !(is_weak && strong) && tag == self.tag)
        })
    }
}

/// Returns the entity tags of a list, and whether they are weak. It ends at the first mistake.
fn tags(list: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (is_weak, quoted) = rest.strip_prefix("W/").map_or((false, rest), |quoted| (true, quoted));
        let end = quoted.strip_prefix('"')?.find('"')? + 2;
        let tag = &quoted[..end];
        rest = &quoted[end..];
        Some((is_weak, tag))
    })
}

/// Returns the value of a field that occurs once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

/// Returns the date of a field; invalid ones are ignored (RFC 9110 sections 13.1.3 and 13.1.4).
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(single(headers, name)?).ok()
}

fn parse_range(text: &str, size: u64) -> Part {
    let Some((unit, spec)) = text.split_once('=') else { return Part::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(length)) if first.is_empty() => size.saturating_sub(length)..size,
        _ => return Part::Whole,
    };
    if range.is_empty() { Part::Unsatisfiable } else { Part::Bytes(range) }
}

/// Parses digits. A number that is too large is the largest: it is after the end of every file.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn validators() -> Validators {
        Validators::new("\"a\"".into(), 784_111_777, SystemTime::now())
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn conditions_are_evaluated_in_order() {
        use Precondition::{Failed, Met, NotModified};
        let cases: &[(&[(HeaderName, &str)], Precondition)] = &[
            (&[], Met),
            (&[(IF_MATCH, "\"a\"")], Met),
            (&[(IF_MATCH, "\"b\", \"a\"")], Met),
            (&[(IF_MATCH, "*")], Met),
            (&[(IF_MATCH, "W/\"a\"")], Failed),
            (&[(IF_MATCH, "\"b\"")], Failed),
            (&[(IF_MATCH, "a")], Failed),
            (&[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, EARLIER)], Met),
            (&[(IF_UNMODIFIED_SINCE, EARLIER)], Failed),
            (&[(IF_UNMODIFIED_SINCE, MODIFIED)], Met),
            (&[(IF_UNMODIFIED_SINCE, "yesterday")], Met),
            (&[(IF_NONE_MATCH, "\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "W/\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "*")], NotModified),
            (&[(IF_NONE_MATCH, "\"x,\", W/\"a\"")], NotModified),
            (&[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, LATER)], Met),
            (&[(IF_NONE_MATCH, "\""), (IF_MODIFIED_SINCE, LATER)], Met),
            (&[(IF_MODIFIED_SINCE, MODIFIED)], NotModified),
            (&[(IF_MODIFIED_SINCE, EARLIER)], Met),
            (&[(IF_MODIFIED_SINCE, "0")], Met),
            (&[(IF_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")], Failed),
        ];
        for (fields, expected) in cases {
            assert_eq!(validators().evaluate(&headers(fields)), *expected, "{fields:?}");
        }
    }

    #[test]
    fn ranges() {
        let huge = format!("bytes={}", vec!["0-0"; 5000].join(","));
        for (range, expected) in [
            ("bytes=0-3", Part::Bytes(0..4)),
            ("Bytes=9-", Part::Bytes(9..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-99", Part::Bytes(0..10)),
            ("bytes=5-99999999999999999999999", Part::Bytes(5..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99999999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=3-1", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=--1", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("0-1", Part::Whole),
            (&huge, Part::Whole),
        ] {
            let part = validators().part(&headers(&[(RANGE, range)]), 10, SystemTime::now());
            assert_eq!(part, expected, "{}", &range[..range.len().min(40)]);
        }
        let empty = validators().part(&headers(&[(RANGE, "bytes=0-")]), 0, SystemTime::now());
        assert_eq!(empty, Part::Unsatisfiable);
    }

    #[test]
    fn ranges_of_another_representation_are_ignored() {
        for (value, is_current) in [
            ("\"a\"", true),
            ("W/\"a\"", false),
            ("\"b\"", false),
            (MODIFIED, true),
            (EARLIER, false),
            (LATER, false),
            ("garbage", false),
        ] {
            let fields = headers(&[(RANGE, "bytes=0-0"), (IF_RANGE, value)]);
            let part = validators().part(&fields, 10, SystemTime::now());
            assert_eq!(part == Part::Bytes(0..1), is_current, "{value}");
        }
        // A file that has just changed may change again within the second.
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let fields = headers(&[(RANGE, "bytes=0-0"), (IF_RANGE, MODIFIED)]);
        assert_eq!(validators().part(&fields, 10, now), Part::Whole);
    }

    #[test]
    fn a_date_in_the_future_is_not_used() {
        let now = UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(Validators::new(String::new(), 11, now).modified, None);
        assert_eq!(Validators::new(String::new(), -1, now).modified, None);
        assert_eq!(Validators::new(String::new(), i64::MAX, now).modified, None);
    }

    proptest! {
        #[test]
        fn ranges_are_inside_the_file(text in "(bytes=)?[-,0-9 x]{0,24}", size in 0..2000u64) {
            if let Part::Bytes(range) = parse_range(&text, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn garbage_is_survived(list in "[ -~]{0,40}") {
            let fields = headers(&[(IF_MATCH, &list), (IF_NONE_MATCH, &list), (IF_RANGE, &list), (RANGE, &list)]);
            validators().evaluate(&fields);
            validators().part(&fields, 10, SystemTime::now());
        }
    }
}
