//! Compares the rules with `http-cache-semantics` on random exchanges, where that library is right. Where it is known
//! to be wrong, or where RFC 9111 leaves a choice, [`excluded`] says so.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use proptest::prelude::*;
use tidegate_cache::Timestamp;
use tidegate_cache::rules::{RequestDirectives, Reuse, Rules, Times, reuse, storable};

/// When responses are received: 2026-01-01.
const RECEIVED: u64 = 1_767_225_600;

#[derive(Clone, Debug)]
struct Case {
    status: u16,
    authorization: bool,
    flags: Vec<&'static str>,
    max_age: Option<u32>,
    s_maxage: Option<u32>,
    expires: Option<i64>,
    last_modified: Option<u32>,
    age: Option<u32>,
    vary: Option<&'static str>,
    values: (Option<&'static str>, Option<&'static str>),
    no_cache: bool,
    request_max_age: Option<u32>,
    min_fresh: Option<u32>,
    max_stale: Option<Option<u32>>,
    later: u32,
}

fn date(offset: i64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(RECEIVED.wrapping_add_signed(offset)))
}

impl Case {
    fn response_headers(&self) -> HeaderMap {
        let mut control: Vec<String> = self.flags.iter().map(|flag| (*flag).to_owned()).collect();
        control.extend(self.max_age.map(|seconds| format!("max-age={seconds}")));
        control.extend(self.s_maxage.map(|seconds| format!("s-maxage={seconds}")));
        let lines = [
            ("cache-control", (!control.is_empty()).then(|| control.join(", "))),
            ("expires", self.expires.map(date)),
            ("last-modified", self.last_modified.map(|ago| date(-i64::from(ago)))),
            ("age", self.age.map(|age| age.to_string())),
            ("vary", self.vary.map(str::to_owned)),
            ("etag", Some("\"a\"".to_owned())),
        ];
        map(lines)
    }

    fn first_request(&self) -> HeaderMap {
        map([
            ("authorization", self.authorization.then(|| "Basic x".to_owned())),
            ("foo", self.values.0.map(str::to_owned)),
        ])
    }

    fn second_request(&self) -> HeaderMap {
        let mut control: Vec<String> = self.no_cache.then(|| "no-cache".to_owned()).into_iter().collect();
        control.extend(self.request_max_age.map(|seconds| format!("max-age={seconds}")));
        control.extend(self.min_fresh.map(|seconds| format!("min-fresh={seconds}")));
        control.extend(
            self.max_stale
                .map(|limit| limit.map_or("max-stale".to_owned(), |seconds| format!("max-stale={seconds}"))),
        );
        map([
            ("cache-control", (!control.is_empty()).then(|| control.join(", "))),
            ("foo", self.values.1.map(str::to_owned)),
        ])
    }

    fn ours(&self) -> bool {
        let received = Timestamp::from_millis(RECEIVED * 1000);
        let times = Times { requested: received, received };
        let status = self.status.try_into().unwrap();
        let head =
            storable(&Rules::default(), &self.first_request(), status, &self.response_headers(), times);
        let Ok(head) = head else { return false };
        let request = self.second_request();
        let now = received.plus(Duration::from_secs(self.later.into()));
        let decision = reuse(&head.policy, &RequestDirectives::from_headers(&request), now);
        head.variant.matches(&request) && !matches!(decision, Reuse::Validate(_))
    }

    fn theirs(&self) -> bool {
        let request = |headers: HeaderMap| {
            let mut request = Request::get("http://a.example/").body(()).unwrap();
            *request.headers_mut() = headers;
            request
        };
        let mut response = Response::builder().status(self.status).body(()).unwrap();
        *response.headers_mut() = self.response_headers();
        let received: SystemTime = UNIX_EPOCH + Duration::from_secs(RECEIVED);
        let options = CacheOptions::default();
        let policy = CachePolicy::new_options(&request(self.first_request()), &response, received, options);
        let now = received + Duration::from_secs(self.later.into());
        let decision = policy.before_request(&request(self.second_request()), now);
        policy.is_storable() && matches!(decision, BeforeRequest::Fresh(_))
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

fn map<const N: usize>(lines: [(&'static str, Option<String>); N]) -> HeaderMap {
    let present = lines.into_iter().filter_map(|(name, value)| Some((name, value?)));
    present
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap()))
        .collect()
}

/// Why the answers may differ, or `None` if they must be equal.
fn excluded(case: &Case) -> Option<&'static str> {
    let reasons = [
        // #22: RFC 9111 §4.2.4 forbids stale responses here, whatever the client asks for.
        (
            case.max_stale.is_some()
                && (case.has("no-cache") || case.has("proxy-revalidate") || case.s_maxage.is_some()),
            "#22: max-stale overrides no-cache, proxy-revalidate and s-maxage",
        ),
        (case.has("proxy-revalidate"), "#23: proxy-revalidate makes fresh responses stale"),
        // RFC 8246 gives no lifetime.
        (case.has("immutable"), "immutable: a day of lifetime without max-age, and reloads are not spared"),
        (
            case.max_stale.is_some() && case.min_fresh.is_some(),
            "max-stale and min-fresh contradict each other: RFC 9111 does not say which counts",
        ),
        (case.age == Some(u32::MAX), "seconds above 2³¹ are 2³¹ (§1.2.2), for ages as well"),
        (case.request_max_age == Some(0), "max-age=0 at age 0: we validate, since it is a reload"),
        // RFC 9111 §5.2.1.2: by no more than the specified number.
        (
            case.max_stale.flatten().is_some(),
            "max-stale: less than the limit, where §5.2.1.2 says no more than",
        ),
    ];
    reasons.into_iter().find(|(applies, _)| *applies).map(|(_, reason)| reason)
}

fn cases() -> impl Strategy<Value = Case> {
    let flags = prop::sample::subsequence(
        vec![
            "no-store",
            "no-cache",
            "private",
            "public",
            "must-revalidate",
            "proxy-revalidate",
            "no-transform",
            "immutable",
            "x-extension=\"1\"",
        ],
        0..3,
    );
    let seconds =
        || prop_oneof![Just(0u32), Just(1), Just(59), Just(60), Just(61), 0u32..10_000, Just(u32::MAX)];
    let value = || prop::option::of(prop_oneof![Just("1"), Just("2")]);
    let response = (
        prop::sample::select(vec![200u16, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501]),
        prop::bool::weighted(0.2),
        flags,
        prop::option::of(seconds()),
        prop::option::weighted(0.2, seconds()),
        prop::option::weighted(0.3, -5000i64..5000),
        prop::option::weighted(0.5, 0u32..800_000),
        prop::option::weighted(0.3, seconds()),
        prop::option::weighted(0.3, prop::sample::select(vec!["foo", "Foo, bar", "*", "foo, *"])),
    );
    let request = (
        (value(), value()),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.2, seconds()),
        prop::option::weighted(0.2, 1u32..200),
        prop::option::weighted(0.2, prop::option::of(seconds())),
        seconds().prop_map(|seconds| seconds.min(1 << 20)),
    );
    (response, request).prop_map(
        |(
            (status, authorization, flags, max_age, s_maxage, expires, last_modified, age, vary),
            (values, no_cache, request_max_age, min_fresh, max_stale, later),
        )| Case {
            status,
            authorization,
            flags,
            max_age,
            s_maxage,
            expires,
            last_modified,
            age,
            vary,
            values,
            no_cache,
            request_max_age,
            min_fresh,
            max_stale,
            later,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, max_global_rejects: 1_000_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn decisions_are_equal_where_the_library_is_right(case in cases()) {
        prop_assume!(excluded(&case).is_none());
        prop_assert_eq!(case.ours(), case.theirs());
    }
}

const PLAIN: Case = Case {
    status: 200,
    authorization: false,
    flags: Vec::new(),
    max_age: Some(100),
    s_maxage: None,
    expires: None,
    last_modified: None,
    age: None,
    vary: None,
    values: (None, None),
    no_cache: false,
    request_max_age: None,
    min_fresh: None,
    max_stale: None,
    later: 10,
};

/// If the library corrects one of its errors, this fails, and the exclusion can go.
#[test]
fn the_known_errors_are_still_there() {
    let late = Case { later: 150, max_stale: Some(None), ..PLAIN };
    for case in
        [Case { flags: vec!["no-cache"], ..late.clone() }, Case { s_maxage: Some(100), ..late.clone() }]
    {
        assert!(!case.ours() && case.theirs(), "#22: {case:?}");
    }
    let case = Case { flags: vec!["proxy-revalidate"], ..PLAIN };
    assert!(case.ours() && !case.theirs(), "#23");
    let case = Case { flags: vec!["immutable"], max_age: None, last_modified: None, ..PLAIN };
    assert!(!case.ours() && case.theirs(), "immutable has no lifetime");
    let case = Case { later: 150, max_stale: Some(Some(50)), ..PLAIN };
    assert!(case.ours() && !case.theirs(), "max-stale=50 includes 50");
}
