//! The middleware `apiKey`: whose keys pass, what the service and the API learn, and what clients are told.

use serde_json::{Value, json};

use crate::support::keys::Key;
use crate::support::{Backend, Gateway, eventually, get, get_with, raw};

/// Routes with an `apiKey` with these options, and these consumers.
pub fn routes(options: &str, consumers: &str, url: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}
  middlewares:
    m: {{apiKey: {{{options}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
  consumers:
{consumers}"
    )
}

/// Returns why the last request was refused.
pub fn reason(gateway: &Gateway) -> String {
    let text = gateway.api("/api/requests?per_page=1&filter=entryPoint%20!%3D%20%22traefik%22");
    let all: Value = serde_json::from_str(&text).unwrap();
    all[0]["reason"].as_str().unwrap_or_default().to_owned()
}

fn last_used(gateway: &Gateway, consumer: &str) -> Value {
    let text = gateway.api(&format!("/api/http/consumers/{consumer}@file"));
    let shown: Value = serde_json::from_str(&text).unwrap();
    shown["credentials"]["apiKeys"][0]["lastUsed"].clone()
}

#[test]
fn keys_of_consumers_come_and_go_without_a_restart() {
    let (service, one, two) = (Backend::echo("a"), Key::new(), Key::new());
    let gateway = Gateway::serve(&routes("", &one.consumer("ann", ""), &service.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |key: &Key| get_with(gateway.web(), "h", "/", &key.header());
    assert_eq!(last_used(&gateway, "ann"), Value::Null);
    assert_eq!((ask(&one).status, ask(&two).status), (200, 401));
    assert_eq!(service.seen().len(), 1);
    assert_eq!(service.last().header("x-api-key"), None, "the key is removed");
    let used = last_used(&gateway, "ann");
    assert!(used.is_string(), "{used}");
    // A new consumer, and another option of the first: the last use is kept.
    let both = format!("{}{}", one.consumer("ann", ", label: ci"), two.consumer("bob", ""));
    gateway.write("routes.yml", &routes("", &both, &service.url()));
    eventually("the second key counts", || ask(&two).status == 200);
    assert_eq!(last_used(&gateway, "ann"), used);
    gateway.write("routes.yml", &routes("", &two.consumer("bob", ""), &service.url()));
    eventually("the first key is gone", || ask(&one).status == 401);
    assert_eq!(reason(&gateway), "api_key_unknown");
    assert_eq!(ask(&two).status, 200);
}

#[test]
fn the_api_shows_when_keys_issued_elsewhere_were_used() {
    let service = Backend::echo("a");
    // The SHA-256 of `foreign-key`, and `test`.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"foreign-key");
    let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let keys = format!(
        "[{{sha256: {sha256}}}, {{hash: '$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/'}}, {{id: unused, sha256: {sha256}}}]"
    );
    let consumers = format!("    ann: {{credentials: {{apiKeys: {keys}}}}}\n");
    let gateway = Gateway::serve(&routes("", &consumers, &service.url()));
    for (at, key) in [(0, "foreign-key"), (1, "test")] {
        let shown =
            || -> Value { serde_json::from_str(&gateway.api("/api/http/consumers/ann@file")).unwrap() };
        assert_eq!(shown()["credentials"]["apiKeys"][at]["lastUsed"], Value::Null);
        let answer = get_with(gateway.web(), "h", "/", &format!("X-API-Key: {key}\r\n"));
        assert_eq!(answer.status, 200, "{key}");
        let shown = shown();
        assert!(shown["credentials"]["apiKeys"][at]["lastUsed"].is_string(), "{shown}");
        assert!(shown["lastUsed"].is_string() && !shown.to_string().contains(&sha256), "{shown}");
    }
}

#[test]
fn each_state_and_limit_has_its_reason() {
    let service = Backend::echo("a");
    for (options, status, expected) in [
        (", state: revoked", 401, "api_key_revoked"),
        (", expires: 2020-01-01", 401, "api_key_expired"),
        (", state: grace, expires: 2020-01-01", 401, "api_key_expired"),
        (", notBefore: 2199-01-01", 401, "api_key_not_yet_valid"),
        (", allowedCIDRs: [192.0.2.0/24, '2001:db8::/32']", 401, "api_key_address"),
        (", scopes: [read]", 403, "api_key_scope"),
        (", scopes: [read, write], allowedCIDRs: [127.0.0.1], expires: 2199-01-01", 200, ""),
    ] {
        let key = Key::new();
        let gateway =
            Gateway::serve(&routes("scopes: [write]", &key.consumer("ann", options), &service.url()));
        let answer = get_with(gateway.web(), "h", "/", &key.header());
        assert_eq!((answer.status, &*reason(&gateway)), (status, expected), "{options}");
    }
}

#[test]
fn a_key_in_grace_warns_its_client() {
    let (service, key) = (Backend::echo("a"), Key::new());
    let consumer = key.consumer("ann", ", state: grace, expires: 2199-12-31T23:59:59Z");
    let gateway = Gateway::serve(&routes("", &consumer, &service.url()));
    let answer = get_with(gateway.web(), "h", "/", &key.header());
    assert_eq!((answer.status, answer.header("x-api-key-deprecation")), (200, Some("true")));
    assert_eq!(answer.header("x-api-key-sunset"), Some("Tue, 31 Dec 2199 23:59:59 GMT"));
}

#[test]
fn keys_of_others_are_read_as_traefik_hub_reads_them() {
    let service = Backend::echo("a");
    // `foo` and `bar`, as in Hub's documentation.
    let hashes = "'$2y$05$D4SPFxzfWKcx1OXfVhRbvOTH/QB0Lm6AXTk8.NOmU4rPLX2t6UUuW', '$2y$05$HbLL.g5dUqJippH0RuAGL.RaM9wNS2cT7hp6.vbv5okdCmVBSDzzK'";
    let source = "keySource: {header: Authorization, headerAuthScheme: Bearer}";
    for (more, sent, status) in [
        ("", "Zm9v", 200),
        ("", "YmFy", 200),
        ("", "foo", 401),
        (", secretNonBase64Encoded: true", "foo", 200),
        (", secretNonBase64Encoded: true", "Zm9v", 401),
    ] {
        let options = format!("{source}, secretValues: [{hashes}]{more}");
        let gateway = Gateway::serve(&routes(&options, "    {}\n", &service.url()));
        assert_eq!(gateway.problems(), Vec::<String>::new());
        let answer = get_with(gateway.web(), "h", "/", &format!("Authorization: Bearer {sent}\r\n"));
        assert_eq!(answer.status, status, "{more} {sent}");
        if status == 401 {
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"traefik\""));
        } else {
            assert_eq!(service.last().header("authorization"), None);
        }
    }
}

#[test]
fn a_file_of_hashes_is_watched() {
    let service = Backend::echo("a");
    let gateway = Gateway::with(&[], "");
    let file = gateway.folder().join("keys");
    std::fs::write(&file, "# partners\nann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n").unwrap();
    let options = format!("secretValuesFile: '{}', secretNonBase64Encoded: true", file.display());
    gateway.write("routes.yml", &routes(&options, "    {}\n", &service.url()));
    let ask = |key: &str| get_with(gateway.web(), "h", "/", &format!("X-API-Key: {key}\r\n")).status;
    eventually("the key counts", || ask("test") == 200);
    // A mistake closes the router and names its line.
    std::fs::write(&file, "ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\nplain-text-key\n").unwrap();
    eventually("the router is closed", || ask("test") == 503);
    let problems = gateway.problems();
    let place = format!("secretValuesFile ({}:2): invalid hash", file.display());
    assert!(problems.iter().any(|problem| problem.contains(&place)), "{problems:?}");
    assert!(!problems.iter().any(|problem| problem.contains("plain-text-key")), "{problems:?}");
    std::fs::write(&file, "bob:sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n")
        .unwrap();
    eventually("it is open again", || ask("test") == 200);
    std::fs::remove_file(&file).unwrap();
    eventually("a missing file closes it", || ask("test") == 503);
}

#[test]
fn bad_input_fails_closed_and_names_its_place() {
    let (service, key, other) = (Backend::echo("a"), Key::new(), Key::new());
    // Two consumers with one key.
    let consumers =
        format!("{}{}{}", key.consumer("ann", ""), key.consumer("bob", ""), other.consumer("eve", ""));
    let gateway = Gateway::serve(&routes("", &consumers, &service.url()));
    assert_eq!(get_with(gateway.web(), "h", "/", &key.header()).status, 503);
    assert_eq!(reason(&gateway), "consumer_broken");
    assert_eq!(get_with(gateway.web(), "h", "/", &other.header()).status, 200, "others are not affected");
    let problems = gateway.problems();
    let named = |consumer: &str, other: &str| {
        problems.iter().any(|one| {
            one.contains(&format!("consumer {consumer}@file"))
                && one.contains(&format!("consumer `{other}@file` ("))
        })
    };
    assert!(named("ann", "bob") && named("bob", "ann"), "{problems:?}");
    assert!(problems.iter().all(|one| one.contains("routes.yml:")), "{problems:?}");
    for (options, expected) in [
        ("secretValuesFile: /missing/keys", "/missing/keys"),
        ("secretValues: ['my-plain-key']", "secretValues[0]: invalid hash"),
        ("secretValues: ['urn:k8s:secret:a:b']", "secrets of Kubernetes are not supported"),
        ("keySource: {header: 'a b'}", "invalid header name `a b`"),
        ("keySource: {headers: a}", "did you mean `header`?"),
    ] {
        let gateway = Gateway::serve(&routes(options, "    {}\n", &service.url()));
        assert_eq!(get_with(gateway.web(), "h", "/", &key.header()).status, 503, "{options}");
        assert_eq!(reason(&gateway), "router_broken");
        let problems = gateway.problems();
        assert!(
            problems.iter().any(|one| one.contains(expected) && one.contains("routes.yml:")),
            "{problems:?}"
        );
        assert!(!problems.iter().any(|one| one.contains("my-plain-key")), "{problems:?}");
    }
}

#[test]
fn any_of_accepts_it_and_still_removes_the_key() {
    let (service, key) = (Backend::echo("a"), Key::new());
    let text = format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [any]}}
  middlewares:
    any: {{anyOf: {{middlewares: [login, key]}}}}
    login: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    key: {{apiKey: {{}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
  consumers:
{}",
        service.url(),
        key.consumer("ann", "")
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let refused = get(gateway.web(), "h", "/");
    assert_eq!(refused.status, 401);
    assert_eq!(get_with(gateway.web(), "h", "/", &key.header()).status, 200);
    assert_eq!(service.last().header("x-api-key"), None);
    let both = format!("{}Authorization: Basic YW5uOnRlc3Q=\r\n", key.header());
    assert_eq!(get_with(gateway.web(), "h", "/", &both).status, 200);
    assert_eq!(service.last().header("x-api-key"), None, "admitted by the password, and still no key");
}

#[test]
fn a_key_passes_middlewares_that_do_not_apply() {
    let (service, key) = (Backend::echo("a"), Key::new());
    let text = format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [one, two]}}
  middlewares:
    one: {{when: 'Path(`/one`)', apiKey: {{scopes: [none]}}}}
    two: {{when: 'Path(`/two`)', apiKey: {{}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
  consumers:
{}",
        service.url(),
        key.consumer("ann", "")
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |path: &str| get_with(gateway.web(), "h", path, &key.header()).status;
    assert_eq!((ask("/one"), ask("/two")), (403, 200));
    assert_eq!(service.last().header("x-api-key"), None);
}

#[test]
fn conditions_know_groups_and_consumers() {
    let (service, ann, bob) = (Backend::echo("a"), Key::new(), Key::new());
    let text = format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [key, ops]}}
    own: {{rule: 'PathPrefix(`/ann`)', service: a, middlewares: [key, only]}}
  middlewares:
    only: {{access: {{allow: 'Consumer(`ann`) && AuthMethod(`apiKey`)'}}}}
    key: {{apiKey: {{}}}}
    ops: {{when: 'Group(`anns`)', headers: {{customRequestHeaders: {{X-Ops: 'yes'}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
  consumers:
{}{}",
        service.url(),
        ann.consumer("ann", ""),
        bob.consumer("bob", "")
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    for (key, expected) in [(&ann, Some("yes")), (&bob, None)] {
        assert_eq!(get_with(gateway.web(), "h", "/", &key.header()).status, 200);
        assert_eq!(service.last().header("x-ops"), expected);
        let status = if expected.is_some() { 200 } else { 403 };
        assert_eq!(get_with(gateway.web(), "h", "/ann", &key.header()).status, status);
    }
}

#[test]
fn predictions_say_whose_key_it_is_and_count_as_no_use() {
    let (service, key) = (Backend::echo("a"), Key::new());
    let gateway = Gateway::serve(&routes("", &key.consumer("ann", ""), &service.url()));
    let explain = |key: &str| {
        let question = json!({"method": "GET", "url": "http://h/", "headers": {"X-API-Key": [key]}});
        let body = question.to_string();
        let head = format!("POST /api/explain HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n", body.len());
        raw(gateway.address("traefik"), format!("{head}Connection: close\r\n\r\n{body}")).unwrap().text()
    };
    let told = explain(&key.text);
    assert!(told.contains(&format!("the API key `{}` of consumer `ann@file` is valid", key.id)), "{told}");
    assert!(explain(&Key::new().text).contains("the API key is unknown"));
    assert!(explain("tg_x").contains("the API key has a typing error"));
    assert!(!told.contains(key.secret()) && !told.contains(&key.sha256));
    assert_eq!(last_used(&gateway, "ann"), Value::Null);
    assert_eq!(service.seen().len(), 0);
}

#[test]
fn the_example_works() {
    let service = Backend::echo("a");
    let folder = crate::docs::root().join("examples/api-keys");
    let gateway = Gateway::with(&[], "");
    let consumers = gateway.folder().join("consumers.yml");
    std::fs::copy(folder.join("consumers.yml"), &consumers).unwrap();
    let text = std::fs::read_to_string(folder.join("routes.yml")).unwrap();
    let usage = tempfile::tempdir().unwrap();
    let usage = usage.path().join("usage.log").display().to_string();
    let text = text.replace("http://127.0.0.1:8080", &service.url());
    gateway.write("api.yml", &text.replace("/var/lib/tidegate/usage.log", &usage));
    let arguments =
        ["new", "partner", "--file", "consumers.yml", "--scope", "orders:read", "--expires", "365d"];
    let key = crate::api_key_commands::done(gateway.folder(), &arguments);
    let ask = |method: &str, key: &str| {
        let head =
            format!("{method} /orders/1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n");
        raw(gateway.web(), format!("{head}Authorization: Bearer {key}\r\n\r\n")).unwrap().status
    };
    eventually("the key counts", || ask("GET", &key) == 200);
    assert_eq!(service.last().header("authorization"), None);
    assert_eq!((ask("POST", &key), reason(&gateway)), (403, "api_key_scope".into()));
    assert_eq!(ask("GET", "tg_x"), 401);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    // A limit of the plan, and then its quota.
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&consumers).unwrap();
        gateway.write("consumers.yml", &text.replace(from, to));
    };
    change("period: \"1s\"\n          burst: 20", "period: \"1h\"\n          burst: 2");
    eventually("the limit counts", || ask("GET", &key) == 429);
    assert_eq!(reason(&gateway), "rate_limited");
    change("period: \"1h\"\n          burst: 2", "period: \"1s\"\n          burst: 9000");
    change("average: 5", "average: 100000");
    change("limit: 100000", "limit: 1");
    eventually("the quota counts", || ask("GET", &key) == 429 && reason(&gateway) == "quota_exceeded");
    let shown: Value = serde_json::from_str(&gateway.api("/api/usage?consumer=partner")).unwrap();
    assert_eq!((&shown[0]["plan"], &shown[0]["limit"]), (&"basic@file".into(), &1.into()));
}
