//! Used signatures that gateways share in Redis, with a real server.

use crate::hmac::{SECRET, routes_of_consumers, signed};
use crate::support::outside::Redis;
use crate::support::tokens::reason;
use crate::support::{Backend, Gateway, eventually, raw};

#[test]
#[ignore = "needs redis-server"]
fn gateways_refuse_what_another_has_accepted() {
    let (redis, service) = (Redis::start(&[]), Backend::echo("a"));
    let shared = format!("redis: {{endpoints: ['{}'], deadline: 20s}}", redis.address);
    let routes = routes_of_consumers(&service.url(), &shared, &format!("{{id: shop, key: {SECRET}}}"));
    let gateways = [Gateway::serve(&routes), Gateway::serve(&routes)];
    let ask = |gateway: &Gateway, request: &str| raw(gateway.web(), request).unwrap().status;
    for number in 0..10 {
        let request = signed("shop", "/", &number.to_string(), "a");
        let (first, second) = (&gateways[number % 2], &gateways[(number + 1) % 2]);
        assert_eq!([ask(first, &request), ask(second, &request), ask(first, &request)], [200, 401, 401]);
    }
    assert_eq!(redis.command(&["KEYS", "tidegate:hmac:m@file:*"]).lines().count(), 10);
    drop(redis);
    eventually("Redis is missed", || ask(&gateways[0], &signed("shop", "/", "x", "a")) == 503);
    assert_eq!(reason(&gateways[0]), "authentication_unavailable");
}
