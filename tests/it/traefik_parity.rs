//! Details of requests and answers in which a gateway is easily unlike Traefik.

use crate::support::frames::{self, Frames, Outcome};
use crate::support::{Backend, Client, Gateway, get};

#[test]
fn bodies_of_get_and_head_requests_reach_the_server() {
    let backend = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let mut client = Client::connect(gateway.web());
        client.send(format!(
            "{method} / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ));
        assert_eq!(client.read_for(method).unwrap().status, 200);
        assert_eq!(backend.last().body, b"hello", "{method}");
        let mut client = Frames::connect(gateway.web());
        let fields = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "h")];
        client.send(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&fields));
        client.send(frames::DATA, frames::END_STREAM, 1, b"world");
        assert_eq!(client.outcome(1), Outcome::Status(200));
        assert_eq!(backend.last().body, b"world", "{method}");
    }
}

#[test]
fn redirects_keep_the_semicolons_of_a_query() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    scheme: {{rule: 'PathPrefix(`/scheme`)', service: a, middlewares: [scheme]}}
    regex: {{rule: 'PathPrefix(`/regex`)', service: a, middlewares: [regex]}}
    changed: {{rule: 'PathPrefix(`/changed`)', service: a, middlewares: [prefix, scheme]}}
    served: {{rule: 'Query(`b`, `2`)', service: a}}
  middlewares:
    scheme: {{redirectScheme: {{scheme: https}}}}
    regex: {{redirectRegex: {{regex: '^http://h/(.*)', replacement: 'http://o/${{1}}'}}}}
    prefix: {{addPrefix: {{prefix: /x}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    ));
    for (target, expected) in [
        ("/scheme//x?a=1;b=%3b", "https://h/scheme/x?a=1;b=%3b"),
        ("/regex?a;b", "http://o/regex?a;b"),
        // As in Traefik: who changes the target takes the query as it is served.
        ("/changed?a;b", "https://h/x/changed?a&b"),
    ] {
        assert_eq!(get(gateway.web(), "h", target).header("location"), Some(expected), "{target}");
    }
    assert_eq!(get(gateway.web(), "h", "/?a=1;b=2").status, 200);
    assert_eq!(backend.last().target(), "/?a=1&b=2");
}
