//! Keys of consumers and of others, from the request to its response.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::consumer::{ApiKey as StoredKey, KeyHash, KeyState, LastUsed};
use tidegate_core::consumers::{Consumers, Credential, CredentialKind, Entry};
use tidegate_core::{AuthMethod, Body, BuildContext, Consumer, Middleware, Reason, Request, Response};

use super::authenticator::{Authenticator, LookUp, Operations};
use super::key::{NewKey, SecretHash, sha256};
use super::{ApiKey, KeySource, MAX_KEY};
use crate::testing::{self, Service, World, block_on, build_in, request};

/// A key that is stored, with its text.
struct Issued {
    text: String,
    stored: StoredKey,
}

fn issued() -> Issued {
    let new = NewKey::generate("tg").unwrap();
    let consumer = Consumer { name: "ann@file".into(), groups: vec!["ops".into()], ..Consumer::default() };
    let stored = StoredKey {
        id: new.id.as_str().into(),
        hash: KeyHash::Sha256(new.hash),
        label: "ci".into(),
        not_before: None,
        expires: None,
        state: KeyState::Active,
        allowed: None,
        scopes: ["read".into(), "write".into()].into(),
        consumer: Arc::new(consumer),
        last_used: Arc::new(LastUsed::default()),
    };
    Issued { text: new.text.expose().to_owned(), stored }
}

fn foreign(hash: KeyHash) -> StoredKey {
    StoredKey { id: "".into(), hash, ..issued().stored }
}

/// Replaces the directory by one with these keys.
fn store(world: &World, keys: Vec<StoredKey>) {
    let entry = |key: StoredKey| {
        let kind = CredentialKind::ApiKey(Arc::new(key));
        let CredentialKind::ApiKey(key) = &kind else { unreachable!() };
        let consumer = key.consumer.clone();
        let credentials = vec![Credential { path: String::new(), kind }];
        Arc::new(Entry { consumer, credentials, is_broken: false })
    };
    let entries: Vec<_> = keys.into_iter().map(entry).collect();
    world.consumers.store(Arc::new(Consumers::new(&entries).0));
}

fn with_header(name: &str, value: &str) -> Request {
    request(http::Request::get("http://h.test/a?x=1").header(name, value))
}

fn with_key(text: &str) -> Request {
    with_header("x-api-key", text)
}

/// What became of a request: the response, and what the service saw.
struct Outcome {
    response: Response,
    seen: Option<Request>,
}

fn ask(middleware: &Arc<dyn Middleware>, request: Request) -> Outcome {
    let seen = Arc::new(Mutex::new(None));
    let keep = seen.clone();
    let service = Service(move |request: Request| {
        *keep.lock().unwrap() = Some(request);
        Response::new(Body::empty())
    });
    let response = block_on(testing::run(middleware, request, &service));
    let seen = seen.lock().unwrap().take();
    Outcome { response, seen }
}

#[track_caller]
fn refused(middleware: &Arc<dyn Middleware>, request: Request, reason: Reason) {
    let Outcome { response, seen } = ask(middleware, request);
    assert_eq!((response.status().as_u16(), response.reason), (401, Some(reason)));
    assert!(seen.is_none());
}

#[test]
fn a_consumers_key_identifies_it_and_is_removed() {
    let (world, key) = (World::default(), issued());
    let (text, id, used) = (key.text, key.stored.id.clone(), key.stored.last_used.clone());
    store(&world, vec![key.stored]);
    let middleware = build_in(&world, ApiKey::default()).unwrap();
    assert_eq!(used.get(), None);
    let request = request(
        http::Request::get("http://h.test/").header("x-api-key", format!(" {text} ")).header("x-other", "1"),
    );
    let seen = ask(&middleware, request).seen.unwrap();
    assert!(!seen.head.headers.contains_key("x-api-key") && seen.head.headers.contains_key("x-other"));
    let identity = seen.context.identity.unwrap();
    assert_eq!((&*identity.subject, identity.method, &*identity.by), (&*id, AuthMethod::ApiKey, "m@file"));
    assert_eq!(identity.consumer.as_ref().unwrap().short_name(), "ann");
    assert!(identity.is_in_group("ops") && identity.has_scope("write") && !identity.has_scope("x"));
    assert_eq!(identity.label("apiKey"), Some("ci"));
    assert!(used.get().is_some());
    assert_eq!(seen.context.exchange.user(), Some("ann"));
}

#[test]
fn every_refusal_has_its_reason_and_one_response() {
    let (world, clock) = World::stopped();
    let mut key = issued();
    let text = key.text.clone();
    let now = world.clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    key.stored.not_before = Some(now + 10);
    key.stored.expires = Some(now + 20);
    let again = |state, allowed: Option<&str>| StoredKey {
        id: key.stored.id.clone(),
        hash: key.stored.hash.clone(),
        state,
        allowed: allowed.map(|range| IpRanges::parse(&[range]).unwrap()),
        ..issued().stored
    };
    let (revoked, elsewhere) = (again(KeyState::Revoked, None), again(KeyState::Active, Some("10.0.0.0/8")));
    let middleware = build_in(&world, ApiKey::default()).unwrap();
    let mut bodies = std::collections::BTreeSet::new();
    let mut check = |request: Request, reason| {
        let Outcome { response, seen } = ask(&middleware, request);
        assert!(seen.is_none());
        assert_eq!(response.reason, Some(reason));
        let headers = format!("{:?}", response.headers());
        bodies.insert((response.status().as_u16(), headers, testing::text(response)));
    };
    check(testing::get("http://h.test/"), Reason::Unauthenticated);
    check(with_key(&text), Reason::ApiKeyUnknown);
    store(&world, vec![key.stored]);
    check(with_key(&text), Reason::ApiKeyNotYetValid);
    clock.advance(Duration::from_secs(20));
    check(with_key(&text), Reason::ApiKeyExpired);
    check(with_key(&text.replacen("tg_", "tx_", 1)), Reason::ApiKeyMalformed);
    check(with_key(&"a".repeat(MAX_KEY + 1)), Reason::ApiKeyMalformed);
    store(&world, vec![revoked]);
    check(with_key(&text), Reason::ApiKeyRevoked);
    store(&world, vec![elsewhere]);
    check(with_key(&text), Reason::ApiKeyAddress);
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let (status, headers, text) = bodies.first().unwrap();
    assert_eq!((*status, &**text), (401, "401 Unauthorized\n"));
    assert!(headers.contains(r#"ApiKey realm=\"traefik\""#), "{headers}");
}

#[test]
fn only_the_holder_of_a_key_learns_that_its_consumer_is_broken() {
    let (world, one, other, slow) = (World::default(), issued(), issued(), issued());
    let id = one.stored.id.clone();
    let hash = KeyHash::Password("{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=".into());
    let key = |id: &str, hash: &KeyHash| StoredKey { id: id.into(), hash: hash.clone(), ..issued().stored };
    let foreign_key = KeyHash::Sha256(sha256(b"foreign"));
    // Two keys with one id, and twice the same foreign keys.
    let keys = vec![
        key(&id, &one.stored.hash),
        key(&id, &other.stored.hash),
        key("", &foreign_key),
        key("", &foreign_key),
        key("", &hash),
        key("", &hash),
    ];
    store(&world, keys);
    let middleware = build_in(&world, ApiKey::default()).unwrap();
    let with_id = |key: &Issued| super::key::tests::with_id(&key.text, &id);
    for text in [with_id(&one), with_id(&other), "foreign".to_owned(), "test".to_owned(), "test".to_owned()] {
        let outcome = ask(&middleware, with_key(&text));
        let response = &outcome.response;
        assert_eq!((response.status().as_u16(), response.reason), (503, Some(Reason::ConsumerBroken)));
        assert!(outcome.seen.is_none());
        assert!(middleware.predict(with_key(&text)).notes[0].contains("has a mistake"));
    }
    // The id alone, and anything else.
    refused(&middleware, with_key(&with_id(&slow)), Reason::ApiKeyUnknown);
    refused(&middleware, with_key("strange"), Reason::ApiKeyUnknown);
    // Once there is one owner, the key counts.
    store(&world, vec![key("", &hash), key(&id, &one.stored.hash)]);
    assert!(ask(&middleware, with_key("test")).seen.is_some());
    assert!(ask(&middleware, with_key(&with_id(&one))).seen.is_some());
}

#[test]
fn addresses_and_scopes_are_checked() {
    let world = World::default();
    let mut key = issued();
    key.stored.allowed = Some(IpRanges::parse(&["10.0.0.0/8"]).unwrap());
    let text = key.text.clone();
    store(&world, vec![key.stored]);
    let plain = build_in(&world, ApiKey::default()).unwrap();
    refused(&plain, with_key(&text), Reason::ApiKeyAddress);
    let forwarded = || {
        let builder = http::Request::get("http://h.test/").header("x-forwarded-for", "10.1.1.1");
        request(builder.header("x-api-key", &*text))
    };
    refused(&plain, forwarded(), Reason::ApiKeyAddress);
    let options = |scopes: &[&str]| ApiKey {
        ip_strategy: Some(tidegate_core::client_ip::IpStrategy { depth: 1, ..Default::default() }),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ..ApiKey::default()
    };
    let behind = build_in(&world, options(&["read"])).unwrap();
    assert_eq!(ask(&behind, forwarded()).response.status(), 200);
    let admin = build_in(&world, options(&["read", "admin"])).unwrap();
    let response = ask(&admin, forwarded()).response;
    assert_eq!((response.status().as_u16(), response.reason), (403, Some(Reason::ApiKeyScope)));
}

#[test]
fn a_replaced_key_warns_its_client() {
    let (world, clock) = World::stopped();
    let mut key = issued();
    let now = world.clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    (key.stored.state, key.stored.expires) = (KeyState::Grace, Some(now + 60));
    let text = key.text.clone();
    store(&world, vec![key.stored]);
    let middleware = build_in(&world, ApiKey::default()).unwrap();
    let response = ask(&middleware, with_key(&text)).response;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-api-key-deprecation"], "true");
    let end = std::time::UNIX_EPOCH + Duration::from_secs(now as u64 + 60);
    assert_eq!(response.headers()["x-api-key-sunset"].to_str().unwrap(), httpdate::fmt_http_date(end));
    clock.advance(Duration::from_secs(60));
    refused(&middleware, with_key(&text), Reason::ApiKeyExpired);
}

#[test]
fn keys_are_found_where_asked_and_removed_there_alone() {
    let (world, key) = (World::default(), issued());
    let text = &key.text;
    store(&world, vec![key.stored]);
    let source = KeySource {
        header: "Authorization".into(),
        header_auth_scheme: "Bearer".into(),
        cookie: "key".into(),
        query: "api key".into(),
    };
    let middleware = build_in(&world, ApiKey { key_source: Some(source), ..ApiKey::default() }).unwrap();
    for scheme in ["Bearer ", "bearer\t", "BEARER   "] {
        let seen = ask(&middleware, with_header("authorization", &format!("{scheme}{text}"))).seen.unwrap();
        assert!(!seen.head.headers.contains_key("authorization"));
    }
    for (cookie, left) in [
        (format!("key={text}"), None),
        (format!("a=1; key={text}; b=2"), Some("a=1; b=2")),
        (format!("a=1;key=\"{text}\";mykey=3;"), Some("a=1; mykey=3")),
    ] {
        let builder = http::Request::get("http://h.test/").header("cookie", cookie);
        let seen = ask(&middleware, request(builder.header("authorization", "Basic YTpi"))).seen.unwrap();
        assert_eq!(seen.head.headers.get("cookie").map(|value| value.to_str().unwrap()), left);
        assert_eq!(seen.head.headers["authorization"], "Basic YTpi", "another scheme is not the key");
    }
    for (query, left) in [
        (format!("api+key={text}"), "/a"),
        (format!("x=1&api%20key={text}&y=%2B"), "/a?x=1&y=%2B"),
        (format!("x&&%61pi+key={text}&"), "/a?x&&"),
    ] {
        let request = testing::get(&format!("http://h.test/a?{query}"));
        assert_eq!(ask(&middleware, request).seen.unwrap().head.uri, *left);
    }
    for (url, headers) in [
        (
            "http://h.test/".to_owned(),
            vec![("authorization", format!("Bearer {text}")), ("cookie", format!("key={text}"))],
        ),
        (format!("http://h.test/?api+key={text}"), vec![("cookie", format!("key={text}"))]),
        (format!("http://h.test/?api+key={text}&api%20key={text}"), vec![]),
        ("http://h.test/".to_owned(), vec![("cookie", format!("key={text}; key={text}"))]),
        (
            "http://h.test/".to_owned(),
            vec![("authorization", format!("Bearer {text}")), ("authorization", "Basic YTpi".into())],
        ),
        ("http://h.test/".to_owned(), vec![("authorization", format!("Bearer {text}, Bearer {text}"))]),
        ("http://h.test/".to_owned(), vec![("authorization", "Bearer".into())]),
    ] {
        let mut builder = http::Request::get(&url);
        for (name, value) in &headers {
            builder = builder.header(*name, value);
        }
        refused(&middleware, request(builder), Reason::ApiKeyMalformed);
    }
    // Not asked for.
    refused(
        &build_in(&world, ApiKey::default()).unwrap(),
        testing::get(&format!("http://h.test/?api_key={text}&X-API-Key={text}")),
        Reason::Unauthenticated,
    );
}

#[test]
fn keys_of_others_are_found_by_every_form_of_hash() {
    let world = World::default();
    store(
        &world,
        vec![
            foreign(KeyHash::Sha256(sha256(b"consumer-sha256"))),
            foreign(KeyHash::Password(bcrypt::hash("consumer-bcrypt", 4).unwrap().into())),
        ],
    );
    let options = |plain| ApiKey {
        secret_values: vec![
            bcrypt::hash("bcrypt", 4).unwrap(),
            "named:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/".into(),
            "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=".replace(
                "qUqP5cyxm6YcTAhz05Hph5gvu9M=",
                &BASE64_STANDARD.encode(<sha1::Sha1 as sha1::Digest>::digest("sha1")),
            ),
            format!(
                "sha256:{}",
                sha256(b"sha256").iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            ),
        ],
        secret_non_base64_encoded: plain,
        consumers: Some(true),
        ..ApiKey::default()
    };
    for plain in [true, false] {
        let middleware = build_in(&world, options(plain)).unwrap();
        for key in ["bcrypt", "test", "sha1", "sha256"] {
            let sent = if plain { key.to_owned() } else { BASE64_STANDARD.encode(key) };
            for _ in 0..2 {
                let outcome = ask(&middleware, with_key(&sent));
                assert_eq!(outcome.response.status(), 200, "{key}, plain: {plain}");
                let identity = outcome.seen.unwrap().context.identity.unwrap();
                assert_eq!(identity.subject == "named", key == "test", "{}", identity.subject);
            }
            let other = if plain { BASE64_STANDARD.encode(key) } else { key.to_owned() };
            refused(&middleware, with_key(&other), Reason::ApiKeyUnknown);
        }
        for key in ["consumer-sha256", "consumer-bcrypt"] {
            for _ in 0..2 {
                let identity = ask(&middleware, with_key(key)).seen.unwrap().context.identity.unwrap();
                assert_eq!((&*identity.subject, identity.consumer.is_some()), ("ann", true));
            }
            refused(&middleware, with_key(&format!("{key}x")), Reason::ApiKeyUnknown);
        }
    }
    // What was verified does not outlive the key.
    let middleware = build_in(&world, options(true)).unwrap();
    assert_eq!(ask(&middleware, with_key("consumer-bcrypt")).response.status(), 200);
    refused(&middleware, with_key("next"), Reason::ApiKeyUnknown);
    store(&world, vec![foreign(KeyHash::Password(bcrypt::hash("next", 4).unwrap().into()))]);
    refused(&middleware, with_key("consumer-bcrypt"), Reason::ApiKeyUnknown);
    assert_eq!(ask(&middleware, with_key("next")).response.status(), 200, "no longer unknown");
    // Without `consumers`, keys of options are the only ones.
    let alone = build_in(&world, ApiKey { consumers: None, ..options(true) }).unwrap();
    refused(&alone, with_key("next"), Reason::ApiKeyUnknown);
}

fn authenticator(options: &ApiKey, world: &World) -> Authenticator {
    options.authenticator(&BuildContext::new("m@file", world)).unwrap()
}

#[test]
fn hashes_that_take_too_long_are_not_tried() {
    let world = World::default();
    let hash =
        |number: usize| format!("$2y$16$D4SPFxzfWKcx1OXfVhRbvOTH/QB0Lm6AXTk8.NOmU4rPLX2t6UU{number:02}");
    store(&world, (0..6).map(|number| foreign(KeyHash::Password(hash(number).into()))).collect());
    let middleware = build_in(&world, ApiKey::default()).unwrap();
    let begun = std::time::Instant::now();
    let Outcome { response, seen } = ask(&middleware, with_key("unknown"));
    assert_eq!(response.status(), 503);
    assert_eq!(response.reason, Some(Reason::AuthenticationUnavailable));
    assert!(seen.is_none() && begun.elapsed() < Duration::from_secs(10));
}

/// Counts what is done for a key.
#[derive(Debug, Default, PartialEq)]
struct Counting {
    hashed: Vec<usize>,
    compared: usize,
}

impl Operations for Counting {
    fn sha256(&mut self, text: &[u8]) -> SecretHash {
        self.hashed.push(text.len());
        sha256(text)
    }

    fn is_equal(&mut self, one: &SecretHash, other: &SecretHash) -> bool {
        self.compared += 1;
        one == other
    }
}

#[test]
fn unknown_and_wrong_keys_take_the_same_work() {
    let (world, key) = (World::default(), issued());
    let (text, id) = (key.text.clone(), key.stored.id.to_string());
    store(&world, vec![key.stored, foreign(KeyHash::Sha256(sha256(b"other")))]);
    let mut built = authenticator(&ApiKey::default(), &world);
    let unknown = NewKey::generate("tg").unwrap().text.expose().to_owned();
    // Another key's secret behind this id: the checksum is right.
    let wrong = super::key::tests::with_id(&unknown, &id);
    let work = |built: &Authenticator, text: &str| {
        let mut counting = Counting::default();
        let found = built.look_up(text.as_bytes(), &mut counting);
        (matches!(found, LookUp::Known(_)), counting)
    };
    let (is_known, for_unknown) = work(&built, &unknown);
    assert!(!is_known);
    assert_eq!(for_unknown, Counting { hashed: vec![43, text.len()], compared: 1 });
    assert_eq!(work(&built, &wrong), (false, for_unknown));
    assert_eq!(work(&built, &text), (true, Counting { hashed: vec![43], compared: 1 }));
    // With slow hashes, both are tried against all of them.
    built = authenticator(
        &ApiKey {
            secret_values: vec![bcrypt::hash("a", 4).unwrap()],
            secret_non_base64_encoded: true,
            consumers: Some(true),
            ..ApiKey::default()
        },
        &world,
    );
    for text in [&unknown, &wrong] {
        let found = built.look_up(text.as_bytes(), &mut Counting::default());
        assert!(matches!(found, LookUp::Slow(_)), "{found:?}");
    }
}

#[test]
fn mistakes_in_options_are_named() {
    let error = |options: &str| {
        let options: ApiKey = serde_json::from_str(options).unwrap();
        build_in(&World::default(), options).err().unwrap().to_string()
    };
    for (options, expected) in [
        (r#"{"keySource": {"header": "a b"}}"#, "keySource.header: invalid header name `a b`"),
        (
            r#"{"keySource": {"headerAuthScheme": "Bearer"}}"#,
            "keySource.headerAuthScheme: requires keySource.header",
        ),
        (
            r#"{"keySource": {"header": "a", "headerAuthScheme": "a b"}}"#,
            "keySource.headerAuthScheme: invalid scheme",
        ),
        (r#"{"keySource": {"cookie": "a;b"}}"#, "keySource.cookie: invalid cookie name `a;b`"),
        (r#"{"consumers": false}"#, "no keys: expected secretValues"),
        (r#"{"secretValues": ["my-key"]}"#, "secretValues[0]: invalid hash: expected bcrypt"),
        (r#"{"secretValuesFile": "/missing"}"#, "/missing: no such file"),
    ] {
        let error = error(options);
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("my-key"));
    }
}
