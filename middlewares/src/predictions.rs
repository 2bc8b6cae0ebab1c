//! Compares what middlewares predict with what they do.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tidegate_core::values::Duration as Setting;
use tidegate_core::*;

use crate::testing::{self, Service, World, build, build_in, get, request};
use crate::*;

/// What became of a request.
#[derive(Debug, PartialEq)]
enum Seen {
    /// The service got this target and these header names.
    Passed(String, Vec<String>),
    /// The middleware responded with this status and this `Location`.
    Responded(u16, Option<String>),
    Unknown,
}

fn passed(request: &Request) -> Seen {
    let mut names: Vec<String> = request.head.headers.keys().map(ToString::to_string).collect();
    names.sort();
    Seen::Passed(request.head.uri.to_string(), names)
}

fn responded(response: &Response) -> Seen {
    let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    Seen::Responded(response.status().as_u16(), location)
}

fn predicted(middleware: &Arc<dyn Middleware>, request: Request) -> Seen {
    match middleware.predict(request).verdict {
        Verdict::Passes(request) => passed(&request),
        Verdict::Responds(response) => responded(&response),
        Verdict::Depends(_) => Seen::Unknown,
    }
}

fn done(middleware: &Arc<dyn Middleware>, request: Request) -> Seen {
    let seen = Arc::new(Mutex::new(None));
    let store = seen.clone();
    let service = Service(move |request: Request| {
        *store.lock().unwrap() = Some(passed(&request));
        Response::new(Body::empty())
    });
    let response = testing::block_on(testing::run(middleware, request, &service));
    let seen = seen.lock().unwrap().take();
    seen.unwrap_or_else(|| responded(&response))
}

/// Checks that prediction and request agree, twice: a prediction must not change anything.
fn agree(middleware: &Arc<dyn Middleware>, make: impl Fn() -> Request) -> Seen {
    let first = predicted(middleware, make());
    assert_eq!(predicted(middleware, make()), first, "a prediction has no effect");
    assert_eq!(done(middleware, make()), first);
    first
}

fn all(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn middlewares_that_decide_by_the_request_do_what_they_predict() {
    let headers = |json: &str| serde_json::from_str::<headers::Headers>(json).unwrap();
    let middlewares: Vec<Arc<dyn Middleware>> = vec![
        build(add_prefix::AddPrefix { prefix: "/é x".into() }),
        build(strip_prefix::StripPrefix { prefixes: all(&["/api", "/a"]), force_slash: None }),
        build(strip_prefix_regex::StripPrefixRegex { regex: all(&["/[a-z]+/"]) }),
        build(replace_path::ReplacePath { path: "/new".into() }),
        build(replace_path_regex::ReplacePathRegex {
            regex: "^/api/(.*)".into(),
            replacement: "/v2/$1".into(),
        }),
        build(redirect_regex::RedirectRegex {
            regex: "^http://a.test/old(.*)".into(),
            replacement: "https://b.test/new$1".into(),
            permanent: true,
        }),
        build(redirect_scheme::RedirectScheme { scheme: "https".into(), ..Default::default() }),
        build(headers(r#"{"customRequestHeaders": {"x-a": "1", "x-b": ""}}"#)),
        build(headers(r#"{"allowedHosts": ["b.test"], "customRequestHeaders": {"x-c": "1"}}"#)),
        build(headers(r#"{"accessControlAllowOriginList": ["*"], "accessControlAllowMethods": ["GET"]}"#)),
        build(ip_allow_list::IpAllowList { source_range: all(&["10.0.0.0/8"]), ..Default::default() }),
        build(ip_allow_list::IpAllowList { source_range: all(&["127.0.0.0/8"]), ..Default::default() }),
        build(encoded_characters::EncodedCharacters::default()),
        build(body_limit::BodyLimit { max_request_body_bytes: 1 }),
        build(compress::Compress::default()),
        build(content_type::ContentType::default()),
        build(grpc_web::GrpcWeb::default()),
        build(pass_tls_client_cert::PassTlsClientCert::default()),
        build(request_id::RequestId::default()),
        build(retry::Retry { attempts: 3, ..Default::default() }),
        build(buffering::Buffering { max_request_body_bytes: 10, ..Default::default() }),
    ];
    for middleware in &middlewares {
        for url in [
            "http://a.test/api/x?q=1",
            "http://a.test/apix",
            "http://a.test/a/../b",
            "http://a.test/old/page",
            "http://b.test:81/x%2Fy",
            "https://a.test/",
        ] {
            agree(middleware, || get(url));
            agree(middleware, || {
                request(http::Request::get(url).header("x-b", "2").header("accept-encoding", "gzip"))
            });
        }
        let preflight = || {
            let builder = http::Request::options("http://a.test/api/x").header("origin", "http://c.test");
            request(builder.header("access-control-request-method", "GET"))
        };
        agree(middleware, preflight);
    }
    let limit = build(body_limit::BodyLimit { max_request_body_bytes: 3 });
    for (length, expected) in [(3, 200), (4, 413)] {
        let mut long = get("http://a.test/");
        long.body = Body::stand_in(length);
        match predicted(&limit, long) {
            Seen::Responded(status, _) => assert_eq!(status, expected),
            seen => assert_eq!(expected, 200, "{seen:?}"),
        }
    }
}

#[test]
fn logins_are_predicted_without_using_them_up() {
    let user = |scheme: &str| request(http::Request::get("http://a.test/").header("authorization", scheme));
    let basic = build(basic_auth::BasicAuth {
        users: all(&["ann:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/", "bob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="]),
        remove_header: true,
        header_field: "x-user".into(),
        ..Default::default()
    });
    assert_eq!(agree(&basic, || get("http://a.test/")), Seen::Responded(401, None));
    assert_eq!(agree(&basic, || user("Basic YW5uOndyb25n")), Seen::Responded(401, None));
    // `bob:myPassword`
    let Seen::Passed(_, names) = agree(&basic, || user("Basic Ym9iOm15UGFzc3dvcmQ=")) else {
        panic!("the password is right")
    };
    assert_eq!(names, ["host", "x-user"]);
    let digest = build(digest_auth::DigestAuth { users: all(&["ann:traefik:0"]), ..Default::default() });
    assert_eq!(predicted(&digest, get("http://a.test/")), Seen::Responded(401, None));
    let shown = digest.predict(user("Digest username=\"ann\", response=\"0\"")).notes;
    assert_eq!(shown, ["the credentials are invalid"]);
}

#[test]
fn api_keys_are_predicted() {
    let options = api_key::ApiKey {
        secret_values: all(&[
            "ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
            "bob:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/",
        ]),
        secret_non_base64_encoded: true,
        ..Default::default()
    };
    let keys = build(options);
    let with = |key: &str| request(http::Request::get("http://a.test/").header("x-api-key", key));
    assert_eq!(agree(&keys, || get("http://a.test/")), Seen::Responded(401, None));
    assert_eq!(agree(&keys, || with("wrong")), Seen::Responded(401, None));
    assert_eq!(agree(&keys, || with("test")), Seen::Passed("/".into(), all(&["host"])));
    for (key, note) in [("test", "the API key `ann` is valid"), ("wrong", "the API key is unknown")] {
        assert_eq!(keys.predict(with(key)).notes, [note]);
    }
}

#[test]
fn limits_are_predicted_without_taking_from_them() {
    let (world, clock) = World::stopped();
    let options =
        rate_limit::RateLimit { average: 1, period: Setting::from_secs(10), burst: 2, ..Default::default() };
    let limit = build_in(&world, options).unwrap();
    let ask = || get("http://a.test/");
    for (expected, note) in [(None, "2 of 2"), (None, "1 of 2"), (Some(429), "0 of 2")] {
        let notes = limit.predict(ask()).notes;
        assert!(notes[0].starts_with(note), "{notes:?}");
        match predicted(&limit, ask()) {
            Seen::Responded(status, _) => assert_eq!(Some(status), expected),
            seen => assert_eq!(expected, None, "{seen:?}"),
        }
        let first = predicted(&limit, ask());
        assert_eq!(done(&limit, ask()), first);
    }
    clock.advance(Duration::from_secs(10));
    assert!(limit.predict(ask()).notes[0].starts_with("1 of 2"));
    assert!(matches!(agree_once(&limit, ask), Seen::Passed(..)));
    let none = build_in(&world, in_flight_req::InFlightReq { amount: 0, ..Default::default() }).unwrap();
    assert_eq!(agree(&none, ask), Seen::Responded(429, None));
    let some = build_in(&world, in_flight_req::InFlightReq { amount: 1, ..Default::default() }).unwrap();
    assert!(matches!(agree(&some, ask), Seen::Passed(..)));
}

/// Like [`agree`], for limits.
fn agree_once(middleware: &Arc<dyn Middleware>, make: impl Fn() -> Request) -> Seen {
    let first = predicted(middleware, make());
    assert_eq!(done(middleware, make()), first);
    first
}

#[test]
fn a_breaker_predicts_its_state() {
    let (world, clock) = World::stopped();
    let options = circuit_breaker::CircuitBreaker {
        expression: "ResponseCodeRatio(500, 600, 0, 600) > 0.5".into(),
        ..Default::default()
    };
    let breaker = build_in(&world, options).unwrap();
    let failing = Service(|_: Request| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    });
    let ask = || get("http://a.test/");
    assert_eq!(breaker.predict(ask()).notes, ["the breaker is closed"]);
    for _ in 0..2 {
        drop(testing::block_on(testing::run(&breaker, ask(), &failing)));
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(breaker.predict(ask()).notes, ["the breaker is open"]);
    assert_eq!(agree(&breaker, ask), Seen::Responded(503, None));
    clock.advance(Duration::from_secs(30));
    assert!(breaker.predict(ask()).notes[0].contains("recovering"));
    assert_eq!(agree_once(&breaker, ask), Seen::Responded(503, None));
}

#[test]
fn composites_predict_from_their_members() {
    let mut world = World::default();
    world.add(
        "inside",
        ip_allow_list::IpAllowList { source_range: all(&["10.0.0.0/8"]), ..Default::default() },
    );
    world.add(
        "login",
        basic_auth::BasicAuth {
            users: all(&["bob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE="]),
            ..Default::default()
        },
    );
    world.add("prefix", add_prefix::AddPrefix { prefix: "/p".into() });
    world.middlewares.insert("asks@file".into(), Arc::new(Asks));
    let any = build_in(&world, any_of::AnyOf { middlewares: all(&["inside", "login"]) }).unwrap();
    let bob = || {
        request(http::Request::get("http://a.test/").header("authorization", "Basic Ym9iOm15UGFzc3dvcmQ="))
    };
    assert_eq!(agree(&any, || get("http://a.test/")), Seen::Responded(401, None));
    assert!(matches!(agree(&any, bob), Seen::Passed(..)));
    let chain = build_in(&world, chain::Chain { middlewares: all(&["login", "prefix"]) }).unwrap();
    assert_eq!(agree(&chain, || get("http://a.test/")), Seen::Responded(401, None));
    assert!(matches!(agree(&chain, bob), Seen::Passed(target, _) if target == "/p/"));
    let unsure = build_in(&world, chain::Chain { middlewares: all(&["asks", "login"]) }).unwrap();
    let shown = unsure.predict(get("http://a.test/"));
    assert!(matches!(shown.verdict, Verdict::Depends(_)));
    assert_eq!(shown.notes.last().unwrap(), "then responds with 401");
}

/// Says nothing about what it does.
struct Asks;

impl Middleware for Asks {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        next.run(request)
    }
}
