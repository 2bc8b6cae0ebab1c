//! What an entry point tells about a response: `Proxy-Status` and `Server-Timing`.

use crate::support::backend::unused_address;
use crate::support::{Backend, Gateway, eventually, get, get_with};

/// A backend that answers as its path says.
fn backend() -> Backend {
    Backend::with(|seen, stream| {
        use std::io::Write as _;
        let answer: &[u8] = match seen.target() {
            "/lost" => b"",
            "/malformed" => b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
            "/failing" => b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nhi",
            "/behind" => {
                b"HTTP/1.1 200 OK\r\nProxy-Status: inner; received-status=200\r\nContent-Length: 2\r\n\r\nhi"
            }
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        };
        stream.write_all(answer).is_ok() && answer.ends_with(b"hi")
    })
}

fn routes(url: &str) -> String {
    let gone = unused_address();
    format!(
        "http:
  routers:
    all: {{rule: 'Path(`/ok`) || Path(`/lost`) || Path(`/malformed`) || Path(`/failing`) || Path(`/behind`)', service: a}}
    denied: {{rule: 'Path(`/denied`)', service: a, middlewares: [deny]}}
    chained: {{rule: 'Path(`/chained`)', service: a, middlewares: [outer, inner]}}
    refused: {{rule: 'Path(`/refused`)', service: gone}}
    nameless: {{rule: 'Path(`/nameless`)', service: nameless}}
    empty: {{rule: 'Path(`/empty`)', service: none}}
    broken: {{rule: 'Path(`/broken`)', service: missing}}
  middlewares:
    deny: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    outer: {{headers: {{customRequestHeaders: {{x-a: b}}}}}}
    inner: {{chain: {{middlewares: [member]}}}}
    member: {{headers: {{customRequestHeaders: {{x-c: d}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    none: {{loadBalancer: {{servers: []}}}}
    gone: {{loadBalancer: {{servers: [{{url: 'http://{gone}'}}]}}}}
    nameless: {{loadBalancer: {{servers: [{{url: 'http://server.invalid'}}]}}}}
"
    )
}

/// Returns all values of `Proxy-Status` in the response for a path.
fn proxy_status(gateway: &Gateway, path: &str) -> Vec<String> {
    let answer = get(gateway.web(), "h", path);
    let own = answer.headers.into_iter().filter(|(name, _)| name.eq_ignore_ascii_case("proxy-status"));
    own.map(|(_, value)| value).collect()
}

#[test]
fn proxy_status_names_the_error() {
    let backend = backend();
    let routes = routes(&backend.url());
    let gateway = Gateway::with(&["--entryPoints.web.http.proxyStatus=true"], &routes);
    for (path, error) in [
        ("/nowhere", "destination_not_found"),
        ("/denied", "http_request_denied"),
        ("/refused", "connection_refused"),
        ("/nameless", "dns_error"),
        ("/empty", "destination_unavailable"),
        ("/broken", "proxy_configuration_error"),
        ("/lost", "connection_terminated"),
        ("/malformed", "http_protocol_error"),
    ] {
        assert_eq!(proxy_status(&gateway, path), [format!("tidegate; error={error}")], "{path}");
    }
    assert_eq!(proxy_status(&gateway, "/failing"), ["tidegate; received-status=503"]);
    assert_eq!(
        proxy_status(&gateway, "/behind"),
        ["inner; received-status=200", "tidegate; received-status=200"],
        "the entry of the server comes first"
    );
    assert!(proxy_status(&gateway, "/ok").is_empty());
}

#[test]
fn proxy_status_is_off_by_default_and_shows_addresses_on_request() {
    let backend = backend();
    let routes = routes(&backend.url());
    let off = Gateway::serve(&routes);
    for path in ["/nowhere", "/refused", "/failing"] {
        assert!(proxy_status(&off, path).is_empty(), "{path}");
    }
    let flags = [
        "--entryPoints.web.http.proxyStatus.name=edge 1",
        "--entryPoints.web.http.proxyStatus.nextHop=true",
        "--entryPoints.web.http.proxyStatus.details=true",
    ];
    let gateway = Gateway::with(&flags, &routes);
    let expected = format!(r#""edge 1"; received-status=503; next-hop="{}""#, backend.address);
    assert_eq!(proxy_status(&gateway, "/failing"), [expected]);
    let expected = r#""edge 1"; error=destination_not_found; details="no_router""#;
    assert_eq!(proxy_status(&gateway, "/nowhere"), [expected]);
}

/// Returns the metrics of `Server-Timing`: names, times in milliseconds, and descriptions.
fn timings(header: &str) -> Vec<(String, f64, String)> {
    let metric = |text: &str| {
        let mut parts = text.split(';');
        let name = parts.next().unwrap().to_owned();
        let time = parts.next().unwrap().strip_prefix("dur=").unwrap().parse().unwrap();
        let description = parts.next().unwrap_or("desc=\"\"").strip_prefix("desc=").unwrap();
        (name, time, description.trim_matches('"').to_owned())
    };
    header.split(", ").map(metric).collect()
}

#[test]
fn server_timing_is_for_holders_of_the_token() {
    let backend = backend();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "t0ken\n").unwrap();
    let flags = [
        format!("--entryPoints.web.http.serverTiming.token=file:{}", file.display()),
        "--accessLog.filePath=/dev/null".to_owned(),
        "--accessLog.fields.headers.defaultMode=keep".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes(&backend.url()));
    let ask = |path: &str, headers: &str| {
        get_with(gateway.web(), "h", path, headers).header("server-timing").map(str::to_owned)
    };
    for headers in ["", "x-tidegate-debug: wrong\r\n", "x-tidegate-debug: t0ke\r\n"] {
        assert_eq!(ask("/chained", headers), None, "{headers}");
    }
    let header = ask("/chained", "x-tidegate-debug: t0ken\r\nx-other: 1\r\n").unwrap();
    let mut found = timings(&header);
    // Another worker may have served the requests before, whose connection this one does not have.
    found.retain(|(name, _, _)| name != "connect");
    let names: Vec<&str> = found.iter().map(|(name, _, _)| name.as_str()).collect();
    assert_eq!(names, ["route", "middleware1", "middleware2", "queue", "first-byte", "total"], "{header}");
    let described: Vec<&str> = found.iter().map(|(_, _, description)| description.as_str()).collect();
    assert_eq!(described[..3], ["chained@file", "outer@file", "member@file"]);
    assert_eq!(described[4], backend.url());
    let (total, parts) = found.split_last().unwrap();
    assert!(parts.iter().map(|(_, time, _)| time).sum::<f64>() <= total.1 + 0.01, "{header}");
    for seen in backend.seen() {
        assert_eq!(seen.header("x-tidegate-debug"), None, "{}", seen.head);
    }
    eventually("the request is recorded", || gateway.api("/api/requests").contains("/chained"));
    let requests = gateway.api("/api/requests");
    let first = requests.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap();
    let detail = gateway.api(&format!("/api/requests/{first}"));
    assert!(detail.contains("x-other") && !detail.contains("t0ken"), "{detail}");
    assert!(!gateway.api("/api/entrypoints").contains("t0ken"));
    let refused = ask("/refused", "x-tidegate-debug: t0ken\r\n").unwrap();
    assert!(refused.contains("failed;dur=") && !refused.contains("first-byte"), "{refused}");
    let nowhere = ask("/nowhere", "x-tidegate-debug: t0ken\r\n").unwrap();
    assert_eq!(timings(&nowhere).len(), 1, "{nowhere}");
}

#[test]
fn server_timing_has_the_handshake_of_a_new_connection() {
    let backend = backend();
    let secure = Gateway::with(&["--entryPoints.web.http.tls=true"], &Gateway::one_service(&backend.url()));
    let flags =
        ["--entryPoints.web.http.serverTiming.token=t0ken", "--serversTransport.insecureSkipVerify=true"];
    let gateway = Gateway::with(&flags, &Gateway::one_service(&format!("https://{}", secure.web())));
    let mut header = String::new();
    eventually("a connection is opened", || {
        // The route of the server may not be served yet.
        let answer = get_with(gateway.web(), "h", "/ok", "x-tidegate-debug: t0ken\r\n");
        header = answer.header("server-timing").unwrap_or_default().to_owned();
        header.contains("tls;dur=")
    });
    let names: Vec<String> = timings(&header).into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(names, ["route", "queue", "connect", "tls", "first-byte", "total"], "{header}");
}
