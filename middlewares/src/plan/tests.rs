//! Tests of plans through the middleware.

use tidegate_core::plan::{Anchor, Period};
use tidegate_core::{AuthMethod, Body, Reason, Verdict};

use super::*;
use crate::rate_limit::policies::LimitStates;
use crate::testing::{self, Service, World, build_in, get, text};

fn quota(limit: u64) -> Quota {
    Quota {
        limit,
        period: Period::Fixed(StdDuration::from_secs(3600)),
        anchor: Anchor::FirstUse,
        unit: Unit::Requests,
        bucket: QuotaBucket::Consumer,
    }
}

/// The consumer `acme` with this plan.
fn acme(plan: &str, quota: Option<Quota>) -> Arc<Consumer> {
    let plan = if plan.is_empty() { String::new() } else { format!("{plan}@file") };
    Arc::new(Consumer { name: "acme@file".into(), plan, quota, ..Consumer::default() })
}

fn from(consumer: Option<Arc<Consumer>>, key: &str, path: &str) -> Request {
    let mut request = get(&format!("http://h.test{path}"));
    let identity = Identity::new(key, AuthMethod::ApiKey, "k@file".into()).of_consumer(consumer);
    request.context.identify(identity);
    request
}

fn gold(quota: &Quota) -> Request {
    from(Some(acme("gold", Some(quota.clone()))), "k1", "/")
}

fn options(folder: &tempfile::TempDir) -> Plan {
    Plan { file: folder.path().join("usage.log").display().to_string(), ..Plan::default() }
}

/// Sends requests, one after another, in one runtime.
fn ask(middleware: &Arc<dyn Middleware>, requests: Vec<Request>) -> Vec<Response> {
    let service = Service(|_| Response::new(Body::full("hello")));
    testing::block_on(async {
        let mut responses = Vec::new();
        for request in requests {
            responses.push(testing::run(middleware, request, &service).await);
        }
        responses
    })
}

fn statuses(middleware: &Arc<dyn Middleware>, requests: Vec<Request>) -> Vec<u16> {
    ask(middleware, requests).iter().map(|response| response.status().as_u16()).collect()
}

#[test]
fn a_consumer_is_admitted_until_its_quota_is_used_up() {
    let folder = tempfile::tempdir().unwrap();
    let (world, clock) = World::stopped();
    let (middleware, quota) = (build_in(&world, options(&folder)).unwrap(), quota(5));
    let responses = ask(&middleware, (0..6).map(|_| gold(&quota)).collect());
    let codes: Vec<u16> = responses.iter().map(|response| response.status().as_u16()).collect();
    assert_eq!(codes, [200, 200, 200, 200, 200, 429]);
    let field =
        |at: usize, name: &str| responses[at].headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(field(0, "ratelimit-policy"), Some("\"quota-gold\";q=5;w=3600"));
    assert_eq!(field(0, "ratelimit"), Some("\"quota-gold\";r=4;t=3600"));
    assert_eq!([field(2, "x-quota-used"), field(3, "x-quota-used")], [None, Some("80")]);
    assert_eq!(field(5, "retry-after"), Some("3600"));
    assert_eq!(responses[5].reason, Some(Reason::QuotaExceeded));
    clock.advance(StdDuration::from_secs(3600));
    assert_eq!(statuses(&middleware, vec![gold(&quota)]), [200]);
}

#[test]
fn what_was_used_is_kept_when_the_plan_changes_and_when_the_gateway_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = World::stopped();
    let middleware = build_in(&world, options(&folder)).unwrap();
    let first = quota(3);
    assert_eq!(statuses(&middleware, vec![gold(&first), gold(&first)]), [200, 200]);
    let longer = Quota { period: Period::Day, ..quota(4) };
    let asked = (0..3).map(|_| gold(&longer)).collect();
    assert_eq!(statuses(&middleware, asked), [200, 200, 429], "two more");
    assert_eq!(statuses(&middleware, vec![gold(&quota(2))]), [429]);
    drop(middleware);
    let again = build_in(&world, options(&folder)).unwrap();
    // The thread that wrote the file may still have it.
    let opened = std::iter::repeat_with(|| statuses(&again, vec![gold(&quota(5))])[0])
        .take(2_000_000)
        .find(|code| *code != 503);
    assert_eq!(opened, Some(200), "the fifth");
    assert_eq!(statuses(&again, vec![gold(&quota(5))]), [429]);
}

#[test]
fn who_has_no_plan_is_refused_and_a_plan_without_quota_admits_everything() {
    let folder = tempfile::tempdir().unwrap();
    let middleware = build_in(&World::default(), options(&folder)).unwrap();
    let of = |plan: &str| from(Some(acme(plan, None)), "k1", "/");
    let asked = vec![get("http://h.test/"), from(None, "k1", "/"), of(""), of("free")];
    assert_eq!(statuses(&middleware, asked), [401, 403, 403, 200]);
    assert_eq!(middleware.predict(of("")).notes, ["the client is not a consumer, or has no plan"]);
}

#[test]
fn bytes_and_costs_are_counted_and_keys_can_have_their_own_quota() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = World::stopped();
    let costs = Plan { cost: "Path(`/dear`) ? 5 : 1".into(), ..options(&folder) };
    let middleware = build_in(&world, costs).unwrap();
    let bytes = Quota { unit: Unit::Bytes, ..quota(8) };
    for left in ["r=8", "r=3"] {
        let response = ask(&middleware, vec![gold(&bytes)]).remove(0);
        assert_eq!(response.status(), 200);
        assert!(response.headers()["ratelimit"].to_str().unwrap().contains(left));
        assert_eq!(text(response), "hello");
    }
    assert_eq!(statuses(&middleware, vec![gold(&bytes)]), [429], "ten bytes of eight are used");
    let costs = Quota { unit: Unit::Cost, bucket: QuotaBucket::Key, ..quota(6) };
    let dear = |key: &str| from(Some(acme("gold", Some(costs.clone()))), key, "/dear");
    let asked = vec![dear("k1"), dear("k1"), gold(&costs), gold(&costs)];
    assert_eq!(statuses(&middleware, asked), [200, 429, 200, 429]);
    assert_eq!(statuses(&middleware, vec![dear("k2")]), [200], "another key");
    let mut usage = middleware.limit().unwrap().usage();
    usage.sort();
    let row = |row: &occupancy::Usage| (row.consumer.clone(), row.key.clone(), row.unit, row.used);
    let expected = [("", "bytes", 10), ("apiKey=k1", "cost", 6), ("apiKey=k2", "cost", 5)];
    let expected = expected.map(|(key, unit, used)| ("acme@file".to_owned(), key.to_owned(), unit, used));
    assert_eq!(usage.iter().map(row).collect::<Vec<_>>(), expected);
}

#[test]
fn consumers_see_their_own_usage_and_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let middleware =
        build_in(&World::default(), Plan { usage_path: "/usage".into(), ..options(&folder) }).unwrap();
    let shows = from(Some(acme("gold", Some(quota(1)))), "k1", "/usage");
    let usage = ask(&middleware, vec![gold(&quota(1)), gold(&quota(1)), shows]).pop().unwrap();
    let usage: serde_json::Value = serde_json::from_str(&text(usage)).unwrap();
    assert_eq!((&usage["plan"], &usage["used"], &usage["limit"]), (&"gold".into(), &1.into(), &1.into()));
}

#[test]
fn a_prediction_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = World::stopped();
    let (middleware, quota) = (build_in(&world, options(&folder)).unwrap(), quota(2));
    assert!(matches!(middleware.predict(gold(&quota)).verdict, Verdict::Depends(_)));
    assert_eq!(statuses(&middleware, vec![gold(&quota)]), [200]);
    for _ in 0..3 {
        let prediction = middleware.predict(gold(&quota));
        assert!(matches!(prediction.verdict, Verdict::Passes(_)));
        assert_eq!(prediction.notes, ["plan `gold@file`: 1 of 2 requests are used"]);
    }
    assert_eq!(statuses(&middleware, vec![gold(&quota)]), [200]);
    let Verdict::Responds(predicted) = middleware.predict(gold(&quota)).verdict else {
        panic!("it is refused")
    };
    assert_eq!(predicted.headers(), ask(&middleware, vec![gold(&quota)])[0].headers());
}

/// Compiles the limits of the plan `gold`, with the buckets of earlier ones.
fn limits(json: &str, before: &LimitStates) -> Arc<PlanLimits> {
    let limits: Vec<_> = serde_json::from_str(json).unwrap();
    PlanLimits::compile("gold@file", &limits, before).unwrap().unwrap()
}

/// A request of a consumer with the plan `gold`, this quota and these limits.
fn limited(name: &str, quota: Option<Quota>, limits: &Arc<PlanLimits>) -> Request {
    let consumer = Consumer {
        name: format!("{name}@file").into(),
        plan: "gold@file".into(),
        quota,
        limits: Some(limits.of_consumer()),
        ..Consumer::default()
    };
    from(Some(Arc::new(consumer)), "k1", "/")
}

const TWO: &str = r#"[{"name": "rps", "average": 1, "period": "10s", "burst": 2},
    {"name": "bytes", "average": 1, "burst": 100, "responseCost": "Bytes()"}]"#;

#[test]
fn limits_decide_before_the_quota_and_all_routers_share_them() {
    let folder = tempfile::tempdir().unwrap();
    let (world, clock) = World::stopped();
    let limits = limits(TWO, &LimitStates::default());
    let (one, other) =
        (build_in(&world, options(&folder)).unwrap(), build_in(&world, options(&folder)).unwrap());
    let acme = || limited("acme", Some(quota(3)), &limits);
    let first = ask(&one, vec![acme()]).remove(0);
    let fields = |response: &Response, name: &str| {
        let values = response.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(
        fields(&first, "ratelimit-policy"),
        r#""quota-gold";q=3;w=3600, "rps";q=2;w=20, "bytes";q=100;w=100"#
    );
    assert_eq!(fields(&first, "ratelimit"), r#""quota-gold";r=2;t=3600, "rps";r=1;t=10, "bytes";r=99;t=1"#);
    assert_eq!(statuses(&other, vec![acme()]), [200]);
    let refused = ask(&other, vec![acme()]).remove(0);
    assert_eq!((refused.status().as_u16(), refused.reason), (429, Some(Reason::RateLimited)));
    assert_eq!(fields(&refused, "ratelimit"), r#""rps";r=0;t=10, "bytes";r=98;t=2, "quota-gold";r=1;t=3600"#);
    assert_eq!(statuses(&one, vec![limited("other", Some(quota(3)), &limits)]), [200], "another consumer");
    // What was refused used nothing of the quota.
    clock.advance(StdDuration::from_secs(20));
    let last = ask(&one, vec![acme(), acme()]);
    assert_eq!([last[0].reason, last[1].reason], [None, Some(Reason::QuotaExceeded)]);
    let counted = Limit::policies(&*limits);
    assert_eq!((&*counted[0].name, counted[0].admitted, counted[0].refused), ("rps", 5, 1));
}

#[test]
fn changed_limits_keep_their_buckets_and_a_prediction_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (world, _) = World::stopped();
    let middleware = build_in(&world, options(&folder)).unwrap();
    let json = |burst: u32| format!(r#"[{{"name": "rps", "average": 1, "period": "1h", "burst": {burst}}}]"#);
    let first = limits(&json(2), &LimitStates::default());
    let of = |limits| (0..3).map(|_| limited("acme", None, limits)).collect();
    assert_eq!(statuses(&middleware, of(&first)), [200, 200, 429]);
    let second = limits(&json(3), first.states());
    let notes = middleware.predict(limited("acme", None, &second)).notes;
    assert_eq!(
        notes,
        ["plan `gold@file` has no quota", "policy `rps`: 1 of 3 tokens of this key are left, takes 1"]
    );
    assert_eq!(statuses(&middleware, of(&second)), [200, 429, 429]);
    let prediction = middleware.predict(limited("acme", None, &second));
    assert!(matches!(prediction.verdict, Verdict::Responds(response) if response.status() == 429));
}

#[test]
fn mistakes_in_limits_are_named() {
    for (json, expected) in [
        (r#"[{"name": "a"}]"#, "limits[0].average: expected 1 or more"),
        (r#"[{"name": "quota-a", "average": 1}]"#, "limits[0].name: `quota-a`: `quota-` is for quotas"),
        (r#"[{"name": "a", "average": 1}, {"name": "a", "average": 1}]"#, "limits: two are called `a`"),
    ] {
        let limits: Vec<_> = serde_json::from_str(json).unwrap();
        let error = PlanLimits::compile("p@file", &limits, &LimitStates::default()).err().unwrap();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_file_that_cannot_be_opened_closes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing/usage.log").display().to_string();
    let middleware = build_in(&World::default(), Plan { file, ..Plan::default() }).unwrap();
    let response = ask(&middleware, vec![gold(&quota(2))]).remove(0);
    assert_eq!((response.status().as_u16(), response.reason), (503, Some(Reason::LimitUnavailable)));
}

#[test]
fn mistakes_are_named() {
    for (options, expected) in [
        (Plan::default(), "file: ``: expected an absolute path"),
        (
            Plan { redis: Some(Redis { endpoints: Vec::new(), ..Redis::default() }), ..Plan::default() },
            "redis.endpoints",
        ),
        (
            Plan { redis: Some(Redis { on_failure: "allow".into(), ..Redis::default() }), ..Plan::default() },
            "redis.onFailure: quotas are exact",
        ),
        (Plan { file: "/x".into(), fsync: "often".into(), ..Plan::default() }, "fsync: `often` is unknown"),
        (Plan { file: "/x".into(), cost: "x".into(), ..Plan::default() }, "cost: `x` is not a cost"),
        (Plan { file: "/x".into(), usage_path: "x".into(), ..Plan::default() }, "usagePath: `x`: expected"),
    ] {
        let error = build_in(&World::default(), options).err().expect(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
