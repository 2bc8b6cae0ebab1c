//! What an entry point tells about a response: `Proxy-Status` and `Server-Timing`.

use crate::support::backend::unused_address;
use crate::support::{Backend, Gateway, get};

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
    inner: {{chain: {{middlewares: [outer]}}}}
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
