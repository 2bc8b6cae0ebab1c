//! Attacks on parsing, forwarding and routing, each named after its number in the catalogue of cases (docs/security.md).

use std::io::Write;
use std::time::Duration;

use crate::support::{Backend, Client, Gateway, get, get_with, raw};

/// One router that takes everything, and the backend behind it.
fn open_gateway() -> (Gateway, Backend) {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    ));
    (gateway, backend)
}

/// `/` goes to one backend, `/admin` to another behind a password.
fn guarded_gateway(middlewares_of_open: &str, more: &str) -> (Gateway, Backend, Backend) {
    let (open, admin) = (Backend::echo("open"), Backend::echo("admin"));
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    open: {{rule: 'PathPrefix(`/`)', service: open, middlewares: [{middlewares_of_open}]}}
    admin: {{rule: 'PathPrefix(`/admin`)', service: admin, middlewares: [password]}}
  middlewares:
    password: {{basicAuth: {{users: ['u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}
{more}
  services:
    open: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    admin: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        open.url(),
        admin.url()
    ));
    (gateway, open, admin)
}

/// Sends bytes that must be refused with 400 (or 501, 505) and a close, and reach no backend.
fn assert_refused(gateway: &Gateway, backend: &Backend, bytes: &str) {
    let before = backend.seen().len();
    let mut client = Client::connect(gateway.web());
    client.send(bytes);
    let answer = client.read().unwrap_or_else(|error| panic!("{error} after {bytes:?}"));
    assert!(matches!(answer.status, 400 | 501 | 505), "{} for {bytes:?}", answer.status);
    assert!(client.is_closed(), "the connection stays open after {bytes:?}");
    assert_eq!(backend.seen().len(), before, "{bytes:?} reached the backend");
}

#[test]
fn case_01_content_length_beside_transfer_encoding_is_refused() {
    let (gateway, backend) = open_gateway();
    for headers in
        ["Content-Length: 6\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 6"]
    {
        assert_refused(
            &gateway,
            &backend,
            &format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n0\r\n\r\nX"),
        );
    }
}

#[test]
fn case_02_transfer_encoding_in_http_1_0_is_refused() {
    let (gateway, backend) = open_gateway();
    assert_refused(
        &gateway,
        &backend,
        "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
}

#[test]
fn case_03_bytes_behind_an_upgrade_wait_for_the_switch() {
    let (gateway, backend) = open_gateway();
    let mut client = Client::connect(gateway.web());
    client.send(
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    assert_eq!(client.read().unwrap().status, 200);
    assert!(client.is_closed(), "a refused upgrade must end the connection");
    assert!(backend.seen().iter().all(|seen| seen.target() == "/"), "{:?}", backend.seen());
}

#[test]
fn case_04_chunk_extension_ended_by_a_bare_line_feed() {
    let (gateway, backend) = open_gateway();
    let mut client = Client::connect(gateway.web());
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;\nxx\r\n45\r\n0\r\n\r\nGET /two HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = client.read();
    assert!(answer.as_ref().map_or(true, |a| a.status >= 400), "{answer:?}");
    assert!(client.is_closed());
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
}

#[test]
fn case_05_lenient_content_lengths_are_refused() {
    let (gateway, backend) = open_gateway();
    for value in ["+5", "5, 5", "5 5", "0x5", "-1", "99999999999999999999", "5\r\nContent-Length: 6", ""] {
        assert_refused(
            &gateway,
            &backend,
            &format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {value}\r\n\r\nhello"),
        );
    }
}

#[test]
fn case_06_other_transfer_encodings_are_refused() {
    let (gateway, backend) = open_gateway();
    for value in [
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "xchunked",
        "chunked\r\nTransfer-Encoding: identity",
        "\x0bchunked",
    ] {
        assert_refused(
            &gateway,
            &backend,
            &format!("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: {value}\r\n\r\n0\r\n\r\n"),
        );
    }
}

#[test]
fn case_07_malformed_heads_are_refused() {
    let (gateway, backend) = open_gateway();
    for head in ["X: a\r\n b", "X: a\rY: b", "X: a\nY: b", "X: \0", "X : a", ": a", "no colon", "X\t: a"] {
        assert_refused(&gateway, &backend, &format!("GET / HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n"));
    }
}

#[test]
fn case_08_the_rest_of_a_body_is_not_a_request() {
    let (gateway, _, admin) = guarded_gateway("", "");
    let inner = "GET /admin HTTP/1.1\r\nHost: h\r\nAuthorization: Basic dTp0ZXN0\r\n\r\n";
    let mut client = Client::connect(gateway.web());
    client.send(format!("POST /admin HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()));
    assert_eq!(client.read().unwrap().status, 401);
    client.send("GET /after HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let rest = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(!rest.contains("X-Backend: admin") && !rest.contains("x-backend: admin"), "{rest}");
    assert!(admin.seen().is_empty());
}

#[test]
fn case_09_connect_is_refused() {
    let (gateway, backend) = open_gateway();
    let answer = raw(gateway.web(), "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n").unwrap();
    assert!([400, 405, 501].contains(&answer.status), "{answer:?}");
    assert!(backend.seen().is_empty());
}

#[test]
fn case_10_a_connection_with_excess_data_is_not_reused() {
    let backend = Backend::bytes(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
    );
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    for _ in 0..5 {
        assert_eq!(get(gateway.web(), "h", "/").text(), "ok");
    }
}

#[test]
fn case_11_a_truncated_answer_is_truncated_for_the_client() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let backend = Backend::closing(answer);
        let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
        let seen = raw(gateway.web(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(seen.as_ref().map_or(true, |a| !a.complete || a.status >= 500), "{answer:?} became {seen:?}");
    }
}

#[test]
fn case_12_a_body_that_never_arrives_is_aborted() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &["--entryPoints.web.transport.respondingTimeouts.readTimeout=500ms"],
        &Gateway::one_service(&backend.url()),
    );
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
    let answer = client.read();
    assert!(answer.as_ref().map_or(true, |a| a.status >= 400), "{answer:?}");
    assert!(client.is_closed());
}

#[test]
fn case_12_a_backend_with_a_negative_length_is_a_server_error() {
    let backend = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    assert!(get(gateway.web(), "h", "/").status >= 500);
}

#[test]
fn case_13_a_fragment_in_the_target_is_refused() {
    let (gateway, backend) = open_gateway();
    assert_refused(&gateway, &backend, "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n");
}

#[test]
fn case_14_no_spelling_of_a_path_bypasses_its_middleware() {
    let (gateway, open, admin) = guarded_gateway("", "");
    for path in [
        "/admin",
        "/x/../admin",
        "/./admin",
        "//admin",
        "/x/%2e%2e/admin",
        "/%2E/admin",
        "/%61dmin",
        "/x/..//admin",
        "/admin/../admin",
        "/x/%2e./admin",
    ] {
        let answer = get(gateway.web(), "h", path);
        assert_eq!(answer.status, 401, "{path}");
    }
    for path in ["/..%2fadmin", "/x%2f..%2fadmin", "/x/..%5cadmin", "/..;/admin"] {
        get(gateway.web(), "h", path);
    }
    for seen in open.seen() {
        assert!(!seen.target().contains("/../") && !seen.target().starts_with("/admin"), "{}", seen.target());
    }
    assert!(admin.seen().is_empty());
}

#[test]
fn case_15_rewriting_never_reopens_a_path() {
    let more = "    strip: {stripPrefix: {prefixes: [/api]}}
    stripregex: {stripPrefixRegex: {regex: ['/v[0-9]+']}}
    replace: {replacePathRegex: {regex: '^/r(.*)', replacement: '$1'}}";
    let (gateway, open, _) = guarded_gateway("strip, stripregex, replace", more);
    for path in [
        "/api../admin",
        "/api/../admin",
        "/api%2e%2e/admin",
        "/v1../admin",
        "/r../admin",
        "/api//admin",
        "/r//admin",
        "/rx/../../admin",
    ] {
        get(gateway.web(), "h", path);
    }
    for seen in open.seen() {
        let target = seen.target();
        assert!(
            target.starts_with('/') && !target.contains("/../") && !target.starts_with("/.."),
            "{target}"
        );
    }
}

#[test]
fn case_16_the_connection_header_cannot_remove_our_own_headers() {
    let (gateway, backend) = open_gateway();
    for name in [
        "X-Real-Ip",
        "x-forwarded-for",
        "X-FORWARDED-PROTO",
        "X-Forwarded-Host",
        "X-Forwarded-Server",
        "X-Forwarded-Port",
    ] {
        raw(gateway.web(), format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close, {name}\r\n\r\n"))
            .unwrap();
        assert!(backend.last().header(name).is_some(), "{name}");
    }
}

#[test]
fn case_17_forwarded_headers_of_untrusted_peers_are_removed() {
    let (gateway, backend) = open_gateway();
    let spoofed = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 99\r\n\
        X-Forwarded-Server: evil\r\nX-Real-Ip: 6.6.6.6\r\nX-Forwarded-Prefix: /evil\r\nX-Forwarded-Uri: /evil\r\n\
        X-Forwarded-Method: EVIL\r\nX-Forwarded-Tls-Client-Cert: evil\r\nX-Forwarded-Tls-Client-Cert-Info: evil\r\n";
    get_with(gateway.web(), "h", "/", spoofed);
    let seen = backend.last();
    assert!(
        !seen.head.contains("evil") && !seen.head.contains("6.6.6.6") && !seen.head.contains("EVIL"),
        "{}",
        seen.head
    );
    assert_eq!(seen.headers("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.headers("x-forwarded-proto"), ["http"]);
}

#[test]
fn case_18_aliases_of_forwarded_headers_are_removed() {
    let (gateway, backend) = open_gateway();
    get_with(
        gateway.web(),
        "h",
        "/",
        "X_Forwarded_For: 6.6.6.6\r\nX_Real_Ip: 6.6.6.6\r\nX_Forwarded-Proto: evil\r\n",
    );
    let head = backend.last().head;
    assert!(!head.contains("6.6.6.6") && !head.contains("evil"), "{head}");
}

#[test]
fn case_19_a_prefix_from_untrusted_peers_causes_no_redirect() {
    let more = "    slash: {redirectRegex: {regex: '^(http://[^/]+/dir)$', replacement: '${1}/'}}";
    let (gateway, _, _) = guarded_gateway("slash", more);
    let answer = get_with(gateway.web(), "h", "/dir", "X-Forwarded-Prefix: //evil.example\r\n");
    assert_eq!(answer.header("location"), Some("http://h/dir/"));
}

#[test]
fn case_28_one_host_in_any_spelling() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    r: {{rule: 'Host(`shop.test`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    ));
    for host in ["shop.test", "SHOP.Test", "shop.test.", "shop.test:8080", "Shop.TEST.:80"] {
        assert_eq!(get(gateway.web(), host, "/").status, 200, "{host}");
    }
    for host in ["xshop.test", "shop.test.evil", "evil", "shop.test@evil"] {
        assert_ne!(get(gateway.web(), host, "/").status, 200, "{host}");
    }
}

#[test]
fn case_29_paths_are_decoded_before_they_are_compared() {
    let (gateway, _, admin) = guarded_gateway("", "");
    for path in ["/%61%64%6d%69%6e", "/a%64min/x"] {
        assert_eq!(get(gateway.web(), "h", path).status, 401, "{path}");
    }
    assert!(admin.seen().is_empty());
}

#[test]
fn case_31_upgrades_to_h2c_are_not_forwarded() {
    let (gateway, backend) = open_gateway();
    raw(
        gateway.web(),
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    )
    .unwrap();
    let seen = backend.last();
    assert_eq!(seen.header("upgrade"), None, "{}", seen.head);
    assert_eq!(seen.header("http2-settings"), None, "{}", seen.head);
}

#[test]
fn case_37_a_proxy_header_of_an_untrusted_peer_is_refused() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &["--entryPoints.web.proxyProtocol.trustedIPs=10.0.0.1"],
        &Gateway::one_service(&backend.url()),
    );
    let mut client = Client::connect(gateway.web());
    client.send("PROXY TCP4 6.6.6.6 7.7.7.7 1 2\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = client.read();
    assert!(answer.as_ref().map_or(true, |a| a.status == 400), "{answer:?}");
    assert!(client.is_closed());
    assert!(backend.seen().is_empty());
}

#[test]
fn case_37_a_proxy_header_of_a_trusted_peer_names_the_client() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &["--entryPoints.web.proxyProtocol.trustedIPs=127.0.0.1"],
        &Gateway::one_service(&backend.url()),
    );
    let answer =
        raw(gateway.web(), "PROXY TCP4 6.6.6.6 7.7.7.7 1 2\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(backend.last().headers("x-forwarded-for"), ["6.6.6.6"]);
    // Without the header the connection is taken as it is.
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
}

#[test]
fn case_38_the_api_is_disabled_by_default() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    for path in ["/api/rawdata", "/api/version", "/dashboard/", "/ping"] {
        let answer = get(gateway.web(), "h", path);
        assert_eq!(answer.header("x-backend"), Some("a"), "{path} is answered by the gateway itself");
    }
}

#[test]
fn case_40_websocket_bytes_pass_untouched() {
    let backend = Backend::with(|_, stream| {
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .unwrap();
        let mut copy = stream.try_clone().unwrap();
        let _ = std::io::copy(stream, &mut copy);
        false
    });
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    assert_eq!(client.read().unwrap().status, 101);
    // A frame that announces 2^63 bytes, and an unmasked one: none of the gateway's business.
    let frames =
        [&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4][..], &[0x81, 0x02, b'h', b'i'][..]].concat();
    client.send(&frames);
    assert_eq!(client.take(frames.len()).unwrap(), frames);
}

#[test]
fn case_63_slow_heads_time_out() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &["--entryPoints.web.transport.respondingTimeouts.readTimeout=400ms"],
        &Gateway::one_service(&backend.url()),
    );
    for beginning in ["", "GE", "GET / HTTP/1.1\r\nHost: h\r\nX: ", "PRI * HTTP/2.0\r\n"] {
        let mut client = Client::patient(gateway.web(), Duration::from_secs(15));
        client.send(beginning);
        let rest = client.rest();
        let answer = String::from_utf8_lossy(&rest);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{beginning:?}: {answer}");
    }
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
}

#[test]
fn case_65_floods_of_headers_and_long_targets_are_refused() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &["--entryPoints.web.http.maxHeaderBytes=65536"],
        &Gateway::one_service(&backend.url()),
    );
    let many = "X: y\r\n".repeat(20_000);
    for head in [
        format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(200_000)),
    ] {
        let mut client = Client::connect(gateway.web());
        client.send(head);
        let answer = client.read();
        assert!(answer.as_ref().map_or(true, |a| [400, 414, 431].contains(&a.status)), "{answer:?}");
    }
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
}
