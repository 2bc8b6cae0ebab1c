//! Who a client is, from the middleware that has found out to those behind it.

use std::io::Write;
use std::sync::Arc;

use crate::support::tls::{Own, ask, client_config};
use crate::support::{Backend, Gateway, get_with};

/// A server that lets everybody in and says that they are who they say in `X-Name`.
fn authority() -> Backend {
    Backend::with(|seen, stream| {
        let name = seen.header("x-name").map(|name| format!("X-User: {name}\r\n")).unwrap_or_default();
        write!(stream, "HTTP/1.1 200 OK\r\n{name}Content-Length: 0\r\n\r\n").is_ok()
    })
}

#[test]
fn a_limit_counts_by_identity() {
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

#[test]
fn a_middleware_may_be_for_some_users_only() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &[],
        &format!(
            r"
http:
  routers:
    r: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [basic, mark]}}
  middlewares:
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=', 'bob:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    mark: {{when: 'User(`ann`) && !PathPrefix(`/plain`)', headers: {{customResponseHeaders: {{X-Mark: ann}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            backend.url()
        ),
    );
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let marked = |path: &str, headers: &str| {
        let answer = get_with(gateway.web(), "h", path, headers);
        assert_eq!(answer.status, 200);
        answer.header("x-mark").is_some()
    };
    let (ann, bob) = ("Authorization: Basic YW5uOnRlc3Q=\r\n", "Authorization: Basic Ym9iOnRlc3Q=\r\n");
    assert!(marked("/", ann) && !marked("/", bob) && !marked("/plain", ann));
}

/// A certificate that signs itself, for somebody of this name.
fn somebody(name: &str) -> Own {
    let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let signing_key = rcgen::KeyPair::generate().unwrap();
    Own { cert: parameters.self_signed(&signing_key).unwrap(), signing_key }
}

#[test]
fn a_certificate_says_who_the_client_is_only_when_it_was_verified() {
    let backend = Backend::echo("a");
    let (ann, bob) = (somebody("ann"), somebody("bob"));
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, ann.cert.pem() + &bob.cert.pem()).unwrap();
    let router = |name: &str| {
        format!(
            "    {name}: {{rule: 'Host(`{name}.test`)', service: a, middlewares: [limit], tls: {{options: {name}}}}}\n"
        )
    };
    let gateway = Gateway::serve(&format!(
        "http:\n  routers:\n{}{}  middlewares:
    limit: {{rateLimit: {{average: 1, period: 1h, burst: 1, sourceCriterion: {{identity: true}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls:
  options:
    verified: {{clientAuth: {{clientAuthType: VerifyClientCertIfGiven, caFiles: ['{}']}}}}
    shown: {{clientAuth: {{clientAuthType: RequestClientCert}}}}
",
        router("verified"),
        router("shown"),
        backend.url(),
        authorities.display()
    ));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let status = |host: &str, who: Option<&Own>| {
        let config = Arc::new(client_config(&[], who));
        ask(gateway.web(), &config, host, host).unwrap().status()
    };
    for who in [Some(&ann), Some(&bob), None] {
        assert_eq!([status("verified.test", who), status("verified.test", who)], [200, 429]);
    }
    assert_eq!([status("shown.test", Some(&ann)), status("shown.test", Some(&bob))], [200, 429]);
}
