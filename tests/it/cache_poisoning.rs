//! What a client can do to the responses that others get from the middleware `cache`: one test for each class of attack.
//! `cache.rs` has those for keys, private responses, errors and variants, `cache_privacy.rs` those for what belongs to one
//! client.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::backend::Seen;
use crate::support::client::{Answer, Client};
use crate::support::frames::{Frames, Outcome};
use crate::support::{Backend, Gateway, eventually, get, get_with, raw};

/// Fields that servers of some kind obey, though they do not name them in `Vary`.
const STEERING: [&str; 26] = [
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Scheme",
    "X-Forwarded-Ssl",
    "X-Forwarded-Protocol",
    "X-Forwarded-Uri",
    "X-Forwarded-Path",
    "X-Host",
    "X-Original-Host",
    "X-Original-URL",
    "X-Original-Uri",
    "X-Rewrite-URL",
    "X-Override-URL",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-HTTP-Host-Override",
    "X-URL-Scheme",
    "X-Scheme",
    "X-Script-Name",
    "X-Proxy-Host",
    "X-Backend-Host",
    "Front-End-Https",
    "Forwarded",
];

/// A server that obeys: its responses have their number, the request line, the body, and every steering field.
fn obedient() -> Backend {
    let count = AtomicUsize::new(0);
    Backend::with(move |seen, stream| {
        let fields = STEERING.map(|name| seen.headers(name).join(","));
        let number = count.fetch_add(1, Ordering::SeqCst);
        let (host, body) = (seen.header("host").unwrap_or_default(), String::from_utf8_lossy(&seen.body));
        let line = seen.head.lines().next().unwrap_or_default();
        respond(
            seen,
            stream,
            "Cache-Control: max-age=60\r\n",
            &format!("{number} {line} {host} {body} {fields:?}"),
        )
    })
}

/// A server whose responses `answer` decides: status, fields and body.
pub fn server(answer: impl Fn(&Seen, usize) -> (String, String) + Send + Sync + 'static) -> Backend {
    let count = AtomicUsize::new(0);
    Backend::with(move |seen, stream| {
        let (head, body) = answer(seen, count.fetch_add(1, Ordering::SeqCst));
        write_response(seen, stream, &head, &body)
    })
}

fn respond(seen: &Seen, stream: &mut TcpStream, fields: &str, body: &str) -> bool {
    write_response(seen, stream, &format!("200 OK\r\n{fields}"), body)
}

fn write_response(seen: &Seen, stream: &mut TcpStream, head: &str, body: &str) -> bool {
    let bodiless = seen.method() == "HEAD" || head.starts_with("304");
    let body = if bodiless { "" } else { body };
    let length = if bodiless { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "HTTP/1.1 {head}{length}\r\n{body}").is_ok()
}

pub fn routes(url: &str, options: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [cache]}}
  middlewares:
    cache: {{cache: {options}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

pub fn start(backend: &Backend) -> Gateway {
    Gateway::serve(&routes(&backend.url(), "{}"))
}

pub fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.starts_with("tidegate; hit"))
}

/// Asks as a victim, who must get an honest response: the same for everyone, and not the attacker's.
fn assert_honest(gateway: &Gateway, target: &str, attack: &str) {
    let ask = || get(gateway.web(), "h", target);
    let (first, second) = (ask(), ask());
    assert_eq!(first.status, 200, "{attack}");
    assert!(!first.text().to_lowercase().contains("evil"), "{attack}: {}", first.text());
    assert!(is_hit(&second) && first.text() == second.text(), "{attack}: what is honest is shared");
}

#[test]
fn fields_that_steer_servers_poison_nothing() {
    let backend = obedient();
    // What clients say of hosts is believed by the second gateway.
    let trusting =
        Gateway::with(&["--entryPoints.web.forwardedHeaders.insecure=true"], &routes(&backend.url(), "{}"));
    for (at, gateway) in [start(&backend), trusting].into_iter().enumerate() {
        let mut obeyed = 0;
        for name in STEERING {
            let target = format!("/{at}/{name}");
            let value = if name == "Forwarded" { "for=1.2.3.4;host=evil" } else { "evil" };
            for field in [name.to_owned(), name.replace('-', "_"), name.to_lowercase()] {
                let answer = get_with(gateway.web(), "h", &target, &format!("{field}: {value}\r\n"));
                obeyed += usize::from(answer.text().contains("evil"));
                assert_honest(&gateway, &target, &field);
            }
        }
        assert!(obeyed > 30, "the attacks reach the server: {obeyed}");
    }
}

#[test]
fn paths_that_look_alike_share_nothing() {
    let backend = server(|seen, number| {
        ("200 OK\r\nCache-Control: max-age=60\r\n".to_owned(), format!("{number} {}", seen.target()))
    });
    let gateway = start(&backend);
    let target_of = |answer: &Answer| answer.text().split(' ').nth(1).unwrap_or_default().to_owned();
    // The entry point makes one of these; the server gets the same as the key has.
    for alike in ["//page", "/x/../page", "/./page", "/%70age", "/x/%2e%2e/page"] {
        assert_eq!(target_of(&get(gateway.web(), "h", alike)), "/page", "{alike}");
    }
    for other in [
        "/page/",
        "/page//",
        "/page/x.css",
        "/page;x.css",
        "/page%3Bx.css",
        "/page%2Fx.css",
        "/page%2fx.css",
        "/page%00x.css",
        "/page%00",
        "/page%0Ax.css",
        "/page%0d%0aEvil:1",
        "/page%23x.css",
        "/page%3Fx.css",
        "/page%20",
        "/page%5Cx.css",
        "/page%5c..%5cx",
        "/x%2F..%2Fpage",
        "/static/..%2Fpage",
        "/PAGE",
        "/page?",
        "/page?/x.css",
        "/page.css",
        "/page!x.css",
        "/page,x.css",
        "/page~",
        "/page%09",
    ] {
        let attack = get(gateway.web(), "h", other);
        if attack.status == 200 {
            assert_ne!(target_of(&attack), "/page", "{other}");
        }
        assert_eq!(target_of(&get(gateway.web(), "h", "/page")), "/page", "{other}");
    }
}

#[test]
fn bodies_of_get_requests_poison_nothing() {
    let backend = obedient();
    let gateway = start(&backend);
    for (at, (fields, body)) in
        [("Content-Length: 4\r\n", "evil"), ("Transfer-Encoding: chunked\r\n", "4\r\nevil\r\n0\r\n\r\n")]
            .into_iter()
            .enumerate()
    {
        for method in ["GET", "HEAD"] {
            let target = format!("/fat{at}{method}");
            let mut client = Client::connect(gateway.web());
            client.send(format!(
                "{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n{body}"
            ));
            client.read_for(method).unwrap();
            assert_eq!(backend.last().body, b"evil");
            assert_honest(&gateway, &target, method);
        }
    }
}

/// The status codes that are about one request.
const REFUSALS: [u16; 15] = [400, 401, 407, 408, 411, 412, 413, 416, 417, 421, 425, 428, 429, 431, 511];

/// A server that refuses what a client provokes, and lets caches store that.
fn refusing() -> Backend {
    server(|seen, number| {
        let status = seen.header("x-provoke").unwrap_or("200").to_owned();
        // The largest head that it takes, and what it cannot read.
        let status = if seen.head.len() > 8192 { "431".to_owned() } else { status };
        let status = if seen.head.contains('\t') { "400".to_owned() } else { status };
        (
            format!("{status} X\r\nCache-Control: public, max-age=60\r\nETag: \"1\"\r\n"),
            format!("{number} {status}"),
        )
    })
}

#[test]
fn errors_that_a_request_provokes_are_not_stored() {
    let backend = refusing();
    for options in ["{}", "{ttl: {'200-599': 60s}}"] {
        let gateway = Gateway::serve(&routes(&backend.url(), options));
        let mut attacks: Vec<(u16, String)> =
            REFUSALS.map(|status| (status, format!("X-Provoke: {status}\r\n"))).to_vec();
        attacks.push((431, format!("X-Large: {}\r\n", "x".repeat(10_000))));
        attacks.push((400, "X-Meta: a\tb\r\n".to_owned()));
        for (at, (status, fields)) in attacks.iter().enumerate() {
            let target = format!("/{at}");
            let answer = get_with(gateway.web(), "h", &target, fields);
            assert_eq!(answer.status, *status, "the attack reaches the server");
            assert_eq!(answer.header("cache-status"), Some("tidegate; fwd=uri-miss; detail=status"));
            assert_honest(&gateway, &target, &status.to_string());
            // Nor do they remove what is stored.
            let stored = get(gateway.web(), "h", &target);
            get_with(gateway.web(), "h", &target, &format!("Cache-Control: no-cache\r\n{fields}"));
            assert_eq!(get(gateway.web(), "h", &target).text(), stored.text(), "{status}");
        }
    }
}

#[test]
fn what_no_parser_should_see_is_refused_and_not_stored() {
    let backend = obedient();
    let gateway = start(&backend);
    for (at, field) in
        ["X-Meta: \u{7}", "X-Meta: a\rb", "X-Meta: \0", "X-Meta\t: a", " X-Meta: a", "X-Large: "]
            .iter()
            .enumerate()
    {
        let target = format!("/{at}");
        let large = if field.ends_with("Large: ") { "x".repeat(2 << 20) } else { String::new() };
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{field}{large}\r\nConnection: close\r\n\r\n");
        let answer = raw(gateway.web(), head).unwrap();
        assert!((400..500).contains(&answer.status), "{field}: {}", answer.status);
        assert_honest(&gateway, &target, field);
    }
}

#[test]
fn a_response_that_is_split_is_stored_for_nobody_else() {
    // The second response is what an attacker has got into the first one's body or fields.
    let evil = "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nContent-Length: 4\r\n\r\nevil";
    let backend = Backend::with(move |seen, stream| {
        let rest = if seen.target() == "/split" { evil } else { "" };
        write!(stream, "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok{rest}")
            .is_ok()
    });
    let gateway = start(&backend);
    for round in 0..5 {
        assert_eq!(get(gateway.web(), "h", &format!("/split?{round}")).text(), "ok");
        get(gateway.web(), "h", "/split");
        assert_honest(&gateway, &format!("/{round}"), "split");
    }
}

#[test]
fn fields_that_vary_too_much_are_not_stored() {
    let backend = server(|seen, number| {
        let names: Vec<String> = (0..17).map(|at| format!("X-{at}")).collect();
        let vary = if seen.target() == "/names" { names.join(", ") } else { "X-Long".to_owned() };
        (format!("200 OK\r\nCache-Control: max-age=60\r\nVary: {vary}\r\n"), number.to_string())
    });
    let gateway = start(&backend);
    let long = format!("X-Long: {}\r\n", "x".repeat(5000));
    for (target, fields) in [("/names", ""), ("/long", long.as_str())] {
        let ask = || get_with(gateway.web(), "h", target, fields);
        assert_eq!(ask().header("cache-status"), Some("tidegate; fwd=uri-miss; detail=vary"), "{target}");
        assert!(!is_hit(&ask()), "{target}");
    }
    // Others share a response to the same.
    assert_honest(&gateway, "/long", "long");
}

#[test]
fn ranges_poison_nothing() {
    // A server that answers ranges itself, wrongly: with a part that nobody asked for, or another status.
    let backend = server(|seen, number| {
        let part = "206 Partial Content\r\nCache-Control: max-age=60\r\nContent-Range: bytes 0-3/9\r\n";
        let head = match seen.header("range") {
            None => "200 OK\r\nCache-Control: max-age=60\r\n",
            Some("bytes=99-") => "416 X\r\nCache-Control: max-age=60\r\nContent-Range: bytes */9\r\n",
            Some("bytes=7-2") => "400 X\r\nCache-Control: max-age=60\r\n",
            Some(_) => part,
        };
        let body = if head.starts_with("200") { format!("{number:03} whole") } else { "evil".to_owned() };
        (head.to_owned(), body)
    });
    let gateway = start(&backend);
    for (at, range) in [
        "bytes=0-3",
        "bytes=-4",
        "bytes=0-0,2-3",
        "bytes=99-",
        "bytes=7-2",
        "bytes=x",
        "lines=1-2",
        "bytes=0-",
    ]
    .iter()
    .enumerate()
    {
        let target = format!("/{at}");
        let field = format!("Range: {range}\r\n");
        get_with(gateway.web(), "h", &target, &field);
        get_with(gateway.web(), "h", &target, &format!("{field}If-Range: \"x\"\r\n"));
        assert_honest(&gateway, &target, range);
        let whole = get(gateway.web(), "h", &target).text();
        // Now it is cut from what is stored, whatever the server would say.
        let part = get_with(gateway.web(), "h", &target, &field);
        assert!([200, 206, 416].contains(&part.status), "{range}: {}", part.status);
        if part.status != 416 {
            assert!(whole.contains(&part.text()), "{range}: {}", part.text());
        }
        assert_honest(&gateway, &target, range);
    }
}

#[test]
fn a_part_that_nobody_asked_for_is_not_stored() {
    let first = AtomicUsize::new(0);
    let backend = server(move |_, _| {
        if first.fetch_add(1, Ordering::SeqCst) == 0 {
            (
                "206 X\r\nCache-Control: max-age=60\r\nContent-Range: bytes 0-3/9\r\n".to_owned(),
                "evil".to_owned(),
            )
        } else {
            ("200 OK\r\nCache-Control: max-age=60\r\n".to_owned(), "whole".to_owned())
        }
    });
    let gateway = start(&backend);
    get(gateway.web(), "h", "/x");
    assert_honest(&gateway, "/x", "206");
}

#[test]
fn responses_to_head_answer_no_get() {
    let backend = server(|seen, number| {
        let etag = if seen.method() == "HEAD" { "\"evil\"" } else { "\"1\"" };
        (format!("200 OK\r\nCache-Control: max-age=60\r\nETag: {etag}\r\n"), format!("{number}"))
    });
    let gateway = start(&backend);
    let head = |fields: &str| {
        let mut client = Client::connect(gateway.web());
        client.send(format!("HEAD /x HTTP/1.1\r\nHost: h\r\n{fields}Connection: close\r\n\r\n"));
        client.read_for("HEAD").unwrap()
    };
    assert_eq!(head("").header("etag"), Some("\"evil\""));
    assert_honest(&gateway, "/x", "HEAD");
    assert_eq!(head("").header("etag"), Some("\"1\""), "the other way round");
    // One that was sent again removes what has changed, and is not stored.
    head("Cache-Control: no-cache\r\n");
    assert_honest(&gateway, "/x", "HEAD");
    assert_eq!(get(gateway.web(), "h", "/x").header("etag"), Some("\"1\""));
}

#[test]
fn methods_in_other_cases_and_places_poison_nothing() {
    let backend = obedient();
    let gateway = start(&backend);
    for (at, method) in ["get", "POST", "EVIL", "OPTIONS", "TRACE"].iter().enumerate() {
        let target = format!("/{at}");
        let end = "Host: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        raw(gateway.web(), format!("{method} {target} HTTP/1.1\r\n{end}")).unwrap();
        assert_honest(&gateway, &target, method);
        assert!(get(gateway.web(), "h", &target).text().contains(" GET "), "{method}");
    }
}

#[test]
fn names_of_a_host_share_only_what_is_equal() {
    let backend = obedient();
    let gateway = start(&backend);
    let ask = |host: &str| get(gateway.web(), host, "/x");
    let plain = ask("h");
    assert_eq!(ask("H").text(), plain.text(), "case has no meaning");
    let asked = backend.seen().len();
    for host in ["h.", "h:8080", "h:", "h:080", "evil", "h.evil", "h:80@evil", "evil:80"] {
        let other = ask(host);
        assert_ne!(other.text(), plain.text(), "{host}");
        assert_honest(&gateway, "/x", host);
    }
    assert!(backend.seen().len() > asked + 3, "the attacks reach the server");
    // A target with a host of its own counts instead of the field (RFC 9112 §3.2.2).
    let absolute = "GET http://evil/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    assert!(raw(gateway.web(), absolute).unwrap().text().contains("evil"));
    assert_honest(&gateway, "/x", "absolute form");
    let twice = "GET /x HTTP/1.1\r\nHost: h\r\nHost: evil\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(gateway.web(), twice).unwrap().status, 400);
    assert_honest(&gateway, "/x", "two hosts");
}

#[test]
fn authority_and_host_of_http2_cannot_differ() {
    let backend = obedient();
    let gateway = start(&backend);
    let send = |fields: &[(&str, &str)]| {
        let mut connection = Frames::connect(gateway.web());
        connection
            .request(1, &[&[(":method", "GET"), (":scheme", "http"), (":path", "/x")], fields].concat());
        connection.outcome(1)
    };
    assert_eq!(send(&[(":authority", "h"), ("host", "evil")]), Outcome::Status(400));
    assert_honest(&gateway, "/x", "host");
    assert_eq!(send(&[(":authority", "evil"), ("host", "h")]), Outcome::Status(400));
    assert_eq!(send(&[(":authority", "evil")]), Outcome::Status(200));
    assert!(backend.last().header("host") == Some("evil"));
    assert_honest(&gateway, "/x", ":authority");
    let asked = backend.seen().len();
    assert_eq!(send(&[("host", "h")]), Outcome::Status(200));
    assert_eq!(send(&[(":authority", "H")]), Outcome::Status(200));
    assert_eq!(backend.seen().len(), asked, "both share what is stored for HTTP/1");
}

#[test]
fn parameters_that_do_not_count_cannot_hide_others() {
    let backend = obedient();
    let ask = |gateway: &Gateway, target: &str| get(gateway.web(), "h", target);
    let except = Gateway::serve(&routes(&backend.url(), "{key: {excludeQuery: [utm_source]}}"));
    assert_honest(&except, "/a?id=1", "first");
    let honest = ask(&except, "/a?id=1").text();
    for shared in ["/a?id=1&utm_source=evil", "/a?utm_source=evil&id=1", "/a?utm_source&id=1", "/a?&id=1&&"] {
        assert_eq!(ask(&except, shared).text(), honest, "{shared}");
    }
    for other in [
        // A server that splits at `;` finds a second `id`.
        "/a?id=1;id=evil",
        "/a?id=1&utm_source=x;id=evil",
        "/a?utm_source=x;id=evil&id=1",
        "/a?id=1&utm_source=x%26id=evil&utm=evil",
        "/a?id=1&id=evil",
        "/a?id=evil&id=1",
        "/a?id=1&ID=evil",
        "/a?id=1&UTM_SOURCE=evil",
        "/a?id=1&utm_source[]=evil",
        "/a?id=1&utm_source%20=evil",
        "/a?id=1&utm%5fsource=evil",
        "/a?id=1%00&x=evil",
        "/a?id=1#evil",
    ] {
        let answer = ask(&except, other);
        assert!(answer.status == 400 || answer.text() != honest, "{other}");
        assert_honest(&except, "/a?id=1", other);
    }
    // What does not count does not reach the server, in any spelling.
    let only = Gateway::serve(&routes(&backend.url(), "{key: {query: [id]}}"));
    for (at, more) in ["x=evil", "i%64=evil", "ID=evil", "id[]=evil", "x=1;x=evil", "id%00=evil", "&evil"]
        .iter()
        .enumerate()
    {
        let target = format!("/b{at}?id=1");
        assert!(!ask(&only, &format!("{target}&{more}")).text().contains("evil"), "{more}");
        assert_honest(&only, &target, more);
    }
}

#[test]
fn conditions_of_clients_do_not_decide_what_others_get() {
    // A server that answers every condition with 304, and a wrong one with 412.
    let backend = server(|seen, number| {
        let conditional =
            ["if-none-match", "if-modified-since"].iter().any(|name| seen.header(name).is_some());
        let refused = seen.header("if-match").or(seen.header("if-unmodified-since")).is_some();
        let status = if conditional {
            "304 X"
        } else if refused {
            "412 X"
        } else {
            "200 OK"
        };
        (
            format!("{status}\r\nCache-Control: max-age=60\r\nETag: \"1\"\r\nX-Condition: {conditional}\r\n"),
            number.to_string(),
        )
    });
    let gateway = start(&backend);
    for (at, fields) in [
        "If-None-Match: \"evil\"\r\n",
        "If-None-Match: *\r\n",
        "If-Modified-Since: Sun, 06 Nov 2094 08:49:37 GMT\r\n",
        "Range: bytes=0-0\r\nIf-None-Match: \"evil\"\r\n",
        "Range: bytes=0-0\r\nIf-None-Match: *\r\n",
        "If-Match: \"evil\"\r\n",
        "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        "If-Range: \"evil\"\r\nRange: bytes=0-0\r\n",
    ]
    .iter()
    .enumerate()
    {
        let target = format!("/{at}");
        get_with(gateway.web(), "h", &target, fields);
        let mut client = Client::connect(gateway.web());
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n{fields}Connection: close\r\n\r\n"));
        client.read_for("HEAD").unwrap();
        assert_honest(&gateway, &target, fields);
        let stored = get(gateway.web(), "h", &target);
        assert_eq!(stored.header("x-condition"), Some("false"), "{fields}");
    }
}

#[test]
fn compressed_responses_reach_only_those_who_can_read_them() {
    // A server that compresses, and does not say that its responses differ.
    let forgetful = server(|seen, number| {
        let coded = seen.header("accept-encoding").is_some_and(|codings| codings.contains("gzip"));
        let encoding = if coded { "Content-Encoding: gzip\r\n" } else { "" };
        let body = if coded { format!("{number} evil") } else { format!("{number} plain") };
        (format!("200 OK\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\n{encoding}"), body)
    });
    let gateway = start(&forgetful);
    get_with(gateway.web(), "h", "/x", "Accept-Encoding: gzip\r\n");
    assert_honest(&gateway, "/x", "gzip");
    // The gateway compresses itself, in front of the cache or behind it.
    let backend = server(|_, _| {
        (
            "200 OK\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\n".to_owned(),
            "plain ".repeat(1000),
        )
    });
    for order in ["[compress, cache]", "[cache, compress]"] {
        let text = routes(&backend.url(), "{}")
            .replace("middlewares: [cache]", &format!("middlewares: {order}"))
            .replace("  services:", "    compress: {compress: {}}\n  services:");
        let gateway = Gateway::serve(&text);
        let ask = |fields: &str| get_with(gateway.web(), "h", "/x", fields);
        let encoding = |fields: &str| ask(fields).header("content-encoding").map(str::to_owned);
        for round in 0..2 {
            // Behind the cache, what is not compressed is stored for all, as `compress` adds no `Vary` to it.
            if round == 0 || order == "[compress, cache]" {
                assert_eq!(encoding("Accept-Encoding: gzip\r\n").as_deref(), Some("gzip"), "{order}");
                assert_eq!(encoding("Accept-Encoding: br\r\n").as_deref(), Some("br"), "{order}");
            }
            let plain = ask("");
            assert_eq!((plain.header("content-encoding"), plain.body.len()), (None, 6000), "{order}");
            assert_eq!(encoding("Accept-Encoding: gzip;q=0\r\n"), None, "{order}");
        }
        assert!(is_hit(&ask("")) && is_hit(&ask("Accept-Encoding: gzip\r\n")), "{order}");
    }
}

#[test]
fn fields_that_connection_names_do_not_choose_a_variant() {
    let backend = server(|seen, number| {
        let language = seen.header("x-language").unwrap_or("evil");
        (
            "200 OK\r\nCache-Control: max-age=60\r\nVary: X-Language\r\n".to_owned(),
            format!("{number} {language}"),
        )
    });
    for flags in [&[][..], &["--entryPoints.web.forwardedHeaders.connection=X-Language"]] {
        let gateway = Gateway::with(flags, &routes(&backend.url(), "{}"));
        // The server does not get the field, so it must not be stored for those who send it.
        let stripped =
            "GET /x HTTP/1.1\r\nHost: h\r\nX-Language: de\r\nConnection: close, X-Language\r\n\r\n";
        assert!(raw(gateway.web(), stripped).unwrap().text().contains("evil"), "{flags:?}");
        let victim = get_with(gateway.web(), "h", "/x", "X-Language: de\r\n");
        assert!(victim.text().ends_with(" de"), "{flags:?}: {}", victim.text());
    }
}

#[test]
fn upgrades_are_not_answered_for_others() {
    let backend = obedient();
    let gateway = start(&backend);
    let upgrade = "GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n";
    let answer = raw(gateway.web(), upgrade).unwrap();
    assert_eq!(answer.header("cache-status"), Some("tidegate; fwd=bypass; detail=upgrade"));
    assert_honest(&gateway, "/x", "upgrade");
    eventually("the backend has seen both", || backend.seen().len() == 2);
}
