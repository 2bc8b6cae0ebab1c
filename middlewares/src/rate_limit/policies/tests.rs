//! Tests of policies through the middleware.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use tidegate_core::{
    AuthMethod, Body, Connection, Consumer, Context, Identity, ManualClock, Middleware, Reason, Request,
    Response, Verdict,
};

use super::super::RateLimit;
use super::super::shard::MAX_SOURCES;
use crate::testing::{self, Service, World, build_in, get, text, with_body};

/// Reads options as from a configuration.
fn options(json: &str) -> RateLimit {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

fn built(json: &str) -> (Arc<dyn Middleware>, World, Arc<ManualClock>) {
    let (world, clock) = World::stopped();
    let middleware = build_in(&world, options(json)).unwrap();
    (middleware, world, clock)
}

fn ask(middleware: &Arc<dyn Middleware>, request: Request) -> Response {
    testing::block_on(testing::run(middleware, request, &Service(|_| Response::new(Body::full("hello")))))
}

fn statuses(middleware: &Arc<dyn Middleware>, requests: Vec<Request>) -> Vec<u16> {
    requests.into_iter().map(|request| ask(middleware, request).status().as_u16()).collect()
}

fn post() -> Request {
    with_body(http::Request::post("http://h.test/"), "")
}

/// A request of a client with this address and consumer.
fn from(address: &str, consumer: Option<&str>) -> Request {
    let address: std::net::IpAddr = address.parse().unwrap();
    let mut context = Context::new(Arc::new(Connection::plain((address, 4000).into())));
    context.identity = consumer.map(|name| {
        let consumer = Consumer { name: format!("{name}@file").into(), ..Consumer::default() };
        let identity = Identity::new(name, AuthMethod::ApiKey, "k@file".into());
        Arc::new(identity.of_consumer(Some(Arc::new(consumer))))
    });
    Request::new(http::Request::new(()).into_parts().0, Body::empty(), context)
}

const TWO: &str = r#"{"headers": "both", "policies": [
    {"name": "burst", "average": 1, "period": "10s", "burst": 2},
    {"name": "posts", "average": 1, "period": "1h", "burst": 3, "cost": "Method(`POST`) ? 2 : 0"}]}"#;

#[test]
fn a_refused_request_takes_nothing_from_the_other_policies() {
    let (middleware, _, clock) = built(TWO);
    // Two tokens of `burst`, and two of three of `posts`.
    assert_eq!(statuses(&middleware, vec![post(), get("http://h.test/")]), [200, 200]);
    // Both are over for these: `posts` keeps its last token.
    assert_eq!(statuses(&middleware, vec![post(), post()]), [429, 429]);
    clock.advance(StdDuration::from_secs(20));
    // `posts` is over for two tokens: `burst` keeps both.
    assert_eq!(statuses(&middleware, vec![post(), post()]), [429, 429]);
    assert_eq!(statuses(&middleware, vec![get("http://h.test/"), get("http://h.test/")]), [200, 200]);
    let counted = middleware.limit().unwrap().policies();
    let counts: Vec<_> = counted.iter().map(|one| (&*one.name, one.admitted, one.refused)).collect();
    assert_eq!(counts, [("burst", 4, 2), ("posts", 4, 4)]);
    assert!(middleware.predict(post()).notes[1].contains("1 of 3 tokens"));
    assert_eq!((counted[0].offenders[0].key.as_str(), counted[0].offenders[0].refused), ("127.0.0.1", 2));
}

#[test]
fn clients_are_told_about_their_limits() {
    let (middleware, ..) = built(TWO);
    let first = ask(&middleware, get("http://h.test/"));
    let field = |response: &Response, name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(field(&first, "ratelimit-policy"), r#""burst";q=2;w=20, "posts";q=3;w=10800"#);
    assert_eq!(field(&first, "ratelimit"), r#""burst";r=1;t=10, "posts";r=3;t=0"#);
    assert_eq!(field(&first, "x-ratelimit-limit"), "2");
    assert_eq!(field(&first, "x-ratelimit-remaining"), "1");
    assert_eq!(field(&first, "x-ratelimit-reset"), "10");
    ask(&middleware, get("http://h.test/"));
    let refused = ask(&middleware, get("http://h.test/"));
    assert_eq!(refused.status(), 429);
    assert_eq!(field(&refused, "ratelimit"), r#""burst";r=0;t=10, "posts";r=3;t=0"#);
    assert_eq!(field(&refused, "retry-after"), "10");
    assert_eq!(text(refused), "Too Many Requests");
    for (form, is_ietf, is_legacy) in [("ietf", true, false), ("legacy", false, true), ("none", false, false)]
    {
        let (middleware, ..) = built(&TWO.replace("both", form));
        let response = ask(&middleware, get("http://h.test/"));
        assert_eq!(response.headers().contains_key("ratelimit"), is_ietf, "{form}");
        assert_eq!(response.headers().contains_key("x-ratelimit-limit"), is_legacy, "{form}");
    }
}

#[test]
fn a_refusal_can_be_a_problem() {
    let json = r#"{"problem": true, "policies": [{"name": "one", "average": 1, "period": "1h"},
        {"name": "quiet", "average": 1, "period": "1h", "mode": "shadow"}]}"#;
    let (middleware, ..) = built(json);
    ask(&middleware, get("http://h.test/"));
    let refused = ask(&middleware, get("http://h.test/"));
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    assert_eq!(refused.headers()["ratelimit"], r#""one";r=0;t=3600"#, "shadow policies are not shown");
    let problem: serde_json::Value = serde_json::from_str(&text(refused)).unwrap();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(
        (&problem["status"], &problem["violated-policies"]),
        (&429.into(), &serde_json::json!(["one"]))
    );
}

#[test]
fn a_shadow_policy_counts_and_refuses_nothing() {
    let json = r#"{"policies": [{"name": "trial", "average": 1, "period": "1h", "mode": "shadow"}]}"#;
    let (middleware, ..) = built(json);
    let requests = (0..4).map(|_| get("http://h.test/")).collect();
    assert_eq!(statuses(&middleware, requests), [200; 4]);
    let counted = &middleware.limit().unwrap().policies()[0];
    assert_eq!((counted.admitted, counted.shadowed, counted.refused), (1, 3, 0));
    assert_eq!(counted.offenders[0].refused, 3);
}

#[test]
fn requests_wait_in_a_bounded_queue() {
    let json =
        r#"{"policies": [{"name": "slow", "average": 20, "burst": 1, "onLimit": "queue", "maxQueue": 2}]}"#;
    let (middleware, ..) = built(json);
    testing::block_on(async {
        let service = Service(|_| Response::new(Body::empty()));
        let ask = || Box::pin(testing::run(&middleware, get("http://h.test/"), &service));
        let begun = std::time::Instant::now();
        assert_eq!(ask().await.status(), 200);
        let (mut one, mut two) = (ask(), ask());
        assert!(futures_util::poll!(&mut one).is_pending());
        assert!(futures_util::poll!(&mut two).is_pending());
        let waiting = || middleware.limit().unwrap().policies()[0].waiting;
        assert_eq!(waiting(), 2);
        assert_eq!(ask().await.status(), 429, "the queue is full");
        assert_eq!((one.await.status(), two.await.status()), (http::StatusCode::OK, http::StatusCode::OK));
        let waited = begun.elapsed();
        assert!(waited >= StdDuration::from_millis(100), "{waited:?}");
        assert_eq!(waiting(), 0);
        let mut gone = ask();
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        assert_eq!(waiting(), 0, "a cancelled request does not wait");
    });
}

#[test]
fn a_tarpit_delays_refusals_and_has_bounds() {
    let json = r#"{"policies": [{"name": "slow", "average": 1, "period": "1h", "onLimit": "tarpit",
        "maxWait": "50ms", "maxQueue": 2}]}"#;
    let (middleware, ..) = built(json);
    let Verdict::Passes(_) = middleware.predict(get("http://h.test/")).verdict else { panic!("it passes") };
    testing::block_on(async {
        let service = Service(|_| Response::new(Body::empty()));
        let ask = || Box::pin(testing::run(&middleware, get("http://h.test/"), &service));
        assert_eq!(ask().await.status(), 200);
        let begun = std::time::Instant::now();
        let (mut one, mut gone) = (ask(), ask());
        assert!(futures_util::poll!(&mut one).is_pending());
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut third = ask();
        assert!(futures_util::poll!(&mut third).is_ready(), "the tarpit is full");
        drop(gone);
        let mut two = ask();
        assert!(futures_util::poll!(&mut two).is_pending(), "a client that leaves leaves its place");
        for refused in [one.await, two.await] {
            assert_eq!((refused.status().as_u16(), refused.reason), (429, Some(Reason::RateLimited)));
        }
        assert!(begun.elapsed() >= StdDuration::from_millis(50));
    });
    let counted = &middleware.limit().unwrap().policies()[0];
    assert_eq!((counted.refused, counted.tarpitted, counted.waiting), (4, 3, 0));
    let notes = middleware.predict(get("http://h.test/")).notes;
    assert_eq!(notes, ["policy `slow`: 0 of 1 tokens of this key are left, refuses it after 50ms"]);
}

#[test]
fn retry_after_has_jitter_if_asked_for() {
    for policies in ["", r#", "policies": [{"name": "a", "average": 1, "period": "1h"}]"#] {
        let plain =
            if policies.is_empty() { r#""average": 1, "period": "1h", "#.to_owned() } else { String::new() };
        let (middleware, ..) = built(&format!(r#"{{{plain}"retryAfterJitter": "1000s"{policies}}}"#));
        ask(&middleware, get("http://h.test/"));
        let waits: Vec<u64> = (0..50)
            .map(|_| {
                let refused = ask(&middleware, get("http://h.test/"));
                assert_eq!(refused.status(), 429);
                refused.headers()["retry-after"].to_str().unwrap().parse().unwrap()
            })
            .collect();
        assert!(waits.iter().all(|wait| (3600..=4600).contains(wait)), "{waits:?}");
        let distinct: std::collections::HashSet<_> = waits.iter().collect();
        assert!(distinct.len() > 10, "{waits:?}");
    }
}

#[test]
fn a_request_does_not_wait_longer_than_max_wait() {
    let json = r#"{"policies": [{"name": "slow", "average": 1, "period": "10s", "onLimit": "queue", "maxWait": "9s"}]}"#;
    let (middleware, _, clock) = built(json);
    assert_eq!(statuses(&middleware, vec![get("http://h.test/"), get("http://h.test/")]), [200, 429]);
    clock.advance(StdDuration::from_secs(1));
    testing::block_on(async {
        let service = Service(|_| Response::new(Body::empty()));
        let mut early = Box::pin(testing::run(&middleware, get("http://h.test/"), &service));
        assert!(futures_util::poll!(&mut early).is_pending());
    });
}

#[test]
fn a_response_is_charged_when_it_is_sent() {
    let json = r#"{"policies": [{"name": "bytes", "average": 1, "burst": 4, "cost": "1",
        "responseCost": "Bytes()"}]}"#;
    let (middleware, _, clock) = built(json);
    let first = ask(&middleware, get("http://h.test/"));
    assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200, "nothing is charged yet");
    // Five bytes and two requests leave a debt of three tokens.
    assert_eq!(text(first), "hello");
    let refused = ask(&middleware, get("http://h.test/"));
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"4".parse().unwrap()));
    clock.advance(StdDuration::from_secs(4));
    assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
}

#[test]
fn a_request_that_costs_more_than_the_burst_needs_a_full_bucket() {
    let json = r#"{"policies": [{"name": "units", "average": 1, "burst": 2, "cost": "5"}]}"#;
    let (middleware, _, clock) = built(json);
    assert_eq!(statuses(&middleware, vec![get("http://h.test/"), get("http://h.test/")]), [200, 429]);
    clock.advance(StdDuration::from_secs(4));
    assert_eq!(statuses(&middleware, vec![get("http://h.test/")]), [429]);
    clock.advance(StdDuration::from_secs(1));
    assert_eq!(statuses(&middleware, vec![get("http://h.test/")]), [200]);
}

#[test]
fn exempt_clients_are_not_limited() {
    let json = r#"{"policies": [{"name": "all", "average": 1, "period": "1h", "key": ["host"],
        "exempt": {"addresses": ["10.0.0.0/8"], "groups": ["ops"], "consumers": ["acme"]}}]}"#;
    let (middleware, ..) = built(json);
    let limited = || from("192.0.2.1", Some("other"));
    assert_eq!(statuses(&middleware, vec![limited(), limited()]), [200, 429]);
    assert_eq!(
        statuses(&middleware, vec![from("10.1.1.1", None), from("192.0.2.1", Some("acme"))]),
        [200, 200]
    );
    let mut operator = from("192.0.2.1", None);
    let ops =
        Identity { groups: vec!["ops".into()], ..Identity::new("ann", AuthMethod::Jwt, "j@file".into()) };
    operator.context.identity = Some(Arc::new(ops));
    assert_eq!(ask(&middleware, operator).status(), 200);
    let mut spoofed = limited();
    spoofed.head.headers.insert("x-forwarded-for", "10.1.1.1".parse().unwrap());
    assert_eq!(ask(&middleware, spoofed).status(), 429, "a header does not exempt");
    assert_eq!(middleware.limit().unwrap().policies()[0].exempted, 3);
}

#[test]
fn a_stranger_cannot_get_around_a_network_nor_fill_the_memory() {
    let json = r#"{"policies": [{"name": "all", "average": 1, "period": "1h", "burst": 5, "key": ["client.ip/64", "host"]},
        {"name": "keys", "average": 1000, "burst": 1000000, "key": ["header(X-Id)"]}]}"#;
    let (middleware, ..) = built(json);
    let one = |number: u32| {
        let mut request = from(&format!("2001:db8:0:1::{:x}:{:x}", number >> 16, number & 0xffff), None);
        request.head.headers.insert("x-id", number.into());
        request
            .head
            .headers
            .insert("x-forwarded-for", format!("198.51.100.{}", number % 250).parse().unwrap());
        request
    };
    let passed =
        statuses(&middleware, (0..50).map(one).collect()).iter().filter(|code| **code == 200).count();
    assert_eq!(passed, 5, "all addresses of a /64 are one client");
    let json = r#"{"policies": [{"name": "keys", "average": 1000, "burst": 2, "key": ["header(X-Id)"], "mode": "shadow"}]}"#;
    let (middleware, ..) = built(json);
    testing::block_on(async {
        let service = Service(|_| Response::new(Body::empty()));
        for number in 0..70_000 {
            testing::run(&middleware, one(number), &service).await;
        }
    });
    let counted = &middleware.limit().unwrap().policies()[0];
    assert!(counted.keys as usize <= MAX_SOURCES, "{}", counted.keys);
    assert!(counted.offenders.len() <= 32);
}

#[test]
fn buckets_outlive_changes_of_the_rate_but_not_of_the_key() {
    let (world, clock) = World::stopped();
    let limit = |burst: u32, average: u32, key: &str| {
        let json = format!(
            r#"{{"policies": [{{"name": "a", "average": {average}, "period": "10s", "burst": {burst}, "key": ["{key}"]}}]}}"#
        );
        build_in(&world, options(&json)).unwrap()
    };
    let ask = |middleware, times| statuses(&middleware, (0..times).map(|_| get("http://h.test/")).collect());
    assert_eq!(ask(limit(2, 1, "host"), 3), [200, 200, 429]);
    assert_eq!(ask(limit(3, 1, "host"), 2), [200, 429], "one more");
    assert_eq!(ask(limit(1, 1, "host"), 1), [429]);
    clock.advance(StdDuration::from_secs(10));
    assert_eq!(ask(limit(1, 1, "host"), 2), [429, 429], "tokens that were used stay used");
    assert_eq!(ask(limit(1, 1, "method"), 2), [200, 429], "another key");
    clock.advance(StdDuration::from_secs(1));
    assert_eq!(ask(limit(1, 100, "host"), 1), [200], "a faster rate fills it sooner");
}

#[test]
fn both_limits_apply() {
    let json = r#"{"average": 1, "period": "1h", "burst": 2, "policies": [{"name": "a", "average": 1, "period": "1h", "burst": 3}]}"#;
    let (middleware, ..) = built(json);
    let asked: Vec<Response> = (0..3).map(|_| ask(&middleware, get("http://h.test/"))).collect();
    assert!(asked[0].headers().contains_key("ratelimit"));
    assert_eq!(asked[2].status(), 429);
    assert!(!asked[2].headers().contains_key("ratelimit"), "Traefik's limit comes first");
    assert_eq!(middleware.members().map(<[_]>::len), Some(2));
    let limit = middleware.limit().unwrap();
    assert_eq!((limit.policies()[0].admitted, limit.occupancy().sources), (2, Some(2)));
}

#[test]
fn a_prediction_says_what_each_policy_does_and_takes_nothing() {
    let (middleware, ..) = built(TWO);
    let notes = || middleware.predict(post()).notes;
    let expected = [
        "policy `burst`: 2 of 2 tokens of this key are left, takes 1",
        "policy `posts`: 3 of 3 tokens of this key are left, takes 2",
    ];
    assert_eq!([notes(), notes()], [expected, expected]);
    assert_eq!(ask(&middleware, post()).status(), 200);
    let Verdict::Responds(predicted) = middleware.predict(post()).verdict else { panic!("it is refused") };
    let refused = ask(&middleware, post());
    assert_eq!(predicted.status(), refused.status());
    assert_eq!(predicted.headers(), refused.headers());
    assert_eq!(notes()[1], "policy `posts`: 1 of 3 tokens of this key are left, refuses it");
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (json, expected) in [
        (r#"{"headers": "ietf"}"#, "headers and problem need `policies`"),
        (r#"{"problem": true}"#, "headers and problem need `policies`"),
        (r#"{"policies": [{"name": "a"}]}"#, "policies[0].average: expected 1 or more"),
        (r#"{"policies": [{"name": "a b", "average": 1}]}"#, "policies[0].name: `a b`: expected letters"),
        (
            r#"{"policies": [{"name": "a", "average": 1}, {"name": "a", "average": 1}]}"#,
            "policies: two are called `a`",
        ),
        (
            r#"{"policies": [{"name": "a", "average": 1, "mode": "dry"}]}"#,
            "policies[0].mode: `dry` is unknown: expected `enforce` or `shadow`",
        ),
        (
            r#"{"policies": [{"name": "a", "average": 1, "onLimit": "wait"}]}"#,
            "policies[0].onLimit: `wait` is unknown",
        ),
        (
            r#"{"policies": [{"name": "a", "average": 1, "onLimit": "queue", "maxQueue": 0}]}"#,
            "policies[0].maxQueue: expected",
        ),
        (
            r#"{"policies": [{"name": "a", "average": 1, "key": ["ip"]}]}"#,
            "policies[0].key: unknown part `ip`",
        ),
        (
            r#"{"policies": [{"name": "a", "average": 1, "cost": "x"}]}"#,
            "policies[0].cost: `x` is not a cost",
        ),
        (
            r#"{"policies": [{"name": "a", "average": 1, "exempt": {"addresses": ["x"]}}]}"#,
            "policies[0].exempt.addresses: invalid address",
        ),
        (r#"{"headers": "all", "policies": [{"name": "a", "average": 1}]}"#, "headers: `all` is unknown"),
    ] {
        let error = build_in(&World::default(), options(json)).err().expect(json).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn extreme_numbers_do_not_overflow() {
    for (average, period, burst, cost) in [
        (1, u64::MAX / 4, i64::MAX, "18446744073709551615"),
        (i64::MAX, 1, i64::MAX, "1"),
        (1, 1, 1, "99999999999"),
    ] {
        let json = format!(
            r#"{{"policies": [{{"name": "a", "average": {average}, "period": "{period}", "burst": {burst}, "cost": "{cost}", "onLimit": "queue"}}]}}"#
        );
        let (middleware, ..) = built(&json);
        let _ = middleware.predict(get("http://h.test/"));
        assert!(ask(&middleware, get("http://h.test/")).status().as_u16() > 0);
        assert!(middleware.predict(get("http://h.test/")).notes.len() == 1);
    }
}
