//! Periods of quotas.

use tidegate_core::plan::{Anchor, Period};
use time::{Date, Duration, OffsetDateTime, UtcOffset};

/// The days of a month when it is counted from the first use.
const MONTH: i64 = 30 * DAY;
const DAY: i64 = 24 * 3600;

/// A period: from `start` until before `end`, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Window {
    /// Returns the period in which `now` is. `last` is the last one that was used.
    pub(super) fn at(now: i64, period: Period, anchor: Anchor, last: Option<Self>) -> Self {
        match anchor {
            Anchor::FirstUse => {
                let length = match period {
                    Period::Day => DAY,
                    Period::Week => 7 * DAY,
                    Period::Month => MONTH,
                    Period::Fixed(length) => i64::try_from(length.as_secs()).unwrap_or(MONTH).max(1),
                };
                // A new period keeps the start of the one that it replaces. One from the future is due to a clock that
                // was set back, and counts as well.
                match last.filter(|last| now < last.start.saturating_add(length)) {
                    Some(last) => Self { start: last.start, end: last.start.saturating_add(length) },
                    None => Self { start: now, end: now.saturating_add(length) },
                }
            }
            Anchor::Calendar(offset) => Self::of_calendar(now, period, i64::from(offset)),
        }
    }

    fn of_calendar(now: i64, period: Period, offset: i64) -> Self {
        let aligned = |length: i64, origin: i64| {
            let start = (now + offset - origin).div_euclid(length) * length + origin - offset;
            Self { start, end: start + length }
        };
        match period {
            Period::Day => aligned(DAY, 0),
            // 1970 began with a Thursday.
            Period::Week => aligned(7 * DAY, 4 * DAY),
            Period::Fixed(length) => aligned(i64::try_from(length.as_secs()).unwrap_or(MONTH).max(1), 0),
            Period::Month => Self::of_month(now, offset).unwrap_or_else(|| aligned(MONTH, 0)),
        }
    }

    /// Returns the month; `None` for times beyond all calendars.
    fn of_month(now: i64, offset: i64) -> Option<Self> {
        let here =
            OffsetDateTime::from_unix_timestamp(now.checked_add(offset)?).ok()?.to_offset(UtcOffset::UTC);
        let first = here.date().replace_day(1).ok()?;
        let next: Date = (first + Duration::days(31)).replace_day(1).ok()?;
        let seconds = |date: Date| date.midnight().assume_utc().unix_timestamp() - offset;
        Some(Self { start: seconds(first), end: seconds(next) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str, period: Period, offset: i32) -> (String, String) {
        use time::format_description::well_known::Rfc3339;
        let now = OffsetDateTime::parse(time, &Rfc3339).unwrap().unix_timestamp();
        let window = Window::at(now, period, Anchor::Calendar(offset), None);
        let text = |at| OffsetDateTime::from_unix_timestamp(at).unwrap().format(&Rfc3339).unwrap();
        (text(window.start), text(window.end))
    }

    #[test]
    fn periods_of_the_calendar_begin_at_midnight_of_their_timezone() {
        let fixed = Period::Fixed(std::time::Duration::from_secs(6 * 3600));
        for (time, period, offset, start, end) in [
            ("2026-11-30T13:00:00Z", Period::Day, 0, "2026-11-30T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("2026-11-30T23:00:00Z", Period::Day, 7200, "2026-11-30T22:00:00Z", "2026-12-01T22:00:00Z"),
            ("2026-11-29T13:00:00Z", Period::Week, 0, "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            ("2026-11-30T00:00:00Z", Period::Week, 0, "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"),
            ("2024-02-29T13:00:00Z", Period::Month, 0, "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"),
            ("2026-12-31T23:30:00Z", Period::Month, 3600, "2026-12-31T23:00:00Z", "2027-01-31T23:00:00Z"),
            ("2026-12-31T23:30:00Z", Period::Month, -3600, "2026-12-01T01:00:00Z", "2027-01-01T01:00:00Z"),
            ("2026-11-30T13:00:00Z", fixed, 0, "2026-11-30T12:00:00Z", "2026-11-30T18:00:00Z"),
        ] {
            assert_eq!(at(time, period, offset), (start.to_owned(), end.to_owned()), "{time} {period:?}");
        }
    }

    #[test]
    fn periods_from_the_first_use_begin_with_it() {
        let hour = Period::Fixed(std::time::Duration::from_secs(3600));
        let at = |now, last| Window::at(now, hour, Anchor::FirstUse, last);
        let first = at(1000, None);
        assert_eq!(first, Window { start: 1000, end: 4600 });
        assert_eq!(at(4599, Some(first)), first);
        assert_eq!(at(4600, Some(first)), Window { start: 4600, end: 8200 });
        assert_eq!(at(10, Some(first)), first, "the clock was set back");
        let month = Window::at(2000, Period::Month, Anchor::FirstUse, Some(first));
        assert_eq!(month.start, 1000, "another period keeps the start");
    }
}
