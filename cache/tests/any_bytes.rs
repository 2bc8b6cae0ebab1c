//! No bytes in header fields cause a panic, and none makes the rules break a promise.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use tidegate_cache::Timestamp;
use tidegate_cache::key::{Query, Target, Template};
use tidegate_cache::rules::{self, Freshened, Resource, Reuse, Rules, Times, range};

const RESPONSE: &[&str] = &[
    "age",
    "cache-control",
    "cache-tag",
    "cdn-cache-control",
    "connection",
    "content-length",
    "content-location",
    "content-range",
    "date",
    "etag",
    "expires",
    "last-modified",
    "location",
    "pragma",
    "set-cookie",
    "surrogate-key",
    "vary",
];
const REQUEST: &[&str] = &[
    "accept-encoding",
    "accept-language",
    "authorization",
    "cache-control",
    "cookie",
    "forwarded",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "pragma",
    "range",
    "upgrade",
    "x-forwarded-host",
];

/// Values that are nearly right, and any bytes.
fn value() -> impl Strategy<Value = HeaderValue> {
    let pieces = prop::sample::select(vec![
        "max-age",
        "s-maxage",
        "=",
        "60",
        "99999999999999999999",
        "-",
        ",",
        ";",
        " ",
        "\"",
        "\\",
        "no-cache",
        "private",
        "no-store",
        "public",
        "must-revalidate",
        "stale-while-revalidate",
        "immutable",
        "*",
        "W/",
        "\"a\"",
        "bytes=",
        "0-",
        "-5",
        "2-3",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "gzip",
        "q=0.5",
        "?0",
        "(",
        ")",
        ":",
        "//",
        "..",
        "a",
        "http://h/",
        "accept-encoding",
        "cookie",
        "%",
        "\t",
    ]);
    let text = prop::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat().into_bytes());
    let bytes = prop::collection::vec(prop_oneof![0x20u8..=0x7e, 0x80u8..=0xff, Just(b'\t')], 0..40);
    prop_oneof![3 => text, 1 => bytes].prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

fn headers(names: &'static [&'static str]) -> impl Strategy<Value = HeaderMap> {
    prop::collection::vec((prop::sample::select(names), value()), 0..8).prop_map(|lines| {
        lines.into_iter().fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(HeaderName::from_static(name), value);
            map
        })
    })
}

fn resource() -> Resource {
    Resource {
        scheme: "http".to_owned(),
        authority: "h".to_owned(),
        path: "/a/b".to_owned(),
        query: Some("c=d".to_owned()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_exchange_is_handled(
        first in headers(REQUEST),
        response in headers(RESPONSE),
        second in headers(REQUEST),
        update in headers(RESPONSE),
        status in 100u16..1000,
        seconds in (0u64..1 << 34, 0u64..1 << 34, 0u64..1 << 34),
    ) {
        let rules = Rules { stale_while_revalidate: Duration::from_secs(10), ..Rules::default() };
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let times = Times { requested: at(seconds.0), received: at(seconds.1) };
        let status = StatusCode::from_u16(status).unwrap();
        rules::invalidated(&resource(), &response);
        let mut stripped = response.clone();
        rules::remove_unstorable(&mut stripped);
        let lookup = rules::inspect(&rules, &Method::GET, &second, false);
        for query in [Query::All, Query::Only(vec!["c".to_owned()])] {
            let target = Target {
                scheme: "http", authority: "h", path: "/a", query: Some("c=d&e"), headers: &second, route: b"", identity: None,
            };
            let template = Template { query, cookies: vec!["a".to_owned()], ..Template::default() };
            prop_assert!(template.key(&target).unwrap().as_bytes().starts_with(b"http://h/a?c=d"));
        }
        let Ok(head) = rules::storable(&rules, &first, status, &response, times) else { return Ok(()) };
        // What no response may have when it is stored.
        prop_assert!(!head.headers.contains_key("set-cookie") && !head.headers.contains_key("connection"));
        prop_assert!(!head.headers.contains_key("age") && head.headers.contains_key("date"));
        prop_assert!(status != StatusCode::PARTIAL_CONTENT && status != StatusCode::NOT_MODIFIED);
        prop_assert!(head.variant.matches(&first), "it is for the request that it answered");
        let now = at(seconds.2);
        if let Ok(lookup) = lookup {
            let decision = rules::reuse(&head.policy, &lookup.directives, now);
            let stale = !head.policy.is_fresh(now) && !matches!(decision, Reuse::Validate(_));
            prop_assert!(!(stale && head.policy.never_stale), "stale though it is forbidden");
            rules::usable_on_error(&head.policy, &lookup.directives, now, true);
        }
        prop_assert!(head.response_headers(now).contains_key("age"));
        rules::is_not_modified(&head, &second);
        rules::not_modified_headers(&head, now);
        if let range::Selected::Part { first, last } = range::select(&head, &second, 10) {
            prop_assert!(first <= last && last < 10);
        }
        let mut request = second.clone();
        rules::validate(&mut request, &[&head, &head]);
        prop_assert!(!request.contains_key("range") && !request.contains_key("if-match"));
        rules::update_by_head(&rules, &first, &head, StatusCode::OK, &update, times);
        if rules::select(&[&head], &update).is_some()
            && let Freshened::Updated(new) = rules::freshen(&rules, &first, &head, &update, times)
        {
            prop_assert_eq!(new.headers.get("etag"), head.headers.get("etag"));
            prop_assert_eq!(new.headers.get("content-range"), head.headers.get("content-range"));
            prop_assert!(!new.headers.contains_key("set-cookie"));
        }
    }
}
