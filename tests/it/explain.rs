//! `/api/explain`: what it says about a request is what happens to it.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::explain_cases::{
    Case, MIDDLEWARES, RULES, SECURE, SERVICES, get, middlewares, rules, secure, services, tls, with,
};
use crate::support::tls::{ask_for, certificate, client_config};
use crate::support::{Backend, Client, Gateway, eventually, get_with, raw};

fn post(gateway: &Gateway, body: &str) -> (u16, String) {
    let head = format!("POST /api/explain HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n", body.len());
    let answer = raw(gateway.address("traefik"), format!("{head}Connection: close\r\n\r\n{body}")).unwrap();
    (answer.status, answer.text())
}

fn explain(gateway: &Gateway, case: &Case) -> Value {
    let mut headers = serde_json::Map::new();
    for (name, value) in case.headers.iter().copied().chain([("Host", case.host)]) {
        let values = headers.entry(name).or_insert_with(|| json!([]));
        values.as_array_mut().unwrap().push(value.into());
    }
    let (scheme, name) = case.tls.map_or(("http", case.host), |name| ("https", name));
    let question = json!({
        "method": case.method,
        "url": format!("{scheme}://{name}{}", case.path),
        "headers": headers,
        "from": case.from,
        "entryPoint": case.entry_point,
    });
    let (status, text) = post(gateway, &question.to_string());
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Status, `Location` and `X-Backend` of a response.
#[derive(Debug, Default)]
struct Response {
    status: u16,
    location: Option<String>,
    backend: Option<String>,
}

/// Sends a request; `None` if the handshake fails.
fn send(gateway: &Gateway, case: &Case) -> Option<Response> {
    let address = gateway.address(case.entry_point);
    if let Some(name) = case.tls {
        let seen = ask_for(address, &Arc::new(client_config(&[], None)), name, case.host, case.path).ok()?;
        let header = |name: &str| {
            let line = seen.answer.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            line.split_once(": ").map(|(_, value)| value.trim().to_owned())
        };
        let (location, backend) = (header("location:"), header("x-backend:"));
        return Some(Response { status: seen.status(), location, backend });
    }
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", case.method, case.path, case.host);
    for (name, value) in case.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let length = case.headers.iter().find(|(name, _)| *name == "Content-Length");
    let body = "x".repeat(length.map_or(0, |(_, length)| length.parse().unwrap()));
    let mut client = Client::over(connect(address, case.from));
    client.send(format!("{head}\r\n{body}"));
    let answer = client.read_for(case.method).unwrap();
    let header = |name: &str| answer.header(name).map(str::to_owned);
    Some(Response { status: answer.status, location: header("location"), backend: header("x-backend") })
}

/// Connects from this address.
fn connect(address: SocketAddr, from: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: IpAddr = from.parse().unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

fn newest(gateway: &Gateway) -> Value {
    let text = gateway.api("/api/requests?per_page=1&filter=entryPoint%20!%3D%20%22traefik%22");
    serde_json::from_str::<Value>(&text).unwrap()[0]["id"].clone()
}

/// Returns the server that is next.
fn next_server(service: &Value) -> Option<&str> {
    let is_next = |one: &&Value| one["next"] == true;
    if let Some(server) = service["servers"].as_array().into_iter().flatten().find(is_next) {
        return server["url"].as_str();
    }
    let child = service["services"].as_array().into_iter().flatten().find(is_next)?;
    next_server(&child["service"])
}

/// Asks, sends, and compares.
fn agree(gateway: &Gateway, backends: &[&Backend], case: &Case) {
    let explained = explain(gateway, case);
    assert_eq!(explain(gateway, case), explained, "an explanation has no effect");
    let before = newest(gateway);
    let all = || backends.iter().map(|backend| backend.seen().len()).collect::<Vec<_>>();
    let seen_before = all();
    let sent = send(gateway, case);
    let result = &explained["result"];
    let what = format!("{} {}{} at {}: {explained:#}", case.method, case.host, case.path, case.entry_point);
    let Some(sent) = sent else {
        assert!(result["origin"] == "handshake" || result["certain"] == false, "{what}");
        return;
    };
    assert_ne!(result["origin"], "handshake", "{what}");
    if result["origin"] == "gateway" && result["response"].is_null() {
        // Requests to the gateway's own services are not recorded.
        assert!(sent.backend.is_none(), "{what}");
        return;
    }
    let is_own = result["router"].as_str().is_some_and(|name| name.ends_with("@internal"));
    if is_own || result["response"]["reason"] == "malformed_request" {
        // The gateway's own routers are not recorded, nor what is refused before it is a request.
        assert_eq!(result["response"]["status"], sent.status, "{what}");
        assert_eq!(result["response"]["location"].as_str(), sent.location.as_deref(), "{what}");
        return;
    }
    eventually(&format!("{} {}{} is recorded", case.method, case.host, case.path), || {
        newest(gateway) != before
    });
    let id = newest(gateway).as_str().unwrap().to_owned();
    let record: Value = serde_json::from_str(&gateway.api(&format!("/api/requests/{id}"))).unwrap();
    let router = record["router"].as_str().map(|name| name.rsplit(" -> ").next().unwrap());
    assert_eq!(result["router"].as_str(), router, "{what} {record:#}");
    let chosen = explained["routing"].as_array().unwrap().last();
    let reached = |one: &Value| one["verdict"] != "notReached";
    if let Some(level) = chosen.filter(|level| level["router"].is_object()) {
        let router = &level["router"];
        let listed = level["candidates"].as_array().unwrap();
        let first = listed.iter().find(|candidate| candidate["matches"] == true).unwrap();
        assert_eq!((&first["router"], &first["chosen"]), (&router["name"], &json!(true)), "{what}");
        if result["certain"] == true {
            let explained: Vec<bool> =
                router["middlewares"].as_array().into_iter().flatten().map(reached).collect();
            let middlewares = record["middlewares"].as_array();
            let recorded: Vec<bool> =
                middlewares.into_iter().flatten().map(|one| one["reached"] == true).collect();
            assert_eq!(explained, recorded, "{what} {record:#}");
        }
    } else if let Some(level) = chosen {
        let listed = level["candidates"].as_array().unwrap();
        assert!(listed.iter().all(|candidate| candidate["failed"].is_object()), "{what}");
    }
    if result["certain"] == true {
        compare_response(&explained, &sent, &record, &what);
    }
    let now = all();
    let got: Vec<usize> = (0..backends.len()).filter(|index| now[*index] > seen_before[*index]).collect();
    if let Some(index) = got.first() {
        let seen = backends[*index].last();
        let forwarded = &explained["forwarded"];
        assert_eq!(forwarded["path"], seen.target(), "{what}");
        assert_eq!(forwarded["host"].as_str(), seen.header("host"), "{what}");
        assert_eq!(forwarded["method"], seen.method(), "{what}");
        if let Some(next) = next_server(&explained["service"]) {
            assert!(next.starts_with(&backends[*index].url()), "{what}");
        }
    }
}

fn compare_response(explained: &Value, sent: &Response, record: &Value, what: &str) {
    let result = &explained["result"];
    let origin = record["origin"].as_str().unwrap();
    if result["origin"] == "server" {
        assert_eq!((sent.status, sent.backend.is_some()), (200, true), "{what} {record:#}");
        return;
    }
    assert_eq!(result["origin"], origin, "{what} {record:#}");
    let response = &result["response"];
    if response.is_object() {
        assert_eq!(response["status"], sent.status, "{what}");
        assert_eq!(response["location"].as_str(), sent.location.as_deref(), "{what}");
        assert_eq!(response["reason"], record["reason"], "{what}");
    }
}

pub fn backends() -> (Backend, Backend) {
    (Backend::echo("a"), Backend::echo("b"))
}

#[test]
fn rules_are_explained_as_requests_are_routed() {
    let (a, b) = backends();
    let gateway = Gateway::serve(&rules(&a.url(), &b.url()));
    for case in RULES {
        if case.host.contains(' ') {
            assert_eq!(post(&gateway, &format!("{{\"url\": \"http://{}/\"}}", case.host)).0, 400);
            continue;
        }
        agree(&gateway, &[&a, &b], case);
    }
}

#[test]
fn middlewares_do_what_is_explained() {
    let (a, b) = backends();
    let gateway = Gateway::serve(&middlewares(&a.url(), &b.url()));
    for case in MIDDLEWARES {
        if matches!(case.path, "/pages" | "/asks/x") {
            continue;
        }
        agree(&gateway, &[&a, &b], case);
    }
    // The page is of another service, and the authentication server sees another request.
    let pages = explain(&gateway, &get("a.test", "/pages"));
    assert_eq!(pages["result"]["response"]["status"], 418, "{pages:#}");
    assert_eq!(send(&gateway, &get("a.test", "/pages")).unwrap().status, 418);
    let asks = explain(&gateway, &get("a.test", "/asks/x"));
    assert_eq!(asks["result"]["dependsOn"], json!(["asks@file"]), "{asks:#}");
    assert_eq!(asks["forwarded"]["path"], "/x");
    assert!(asks.to_string().contains(&format!("asks {}/verify", b.url())), "{asks:#}");
    assert_eq!(send(&gateway, &get("a.test", "/asks/x")).unwrap().backend.as_deref(), Some("a"));
    assert_eq!(a.last().target(), "/x");
}

#[test]
fn services_and_entry_points_do_what_is_explained() {
    let (a, b) = backends();
    let flags = [
        "--entryPoints.other.address=127.0.0.1:0",
        "--entryPoints.other.http.middlewares=add@file",
        "--entryPoints.other.http.encodedCharacters.allowEncodedSlash=false",
        "--entryPoints.other.http.underscoreHeadersStrategy=reject",
        "--entryPoints.other.forwardedHeaders.trustedIPs=127.0.0.1",
        "--entryPoints.moved.address=127.0.0.1:0",
        "--entryPoints.moved.http.redirections.entryPoint.to=:8443",
        "--entryPoints.web.asDefault=true",
    ];
    let gateway = Gateway::with(&flags, &services(&a.url(), &b.url()));
    for case in SERVICES {
        agree(&gateway, &[&a, &b], case);
    }
    let nested = explain(&gateway, &get("a.test", "/parent/y/z"));
    let names: Vec<&Value> =
        nested["routing"].as_array().unwrap().iter().map(|level| &level["router"]["name"]).collect();
    assert_eq!(names, ["parent@file", "child2@file"]);
    let candidates = nested["routing"][1]["candidates"].as_array().unwrap();
    let user = candidates.iter().find(|one| one["router"] == "child3@file").unwrap();
    assert_eq!(user["failed"]["condition"], "User(`bob`)", "{nested:#}");
}

#[test]
fn handshakes_are_explained() {
    let (a, _) = backends();
    let folder = tempfile::tempdir().unwrap();
    let own = certificate(&["strict.test", "a.test"]);
    let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    std::fs::write(&cert, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let gateway = Gateway::serve(&secure(&a.url(), &cert, &key));
    for case in SECURE {
        agree(&gateway, &[&a], case);
    }
    let strict = explain(&gateway, &tls("strict.test", "strict.test", "/"));
    let tls_view = &strict["tls"];
    let sent = ask_for(gateway.web(), &Arc::new(client_config(&[], None)), "strict.test", "strict.test", "/");
    let der = sent.unwrap().certificate;
    let fingerprint: String =
        <sha2::Sha256 as sha2::Digest>::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(tls_view["certificate"]["fingerprint"], fingerprint, "{strict:#}");
    assert_eq!(tls_view["certificate"]["source"], "configured");
    assert_eq!(tls_view["options"], "strict@file");
    let origin = |value: &Value| value.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(origin(&tls_view["optionsOrigin"]), "routes.yml:18");
    assert_eq!(origin(&tls_view["certificate"]["origin"]), "routes.yml:16");
    let other = explain(&gateway, &tls("nobody.test", "nobody.test", "/"));
    assert_eq!(other["tls"]["certificate"]["source"], "generated");
    gateway.write(
        "tcp.yml",
        "tcp:
  routers: {t: {rule: 'HostSNI(`tcp.test`)', service: t, tls: {passthrough: true}}}
  services: {t: {loadBalancer: {servers: [{address: '127.0.0.1:1'}]}}}
",
    );
    let passed_on = || explain(&gateway, &tls("tcp.test", "tcp.test", "/"))["result"]["origin"].clone();
    eventually("the TCP router gets the connection", || passed_on() == "tcpRouter:t@file");
    let mutual = explain(&gateway, &tls("mutual.test", "mutual.test", "/"));
    assert_eq!(mutual["tls"]["clientCertificate"], "required");
    assert_eq!(mutual["result"]["certain"], false);
}

#[test]
fn secrets_are_not_shown() {
    let (a, b) = backends();
    let gateway = Gateway::serve(&middlewares(&a.url(), &b.url()));
    let secrets = &[
        ("Authorization", "Basic Ym9iOm15UGFzc3dvcmQ="),
        ("Cookie", "session=secret-d"),
        ("X-Api-Key", "secret-e"),
        ("X-B", "secret-f"),
    ];
    for path in ["/basic", "/any", "/both", "/asks", "/digest", "/nobody"] {
        let text = explain(&gateway, &with(secrets, get("a.test", path))).to_string();
        for secret in ["secret-", "Ym9i", "myPassword", "bob", "{SHA}"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    let query = "url=http%3A%2F%2Fa.test%2Fboth%3Ftoken%3Dsecret-g&header=X-Api-Key%3A%20secret-h";
    let text = gateway.api(&format!("/api/explain?{query}"));
    let explained: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(explained["request"]["url"], "http://a.test/both");
    assert_eq!(explained["request"]["headers"], json!(["host", "x-api-key"]));
    assert!(!text.contains("secret-h"), "{text}");
}

#[test]
fn questions_are_bounded_and_need_the_login_of_the_api() {
    let gateway = Gateway::serve("http: {}\n");
    assert_eq!(post(&gateway, &format!("{{\"url\": \"{}\"}}", "x".repeat(70_000))).0, 413);
    let long = json!({"url": format!("http://a.test/{}", "x".repeat(20_000))});
    for (body, message) in [
        (long.to_string(), "too large"),
        ("[]".to_owned(), "invalid JSON"),
        (json!({"url": "http://a.test/", "entryPoint": "webb"}).to_string(), "expected one of traefik, web"),
        (json!({"url": "http://a.test/", "from": "here"}).to_string(), "invalid client address `here`"),
    ] {
        let (status, text) = post(&gateway, &body);
        assert_eq!(status, 400, "{text}");
        assert!(text.contains(message), "{text}");
    }
    let put =
        raw(gateway.address("traefik"), "PUT /api/explain HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(put.unwrap().status, 405);
    let routes = "http:
  routers: {api: {rule: 'PathPrefix(`/api`)', service: api@internal, middlewares: [login]}}
  middlewares: {login: {basicAuth: {users: ['bob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=']}}}
";
    let gateway = Gateway::serve(routes);
    let ask = |headers: &str| get_with(gateway.web(), "h", "/api/explain?url=http://h/", headers).status;
    assert_eq!(ask(""), 401);
    assert_eq!(ask("Authorization: Basic Ym9iOm15UGFzc3dvcmQ=\r\n"), 200);
}

#[test]
fn a_gateway_with_many_routers_lists_those_that_matter() {
    let mut routes = "http:\n  services:\n    a: {loadBalancer: {servers: []}}\n  routers:\n".to_owned();
    for number in 0..300 {
        routes.push_str(&format!("    r{number}: {{rule: 'Host(`h{number}.test`)', service: a}}\n"));
    }
    let gateway = Gateway::serve(&routes);
    let explained = explain(&gateway, &get("h299.test", "/"));
    let level = &explained["routing"][0];
    assert_eq!(level["omitted"], 200);
    let candidates = level["candidates"].as_array().unwrap();
    let chosen: Vec<&Value> = candidates.iter().filter(|one| one["chosen"] == true).collect();
    assert_eq!((candidates.len(), &chosen[0]["router"]), (100, &json!("r299@file")));
}

#[test]
fn stale_responses_instead_of_failures_are_explained() {
    let stale = |lines: &str| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: {lines}\r\nAge: 100\r\nETag: \"1\"\r\nX-Backend: a\r\n"
        );
        Backend::bytes(format!("{head}Content-Length: 2\r\n\r\nhi"))
    };
    for (lines, expected) in [("max-age=60", 200), ("max-age=60, must-revalidate", 418)] {
        let backend = stale(lines);
        let routes = |server: &str| {
            format!(
                "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [cache, pages]}}
  middlewares:
    cache: {{cache: {{}}}}
    pages: {{errors: {{status: ['500-599'], statusRewrites: {{'500-599': 418}}, service: p}}}}
  services:
    a: {{loadBalancer: {{hold: {{}}, servers: [{server}]}}}}
    p: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
                backend.url()
            )
        };
        let gateway = Gateway::serve(&routes(&format!("{{url: '{}'}}", backend.url())));
        let case = get("a.test", "/x");
        let before = explain(&gateway, &case);
        assert!(!before.to_string().contains("the stored response"), "nothing is stored: {before:#}");
        assert_eq!(send(&gateway, &case).unwrap().status, 200);
        let explained = explain(&gateway, &case);
        let note = "the stored response is sent if no server can be reached";
        assert_eq!(
            (explained.to_string().contains(note), &explained["result"]["origin"]),
            (expected == 200, &json!("server"))
        );
        let generation = gateway.generation();
        gateway.write("routes.yml", &routes(""));
        eventually("there is no server", || gateway.generation() > generation);
        let explained = explain(&gateway, &case);
        assert_eq!(explained["result"]["response"]["status"], expected, "{explained:#}");
        if expected == 200 {
            assert_eq!(explained["result"]["dependsOn"], Value::Null, "it does not wait: {explained:#}");
            let origin = &explained["result"]["origin"];
            assert_eq!(origin, "middleware:cache@file");
            assert_eq!(explained["result"]["response"]["reason"], "cached");
            let revised = json!(["cache@file sends a stored response instead of the one with status 503"]);
            assert_eq!(explained["result"]["revised"], revised);
            assert_eq!(send(&gateway, &case).unwrap().status, expected);
            // The record has the same origin, and how far the request got.
            let records = || -> Vec<Value> {
                let text = gateway.api("/api/requests?filter=reason%20%3D%3D%20%22cached%22");
                serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
            };
            eventually("the request is recorded", || !records().is_empty());
            assert_eq!(&records()[0]["origin"], origin);
            let id = records()[0]["id"].as_str().unwrap().to_owned();
            let record: Value = serde_json::from_str(&gateway.api(&format!("/api/requests/{id}"))).unwrap();
            assert_eq!(record["middlewares"][1], json!({"name": "pages@file", "reached": true}));
        }
    }
}
