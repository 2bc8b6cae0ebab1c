//! Limits in Redis whose options cannot be used, or whose server is not there.

use crate::support::backend::unused_address;
use crate::support::{Backend, Gateway, get, raw};

/// Routes `/a` and `/b` with one limit; `redis` are members of its option `redis`.
pub fn routes(backend: &Backend, limit: &str, redis: &str) -> String {
    format!(
        r"
http:
  routers:
    a: {{rule: 'Path(`/a`)', service: s, middlewares: [limit]}}
    b: {{rule: 'Path(`/b`)', service: s, middlewares: [limit]}}
  middlewares:
    limit: {{rateLimit: {{{limit}, sourceCriterion: {{requestHost: true}}, redis: {{{redis}}}}}}}
  services:
    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    )
}

/// Three requests, and no more for a long time.
pub const SLOW: &str = "average: 1, period: 1h, burst: 3";

#[test]
fn meaningless_options_disable_the_router_and_are_reported() {
    let backend = Backend::echo("one");
    for (redis, word) in [
        ("endpoints: []", "redis.endpoints"),
        ("endpoints: ['http://h']", "`http://` is not supported"),
        ("onFailure: perhaps", "expected `deny`, `allow` or `local`"),
        ("poolsize: -1", "redis.poolSize"),
    ] {
        let gateway = Gateway::serve(&routes(&backend, SLOW, redis));
        assert_eq!(get(gateway.web(), "h.test", "/a").status, 503, "{redis}");
        let problems = gateway.problems();
        assert!(problems.iter().any(|problem| problem.contains(word)), "{word}: {problems:?}");
    }
}

#[test]
fn an_unreachable_redis_is_refused_as_in_traefik() {
    let backend = Backend::echo("one");
    let redis = format!("endpoints: ['{}']", unused_address());
    let gateway = Gateway::serve(&routes(&backend, SLOW, &redis));
    let answer = raw(gateway.web(), "GET /a HTTP/1.1\r\nHost: h.test\r\n\r\n").unwrap();
    assert_eq!(answer.status, 500);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.text(), "Could not insert/update bucket\n");
}
