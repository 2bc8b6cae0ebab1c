//! The middleware as a whole, with policies here and a stand-in for a server.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_core::{
    AuthMethod, Body, BoxFuture, HttpClient, Identity, Reason, Request, Response, UpstreamError, Verdict,
};

use super::*;
use crate::testing::{self, Service, World};

const POLICY: &str = r#"package app

default allow := false

allow if {
    input.method == "GET"
    input.parsed_path[0] == "public"
}

allow if "staff" in input.identity.groups

role := "admin" if "staff" in input.identity.groups
"#;

fn policy(text: &str) -> Opa {
    Opa { policy: text.into(), ..Opa::default() }
}

fn error(options: Opa) -> String {
    match testing::build_in(&World::default(), options) {
        Ok(_) => panic!("it builds"),
        Err(error) => error.to_string(),
    }
}

/// Returns the response, with the request that the service has got.
fn send(middleware: &Arc<dyn Middleware>, request: Request) -> (Response, Option<Request>) {
    let seen = Arc::new(Mutex::new(None));
    let kept = seen.clone();
    let service = Service(move |request| {
        *kept.lock().unwrap() = Some(request);
        Response::new(Body::empty())
    });
    let response = testing::block_on(testing::run(middleware, request, &service));
    let seen = seen.lock().unwrap().take();
    (response, seen)
}

fn status(middleware: &Arc<dyn Middleware>, request: Request) -> u16 {
    send(middleware, request).0.status().as_u16()
}

fn as_staff(mut request: Request) -> Request {
    let mut ann = Identity::new("ann", AuthMethod::Jwt, "j@file".into());
    ann.groups = vec!["staff".into()];
    ann.claims = Some(Arc::new(serde_json::from_value(json!({"email": "ann@a.test"})).unwrap()));
    request.context.identify(ann);
    request
}

#[test]
fn a_policy_decides_by_request_and_identity() {
    let middleware = testing::build(policy(POLICY));
    assert_eq!(status(&middleware, testing::get("http://h.test/public/a")), 200);
    let (denied, seen) = send(&middleware, testing::get("http://h.test/private"));
    assert_eq!((denied.status().as_u16(), denied.reason), (403, Some(Reason::PolicyDenied)));
    assert!(seen.is_none());
    assert_eq!(status(&middleware, as_staff(testing::get("http://h.test/private"))), 200);
    // An escaped slash begins no other segment, and letters differ.
    for path in ["/public%2F..%2Fprivate", "/%2Fpublic", "/PUBLIC", "/private?/public", "//public"] {
        assert_eq!(status(&middleware, testing::get(&format!("http://h.test{path}"))), 403, "{path}");
    }
    assert_eq!(status(&middleware, testing::get("http://h.test/%70ublic")), 200);
}

#[test]
fn the_service_gets_headers_that_clients_cannot_send() {
    let forward_headers = BTreeMap::from([
        ("X-Role".to_owned(), "data.app.role".to_owned()),
        ("X-Mail".to_owned(), "input.identity.claims.email".to_owned()),
    ]);
    let middleware = testing::build(Opa { forward_headers, ..policy(POLICY) });
    let forged = |path: &str| {
        let builder = http::Request::get(format!("http://h.test{path}"));
        testing::request(builder.header("x-role", "root").header("x_role", "root").header("x-mail", "m"))
    };
    let seen = send(&middleware, forged("/public")).1.unwrap();
    assert!(["x-role", "x_role", "x-mail"].iter().all(|name| !seen.head.headers.contains_key(*name)));
    let seen = send(&middleware, as_staff(forged("/private"))).1.unwrap();
    assert_eq!(
        (&seen.head.headers["x-role"], &seen.head.headers["x-mail"]),
        (&"admin".parse().unwrap(), &"ann@a.test".parse().unwrap())
    );
    assert!(!seen.head.headers.contains_key("x_role"));
}

#[test]
fn decisions_have_the_form_of_the_envoy_plug_in() {
    let text = r#"package envoy.authz
import input.attributes.request.http as request

decision := {"allowed": true, "headers": {"X-By": "policy"}, "request_headers_to_remove": ["x-secret"],
    "response_headers_to_add": {"X-Decided": "yes"}} if request.headers["x-secret"] == "s"
else := {"allowed": false, "http_status": 302, "headers": {"Location": "/login"}, "body": "no"}
"#;
    for path in ["data.envoy.authz.decision", "envoy/authz/decision", "/envoy/authz/decision"] {
        let middleware = testing::build(Opa { decision: path.into(), ..policy(text) });
        let request = testing::request(http::Request::get("http://h.test/").header("X-Secret", "s"));
        let (response, seen) = send(&middleware, request);
        let seen = seen.unwrap().head.headers;
        assert_eq!(
            (&seen["x-by"], response.headers()["x-decided"].to_str().unwrap()),
            (&"policy".parse().unwrap(), "yes")
        );
        assert!(!seen.contains_key("x-secret"));
        let (response, seen) = send(&middleware, testing::get("http://h.test/"));
        assert_eq!(
            (response.status(), &response.headers()["location"]),
            (StatusCode::FOUND, &"/login".parse().unwrap())
        );
        assert!(seen.is_none());
    }
}

#[test]
fn the_examples_of_traefik_hub_work() {
    // The syntax is that of Rego before OPA 1.0, and names of headers are Go's.
    let claims = r#"{"email":"bibi@example.com"}"#;
    let part = |text: &str| {
        use base64::Engine as _;
        base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text)
    };
    let token = format!("{}.{}.{}", part(r#"{"alg":"none"}"#), part(claims), part("s"));
    let text = r#"package example.policies

allow {
  [_, encoded] := split(input.headers.Authorization, " ")
  [header, payload, signature] = io.jwt.decode(encoded)
  payload["email"] == "bibi@example.com"
}
"#;
    let middleware = testing::build(policy(text));
    let request = |token: &str| {
        testing::request(
            http::Request::get("http://h.test/").header("authorization", format!("Bearer {token}")),
        )
    };
    assert_eq!(status(&middleware, request(&token)), 200);
    for wrong in ["x.y.z", "", "a", &token.replace('.', ""), &format!("{token}.x")] {
        assert_eq!(status(&middleware, request(wrong)), 403, "{wrong}");
    }
    let text = r#"package example.policies

default allow = false

json_content { input.headers["Accept"] == "application/json" }

allow { not json_content }
"#;
    let options = Opa { allow: "data.example.policies.allow".into(), ..policy(text) };
    let middleware = testing::build(options);
    let accepts = |kind: &str| testing::request(http::Request::get("http://h.test/").header("AcCePt", kind));
    assert_eq!(status(&middleware, accepts("application/json")), 403);
    assert_eq!(status(&middleware, accepts("text/html")), 200);
}

#[test]
fn mistakes_have_a_place() {
    for (options, message) in [
        (policy("package a\n\nallow if {\n  input.x == \n}\n"), "policy:5:1: expecting expression"),
        (
            policy("package a\nallow if { unknown(1) }\n"),
            "allow: policy:2:19: could not find function unknown",
        ),
        (policy("package a\nallow if { x == y }\n"), "is unsafe"),
        (policy("package a\nallow if b\nb if allow\n"), "recursion detected"),
        (
            policy("package a\nf(x) := g(x)\ng(x) := f(x)\nallow if f(1)\n"),
            "the function `data.a.f` calls itself",
        ),
        (policy("package a\nb := 1\n"), "allow: required, since the policy has no rule with this name"),
        (
            Opa { allow: "data.a.alow".into(), ..policy("package a\nallow := true\n") },
            "allow: `data.a.alow` is not defined by the policy",
        ),
        (
            Opa { decision: "a/alow".into(), ..policy("package a\nallow := true\n") },
            "decision: `data.a.alow` is not defined",
        ),
        (
            Opa { decision: "a/x".into(), allow: "data.a.x".into(), ..policy("package a\nx := true\n") },
            "either `allow` or `decision`",
        ),
    ] {
        let error = error(options);
        assert!(error.contains(message), "{error}: expected {message}");
    }
}

#[test]
fn mistakes_in_options_are_named() {
    for (options, message) in [
        (policy("/missing.rego"), "policy: /missing.rego: no such file"),
        (Opa::default(), "policy: required"),
        (Opa { data: "[1]".into(), ..policy("package a\nallow := true\n") }, "data: expected an object"),
        (Opa { data: "{".into(), ..policy("package a\nallow := true\n") }, "data: EOF"),
        (
            Opa { url: "http://opa.test".into(), ..policy("package a\nallow := true\n") },
            "expected no other policy",
        ),
        (Opa { url: "http://opa.test".into(), ..Opa::default() }, "decision: required"),
        (
            Opa { url: "http://opa.test/v1/data/a/b".into(), decision: "a/b".into(), ..Opa::default() },
            "the url contains it already",
        ),
        (Opa { url: "opa.test".into(), decision: "a/b".into(), ..Opa::default() }, "url: invalid URL"),
        (
            Opa { url: "http://o.test".into(), decision: "a/../b".into(), ..Opa::default() },
            "decision: invalid path",
        ),
        (Opa { on_error: "open".into(), ..policy("package a\nallow := true\n") }, "onError: "),
        (
            Opa { timeout: Duration::from_secs(61), ..policy("package a\nallow := true\n") },
            "timeout: 1m1s: expected",
        ),
        (
            Opa { body: Some(BodyInput { max_size: 0 }), ..policy("package a\nallow := true\n") },
            "body.maxSize: 0: expected 1 to",
        ),
        (
            Opa {
                cache: Some(CacheOptions { key: vec!["user".into()], ..CacheOptions::default() }),
                ..policy("package a\nallow := true\n")
            },
            "cache.key: `user` is not a part of the input",
        ),
        (
            Opa {
                forward_headers: BTreeMap::from([("Host".into(), "data.a.allow".into())]),
                ..policy("package a\nallow := true\n")
            },
            "header `Host` cannot be set by a policy",
        ),
    ] {
        let error = error(options);
        assert!(error.contains(message), "{error}: expected {message}");
    }
}

#[test]
fn of_several_rules_one_must_be_named() {
    let several = Opa { policy_files: vec!["/b".into()], ..policy("package a\nallow := true\n") };
    let mut world = World::default();
    world.files.insert("/b".into(), b"package b\nallow := true\n".to_vec());
    let error = testing::build_in(&world, several.clone()).err().unwrap().to_string();
    assert!(error.contains("`data.a.allow`, `data.b.allow`"), "{error}");
    assert!(testing::build_in(&world, Opa { allow: "data.b.allow".into(), ..several }).is_ok());
}

#[test]
fn files_bundles_and_data_are_read() {
    let mut world = World::default();
    let text = "package app\nallow if input.client.address in data.allowed\n";
    world.files.insert("/p.rego".into(), text.into());
    world.files.insert("/d.json".into(), br#"{"allowed": ["127.0.0.1"]}"#.to_vec());
    world.files.insert(
        "/b.tar.gz".into(),
        bundle::tests::packed(&[
            ("/app/p.rego", b'0', text),
            ("/allowed/data.json", b'0', r#"["127.0.0.1"]"#),
        ]),
    );
    for options in [
        Opa { data: r#"{"allowed": ["127.0.0.1"]}"#.into(), ..policy("/p.rego") },
        Opa { policy_files: vec!["/p.rego".into()], data_files: vec!["/d.json".into()], ..Opa::default() },
        Opa { bundle_path: "/b.tar.gz".into(), ..Opa::default() },
    ] {
        let middleware = testing::build_in(&world, options).unwrap();
        assert_eq!(status(&middleware, testing::get("http://h.test/")), 200);
    }
    let other = Opa { data: r#"{"allowed": ["127.0.0.2"]}"#.into(), ..policy("/p.rego") };
    assert_eq!(status(&testing::build_in(&world, other).unwrap(), testing::get("http://h.test/")), 403);
}

#[test]
fn no_evaluation_is_endless() {
    let text = r#"package a
n := to_number(input.parsed_query.n[0])
allow if {
    some x in numbers.range(1, n)
    some y in numbers.range(1, n)
    x * y == -1
}
"#;
    let quick = Duration(StdDuration::from_millis(20));
    let middleware = testing::build(Opa { evaluation_timeout: quick, ..policy(text) });
    let n = |n: &str| testing::get(&format!("http://h.test/?n={n}"));
    assert_eq!(status(&middleware, n("3")), 403);
    let (response, seen) = send(&middleware, n("90000"));
    assert_eq!((response.status().as_u16(), response.reason), (503, Some(Reason::PolicyFailed)));
    assert!(seen.is_none());
    // A range that is too large for the memory is undefined.
    assert_eq!(status(&middleware, n("9000000000000")), 403);
    // What is not a number is undefined as well, and so denied.
    assert_eq!(status(&middleware, n("x")), 403);
    let open = Opa { evaluation_timeout: quick, on_error: OnError::Allow.into(), ..policy(text) };
    assert_eq!(status(&testing::build(open), n("90000")), 200);
}

#[test]
fn wrong_results_are_refused() {
    for (text, status) in [
        ("package a\nallow := input.parsed_query.v[0]\n", 503),
        ("package a\nallow := {\"allowed\": input.parsed_query.v[0]}\n", 503),
        ("package a\nallow := {\"allowed\": true, \"headers\": {\"x\": input.parsed_query.v[0]}}\n", 503),
        // Two values of a rule.
        ("package a\nallow := true if input.method == \"GET\"\nallow := false if input.path == \"/\"\n", 503),
        ("package a\nallow if input.parsed_query.missing[0]\n", 403),
    ] {
        let request = testing::get("http://h.test/?v=a%0Db");
        assert_eq!(self::status(&testing::build(policy(text)), request), status, "{text}");
    }
}

#[test]
fn deep_policies_do_not_exhaust_the_stack() {
    let mut text = "package a\nr0 := input.method\n".to_owned();
    for index in 1..1000 {
        text.push_str(&format!("r{index} := r{}\n", index - 1));
    }
    text.push_str("allow if r999 == \"GET\"\n");
    let patient = Opa {
        evaluation_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        ..policy(&text)
    };
    assert_eq!(status(&testing::build(patient), testing::get("http://h.test/")), 200);
    for index in 1000..2001 {
        text.push_str(&format!("r{index} := r{}\n", index - 1));
    }
    assert!(error(policy(&text)).contains("2002 rules: the maximum is 2000"));
}

#[test]
fn functions_that_call_themselves_are_found_by_any_name() {
    for body in [
        "f(x) := f(x)",
        "f(x) := y if { y := [z | z := data.a.f(x)] }",
        "import data.a as other\nf(x) := other.f(x)",
        "import data.a.f as g\nf(x) := g(x)",
        "f(x) := y if { y := g(x) }\ng(x) := 1 if { x > 1 } else := f(x)",
        "f(x) := g(x) with g as f\ng(x) := x",
    ] {
        let text = match body.strip_prefix("import") {
            Some(_) => format!("package a\n{body}\nallow if f(1)\n"),
            None => format!("package a\n{body}\nallow if f(1)\n"),
        };
        let error = error(policy(&text));
        assert!(
            error.contains("calls itself") || error.contains("unexpected keyword `with`"),
            "{body}: {error}"
        );
    }
    let text = "package a\nf(x) := g(g(x))\ng(x) := count([y | y := x])\nallow if f(1) == 1\n";
    assert_eq!(status(&testing::build(policy(text)), testing::get("http://h.test/")), 200);
}

#[test]
fn bodies_are_input_only_when_asked_for() {
    let text = r#"package a
allow if input.parsed_body.amount < 100
allow if input.body == "raw"
"#;
    let request = |kind: &str, body: &str| {
        let builder = http::Request::post("http://h.test/").header("content-type", kind);
        testing::with_body(builder, body.to_owned())
    };
    let with_body = Opa { body: Some(BodyInput { max_size: 64 }), ..policy(text) };
    let middleware = testing::build(with_body);
    let (response, seen) = send(&middleware, request("application/json; charset=utf-8", r#"{"amount": 5}"#));
    assert_eq!(response.status(), StatusCode::OK);
    let body = testing::block_on(seen.unwrap().body.collect(1000)).unwrap();
    assert_eq!(body.bytes, r#"{"amount": 5}"#);
    for (kind, body, expected) in [
        ("application/json", r#"{"amount": 500}"#, 403),
        // The service may read the other one.
        ("application/json", r#"{"amount": 500, "amount": 5}"#, 403),
        ("text/plain", r#"{"amount": 5}"#, 403),
        ("text/plain", "raw", 200),
        ("application/json", "", 403),
    ] {
        assert_eq!(status(&middleware, request(kind, body)), expected, "{body}");
    }
    let (response, seen) = send(&middleware, request("text/plain", &"x".repeat(65)));
    assert_eq!((response.status().as_u16(), response.reason), (413, Some(Reason::RequestTooLarge)));
    assert!(seen.is_none());
    let without = testing::build(policy(text));
    assert_eq!(status(&without, request("application/json", r#"{"amount": 5}"#)), 403);
}

#[test]
fn predictions_are_evaluations() {
    let middleware = testing::build(policy(POLICY));
    let passes = middleware.predict(testing::get("http://h.test/public"));
    assert!(matches!(passes.verdict, Verdict::Passes(_)), "{:?}", passes.notes);
    let Verdict::Responds(response) = middleware.predict(testing::get("http://h.test/x")).verdict else {
        panic!("it is denied")
    };
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let with_body = testing::build(Opa { body: Some(BodyInput::default()), ..policy(POLICY) });
    let request = testing::with_body(http::Request::post("http://h.test/public"), "x");
    assert!(matches!(with_body.predict(request).verdict, Verdict::Depends(_)));
}

/// A server that answers each question with this function.
struct Opas<F>(F, Arc<AtomicUsize>);

impl<F: Fn(Value) -> Result<Response, UpstreamError> + Send + Sync + 'static> HttpClient for Opas<F> {
    fn send(
        &self,
        request: Request,
        _: &ClientTls,
        _: StdDuration,
    ) -> BoxFuture<'_, Result<Response, UpstreamError>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            assert_eq!(request.head.uri, "http://opa.test:8181/v1/data/app/authz/allow");
            assert_eq!(request.head.headers["content-type"], "application/json");
            let body = request.body.collect(1 << 20).await.unwrap();
            let mut question: Value = serde_json::from_slice(&body.bytes).unwrap();
            (self.0)(question["input"].take())
        })
    }
}

fn remote(
    options: Opa,
    answer: impl Fn(Value) -> Result<Response, UpstreamError> + Send + Sync + 'static,
) -> (Arc<dyn Middleware>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let client: Arc<dyn HttpClient> = Arc::new(Opas(answer, asked.clone()));
    let world = World { client: Some(client), ..World::default() };
    let options = Opa { url: "http://opa.test:8181".into(), decision: "app/authz/allow".into(), ..options };
    (testing::build_in(&world, options).unwrap(), asked)
}

fn answer(text: &str) -> Result<Response, UpstreamError> {
    Ok(Response::new(Body::full(text.to_owned())))
}

#[test]
fn a_server_decides() {
    let (middleware, _) = remote(Opa::default(), |input| {
        assert_eq!(input.pointer("/attributes/request/http/method"), Some(&json!("GET")));
        answer(&json!({"decision_id": "1", "result": input["path"] == "/a"}).to_string())
    });
    assert_eq!(status(&middleware, testing::get("http://h.test/a")), 200);
    assert_eq!(status(&middleware, testing::get("http://h.test/b")), 403);
}

#[test]
fn nothing_but_an_answer_of_the_server_counts() {
    type Failure = fn() -> Result<Response, UpstreamError>;
    let failing: [(&str, Failure); 7] = [
        ("garbage", || answer("<html>")),
        ("nothing", || answer("")),
        ("a list", || answer("[true]")),
        ("two results", || answer(r#"{"result": false, "result": true}"#)),
        ("too long", || answer(&format!("{{\"result\": true, \"x\": \"{}\"}}", "x".repeat(2 << 20)))),
        ("status 500", || {
            let mut response = answer(r#"{"result": true}"#)?;
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(response)
        }),
        ("down", || Err(UpstreamError::NoServer)),
    ];
    for (name, failure) in failing {
        let (middleware, _) = remote(Opa::default(), move |_| failure());
        let (response, _) = send(&middleware, testing::get("http://h.test/"));
        assert_eq!(
            (response.status().as_u16(), response.reason),
            (503, Some(Reason::PolicyUnavailable)),
            "{name}"
        );
        let (open, _) = remote(Opa { on_error: OnError::Allow.into(), ..Opa::default() }, move |_| failure());
        assert_eq!(status(&open, testing::get("http://h.test/")), 200, "{name}");
    }
    let (undefined, _) = remote(Opa::default(), |_| answer("{}"));
    assert_eq!(status(&undefined, testing::get("http://h.test/")), 403);
    let (wrong, _) = remote(Opa::default(), |_| answer(r#"{"result": "true"}"#));
    let (response, _) = send(&wrong, testing::get("http://h.test/"));
    assert_eq!((response.status().as_u16(), response.reason), (503, Some(Reason::PolicyFailed)));
}

#[test]
fn credentials_stay_in_the_process_unless_asked_for() {
    let request = || {
        let builder = http::Request::get("http://h.test/").header("authorization", "Basic YTpi");
        testing::request(
            builder.header("cookie", "s=1").header("proxy-authorization", "x").header("x-a", "1"),
        )
    };
    for (credentials, expected) in [(None, false), (Some(false), false), (Some(true), true)] {
        let (middleware, _) = remote(Opa { credentials, ..Opa::default() }, move |input| {
            let text = input.to_string();
            assert_eq!([text.contains("YTpi"), text.contains("s=1"), text.contains("Proxy")], [expected; 3]);
            assert_eq!(input["headers"]["X-A"], "1");
            answer(r#"{"result": true}"#)
        });
        assert_eq!(status(&middleware, request()), 200);
    }
    let local = "package a\nallow if input.headers.Cookie\n";
    assert_eq!(status(&testing::build(policy(local)), request()), 200);
    let without = Opa { credentials: Some(false), ..policy(local) };
    assert_eq!(status(&testing::build(without), request()), 403);
}

#[test]
fn decisions_are_remembered_by_what_they_depend_on() {
    let cached = |key: &[&str]| Opa {
        cache: Some(CacheOptions { key: key.iter().map(|&k| k.into()).collect(), ..CacheOptions::default() }),
        ..Opa::default()
    };
    let allow = |_: Value| answer(r#"{"result": true}"#);
    let with = |path: &str, header: &str| {
        testing::request(http::Request::get(format!("http://h.test{path}")).header("x-a", header))
    };
    for (options, requests, expected) in [
        (Opa::default(), [("/a", "1"), ("/a", "1"), ("/b", "1"), ("/a", "2")], 4),
        (cached(&[]), [("/a", "1"), ("/a", "1"), ("/b", "1"), ("/a", "2")], 3),
        (cached(&["path"]), [("/a", "1"), ("/a", "1"), ("/b", "1"), ("/a", "2")], 2),
        (cached(&["input.headers.X-A", "method"]), [("/a", "1"), ("/a", "1"), ("/b", "1"), ("/a", "2")], 2),
    ] {
        let (middleware, asked) = remote(options.clone(), allow);
        for (path, header) in requests {
            assert_eq!(status(&middleware, with(path, header)), 200);
        }
        assert_eq!(asked.load(Ordering::Relaxed), expected, "{:?}", options.cache);
    }
    // Other clients are others.
    let (middleware, asked) = remote(cached(&[]), allow);
    assert_eq!(status(&middleware, as_staff(with("/a", "1"))), 200);
    assert_eq!(status(&middleware, with("/a", "1")), 200);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // Failures are not remembered.
    let (middleware, asked) = remote(cached(&[]), |_| Err(UpstreamError::NoServer));
    assert_eq!([status(&middleware, with("/a", "1")), status(&middleware, with("/a", "1"))], [503, 503]);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[test]
fn a_remembered_decision_ends() {
    let (mut world, clock) = World::stopped();
    let asked = Arc::new(AtomicUsize::new(0));
    world.client = Some(Arc::new(Opas(|_| answer(r#"{"result": true}"#), asked.clone())));
    let options = Opa {
        url: "http://opa.test:8181/v1/data/app/authz/allow".into(),
        cache: Some(CacheOptions::default()),
        ..Opa::default()
    };
    let middleware = testing::build_in(&world, options).unwrap();
    for (seconds, expected) in [(0, 1), (9, 1), (2, 2)] {
        clock.advance(StdDuration::from_secs(seconds));
        assert_eq!(status(&middleware, testing::get("http://h.test/")), 200);
        assert_eq!(asked.load(Ordering::Relaxed), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever clients send, the input says it, and nothing else allows the request.
    #[test]
    fn inputs_have_what_clients_send(path in "/[!-~&&[^?#%]]{0,20}", header in "[ -~]{0,20}") {
        let Ok(uri) = path.parse::<http::Uri>() else { return Ok(()) };
        prop_assume!(uri.path() == path);
        let header = header.trim();
        let mut request = testing::request(http::Request::get("http://h.test/").header("x-a", header));
        request.head.uri = uri;
        let rules = InputRules { client: ClientIp::default(), has_credentials: false };
        let input = rules.input(&request, None);
        prop_assert_eq!(&input["path"], &json!(path));
        prop_assert_eq!(&input["headers"]["X-A"], &json!(header));
        prop_assert_eq!(&input["attributes"]["request"]["http"]["headers"]["x-a"], &json!(header));
        let segments: Vec<&str> = path[1..].split('/').collect();
        prop_assert_eq!(&input["parsed_path"], &json!(segments));
    }

    /// No policy, however broken, is more than an error.
    #[test]
    fn broken_policies_are_errors(text in "package a\n[a-z :={}\\[\\]().\"\n]{0,80}") {
        drop(testing::build_in(&World::default(), policy(&text)));
    }
}
