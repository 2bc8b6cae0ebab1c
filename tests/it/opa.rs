//! The middleware `opa`: policies in the process, a stand-in for an OPA server, and attacks on both.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::problem_locations::wait_for_problem;
use crate::support::backend::unused_address;
use crate::support::keys::Key;
use crate::support::tokens::reason;
use crate::support::{Answer, Backend, Client, Gateway, eventually, get, get_with, raw};

const POLICY: &str = r#"package app

default allow := false

# Staff may do everything, others may read what is public.
allow if "staff" in input.identity.groups
allow if {
    input.method == "GET"
    input.parsed_path[0] == "public"
}
"#;

/// Routes with these middlewares in front of everything.
fn routes(service: &Backend, middlewares: &str, chain: &str, more: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [{chain}]}}
{more}  middlewares:
{middlewares}  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        service.url()
    )
}

fn local(service: &Backend, options: &str) -> String {
    let text = serde_json::Value::from(POLICY).to_string();
    routes(service, &format!("    m: {{opa: {{policy: {text}{options}}}}}\n"), "m", "")
}

/// A stand-in for an OPA server, which answers with the body that the function returns.
fn server(answer: impl Fn(&Value) -> String + Send + Sync + 'static) -> Backend {
    Backend::with(move |seen, stream| {
        let question: Value = serde_json::from_slice(&seen.body).unwrap();
        let body = answer(&question["input"]);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .is_ok()
    })
}

fn remote(service: &Backend, url: &str, options: &str) -> Gateway {
    let options = format!("    m: {{opa: {{url: '{url}', decision: app/authz, {options}}}}}\n");
    let gateway = Gateway::with(&[], &routes(service, &options, "m", ""));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    gateway
}

#[track_caller]
fn is_refused(gateway: &Gateway, answer: &Answer, status: u16, why: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(reason(gateway), why);
}

#[test]
fn a_policy_decides_about_keys_and_paths() {
    let (service, staff, other) = (Backend::echo("a"), Key::new(), Key::new());
    let text = Value::from(POLICY).to_string();
    let middlewares = format!(
        "    keys: {{apiKey: {{}}, when: 'HeaderRegexp(`X-API-Key`, `.`)'}}\n    m: {{opa: {{policy: {text}}}}}\n"
    );
    let consumers = format!(
        "  consumers:\n{}{}",
        staff.consumer("ann", "").replace("[anns]", "[staff]"),
        other.consumer("bob", "")
    );
    let text = routes(&service, &middlewares, "keys, m", "") + &consumers;
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.log");
    let flag = format!("--auditLog.filePath={}", audit.display());
    let gateway = Gateway::with(&[&flag], &text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |target: &str, headers: &str| get_with(gateway.web(), "h", target, headers);
    assert_eq!(ask("/private", &staff.header()).status, 200);
    assert_eq!(ask("/public/x", "").status, 200);
    is_refused(&gateway, &ask("/private", &other.header()), 403, "policy_denied");
    is_refused(&gateway, &ask("/private", ""), 403, "policy_denied");
    // Nobody becomes someone else by a header, and no other spelling of a path is public.
    for headers in ["x-groups: staff\r\n", "identity: staff\r\n", "groups: staff\r\n"] {
        is_refused(&gateway, &ask("/private", headers), 403, "policy_denied");
    }
    for target in ["/public/../private", "/private?/public", "/PUBLIC", "/./private"] {
        let answer = ask(target, "");
        assert!([400, 403].contains(&answer.status), "{target}: {}", answer.status);
    }
    assert!(service.seen().iter().all(|seen| ["/private", "/public/x"].contains(&seen.target())));
    eventually("refusals are in the audit log", || {
        let lines = std::fs::read_to_string(&audit).unwrap_or_default();
        lines.lines().any(|line| line.contains("policy_denied") && line.contains("/private"))
    });
    // What would happen is known without sending it.
    let explained = gateway.api("/api/explain?url=http%3A%2F%2Fh%2Fprivate");
    assert!(explained.contains("the policy denies the request"), "{explained}");
}

#[test]
fn a_broken_policy_names_its_place_and_a_change_is_seen() {
    let service = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.rego");
    std::fs::write(&file, "package app\n\nallow if {\n  input.path == \n}\n").unwrap();
    let path = file.display().to_string();
    let middlewares = format!("    m: {{opa: {{policy: '{path}'}}}}\n");
    let more = "    free: {rule: 'PathPrefix(`/free`)', service: a}\n";
    let gateway = Gateway::with(&[], &routes(&service, &middlewares, "m", more));
    wait_for_problem(&gateway, "m", "routes.yml:6", &format!("{path}:5:1: expecting expression"));
    is_refused(&gateway, &get(gateway.web(), "h", "/"), 503, "router_broken");
    assert_eq!(get(gateway.web(), "h", "/free").status, 200);
    for (text, status) in [
        ("package app\nallow := true\n", 200),
        ("package app\nallow := false\n", 403),
        ("package app\nf(x) := f(x)\nallow if f(1)\n", 503),
        ("package app\nallow if input.method == \"GET\"\n", 200),
    ] {
        std::fs::write(&file, text).unwrap();
        eventually(text, || get(gateway.web(), "h", "/").status == status);
    }
    assert_eq!(gateway.problems(), Vec::<String>::new());
}

#[test]
fn a_heavy_policy_holds_up_nobody_else() {
    let service = Backend::echo("a");
    let text = r#"package app
allow if {
    input.path != "/light"
    some x in numbers.range(1, 5000)
    some y in numbers.range(1, 5000)
    x * y == -1
}
allow if input.path == "/light"
"#;
    let text = Value::from(text).to_string();
    let middlewares = format!("    m: {{opa: {{policy: {text}, evaluationTimeout: 2s, timeout: 1s}}}}\n");
    let more = "    free: {rule: 'PathPrefix(`/free`)', service: a}\n";
    // It is evaluated when it is built, too.
    let gateway = Gateway::with(&[], &routes(&service, &middlewares, "m", more));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    eventually("the policy is live", || get(gateway.web(), "h", "/light").status == 200);
    let (web, barrier) = (gateway.web(), Arc::new(Barrier::new(9)));
    let heavy: Vec<_> = (0..8)
        .map(|_| {
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                barrier.wait();
                get(web, "h", "/").status
            })
        })
        .collect();
    barrier.wait();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(get(web, "h", "/free").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for status in heavy {
        assert_eq!(status.join().unwrap(), 503);
    }
    eventually("light requests are decided again", || get(web, "h", "/light").status == 200);
}

#[test]
fn a_server_decides_with_headers_status_and_body() {
    let service = Backend::echo("a");
    let opa = server(|input| match input["path"].as_str() {
        Some("/yes") => json!({"result": {"allowed": true, "headers": {"X-Role": "admin"},
            "response_headers_to_add": {"X-Decided": "1"}}})
        .to_string(),
        Some("/no") => json!({"result": {"allowed": false, "http_status": 402, "body": "pay",
            "headers": {"X-Price": "5"}}})
        .to_string(),
        _ => "{}".to_owned(),
    });
    let gateway = remote(&service, &opa.url(), "headers: {Authorization: Bearer own}");
    let answer = get_with(gateway.web(), "h", "/yes", "X_Role: root\r\nx-role: root\r\nCookie: s=1\r\n");
    assert_eq!((answer.status, answer.header("x-decided")), (200, Some("1")));
    let seen = service.last();
    assert_eq!((seen.headers("x-role"), seen.headers("x_role")), (vec!["admin"], vec![]));
    let question = opa.last();
    assert_eq!((question.method(), question.target()), ("POST", "/v1/data/app/authz"));
    assert_eq!(question.header("authorization"), Some("Bearer own"));
    let input: Value = serde_json::from_slice(&question.body).unwrap();
    assert_eq!(input["input"]["client"]["address"], "127.0.0.1");
    assert_eq!(input["input"]["headers"].get("Cookie"), None);
    let answer = get(gateway.web(), "h", "/no");
    assert_eq!((answer.status, answer.text().as_str(), answer.header("x-price")), (402, "pay", Some("5")));
    // What is undefined is denied.
    is_refused(&gateway, &get(gateway.web(), "h", "/other"), 403, "policy_denied");
    let shown = gateway.api("/api/http/middlewares/m@file");
    assert!(shown.contains("xxxx") && !shown.contains("own\""), "{shown}");
}

#[test]
fn a_server_that_is_slow_down_or_broken_admits_nobody() {
    let service = Backend::echo("a");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let large = format!("{{\"result\": true, \"x\": \"{}\"}}", "a".repeat(5 << 20));
    let hangs = Backend::with(|_, stream| stream.peek(&mut [0]).is_ok_and(|_| false));
    let drips = Backend::with(move |_, stream| {
        let _ = write!(stream, "{head}Content-Length: 16\r\n\r\n{{\"result");
        stream.peek(&mut [0]).is_ok_and(|_| false)
    });
    let garbage = Backend::closing(format!("{head}Content-Length: 6\r\n\r\n<html>"));
    let huge = Backend::closing(format!("{head}Content-Length: {}\r\n\r\n{large}", large.len()));
    let endless = Backend::closing(format!("{head}\r\n{large}"));
    let failing = Backend::closing("HTTP/1.1 500 Oops\r\nContent-Length: 16\r\n\r\n{\"result\": true}");
    let down = format!("http://{}", unused_address());
    let all = [&hangs, &drips, &garbage, &huge, &endless, &failing];
    for url in all.iter().map(|server| server.url()).chain([down]) {
        let gateway = remote(&service, &url, "timeout: 500ms");
        let begun = Instant::now();
        is_refused(&gateway, &get(gateway.web(), "h", "/"), 503, "policy_unavailable");
        assert!(begun.elapsed() < Duration::from_secs(4));
        assert!(service.seen().is_empty());
    }
    let open = remote(&service, &hangs.url(), "timeout: 500ms, onError: allow");
    assert_eq!(get(open.web(), "h", "/").status, 200);
    let no_decision = server(|_| r#"{"result": {"allowed": "yes"}}"#.to_owned());
    let gateway = remote(&service, &no_decision.url(), "timeout: 5s");
    is_refused(&gateway, &get(gateway.web(), "h", "/"), 503, "policy_failed");
}

#[test]
fn decisions_are_remembered_for_their_client() {
    let service = Backend::echo("a");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let opa = server(move |input| {
        count.fetch_add(1, Ordering::SeqCst);
        json!({"result": input["headers"]["X-Tenant"] == "good"}).to_string()
    });
    let options = "cache: {ttl: 1h, key: [method, headers.X-Tenant]}";
    let gateway = remote(&service, &opa.url(), options);
    let ask = |tenant: &str, more: &str| {
        get_with(gateway.web(), "h", "/", &format!("X-Tenant: {tenant}\r\n{more}")).status
    };
    assert_eq!([ask("good", ""), ask("bad", ""), ask("good", ""), ask("bad", "")], [200, 403, 200, 403]);
    assert_eq!(ask("good", "X-Other: 1\r\n"), 200);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    // Two values are not one of them.
    assert_eq!(ask("good", "X-Tenant: bad\r\n"), 403);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn oversized_bodies_are_refused_and_others_reach_the_service() {
    let service = Backend::echo("a");
    let text = Value::from("package app\nallow if input.parsed_body.amount < 100\n").to_string();
    let middlewares = format!("    m: {{opa: {{policy: {text}, body: {{maxSize: 1000}}}}}}\n");
    let gateway = Gateway::with(&[], &routes(&service, &middlewares, "m", ""));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let post = |body: &str| {
        let kind = "content-type: application/json\r\nconnection: close\r\n";
        let length = body.len();
        raw(
            gateway.web(),
            format!("POST / HTTP/1.1\r\nhost: h\r\n{kind}content-length: {length}\r\n\r\n{body}"),
        )
        .unwrap()
    };
    assert_eq!(post(r#"{"amount": 5}"#).status, 200);
    assert_eq!(service.last().body, br#"{"amount": 5}"#);
    for body in [r#"{"amount": 500}"#, r#"{"amount": 500, "amount": 5}"#, "5", "{", "[[[[[[["] {
        is_refused(&gateway, &post(body), 403, "policy_denied");
    }
    is_refused(&gateway, &post(&"x".repeat(1001)), 413, "request_too_large");
    // A body of unknown length is read to the limit only.
    let mut client = Client::connect(gateway.web());
    client.send("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(format!("3e9\r\n{}\r\n", "x".repeat(1001)));
    assert_eq!(client.read().unwrap().status, 413);
    assert_eq!(service.seen().len(), 1);
}

#[test]
fn any_of_and_when_work_with_policies() {
    let service = Backend::echo("a");
    let text = Value::from("package app\nallow if input.headers[\"X-Key\"] == \"k\"\nrole := \"policy\"\n")
        .to_string();
    let middlewares = format!(
        "    local: {{ipAllowList: {{sourceRange: [192.0.2.1], ipStrategy: {{depth: 1}}}}}}
    policy: {{opa: {{policy: {text}, forwardHeaders: {{X-Role: data.app.role}}}}}}
    either: {{anyOf: {{middlewares: [local, policy]}}}}
    m: {{opa: {{policy: {text}, forwardHeaders: {{X-Role: data.app.role}}}}, when: 'PathPrefix(`/api`)'}}
"
    );
    let more = "    other: {rule: 'Host(`other`) && PathPrefix(`/`)', service: a, middlewares: [m]}\n";
    let flags = ["--entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.1"];
    let gateway = Gateway::with(&flags, &routes(&service, &middlewares, "either", more));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |host: &str, target: &str, headers: &str| {
        get_with(gateway.web(), host, target, &format!("X-Role: root\r\n{headers}")).status
    };
    assert_eq!(ask("h", "/", "X-Key: k\r\n"), 200);
    assert_eq!(service.last().headers("x-role"), ["policy"]);
    // The other member says nothing about the role, and clients must not.
    assert_eq!(ask("h", "/", "X-Forwarded-For: 192.0.2.1\r\n"), 200);
    assert_eq!(service.last().header("x-role"), None);
    assert_eq!(ask("h", "/", ""), 403);
    assert_eq!([ask("other", "/api", ""), ask("other", "/api", "X-Key: k\r\n")], [403, 200]);
    assert_eq!(ask("other", "/free", ""), 200);
    assert_eq!(service.last().header("x-role"), None);
}

#[test]
fn options_in_files_and_labels_are_the_same() {
    let service = Backend::echo("a");
    let gateway = Gateway::with(&[], &local(&service, ", cache: true, body: true"));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    assert_eq!(get(gateway.web(), "h", "/public").status, 200);
    let shown: Value = serde_json::from_str(&gateway.api("/api/http/middlewares/m@file")).unwrap();
    assert_eq!(shown["opa"]["cache"]["maxEntries"], 10_000, "{shown}");
}

#[test]
fn the_example_works() {
    let text = std::fs::read_to_string(crate::docs::root().join("examples/opa/routes.yml")).unwrap();
    let (service, staff, other) = (Backend::echo("a"), Key::new(), Key::new());
    let consumers = format!(
        "  consumers:\n{}{}\n  services:\n",
        staff.consumer("ann", "").replace("[anns]", "[staff]"),
        other.consumer("bob", "")
    );
    let text = text.replace("http://127.0.0.1:8080", &service.url()).replacen(
        "\n  services:\n",
        &format!("\n{consumers}"),
        1,
    );
    let gateway = Gateway::with(&[], &text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |method: &str, target: &str, key: &str| {
        let head =
            format!("{method} {target} HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n{key}\r\n");
        raw(gateway.web(), head).unwrap()
    };
    assert_eq!(ask("GET", "/catalogue/1", "").status, 200);
    let denied = ask("GET", "/internal", &staff.header());
    assert_eq!((denied.status, denied.text().as_str()), (403, "not permitted\n"));
    assert_eq!(ask("DELETE", "/catalogue/1", &other.header()).status, 403);
    assert_eq!(ask("DELETE", "/catalogue/1", "X-Editor: ann\r\n").status, 403);
    assert_eq!(ask("DELETE", "/catalogue/1", &staff.header()).status, 200);
    assert_eq!(service.last().header("x-editor"), Some(&*staff.id));
}
