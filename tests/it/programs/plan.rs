//! Quotas that gateways count together in Redis, with a real server.

use serde_json::Value;

use crate::support::client::Answer;
use crate::support::keys::Key;
use crate::support::outside::Redis;
use crate::support::{Backend, Client, Gateway, eventually, get_with};

fn routes(url: &str, redis: &Redis, key: &Key, quota: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [keys, plan]}}
  middlewares:
    keys: {{apiKey: {{}}}}
    plan: {{plan: {{usagePath: /usage, redis: {{endpoints: ['{}'], deadline: 20s}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
  plans:
    gold: {{quota: {{{quota}}}}}
  consumers:
    acme: {{plan: gold, credentials: {{apiKeys: [{{{key}}}]}}}}
",
        redis.address
    )
}

#[test]
#[ignore = "needs redis-server"]
fn three_gateways_admit_exactly_what_a_plan_says() {
    const LIMIT: usize = 1500;
    let (redis, backend, key) = (Redis::start(&[]), Backend::echo("a"), Key::new());
    let routes = routes(&backend.url(), &redis, &key, &format!("limit: {LIMIT}, period: month"));
    let gateways: Vec<Gateway> = (0..3).map(|_| Gateway::serve(&routes)).collect();
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", key.header());
    let admitted: usize = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let mut client = Client::connect(gateways[n % 3].web());
            let mut status = || {
                client.send(&request);
                client.read().unwrap().status
            };
            (0..50).filter(|_| status() == 200).count()
        };
        let asking: Vec<_> = (0..64).map(|n| scope.spawn(move || ask(n))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!((admitted, backend.seen().len()), (LIMIT, LIMIT));
    for gateway in &gateways {
        let own = get_with(gateway.web(), "h", "/usage", &key.header());
        let own: Value = serde_json::from_str(&own.text()).unwrap();
        assert_eq!((&own["used"], &own["limit"]), (&LIMIT.into(), &LIMIT.into()));
        let shown: Value = serde_json::from_str(&gateway.api("/api/usage")).unwrap();
        assert_eq!((&shown[0]["used"], &shown[0]["store"]), (&LIMIT.into(), &"redis".into()));
    }
}

#[test]
#[ignore = "needs redis-server"]
fn a_period_from_the_first_use_ends_and_bytes_are_charged() {
    let (redis, backend, key) = (Redis::start(&[]), Backend::echo("a"), Key::new());
    let quota = "limit: 10, unit: bytes, period: 3s, anchor: firstUse";
    let gateway = Gateway::serve(&routes(&backend.url(), &redis, &key, quota));
    let status = || get_with(gateway.web(), "h", "/", &key.header()).status;
    assert_eq!(status(), 200);
    eventually("the response is charged", || status() == 429);
    let refused = get_with(gateway.web(), "h", "/", &key.header());
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    eventually("the next period begins", || status() == 200);
}

/// Returns the values of `RateLimit`.
fn fields(answer: &Answer) -> String {
    let fields = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("ratelimit"));
    fields.map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", ")
}

#[test]
#[ignore = "needs redis-server"]
fn gateways_share_the_limits_of_a_plan() {
    let (redis, backend, key) = (Redis::start(&[]), Backend::echo("a"), Key::new());
    let limits = "limits: [{name: rph, average: 1, period: 1h, burst: 7}], quota";
    let routes = routes(&backend.url(), &redis, &key, "limit: 100, period: month").replace("quota", limits);
    let gateways: Vec<Gateway> = (0..3).map(|_| Gateway::serve(&routes)).collect();
    let ask = |n: usize| get_with(gateways[n % 3].web(), "h", "/", &key.header());
    let admitted = (0..30).filter(|n| ask(*n).status == 200).count();
    assert_eq!((admitted, backend.seen().len()), (7, 7));
    let refused = ask(0);
    let fields = fields(&refused);
    assert!(fields.starts_with("\"rph\";r=0;t=") && fields.contains("\"quota-gold\";r=9"), "{fields}");
    let keys = redis.command(&["KEYS", "tidegate:plan:*"]);
    assert_eq!(keys.trim(), "tidegate:plan:{gold@file}:rph:c=acme@file");
}

#[test]
#[ignore = "needs redis-server"]
fn without_redis_nothing_is_admitted() {
    let (mut redis, backend, key) = (Redis::start(&[]), Backend::echo("a"), Key::new());
    let routes = routes(&backend.url(), &redis, &key, "limit: 10, period: day");
    let gateway = Gateway::serve(&routes.replace("deadline: 20s", "deadline: 2s, dialTimeout: 1s"));
    let status = || get_with(gateway.web(), "h", "/", &key.header()).status;
    assert_eq!(status(), 200);
    redis.kill();
    eventually("it is missed", || status() == 503);
    assert_eq!(status(), 503);
}
