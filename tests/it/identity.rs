//! Who a client is, from the middleware that has found out to those behind it.

use std::io::Write;

use crate::support::{Backend, Gateway, get_with};

/// A server that lets everybody in and says that they are who they say in `X-Name`.
fn authority() -> Backend {
    Backend::with(|seen, stream| {
        let name = seen.header("x-name").map(|name| format!("X-User: {name}\r\n")).unwrap_or_default();
        write!(stream, "HTTP/1.1 200 OK\r\n{name}Content-Length: 0\r\n\r\n").is_ok()
    })
}

#[test]
fn a_limit_counts_by_who_the_client_is() {
    let (backend, authority) = (Backend::echo("a"), authority());
    let gateway = Gateway::with(
        &[],
        &format!(
            r"
http:
  routers:
    basic: {{rule: 'Path(`/basic`)', service: a, middlewares: [basic, limit]}}
    forward: {{rule: 'Path(`/forward`)', service: a, middlewares: [forward, limit]}}
    any: {{rule: 'Path(`/any`)', service: a, middlewares: [any, limit]}}
    nobody: {{rule: 'Path(`/nobody`)', service: a, middlewares: [limit, basic]}}
  middlewares:
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=', 'bob:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    forward: {{forwardAuth: {{address: '{}', headerField: X-User}}}}
    never: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    any: {{anyOf: {{middlewares: [never, basic]}}}}
    limit: {{rateLimit: {{average: 1, period: 1h, burst: 1, sourceCriterion: {{identity: true}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            authority.url(),
            backend.url()
        ),
    );
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let status = |path: &str, headers: &str| get_with(gateway.web(), "h", path, headers).status;
    // `ann:test` and `bob:test`.
    let (ann, bob) = ("Authorization: Basic YW5uOnRlc3Q=\r\n", "Authorization: Basic Ym9iOnRlc3Q=\r\n");
    for path in ["/basic", "/any"] {
        assert_eq!([status(path, ann), status(path, ann)], [200, 429], "{path}");
        assert_eq!([status(path, bob), status(path, bob)], [200, 429], "{path}");
        assert_eq!(status(path, "Authorization: Basic YW5uOndyb25n\r\n"), 401, "{path}");
    }
    for name in ["ann", "bob", "127.0.0.1"] {
        let header = format!("X-Name: {name}\r\n");
        assert_eq!([status("/forward", &header), status("/forward", &header)], [200, 429], "{name}");
    }
    assert_eq!([status("/forward", ""), status("/forward", "")], [200, 429], "nobody: the address counts");
    // Before a client is known, its address counts.
    assert_eq!([status("/nobody", ann), status("/nobody", bob)], [200, 429]);
}
