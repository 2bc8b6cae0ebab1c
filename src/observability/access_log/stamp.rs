//! Formats times for the log.
//!
//! Each thread caches the text of the last second it formatted, which most lines share.

use std::cell::Cell;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// A second in both formats, without time zone.
#[derive(Clone, Copy)]
struct Second {
    /// Seconds since 1970.
    unix: u64,
    common: [u8; 20],
    rfc3339: [u8; 19],
}

const FIRST: Second = Second { unix: 0, common: *b"01/Jan/1970:00:00:00", rfc3339: *b"1970-01-01T00:00:00" };

thread_local! {
    static LAST: Cell<Second> = const { Cell::new(FIRST) };
}

/// Appends a time in the common log format: `29/Nov/2026:22:25:26`.
pub(super) fn push_common(line: &mut Vec<u8>, at: SystemTime) {
    line.extend_from_slice(&second(parts(at).0).common);
}

/// Appends a time in the format of RFC 3339, to the second: `2026-11-29T22:25:26Z`.
pub(super) fn push_seconds(line: &mut Vec<u8>, at: SystemTime) {
    line.extend_from_slice(&second(parts(at).0).rfc3339);
    line.push(b'Z');
}

/// Appends a time in the format of RFC 3339, with as many fractional digits as needed: `2026-11-29T22:25:26.5Z`.
pub(super) fn push_nanoseconds(line: &mut Vec<u8>, at: SystemTime) {
    let (unix, nanoseconds) = parts(at);
    line.extend_from_slice(&second(unix).rfc3339);
    if nanoseconds > 0 {
        let mut digits = itoa::Buffer::new();
        // The leading 1 preserves leading zeros.
        let digits = digits.format(1_000_000_000 + nanoseconds).trim_end_matches('0');
        line.push(b'.');
        line.extend_from_slice(&digits.as_bytes()[1..]);
    }
    line.push(b'Z');
}

/// Returns a time in the format of [`push_nanoseconds`].
pub(super) fn nanoseconds(at: SystemTime) -> String {
    let mut text = Vec::with_capacity(30);
    push_nanoseconds(&mut text, at);
    String::from_utf8(text).unwrap_or_default()
}

/// Returns the seconds since 1970, and the nanoseconds.
fn parts(at: SystemTime) -> (u64, u32) {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

fn second(unix: u64) -> Second {
    let last = LAST.get();
    if last.unix == unix {
        return last;
    }
    let second = Second::new(unix).unwrap_or(FIRST);
    LAST.set(second);
    second
}

impl Second {
    /// Formats a second. Returns `None` after the year 9999.
    fn new(unix: u64) -> Option<Self> {
        let at = OffsetDateTime::from_unix_timestamp(i64::try_from(unix).ok()?).ok()?;
        let common = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second]");
        let common = at.format(&common).ok()?.as_bytes().try_into().ok()?;
        let rfc3339 = *at.format(&Rfc3339).ok()?.as_bytes().first_chunk()?;
        Some(Self { unix, common, rfc3339 })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written(push: fn(&mut Vec<u8>, SystemTime), at: Duration) -> String {
        let mut line = Vec::new();
        push(&mut line, SystemTime::UNIX_EPOCH + at);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn times_are_written_in_each_format() {
        let at = Duration::new(1_796_000_726, 120_003_400);
        assert_eq!(written(push_common, at), "30/Nov/2026:01:05:26");
        assert_eq!(written(push_seconds, at), "2026-11-30T01:05:26Z");
        assert_eq!(written(push_nanoseconds, at), "2026-11-30T01:05:26.1200034Z");
        assert_eq!(written(push_common, Duration::ZERO), "01/Jan/1970:00:00:00");
    }

    #[test]
    fn times_equal_those_of_the_time_library() {
        for (seconds, nanoseconds) in [
            (0, 0),
            (0, 1),
            (59, 999_999_999),
            (951_782_400, 500_000_000),
            (951_868_799, 10),
            (4_107_542_400, 1_000),
            (253_402_300_799, 987_654_321),
        ] {
            let at = Duration::new(seconds, nanoseconds);
            let library = OffsetDateTime::UNIX_EPOCH + at;
            assert_eq!(written(push_nanoseconds, at), library.format(&Rfc3339).unwrap());
        }
    }
}
