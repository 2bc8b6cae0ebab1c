//! Ranges of stored responses (RFC 9110 §14, RFC 9111 §3.3).

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderMap, HeaderValue};

use super::conditions::{EntityTag, date_of, entity_tag};
use super::store::is_complete;
use crate::head::Head;
use crate::time::Timestamp;

/// The largest number of ranges that are read. More are ignored (RFC 9110 §14.2 allows it): they only cost.
const MAX_RANGES: usize = 16;

/// What a request gets of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All of it.
    Whole,
    /// The bytes from `first` to `last`, both included: 206.
    Part {
        /// The first byte, counted from 0.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// Nothing: 416.
    Unsatisfiable,
}

/// Selects what a GET gets of a stored response whose body has `length` bytes.
///
/// Several ranges get one part if they overlap or touch; otherwise the header is ignored, and the answer is complete,
/// as RFC 9110 §14.2 allows. So no answer is larger than the stored one.
pub fn select(head: &Head, request: &HeaderMap, length: u64) -> Selected {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(value), None) = (lines.next(), lines.next()) else { return Selected::Whole };
    if !is_complete(head) || !if_range_holds(head, request) {
        return Selected::Whole;
    }
    let Some(ranges) = parse(value.as_bytes(), length) else { return Selected::Whole };
    let mut ranges: Vec<(u64, u64)> = ranges.into_iter().flatten().collect();
    ranges.sort_unstable();
    let Some((first, mut last)) = ranges.first().copied() else { return Selected::Unsatisfiable };
    for (next, end) in ranges.into_iter().skip(1) {
        if next > last.saturating_add(1) {
            return Selected::Whole;
        }
        last = last.max(end);
    }
    Selected::Part { first, last }
}

/// RFC 9110 §13.1.5: the validator must be strong, and the stored one.
fn if_range_holds(head: &Head, request: &HeaderMap) -> bool {
    let mut lines = request.get_all(IF_RANGE).iter();
    let value = match (lines.next(), lines.next()) {
        (None, _) => return true,
        (Some(value), None) => value,
        (Some(_), Some(_)) => return false,
    };
    if let Some(tag) = EntityTag::parse(value.as_bytes()) {
        return entity_tag(&head.headers).is_some_and(|stored| stored.strongly_equals(tag));
    }
    let (Some(wanted), Some(modified)) =
        (Timestamp::from_http_date(value), date_of(&head.headers, &LAST_MODIFIED))
    else {
        return false;
    };
    // §8.8.2.2: a date is strong if the response is at least a second younger.
    let strong = date_of(&head.headers, &DATE).is_some_and(|date| date.seconds_since(modified) >= 1);
    strong && wanted == modified
}

/// The ranges of `bytes=…`, `None` in place of one that is outside of the body. `None` if the header is invalid or
/// has too many.
fn parse(text: &[u8], length: u64) -> Option<Vec<Option<(u64, u64)>>> {
    let text = std::str::from_utf8(text).ok()?;
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut ranges = Vec::new();
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        if ranges.len() == MAX_RANGES {
            return None;
        }
        let (first, last) = spec.split_once('-')?;
        ranges.push(match (first, last) {
            ("", suffix) => {
                let suffix = number(suffix)?.min(length);
                (suffix > 0).then(|| (length - suffix, length - 1))
            }
            (first, "") => {
                let first = number(first)?;
                (first < length).then(|| (first, length - 1))
            }
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                (first < length).then(|| (first, last.min(length - 1)))
            }
        });
    }
    (!ranges.is_empty()).then_some(ranges)
}

/// Digits; what is too large is the largest number.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Turns the fields of a complete response into those of a 206 (RFC 9110 §15.3.7).
pub fn partial_headers(headers: &mut HeaderMap, first: u64, last: u64, length: u64) {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(last.saturating_sub(first).saturating_add(1)));
    if let Ok(value) = HeaderValue::from_str(&format!("bytes {first}-{last}/{length}")) {
        headers.insert(CONTENT_RANGE, value);
    }
}

/// The `Content-Range` of a 416 (RFC 9110 §15.5.17).
pub fn unsatisfied_range(length: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes */{length}")).unwrap_or(HeaderValue::from_static("bytes */*"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, StatusCode};

    use super::*;
    use crate::rules::{Rules, Times, storable};

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn stored(status: u16, lines: &[(&'static str, &str)]) -> Head {
        let now = Timestamp::from_millis(784_111_777_000);
        let mut headers = map(lines);
        headers.append("cache-control", HeaderValue::from_static("max-age=50"));
        let times = Times { requested: now, received: now };
        storable(&Rules::default(), &HeaderMap::new(), StatusCode::from_u16(status).unwrap(), &headers, times)
            .unwrap()
    }

    #[test]
    fn one_part_or_all() {
        let head = stored(200, &[]);
        let part = |first, last| Selected::Part { first, last };
        for (text, expected) in [
            ("bytes=0-1", part(0, 1)),
            ("BYTES=0-1", part(0, 1)),
            ("bytes=1-", part(1, 9)),
            ("bytes=-1", part(9, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=5-99999999999999999999999", part(5, 9)),
            ("bytes=10-", Selected::Unsatisfiable),
            ("bytes=-0", Selected::Unsatisfiable),
            ("bytes=10-11, 12-", Selected::Unsatisfiable),
            ("bytes=0-1, 2-3", part(0, 3)),
            ("bytes=4-7, 0-5,, 20-", part(0, 7)),
            ("bytes=0-1, 4-5", Selected::Whole),
            ("bytes=2-1", Selected::Whole),
            ("bytes=a-b", Selected::Whole),
            ("bytes=+0-1", Selected::Whole),
            ("bytes=", Selected::Whole),
            ("bytes", Selected::Whole),
            ("bytes=1", Selected::Whole),
            ("bytes=--1", Selected::Whole),
            ("lines=0-1", Selected::Whole),
            ("bytes=\u{e9}", Selected::Whole),
        ] {
            assert_eq!(select(&head, &map(&[("range", text)]), 10), expected, "{text}");
        }
        let many = format!("bytes={}", "0-1,".repeat(17));
        assert_eq!(select(&head, &map(&[("range", &many)]), 10), Selected::Whole);
        assert_eq!(select(&head, &map(&[("range", "bytes=0-")]), 0), Selected::Unsatisfiable);
        assert_eq!(
            select(&head, &map(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]), 10),
            Selected::Whole
        );
        assert_eq!(select(&stored(404, &[]), &map(&[("range", "bytes=0-1")]), 10), Selected::Whole);
        let partial = stored(200, &[("content-range", "bytes 0-9/20")]);
        assert_eq!(select(&partial, &map(&[("range", "bytes=0-1")]), 10), Selected::Whole);
    }

    #[test]
    fn if_range_needs_a_strong_validator() {
        let holds = |head: &Head, text| {
            select(head, &map(&[("range", "bytes=0-1"), ("if-range", text)]), 10) != Selected::Whole
        };
        let date = "Sun, 06 Nov 1994 08:00:00 GMT";
        let (strong, weak) = (stored(200, &[("etag", "\"a\"")]), stored(200, &[("etag", "W/\"a\"")]));
        assert!(holds(&strong, "\"a\""));
        assert!(!holds(&strong, "W/\"a\""));
        assert!(!holds(&strong, "\"b\""));
        assert!(!holds(&strong, date));
        assert!(!holds(&strong, "a"));
        assert!(!holds(&weak, "W/\"a\""));
        let dated = stored(200, &[("last-modified", date)]);
        assert!(holds(&dated, date));
        assert!(!holds(&dated, "Sun, 06 Nov 1994 08:00:01 GMT"));
        let same_second = stored(200, &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert!(!holds(&same_second, "Sun, 06 Nov 1994 08:49:37 GMT"));
    }

    #[test]
    fn the_fields_of_a_part() {
        let mut headers = map(&[("content-length", "10")]);
        partial_headers(&mut headers, 2, 5, 10);
        assert_eq!(headers, map(&[("content-length", "4"), ("content-range", "bytes 2-5/10")]));
        assert_eq!(unsatisfied_range(10), "bytes */10");
    }
}
