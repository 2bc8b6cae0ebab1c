//! How long a response is fresh, how old it is, and what may happen when it is stale (RFC 9111 §4.2).

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED, PRAGMA};
use http::{HeaderMap, HeaderName, StatusCode};

use super::directives::{ResponseDirectives, Scope};
use super::settings::Rules;
use crate::time::{MAX_SECONDS, Timestamp, seconds};

/// When a request was sent, and when the head of its response arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// `request_time` of RFC 9111 §4.2.3.
    pub requested: Timestamp,
    /// `response_time` of RFC 9111 §4.2.3.
    pub received: Timestamp,
}

/// What decides about a stored response, computed once when it is stored or updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// When the response, or the last 304 for it, was received.
    pub received: Timestamp,
    /// Its age then in seconds: `corrected_initial_age` (§4.2.3).
    pub initial_age: u32,
    /// How long it is fresh in seconds (§4.2.1), counted like its age.
    pub lifetime: u32,
    /// `stale-while-revalidate` in seconds (RFC 5861 §3).
    pub while_revalidate: u32,
    /// `stale-if-error` in seconds (RFC 5861 §4).
    pub if_error: u32,
    /// It is never used without a validation: `no-cache` (§5.2.2.4).
    pub always_validate: bool,
    /// It is never used stale: `must-revalidate`, `proxy-revalidate`, `s-maxage` or `no-cache` (§4.2.4).
    pub never_stale: bool,
    /// It does not change while it is fresh: `immutable` (RFC 8246).
    pub immutable: bool,
}

impl Policy {
    /// Computes the policy of a response.
    pub fn new(
        rules: &Rules,
        status: StatusCode,
        headers: &HeaderMap,
        directives: &ResponseDirectives,
        targeted: bool,
        times: Times,
    ) -> Self {
        let always_validate = directives.no_cache == Some(Scope::Whole);
        let forbidden = always_validate || directives.must_revalidate || directives.proxy_revalidate;
        let by_s_maxage = directives.s_maxage.is_some();
        let explicit_stale =
            directives.stale_while_revalidate.is_some() || directives.stale_if_error.is_some();
        let allowed_after_s_maxage = rules.stale_after_s_maxage && explicit_stale;
        let grace = |of_response: Option<u32>, otherwise: std::time::Duration| {
            of_response.unwrap_or_else(|| seconds(otherwise.as_secs()))
        };
        let initial_age = initial_age(headers, times);
        let lifetime = rules
            .lifetime_of(status.as_u16())
            .unwrap_or_else(|| lifetime(rules, status, headers, directives, targeted, times.received));
        let longest = rules.max_lifetime.map(|limit| initial_age.saturating_add(seconds(limit.as_secs())));
        Self {
            received: times.received,
            initial_age,
            lifetime: longest.map_or(lifetime, |longest| lifetime.min(longest)),
            while_revalidate: grace(directives.stale_while_revalidate, rules.stale_while_revalidate),
            if_error: grace(directives.stale_if_error, rules.stale_if_error),
            always_validate,
            never_stale: forbidden || (by_s_maxage && !allowed_after_s_maxage),
            immutable: directives.immutable,
        }
    }

    /// The age at `now` in seconds: `current_age` (§4.2.3).
    pub fn age(&self, now: Timestamp) -> u32 {
        self.initial_age.saturating_add(now.seconds_since(self.received)).min(MAX_SECONDS)
    }

    /// How much longer it is fresh in seconds; negative if it is stale. It is fresh while this is above zero.
    pub fn time_to_live(&self, now: Timestamp) -> i64 {
        i64::from(self.lifetime) - i64::from(self.age(now))
    }

    /// Whether it is fresh at `now`: its lifetime exceeds its age (§4.2).
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        self.time_to_live(now) > 0
    }

    /// Whether anything may ever use it without a validation: if not, and if it has no validator, storing it is
    /// pointless.
    pub fn is_reusable(&self) -> bool {
        let stale = if self.never_stale { 0 } else { self.while_revalidate.max(self.if_error) };
        !self.always_validate && (self.lifetime > self.initial_age || stale > 0)
    }
}

/// Whether a status has a heuristic lifetime without `public` (RFC 9110 §15.1).
pub fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// The only value of a field. `Err` if there are several lines.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a http::HeaderValue>, &'a http::HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value)),
        (Some(value), Some(_)) => Err(value),
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    single(headers, name).ok().flatten().and_then(Timestamp::from_http_date)
}

/// freshness_lifetime (§4.2.1) in seconds: `s-maxage`, `max-age`, `Expires`, or a heuristic.
fn lifetime(
    rules: &Rules,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    targeted: bool,
    received: Timestamp,
) -> u32 {
    if let Some(lifetime) = directives.s_maxage.or(directives.max_age) {
        return lifetime;
    }
    let date = date(headers, &DATE).unwrap_or(received);
    if !targeted && headers.contains_key(EXPIRES) {
        // Several, and what is not a date, mean that it is stale (§5.3).
        let expires = single(headers, &EXPIRES).ok().flatten().and_then(Timestamp::from_http_date);
        return expires.map_or(0, |expires| expires.seconds_since(date));
    }
    heuristic(rules, status, headers, directives, date)
}

/// §4.2.2. `Pragma: no-cache` in a response has no meaning (§5.4), but whoever sends it does not want a guess.
fn heuristic(
    rules: &Rules,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    date: Timestamp,
) -> u32 {
    let allowed = is_heuristically_cacheable(status) || directives.public;
    let pragma = !directives.present
        && headers.get_all(PRAGMA).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
    if !allowed || pragma {
        return 0;
    }
    let modified = self::date(headers, &LAST_MODIFIED);
    let since = modified.map_or(0, |modified| date.seconds_since(modified));
    let share = u64::from(since) * u64::from(rules.heuristic_percent) / 100;
    seconds(share.min(rules.heuristic_limit.as_secs()))
}

/// corrected_initial_age (§4.2.3) in seconds. Of several values of `Age` the first counts, and what is not a number is
/// ignored (§5.1): caches that are broken in this way are common, and their `Date` limits the age as well.
fn initial_age(headers: &HeaderMap, times: Times) -> u32 {
    let age_value = headers.get(AGE).map_or(0, |value| {
        let first = value.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        let digits = first.iter().all(u8::is_ascii_digit);
        let number = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        if digits { seconds(first.iter().fold(0, number)) } else { 0 }
    });
    let apparent = date(headers, &DATE).map_or(0, |date| times.received.seconds_since(date));
    let delay = times.received.seconds_since(times.requested);
    apparent.max(age_value.saturating_add(delay)).min(MAX_SECONDS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    /// 2026-01-01 00:00:00.
    const NOW: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    fn at(offset: i64) -> Timestamp {
        Timestamp::from_millis(NOW.as_millis().wrapping_add_signed(offset * 1000))
    }

    fn http_date(offset: i64) -> String {
        at(offset).to_http_date().to_str().unwrap().to_owned()
    }

    fn policy_of(rules: &Rules, status: u16, lines: &[(&str, &str)], times: Times) -> Policy {
        let line = |(name, value): &(&str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        };
        let headers: HeaderMap = lines.iter().map(line).collect();
        let directives = ResponseDirectives::from_headers(&headers);
        Policy::new(rules, StatusCode::from_u16(status).unwrap(), &headers, &directives, false, times)
    }

    fn policy(status: u16, lines: &[(&str, &str)]) -> Policy {
        policy_of(&Rules::default(), status, lines, Times { requested: NOW, received: NOW })
    }

    #[test]
    fn the_lifetime_has_an_order() {
        let (past, future) = (http_date(-1000), http_date(1000));
        for (lines, expected) in [
            (vec![("cache-control", "max-age=5, s-maxage=10")], 10),
            (vec![("cache-control", "s-maxage=10"), ("cache-control", "max-age=5")], 10),
            (vec![("cache-control", "max-age=5"), ("expires", &past)], 5),
            (vec![("cache-control", "max-age=0"), ("expires", &future)], 0),
            (vec![("expires", &future)], 1000),
            (vec![("expires", &past)], 0),
            (vec![("expires", "0")], 0),
            (vec![("expires", &future), ("expires", &future)], 0),
            (vec![("expires", &future), ("date", "x")], 1000),
            (vec![("expires", &future), ("date", &past)], 2000),
            (vec![("cache-control", "public")], 0),
        ] {
            assert_eq!(policy(200, &lines).lifetime, expected, "{lines:?}");
        }
    }

    #[test]
    fn heuristics_need_a_status_and_a_date_and_have_a_limit() {
        let (hour, long) = (http_date(-3600), http_date(-100_000_000));
        for status in [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(policy(status, &[("last-modified", &hour)]).lifetime, 360, "{status}");
        }
        for status in [201, 202, 302, 403, 500, 502, 503, 504, 599] {
            assert_eq!(policy(status, &[("last-modified", &hour)]).lifetime, 0, "{status}");
        }
        assert_eq!(policy(599, &[("last-modified", &hour), ("cache-control", "public")]).lifetime, 360);
        assert_eq!(policy(200, &[("last-modified", &long)]).lifetime, 86_400);
        assert_eq!(policy(200, &[("last-modified", &hour), ("pragma", "No-Cache")]).lifetime, 0);
        assert_eq!(policy(200, &[]).lifetime, 0);
    }

    #[test]
    fn lifetimes_have_a_limit() {
        let rules = Rules { max_lifetime: Some(Duration::from_secs(60)), ..Rules::default() };
        let ttl = |lines: &[(&str, &str)]| {
            policy_of(&rules, 200, lines, Times { requested: NOW, received: NOW }).time_to_live(NOW)
        };
        assert_eq!(ttl(&[("cache-control", "max-age=600")]), 60);
        assert_eq!(ttl(&[("cache-control", "max-age=600"), ("age", "580")]), 20);
        assert_eq!(ttl(&[("cache-control", "max-age=600"), ("age", "400")]), 60);
        assert_eq!(ttl(&[("cache-control", "max-age=5")]), 5);
    }

    #[test]
    fn the_age_is_the_largest_of_what_is_known() {
        let (slow, fast) = (http_date(-100), http_date(100));
        let age = |lines: &[(&str, &str)]| policy(200, lines).age(at(7));
        assert_eq!(age(&[]), 7);
        assert_eq!(age(&[("date", &slow)]), 107);
        assert_eq!(age(&[("date", &fast)]), 7);
        assert_eq!(age(&[("age", "50"), ("date", &slow)]), 107);
        assert_eq!(age(&[("age", "500"), ("date", &slow)]), 507);
        let times = Times { requested: at(-4), received: NOW };
        assert_eq!(policy_of(&Rules::default(), 200, &[("age", "50")], times).age(at(7)), 61);
        for invalid in ["abc", "-7200", "7200.0", "7200;foo=bar", "", ",7200"] {
            assert_eq!(age(&[("age", invalid)]), 7, "{invalid}");
        }
        assert_eq!(age(&[("age", "99999999999999999999")]), MAX_SECONDS);
        for (text, expected) in [("50, 0", 57), ("0,7200", 7), (" 50 ", 57)] {
            assert_eq!(age(&[("age", text)]), expected, "{text}");
        }
        assert_eq!(age(&[("age", "50"), ("age", "0")]), 57, "the first line counts");
    }

    #[test]
    fn overrides_replace_lifetimes_and_nothing_else() {
        let rules = Rules {
            lifetimes: vec![(404..=404, Duration::from_secs(9)), (200..=299, Duration::ZERO)],
            ..Rules::default()
        };
        let times = Times { requested: NOW, received: NOW };
        let policy = |status, lines: &[(&str, &str)]| policy_of(&rules, status, lines, times);
        assert_eq!(policy(404, &[("cache-control", "max-age=5")]).lifetime, 9);
        assert_eq!(policy(204, &[("cache-control", "max-age=5")]).lifetime, 0);
        assert_eq!(policy(500, &[("cache-control", "max-age=5")]).lifetime, 5);
        assert!(policy(404, &[("cache-control", "no-cache")]).always_validate);
    }

    #[test]
    fn what_forbids_stale_answers() {
        for text in
            ["must-revalidate", "proxy-revalidate", "s-maxage=5", "no-cache", "s-maxage=5, stale-if-error=9"]
        {
            assert!(policy(200, &[("cache-control", text)]).never_stale, "{text}");
        }
        for text in ["max-age=5", "no-cache=\"a\"", "stale-while-revalidate=5"] {
            assert!(!policy(200, &[("cache-control", text)]).never_stale, "{text}");
        }
        let rules = Rules { stale_after_s_maxage: true, ..Rules::default() };
        let times = Times { requested: NOW, received: NOW };
        let never = |text| policy_of(&rules, 200, &[("cache-control", text)], times).never_stale;
        assert!(!never("s-maxage=5, stale-while-revalidate=5"));
        assert!(never("s-maxage=5"));
        assert!(never("s-maxage=5, stale-while-revalidate=5, must-revalidate"));
    }
}
