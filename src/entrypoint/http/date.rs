//! The `Date` of responses, formatted once per second on each worker.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

/// Length of a date, such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
const LENGTH: usize = 29;

thread_local! {
    /// The last date, and its second since the epoch.
    static LAST: Cell<(u64, [u8; LENGTH])> = const { Cell::new((u64::MAX, [0; LENGTH])) };
}

/// Returns the current date; `None` if the clock is set to a time that has no such form.
pub(in crate::entrypoint) fn now() -> Option<[u8; LENGTH]> {
    at(SystemTime::now())
}

fn at(time: SystemTime) -> Option<[u8; LENGTH]> {
    let second = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (last, text) = LAST.get();
    if last == second {
        return Some(text);
    }
    let text = <[u8; LENGTH]>::try_from(httpdate::fmt_http_date(time).as_bytes()).ok()?;
    LAST.set((second, text));
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_change_with_the_second() {
        for (seconds, text) in [
            (784_111_777.0, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777.9, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778.0, "Sun, 06 Nov 1994 08:49:38 GMT"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs_f64(seconds);
            assert_eq!(
                at(time).map(|text| String::from_utf8_lossy(&text).into_owned()),
                Some(text.to_owned())
            );
        }
    }
}
