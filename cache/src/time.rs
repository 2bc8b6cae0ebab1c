//! Points in time: milliseconds of the system's clock, with arithmetic that saturates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// The largest number of seconds that a directive or an `Age` can have: 2³¹ (RFC 9111 §1.2.2).
pub const MAX_SECONDS: u32 = 1 << 31;

/// A point in time, in milliseconds since 1970. Stored responses outlive the process, so it is a time of the
/// system's clock. Differences saturate at zero: a clock that is set back makes nothing older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point in time that is this many milliseconds after the start of 1970.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time now, by the system's clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Reads an HTTP-date in one of its three forms (RFC 9110 §5.6.7), whatever its case (RFC 9111 §4.2). `None` if it
    /// is invalid.
    pub fn from_http_date(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let exact = httpdate::parse_http_date(text).ok();
        exact.or_else(|| httpdate::parse_http_date(&usual_case(text)?).ok()).map(Self::from)
    }

    /// The preferred form of an HTTP-date (RFC 9110 §5.6.7).
    pub fn to_http_date(self) -> HeaderValue {
        // A later year has five digits, which the form cannot hold.
        const LATEST: Duration = Duration::from_secs(253_402_300_799);
        let since = Duration::from_millis(self.0).min(LATEST);
        HeaderValue::from_str(&httpdate::fmt_http_date(UNIX_EPOCH + since))
            .unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
    }

    /// Whole seconds from `earlier` until this time, 0 if `earlier` is later, at most [`MAX_SECONDS`].
    pub fn seconds_since(self, earlier: Self) -> u32 {
        seconds(self.0.saturating_sub(earlier.0) / 1000)
    }

    /// This time and `duration`.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A date with the case that HTTP-dates have. `None` if it is longer than any.
fn usual_case(text: &str) -> Option<String> {
    const LONGEST: usize = "Wednesday, 06-Nov-94 08:49:37 GMT".len();
    if text.len() > LONGEST {
        return None;
    }
    let mut in_word = false;
    let mut usual: String = text
        .chars()
        .map(|letter| {
            let follows = std::mem::replace(&mut in_word, letter.is_ascii_alphabetic());
            if follows { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() }
        })
        .collect();
    if usual.ends_with(" Gmt") {
        usual.truncate(usual.len() - 3);
        usual.push_str("GMT");
    }
    Some(usual)
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Seconds as directives have them: more than [`MAX_SECONDS`] is that.
pub(crate) fn seconds(value: u64) -> u32 {
    u32::try_from(value).map_or(MAX_SECONDS, |value| value.min(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_saturate() {
        let (early, late) = (Timestamp::from_millis(1_000), Timestamp::from_millis(3_999));
        assert_eq!(late.seconds_since(early), 2);
        assert_eq!(early.seconds_since(late), 0);
        assert_eq!(Timestamp::from_millis(u64::MAX).seconds_since(early), MAX_SECONDS);
        assert_eq!(late.plus(Duration::MAX), Timestamp::from_millis(u64::MAX));
    }

    #[test]
    fn dates_are_read_in_every_form_and_written_in_one() {
        let at = Timestamp::from_millis(784_111_777_000);
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            for text in [text.to_ascii_lowercase(), text.to_ascii_uppercase()] {
                let value = HeaderValue::from_str(&text).unwrap();
                assert_eq!(Timestamp::from_http_date(&value), Some(at), "{text}");
            }
            assert_eq!(Timestamp::from_http_date(&HeaderValue::from_static(text)), Some(at), "{text}");
        }
        assert_eq!(at.to_http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
        for text in ["0", "", "Sun, 06 Nov 1994 08:49:37 UTC", "Mon, 06 Nov 1994 08:49:37 GMT", "\u{e9}"] {
            assert_eq!(Timestamp::from_http_date(&HeaderValue::from_bytes(text.as_bytes()).unwrap()), None);
        }
        assert_eq!(Timestamp::from_millis(u64::MAX).to_http_date(), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
