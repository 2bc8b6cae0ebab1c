//! Errors of the gateway in the form that clients ask for, and with pages of one's own.

use std::io::Write as _;

use crate::support::{Backend, Gateway, eventually, get_with};

const PROBLEM: &str = "Accept: application/problem+json\r\n";

fn routes(url: &str, more: &str) -> String {
    format!(
        "http:
  routers:
    ok: {{rule: 'Path(`/ok`)', service: a}}
    encoded: {{rule: 'PathPrefix(`/x`)', service: a}}
    failing: {{rule: 'Path(`/failing`)', service: a}}
    denied: {{rule: 'Path(`/denied`)', service: a, middlewares: [deny]}}
    own: {{rule: 'Path(`/own`)', service: none, middlewares: [pages]}}
    broken: {{rule: 'Path(`/broken`)', service: missing}}
    empty: {{rule: 'Path(`/empty`)', service: none}}
  middlewares:
    deny: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    pages: {{errorPages: {{{more}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    none: {{loadBalancer: {{servers: []}}}}
"
    )
}

fn backend() -> Backend {
    Backend::with(|seen, stream| {
        let answer: &[u8] = match seen.target() {
            "/failing" => b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        stream.write_all(answer).is_ok()
    })
}

#[test]
fn every_error_of_an_entry_point_has_the_form_that_the_client_asks_for() {
    let backend = backend();
    let routes = routes(&backend.url(), "format: traefik");
    let flags = [
        "--entryPoints.web.http.errorPages=true",
        "--entryPoints.web.http.encodedCharacters.allowEncodedSlash=false",
    ];
    let gateway = Gateway::with(&flags, &routes);
    for (path, status, code) in [
        ("/nowhere", 404, "no_router"),
        ("/denied", 403, "address_denied"),
        ("/empty", 503, "no_server"),
        ("/broken", 503, "router_broken"),
        ("/x%2Fb", 400, "encoded_characters"),
    ] {
        let answer = get_with(gateway.web(), "h", path, PROBLEM);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        let problem: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()), "{path}");
        let answer = get_with(gateway.web(), "h", path, "Accept: text/html\r\n");
        assert!(answer.text().starts_with("<!doctype html>"), "{path}: {}", answer.text());
        assert_eq!(answer.header("vary"), Some("Accept"), "{path}");
    }
    // What servers say is theirs.
    let answer = get_with(gateway.web(), "h", "/failing", PROBLEM);
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    assert_eq!(get_with(gateway.web(), "h", "/ok", PROBLEM).text(), "ok");
}

#[test]
fn without_the_option_errors_are_those_of_traefik() {
    let backend = backend();
    let gateway = Gateway::serve(&routes(&backend.url(), "format: text"));
    assert_eq!(get_with(gateway.web(), "h", "/nowhere", PROBLEM).text(), "404 page not found\n");
    assert_eq!(get_with(gateway.web(), "h", "/empty", PROBLEM).text(), "no available server\n");
    let own = get_with(gateway.web(), "h", "/own", PROBLEM).text();
    assert!(own.starts_with("503 Service Unavailable: "), "{own}");
}

#[test]
fn pages_are_watched_and_the_page_of_a_router_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(file("all.html.j2"), "<p>one {{ status }} {{ path }}").unwrap();
    std::fs::write(file("own.html"), "<p>of the router").unwrap();
    let backend = backend();
    let more = format!("format: traefik, pages: {{no_server: ['{}']}}", file("own.html"));
    let flag = format!("--entryPoints.web.http.errorPages.pages.400-599={}", file("all.html.j2"));
    let gateway = Gateway::with(&[&flag], &routes(&backend.url(), &more));
    assert_eq!(gateway.problems().iter().filter(|text| text.contains("errorPages")).count(), 0);
    let text = |path: &str| get_with(gateway.web(), "h", path, "").text();
    assert_eq!(text("/a&b"), "<p>one 404 &#x2f;a&amp;b");
    assert_eq!(text("/own"), "<p>of the router");
    assert_eq!(text("/empty"), "<p>one 503 &#x2f;empty");
    std::fs::write(file("all.html.j2"), "<p>two").unwrap();
    eventually("the new page is served", || text("/nowhere") == "<p>two");
    // A page with a mistake does not replace one without.
    std::fs::write(file("all.html.j2"), "<p>\n{{ statos }}").unwrap();
    eventually("the mistake is reported", || {
        let expected = "all.html.j2: line 2: undefined value";
        gateway.problems().iter().any(|text| {
            text.contains("entryPoints.web.http.errorPages: pages.400-599: ") && text.contains(expected)
        })
    });
    assert_eq!(text("/nowhere"), "<p>two");
}
