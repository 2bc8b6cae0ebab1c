//! Attacks on middlewares, each named after its number in the catalogue of cases (docs/security.md).

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::backend::unused_address;
use crate::support::{Backend, Client, Gateway, get, get_with, raw};

/// One router with one middleware `m`, before the server at `url`; more is YAML at the level of `services`' entries.
fn gateway_with(flags: &[&str], middleware: &str, url: &str, services: &str) -> Gateway {
    let gateway = Gateway::with(
        flags,
        &format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}
  middlewares:
    m: {middleware}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
{services}"
        ),
    );
    assert_eq!(gateway.problems(), Vec::<String>::new());
    gateway
}

#[test]
fn case_20_clients_cannot_send_headers_that_authentication_sets() {
    let service = Backend::echo("a");
    let auth = Backend::bytes("HTTP/1.1 200 OK\r\nX-Auth-Role: user\r\nContent-Length: 0\r\n\r\n");
    let gateway = gateway_with(
        &[],
        &format!(
            "{{forwardAuth: {{address: '{}', authResponseHeaders: [X-Auth-User, X-Auth-Role], authResponseHeadersRegex: '^X-Id-'}}}}",
            auth.url()
        ),
        &service.url(),
        "",
    );
    get_with(gateway.web(), "h", "/", "X-Auth-User: admin\r\nx-auth-role: admin\r\nX-Id-Group: admin\r\n");
    let seen = service.last();
    assert_eq!(seen.headers("x-auth-role"), ["user"]);
    assert!(!seen.head.contains("admin"), "{}", seen.head);
}

#[test]
fn case_21_responses_of_authentication_servers_are_limited() {
    let service = Backend::echo("a");
    let auth = Backend::with(|_, stream| {
        let mut fine = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").is_ok();
        while fine {
            fine = stream.write_all(&[b'x'; 65_536]).is_ok();
        }
        false
    });
    let gateway =
        gateway_with(&[], &format!("{{forwardAuth: {{address: '{}'}}}}", auth.url()), &service.url(), "");
    let answer = get(gateway.web(), "h", "/");
    assert!((400..600).contains(&answer.status) && answer.body.len() <= 1 << 20, "{}", answer.status);
    assert!(service.seen().is_empty());
}

#[test]
fn case_22_without_authentication_nothing_passes() {
    let service = Backend::echo("a");
    let broken = Backend::closing("garbage\r\n\r\n");
    let failing = Backend::bytes("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let silent = Backend::closing("");
    for address in [
        format!("http://{}", unused_address()),
        broken.url(),
        failing.url(),
        silent.url(),
        "http://no-such-host.invalid/".into(),
    ] {
        let gateway =
            gateway_with(&[], &format!("{{forwardAuth: {{address: '{address}'}}}}"), &service.url(), "");
        assert!(get(gateway.web(), "h", "/").status >= 500, "{address}");
    }
    assert!(service.seen().is_empty());
}

fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    format!("Authorization: Basic {text}\r\n")
}

/// `test` in APR1.
const USERS: &str = "{basicAuth: {users: ['u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/', 'us:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}";

#[test]
fn case_23_an_unknown_user_takes_as_long_as_a_known_one() {
    let backend = Backend::echo("a");
    let gateway = gateway_with(&[], USERS, &backend.url(), "");
    let mut client = Client::connect(gateway.web());
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for turn in 0..60 {
        for (user, times) in [("u", &mut known), ("nobody", &mut unknown)] {
            // Other passwords each time: no memory of earlier ones helps.
            let line = basic(user, &format!("wrong{turn}{user}"));
            let start = Instant::now();
            client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n"));
            assert_eq!(client.read().unwrap().status, 401);
            times.push(start.elapsed());
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    let ratio = median(&mut known) / median(&mut unknown);
    assert!((0.4..2.5).contains(&ratio), "{ratio}");
    assert_eq!(get_with(gateway.web(), "h", "/", &basic("u", "test")).status, 200);
}

#[test]
fn case_24_ambiguous_credentials_are_kept_apart() {
    let backend = Backend::echo("a");
    let gateway = gateway_with(&[], USERS, &backend.url(), "");
    let web = gateway.web();
    std::thread::scope(|scope| {
        for (user, password, status) in [
            ("u", "test", 200),
            ("us", "test", 200),
            ("u", "stest", 401),
            ("us", "est", 401),
            ("", "utest", 401),
            ("ut", "est", 401),
            ("u", ":test", 401),
        ] {
            scope.spawn(move || {
                for _ in 0..15 {
                    assert_eq!(
                        get_with(web, "h", "/", &basic(user, password)).status,
                        status,
                        "{user}:{password}"
                    );
                }
            });
        }
    });
}

#[test]
fn case_25_a_service_of_error_pages_sees_no_credentials() {
    let backend = Backend::bytes("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    let pages = Backend::echo("pages");
    let gateway = gateway_with(
        &[],
        "{errors: {status: ['500-599'], service: pages, query: '/{status}.html'}}",
        &backend.url(),
        &format!("    pages: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n", pages.url()),
    );
    let secrets =
        "Authorization: Basic c2VjcmV0\r\nCookie: session=secret\r\nProxy-Authorization: Basic c2VjcmV0\r\n";
    assert_eq!(get_with(gateway.web(), "h", "/", secrets).status, 500);
    let seen = pages.last();
    assert_eq!(seen.target(), "/500.html");
    for name in ["authorization", "cookie", "proxy-authorization"] {
        assert_eq!(seen.header(name), None, "{}", seen.head);
    }
}

#[test]
fn case_30_an_ipv4_address_in_ipv6_is_an_ipv4_address() {
    let backend = Backend::echo("a");
    for (ranges, status) in [("127.0.0.1", 200), ("127.0.0.0/8", 200), ("'::1'", 403), ("192.0.2.1", 403)] {
        let middleware = format!("{{ipAllowList: {{sourceRange: [{ranges}]}}}}");
        // A socket for both families: the client of IPv4 appears as ::ffff:127.0.0.1.
        let gateway = gateway_with(&["--entryPoints.web.address=:0"], &middleware, &backend.url(), "");
        let address = (std::net::Ipv4Addr::LOCALHOST, gateway.web().port()).into();
        assert_eq!(get(address, "h", "/").status, status, "{ranges}");
        assert_eq!(
            backend.seen().last().map_or("127.0.0.1", |seen| seen.header("x-real-ip").unwrap()),
            "127.0.0.1"
        );
    }
    let middleware = "{ipAllowList: {sourceRange: [10.0.0.0/8], ipStrategy: {depth: 1}}}";
    let trusting = ["--entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.1"];
    let gateway = gateway_with(&trusting, middleware, &backend.url(), "");
    for (client, status) in
        [("10.1.2.3", 200), ("::ffff:10.1.2.3", 200), ("11.1.2.3", 403), ("::ffff:11.1.2.3", 403)]
    {
        assert_eq!(
            get_with(gateway.web(), "h", "/", &format!("X-Forwarded-For: {client}\r\n")).status,
            status,
            "{client}"
        );
    }
}

#[test]
fn case_36_other_origins_are_not_allowed() {
    let backend = Backend::echo("a");
    let list = "accessControlAllowOriginList: ['https://good.test']";
    let regex = "accessControlAllowOriginListRegex: ['^https://[a-z]+\\.good\\.test$']";
    for (options, good, bad) in [
        (
            list,
            "https://good.test",
            &[
                "https://evil.test",
                "https://good.test.evil",
                "https://good.test@evil",
                "http://good.test",
                "null",
                "https://GOOD.test.",
                "https://evil.test, https://good.test",
            ][..],
        ),
        (
            regex,
            "https://a.good.test",
            &[
                "https://a.good.test.evil",
                "https://agood.test",
                "https://a-good.test",
                "xhttps://a.good.test",
                "https://a.good.test\tx",
            ][..],
        ),
    ] {
        let middleware =
            format!("{{headers: {{{options}, accessControlAllowCredentials: true, addVaryHeader: true}}}}");
        let gateway = gateway_with(&[], &middleware, &backend.url(), "");
        let ask = |origin: &str| get_with(gateway.web(), "h", "/", &format!("Origin: {origin}\r\n"));
        let answer = ask(good);
        assert_eq!(answer.header("access-control-allow-origin"), Some(good));
        for origin in bad {
            assert_eq!(ask(origin).header("access-control-allow-origin"), None, "{origin}");
        }
    }
}

#[test]
fn case_69_bodies_beyond_the_limit_are_refused() {
    let backend = Backend::echo("a");
    let gateway = gateway_with(
        &[],
        "{buffering: {maxRequestBodyBytes: 100000, memRequestBodyBytes: 1000}}",
        &backend.url(),
        "",
    );
    let announced =
        raw(gateway.web(), "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1073741824\r\n\r\n").unwrap();
    assert_eq!(announced.status, 413);
    let mut client = Client::connect(gateway.web());
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        client.send(format!("2000\r\n{}\r\n", "x".repeat(0x2000)));
    }
    assert_eq!(client.read().unwrap().status, 413);
    assert!(backend.seen().is_empty());
    let fits = raw(
        gateway.web(),
        format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n{}", "x".repeat(90_000)),
    )
    .unwrap();
    assert_eq!((fits.status, backend.last().body.len()), (200, 90_000));
}

#[test]
fn case_70_compressed_content_is_not_decompressed() {
    // Not even valid: nobody looks.
    let bomb = [&b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\n"[..], &[0x1f; 5000]].concat();
    let backend = Backend::bytes(bomb);
    let gateway = gateway_with(&[], "{compress: {}}", &backend.url(), "");
    for accepted in ["gzip", "br", "identity", "zstd, br;q=0.5"] {
        let answer = get_with(gateway.web(), "h", "/", &format!("Accept-Encoding: {accepted}\r\n"));
        assert_eq!(
            (answer.header("content-encoding"), answer.body.as_slice()),
            (Some("gzip"), &[0x1f; 5000][..])
        );
    }
}

#[test]
fn case_71_sources_of_a_rate_limit_are_counted_one_by_one() {
    let backend = Backend::echo("a");
    let gateway = gateway_with(
        &["--entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.1"],
        "{rateLimit: {average: 1, period: 1h, burst: 1, sourceCriterion: {ipStrategy: {depth: 1}}}}",
        &backend.url(),
        "",
    );
    let mut client = Client::connect(gateway.web());
    let mut ask = |source: u32| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + source);
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {address}\r\n\r\n"));
        client.read().unwrap().status
    };
    for source in 0..2000 {
        assert_eq!(ask(source), 200, "{source}");
    }
    assert_eq!(ask(1999), 429);
    assert_eq!(ask(2001), 200);
}
