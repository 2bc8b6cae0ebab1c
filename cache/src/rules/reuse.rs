//! Whether a stored response answers a request (RFC 9111 §4).

use http::StatusCode;

use super::directives::RequestDirectives;
use super::freshness::Policy;
use crate::time::Timestamp;

/// What to do with a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Send it: it is fresh.
    Fresh,
    /// Send it though it is stale.
    Stale {
        /// Validate it meanwhile: `stale-while-revalidate` (RFC 5861 §3). Otherwise the client has asked for a stale
        /// response (`max-stale`).
        revalidate: bool,
    },
    /// Ask the server first.
    Validate(Why),
}

/// Why a stored response must be validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is stale.
    Stale,
    /// It has `no-cache`.
    NoCache,
    /// The request has `no-cache`, a `max-age` below its age, or a `min-fresh` above its remaining lifetime.
    Request,
}

/// Decides about a stored response at `now` (RFC 9111 §4.2.4, §5.2.1).
pub fn reuse(policy: &Policy, request: &RequestDirectives, now: Timestamp) -> Reuse {
    if policy.always_validate {
        return Reuse::Validate(Why::NoCache);
    }
    if request.no_cache {
        return Reuse::Validate(Why::Request);
    }
    let (age, left) = (policy.age(now), policy.time_to_live(now));
    let fresh = left > 0;
    // RFC 8246 §2.1: a reload, which asks by `max-age=0`, does not change what is immutable. `no-cache` asks for more.
    let too_old = request.max_age.is_some_and(|limit| age > limit)
        && !(fresh && policy.immutable && request.max_age == Some(0));
    let zero = request.max_age == Some(0) && !(fresh && policy.immutable);
    let too_short = request.min_fresh.is_some_and(|wanted| left < i64::from(wanted));
    let lenient = |staleness: i64| request.max_stale.is_some_and(|limit| staleness <= i64::from(limit));
    if fresh {
        return if too_old || zero || too_short { Reuse::Validate(Why::Request) } else { Reuse::Fresh };
    }
    let staleness = -left;
    if policy.never_stale {
        return Reuse::Validate(Why::Stale);
    }
    if !too_old && request.min_fresh.is_none() && lenient(staleness) {
        return Reuse::Stale { revalidate: false };
    }
    // A client with a limit has not agreed to stale responses (§5.2.1.1).
    let has_limit = request.max_age.is_some() || request.min_fresh.is_some() || request.max_stale.is_some();
    if !has_limit && policy.while_revalidate > 0 && staleness <= i64::from(policy.while_revalidate) {
        return Reuse::Stale { revalidate: true };
    }
    Reuse::Validate(Why::Stale)
}

/// Whether a stored response replaces an error of the server, or its absence: `stale-if-error` of the response, of
/// the request, or of the rules (RFC 5861 §4). `without_limit`: the cache is disconnected from the server, since no
/// server of the service can be reached (RFC 9111 §4.2.4).
pub fn usable_on_error(
    policy: &Policy,
    request: &RequestDirectives,
    now: Timestamp,
    without_limit: bool,
) -> bool {
    if policy.always_validate || request.no_cache {
        return false;
    }
    let left = policy.time_to_live(now);
    if left > 0 {
        return true;
    }
    let grace = policy.if_error.max(request.stale_if_error.unwrap_or(0));
    !policy.never_stale && (without_limit || (grace > 0 && -left <= i64::from(grace)))
}

/// Whether a status is an error that `stale-if-error` covers (RFC 5861 §4).
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Policy = Policy {
        received: Timestamp::from_millis(0),
        initial_age: 0,
        lifetime: 100,
        while_revalidate: 0,
        if_error: 0,
        always_validate: false,
        never_stale: false,
        immutable: false,
    };
    const NO_WISHES: RequestDirectives = RequestDirectives {
        no_cache: false,
        no_store: false,
        only_if_cached: false,
        max_age: None,
        min_fresh: None,
        max_stale: None,
        stale_if_error: None,
    };

    fn at(policy: Policy, request: RequestDirectives, seconds: u64) -> Reuse {
        reuse(&policy, &request, Timestamp::from_millis(seconds * 1000))
    }

    #[test]
    fn it_is_fresh_until_its_age_reaches_its_lifetime() {
        assert_eq!(at(STORED, NO_WISHES, 99), Reuse::Fresh);
        assert_eq!(at(STORED, NO_WISHES, 100), Reuse::Validate(Why::Stale));
        let always = Policy { always_validate: true, ..STORED };
        assert_eq!(
            at(always, RequestDirectives { max_stale: Some(9), ..NO_WISHES }, 1),
            Reuse::Validate(Why::NoCache)
        );
    }

    #[test]
    fn requests_have_limits() {
        let request = Reuse::Validate(Why::Request);
        assert_eq!(at(STORED, RequestDirectives { no_cache: true, ..NO_WISHES }, 1), request);
        let max_age = |limit| RequestDirectives { max_age: Some(limit), ..NO_WISHES };
        assert_eq!(at(STORED, max_age(10), 10), Reuse::Fresh);
        assert_eq!(at(STORED, max_age(10), 11), request);
        assert_eq!(at(STORED, max_age(0), 0), request);
        let min_fresh = |wanted| RequestDirectives { min_fresh: Some(wanted), ..NO_WISHES };
        assert_eq!(at(STORED, min_fresh(50), 50), Reuse::Fresh);
        assert_eq!(at(STORED, min_fresh(50), 51), request);
    }

    #[test]
    fn max_stale_allows_unless_the_response_forbids() {
        let max_stale = |limit| RequestDirectives { max_stale: Some(limit), ..NO_WISHES };
        let stale = Reuse::Stale { revalidate: false };
        assert_eq!(at(STORED, max_stale(10), 110), stale);
        assert_eq!(at(STORED, max_stale(10), 111), Reuse::Validate(Why::Stale));
        assert_eq!(at(STORED, max_stale(u32::MAX), 1_000_000), stale);
        let strict = Policy { never_stale: true, while_revalidate: 1000, ..STORED };
        assert_eq!(at(strict, max_stale(10), 105), Reuse::Validate(Why::Stale));
        let both = RequestDirectives { max_age: Some(50), max_stale: Some(100), ..NO_WISHES };
        assert_eq!(at(STORED, both, 105), Reuse::Validate(Why::Stale), "older than max-age");
    }

    #[test]
    fn stale_while_revalidate_ends_and_yields_to_the_client() {
        let stored = Policy { while_revalidate: 20, ..STORED };
        assert_eq!(at(stored, NO_WISHES, 120), Reuse::Stale { revalidate: true });
        assert_eq!(at(stored, NO_WISHES, 121), Reuse::Validate(Why::Stale));
        for request in [
            RequestDirectives { max_age: Some(1000), ..NO_WISHES },
            RequestDirectives { min_fresh: Some(1), ..NO_WISHES },
            RequestDirectives { max_stale: Some(5), ..NO_WISHES },
        ] {
            assert_eq!(at(stored, request, 110), Reuse::Validate(Why::Stale), "{request:?}");
        }
    }

    #[test]
    fn immutable_ends_reloads_but_not_no_cache() {
        let stored = Policy { immutable: true, ..STORED };
        let reload = RequestDirectives { max_age: Some(0), ..NO_WISHES };
        assert_eq!(at(stored, reload, 50), Reuse::Fresh);
        assert_eq!(at(stored, reload, 100), Reuse::Validate(Why::Stale));
        assert_eq!(
            at(stored, RequestDirectives { max_age: Some(10), ..NO_WISHES }, 50),
            Reuse::Validate(Why::Request)
        );
        assert_eq!(
            at(stored, RequestDirectives { no_cache: true, ..NO_WISHES }, 50),
            Reuse::Validate(Why::Request)
        );
    }

    #[test]
    fn errors_are_covered_for_a_while() {
        let usable = |policy: Policy, request: RequestDirectives, seconds: u64, disconnected| {
            usable_on_error(&policy, &request, Timestamp::from_millis(seconds * 1000), disconnected)
        };
        assert!(!usable(STORED, NO_WISHES, 101, false));
        assert!(usable(STORED, NO_WISHES, 101, true));
        let graced = Policy { if_error: 10, ..STORED };
        assert!(usable(graced, NO_WISHES, 110, false));
        assert!(!usable(graced, NO_WISHES, 111, false));
        assert!(usable(STORED, RequestDirectives { stale_if_error: Some(5), ..NO_WISHES }, 105, false));
        let strict = Policy { never_stale: true, ..graced };
        assert!(!usable(strict, NO_WISHES, 105, true));
        assert!(!usable(graced, RequestDirectives { no_cache: true, ..NO_WISHES }, 105, true));
        assert!(is_error(StatusCode::BAD_GATEWAY) && !is_error(StatusCode::NOT_IMPLEMENTED));
    }
}
