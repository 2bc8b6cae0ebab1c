//! `tidegate keys` on Consul and Redis, and gateways that follow.

use crate::api_key::{reason, routes};
use crate::api_key_commands::{done, id, keys};
use crate::support::outside::{Consul, Redis};
use crate::support::{Backend, Gateway, eventually, get_with};

/// Creates, rotates and revokes a key in a store that a gateway follows.
fn lives(settings: &[&str], stored: impl Fn() -> String) {
    let (service, folder) = (Backend::echo("a"), tempfile::tempdir().unwrap());
    let gateway = Gateway::with(settings, &routes("", "    {}\n", &service.url()));
    let ask = |key: &str| {
        let answer = get_with(gateway.web(), "h", "/", &format!("X-API-Key: {key}\r\n"));
        let why = if answer.status == 200 { String::new() } else { reason(&gateway) };
        (answer.status, why, answer.header("x-api-key-deprecation").is_some())
    };
    let run = |arguments: &[&str]| done(folder.path(), &[arguments, &["--"], settings].concat());
    let first = run(&[
        "new",
        "partner",
        "--label",
        "import",
        "--scope",
        "read",
        "--scope",
        "write",
        "--expires",
        "1d",
    ]);
    eventually("the key counts", || ask(&first).0 == 200);
    let other = run(&["new", "partner"]);
    let next = run(&["rotate", &id(&first), "--grace", "1h"]);
    eventually("all keys count", || [&first, &other, &next].iter().all(|key| ask(key).0 == 200));
    eventually("the first is in grace", || ask(&first).2);
    run(&["revoke", &id(&other)]);
    eventually("the second is revoked", || ask(&other).1 == "api_key_revoked");
    let list = run(&["list"]);
    assert_eq!(list.lines().count(), 4, "{list}");
    assert_eq!((list.matches("read,write").count(), list.matches("import").count()), (2, 2), "{list}");
    assert!(list.contains("grace") && list.contains("revoked") && list.contains("active"), "{list}");
    let stored = stored();
    assert!(stored.contains(&id(&next)));
    for key in [&first, &other, &next] {
        assert!(!stored.contains(&key[16..59]), "{stored}");
    }
    let (code, _, err) = keys(folder.path(), &[&["revoke", "nobody", "--"], settings].concat());
    assert!(code == 1 && err.contains("no key `nobody` in "), "{err}");
    // Commands at the same time: each key has a place of its own, or is refused.
    let made: Vec<(i32, String, String)> = std::thread::scope(|scope| {
        let one = || keys(folder.path(), &[&["new", "crowd", "--"], settings].concat());
        let all: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let (stored, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(|(code, ..)| *code == 0);
    assert!(!stored.is_empty());
    for (_, _, err) in &refused {
        assert!(err.contains("nothing was stored, try again"), "{err}");
    }
    eventually("all stored keys count", || stored.iter().all(|(_, key, _)| ask(key.trim_end()).0 == 200));
    let list = run(&["list", "--consumer", "crowd"]);
    assert_eq!(list.lines().count(), 1 + stored.len(), "{list}");
    assert_eq!(gateway.problems(), Vec::<String>::new());
}

#[test]
#[ignore = "needs consul"]
fn keys_live_in_consul() {
    let consul = Consul::start("").ready();
    let endpoint = format!("--providers.consul.endpoints={}", consul.address);
    lives(&[&endpoint], || all(&consul));
}

/// Returns all values, decoded.
fn all(consul: &Consul) -> String {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    let text = consul.get("/v1/kv/traefik?recurse").unwrap();
    let pairs: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let value = |pair: &serde_json::Value| {
        let value = BASE64_STANDARD.decode(pair["Value"].as_str().unwrap_or_default()).unwrap();
        format!("{}={}\n", pair["Key"], String::from_utf8_lossy(&value))
    };
    pairs.iter().map(value).collect()
}

#[test]
#[ignore = "needs redis-server"]
fn keys_live_in_redis() {
    let redis = Redis::start(&["--requirepass", "word"]);
    let endpoint = format!("--providers.redis.endpoints={}", redis.address);
    let settings =
        [endpoint.as_str(), "--providers.redis.password=word", "--providers.redis.rootKey=my*root"];
    lives(&settings, || {
        let names = redis.command(&["-a", "word", "KEYS", "*"]);
        let value = |name: &str| format!("{name}={}\n", redis.command(&["-a", "word", "GET", name]));
        names.lines().map(|name| value(name.trim())).collect()
    });
}

#[test]
#[ignore = "needs redis-server"]
fn an_unreachable_store_is_named() {
    let redis = Redis::start(&["--requirepass", "word"]);
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("--providers.redis.endpoints={}", redis.address);
    let (code, out, err) = keys(folder.path(), &["new", "ann", "--", &endpoint]);
    assert_eq!((code, &*out), (1, ""));
    assert!(err.contains(&format!("Redis at {}", redis.address)) && err.contains("NOAUTH"), "{err}");
}
