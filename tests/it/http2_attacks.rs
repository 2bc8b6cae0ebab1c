//! Attacks by HTTP/2 frames, each named after its number in the catalogue of cases (docs/security.md).

use std::time::{Duration, Instant};

use crate::support::frames::{self, Frames, Outcome};
use crate::support::{Backend, Gateway, get};

fn open_gateway(flags: &[&str]) -> (Gateway, Backend) {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(flags, &Gateway::one_service(&backend.url()));
    (gateway, backend)
}

const PLAIN: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/p"), (":authority", "h")];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&PLAIN[..], more].concat()
}

fn with_path(path: &str) -> [(&str, &str); 4] {
    [PLAIN[0], PLAIN[1], (":path", path), PLAIN[3]]
}

#[test]
fn case_32_what_http_1_could_not_carry_is_refused() {
    let (gateway, backend) = open_gateway(&[]);
    let mut requests = vec![
        with(&[("x", "a\r\nx-evil: 1")]),
        with(&[("x", "a\nb")]),
        with(&[("x", "a\rb")]),
        with(&[("x", "a\0b")]),
        with(&[("x\r\ny", "a")]),
        with(&[("x y", "a")]),
        with(&[("x:y", "a")]),
        with(&[("X-Upper", "a")]),
        with(&[("", "a")]),
        with(&[("connection", "close")]),
        with(&[("connection", "x-real-ip")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "keep-alive")]),
        with(&[("upgrade", "h2c")]),
        with(&[("te", "gzip")]),
        with(&[("te", "trailers, gzip")]),
        with(&[("host", "other")]),
        with(&[("host", "h"), ("host", "h")]),
        with(&[(":method", "POST")]),
        with(&[(":path", "/q")]),
        with(&[(":authority", "i")]),
        with(&[(":status", "200")]),
        with(&[(":unknown", "x")]),
        with(&[("x", "a"), (":path", "/late")]),
        with(&[("content-length", "5")]),
        with(&[("content-length", "-1")]),
        with(&[("content-length", "x")]),
        with(&[("content-length", "0"), ("content-length", "5")]),
        with(&[("content-length", "00")]),
        with(&[("content-length", "0"), ("content-length", "0")]),
        vec![PLAIN[0], PLAIN[1], PLAIN[3]],
        vec![PLAIN[1], PLAIN[2], PLAIN[3]],
        vec![PLAIN[0], PLAIN[2], PLAIN[3]],
        vec![],
        vec![("x", "a"), PLAIN[0], PLAIN[1], PLAIN[2], PLAIN[3]],
    ];
    for path in [
        "",
        "/a b",
        "/a\tb",
        "/a\r\nX: y",
        "/a\0",
        "/a HTTP/1.1\r\nHost: evil\r\n\r\nGET /b",
        "a",
        "*",
        "http://h/p",
    ] {
        requests.push(with_path(path).to_vec());
    }
    for authority in ["h x", "h\r\nX: y", "u:p@h", "h/x", "h:x", "h\0"] {
        requests.push(vec![PLAIN[0], PLAIN[1], PLAIN[2], (":authority", authority)]);
    }
    for method in ["", "G ET", "GET /x HTTP/1.1\r\nX: y", "G\0T"] {
        requests.push(vec![(":method", method), PLAIN[1], PLAIN[2], PLAIN[3]]);
    }
    let mut failures = Vec::new();
    for fields in requests {
        let mut client = Frames::connect(gateway.web());
        client.request(1, &fields);
        let outcome = client.outcome(1);
        if !outcome.is_refusal() || !backend.seen().is_empty() {
            failures.push(format!(
                "{fields:?}: {outcome:?} {:?}",
                backend.seen().last().map(|seen| seen.head.clone())
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn case_32_data_unlike_its_length_is_refused() {
    let (gateway, backend) = open_gateway(&[]);
    for (length, data) in [("5", "hello world"), ("50", "hello"), ("0", "x"), ("3", "")] {
        let fields = with(&[("content-length", length)]);
        let mut client = Frames::connect(gateway.web());
        client.send(frames::HEADERS, frames::END_HEADERS, 1, &frames::block(&fields));
        client.send(frames::DATA, frames::END_STREAM, 1, data.as_bytes());
        let outcome = client.outcome(1);
        assert!(outcome.is_refusal(), "{length} {data:?}: {outcome:?}");
    }
    assert!(backend.seen().is_empty(), "{:?}", backend.seen());
}

#[test]
fn case_32_an_empty_body_is_forwarded_once_it_has_ended() {
    let (gateway, backend) = open_gateway(&[]);
    let mut client = Frames::connect(gateway.web());
    let fields = with(&[("content-length", "0")]);
    for (stream, data) in [(1, "x"), (5, "")] {
        client.send(frames::HEADERS, frames::END_HEADERS, stream, &frames::block(&fields));
        // A later request of the connection passes it.
        client.request(stream + 2, &PLAIN);
        assert_eq!(client.outcome(stream + 2), Outcome::Status(200));
        let seen = backend.seen().len();
        client.send(frames::DATA, frames::END_STREAM, stream, data.as_bytes());
        let outcome = client.outcome(stream);
        if data.is_empty() {
            assert_eq!(outcome, Outcome::Status(200));
        } else {
            assert!(outcome.is_refusal(), "{outcome:?}");
            assert_eq!(backend.seen().len(), seen);
        }
    }
    assert_eq!(backend.seen().iter().filter(|seen| seen.header("content-length").is_some()).count(), 1);
}

#[test]
fn case_32_valid_requests_pass() {
    let (gateway, backend) = open_gateway(&[]);
    let mut client = Frames::connect(gateway.web());
    client.request(
        1,
        &with(&[
            ("host", "H"),
            ("te", "trailers"),
            ("http2-settings", "AAAA"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x", "a: b\t\u{e9}"),
        ]),
    );
    assert_eq!(client.outcome(1), Outcome::Status(200));
    let seen = backend.last();
    assert_eq!((seen.headers("host"), seen.headers("cookie")), (vec!["h"], vec!["a=1; b=2"]));
    assert_eq!(seen.header("http2-settings"), None);
    // A fragment is no part of a target: it is gone before anything is matched (case 13).
    client.request(5, &with_path("/a#/../b"));
    assert_eq!(client.outcome(5), Outcome::Status(200));
    assert_eq!(backend.last().target(), "/a");
    // One broken stream does not harm the next.
    client.request(7, &with(&[("connection", "close")]));
    assert!(client.outcome(7).is_refusal());
    client.request(9, &PLAIN);
    assert_eq!(client.outcome(9), Outcome::Status(200));
}

#[test]
fn case_33_a_path_without_its_slash_goes_nowhere() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    open: {{rule: 'HostRegexp(`.*`)', service: a}}
    shut: {{rule: 'PathPrefix(`/pkg.Admin`)', service: a, middlewares: [nobody]}}
  middlewares:
    nobody: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    ));
    for path in ["pkg.Admin/Call", "pkg.Admin", "%2Fpkg.Admin/Call", "?/pkg.Admin", ".//pkg.Admin/Call"] {
        let mut client = Frames::connect(gateway.web());
        client.request(1, &with_path(path));
        assert!(client.outcome(1).is_refusal(), "{path}");
    }
    assert!(backend.seen().is_empty());
}

/// Sends what `flood` says until the connection is cut; panics when that takes longer than `limit`.
fn assert_cut(
    gateway: &Gateway,
    limit: Duration,
    what: &str,
    mut flood: impl FnMut(&mut Frames, u32) -> bool,
) {
    let mut client = Frames::connect(gateway.web());
    let start = Instant::now();
    let mut turn = 0;
    while flood(&mut client, turn) {
        turn += 1;
        assert!(start.elapsed() < limit, "{what}: not cut after {turn} frames in {limit:?}");
    }
    assert!(client.is_cut(), "{what}");
    assert_eq!(get(gateway.web(), "h", "/").status, 200, "{what}: others are served");
}

const SOON: Duration = Duration::from_secs(15);

#[test]
fn case_49_rapid_resets_close_the_connection() {
    let (gateway, _backend) = open_gateway(&[]);
    let block = frames::block(&PLAIN);
    assert_cut(&gateway, SOON, "reset", |client, turn| {
        let id = 2 * turn + 1;
        client.send(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, id, &block)
            && client.send(frames::RST_STREAM, 0, id, &8_u32.to_be_bytes())
    });
}

#[test]
fn case_50_provoked_resets_close_the_connection() {
    let (gateway, _backend) = open_gateway(&[]);
    let block = frames::block(&PLAIN);
    assert_cut(&gateway, SOON, "a window increment of 0", |client, turn| {
        let id = 2 * turn + 1;
        // WINDOW_UPDATE with increment 0 is an error of the stream: the server resets it.
        client.send(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, id, &block)
            && client.send(8, 0, id, &[0; 4])
    });
}

#[test]
fn case_51_endless_continuations_close_the_connection() {
    let (gateway, _backend) = open_gateway(&[]);
    for (what, payload) in [("empty", Vec::new()), ("full", frames::block(&[("x", &"y".repeat(1000))]))] {
        assert_cut(&gateway, SOON, what, |client, turn| {
            let kind = if turn == 0 { frames::HEADERS } else { frames::CONTINUATION };
            client.send(kind, 0, 1, &payload)
        });
    }
}

#[test]
fn case_52_header_bombs_are_refused() {
    let (gateway, backend) = open_gateway(&[]);
    // One entry of 4000 bytes in the table, then it is named 15,000 times: 60 MB of headers in 19 kB.
    let value = "y".repeat(4000);
    let mut bomb = frames::block(&PLAIN);
    bomb.extend([0x40, 1, b'x', 0x7f]);
    bomb.extend([(4000 - 127) as u8 | 0x80, ((4000 - 127) >> 7) as u8]);
    bomb.extend(value.as_bytes());
    bomb.extend([0xbe].repeat(8000));
    let mut client = Frames::connect(gateway.web());
    client.send(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, 1, &bomb);
    let outcome = client.outcome(1);
    assert_ne!(outcome, Outcome::Status(200));
    assert_ne!(outcome, Outcome::Silence);
    let crumbs: Vec<_> = (0..1200).map(|_| ("cookie", "a=1")).collect();
    let mut client = Frames::connect(gateway.web());
    client.request(1, &with(&crumbs));
    let _ = client.outcome(1);
    assert!(backend.seen().len() <= 1);
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
}

#[test]
fn case_53_floods_of_useless_frames_close_the_connection() {
    let (gateway, _backend) = open_gateway(&[]);
    for (what, kind, stream, payload) in [
        ("ping", frames::PING, 0, vec![0; 8]),
        ("settings", frames::SETTINGS, 0, vec![]),
        ("priority", frames::PRIORITY, 1, vec![0, 0, 0, 3, 16]),
    ] {
        assert_cut(&gateway, SOON, what, |client, _| client.send(kind, 0, stream, &payload));
    }
    let block = frames::block(&[&PLAIN[1..], &[(":method", "POST")]].concat());
    assert_cut(&gateway, SOON, "empty data", |client, turn| {
        (turn > 0 || client.send(frames::HEADERS, frames::END_HEADERS, 1, &block))
            && client.send(frames::DATA, 0, 1, &[])
    });
}

#[test]
fn case_54_endless_header_blocks_and_frames_time_out() {
    let (gateway, _backend) =
        open_gateway(&["--entryPoints.web.transport.respondingTimeouts.readTimeout=500ms"]);
    let block = frames::block(&PLAIN);
    for (what, bytes) in [
        ("HEADERS without an end", frames::frame(frames::HEADERS, 0, 1, &block)),
        (
            "half a HEADERS frame",
            frames::frame(frames::HEADERS, frames::END_HEADERS, 1, &block)[..20].to_vec(),
        ),
        ("half a frame header", vec![0, 0, 1]),
        ("settings alone", Vec::new()),
    ] {
        let mut client = Frames::connect(gateway.web());
        client.bytes(&bytes);
        let start = Instant::now();
        assert!(client.is_cut(), "{what}");
        assert!(start.elapsed() < Duration::from_secs(12), "{what}");
    }
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
}

#[test]
fn case_54_a_closed_window_times_out() {
    let backend = Backend::bytes(
        [&b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"[..], &[b'x'; 1_000_000]].concat(),
    );
    let gateway = Gateway::with(
        &["--entryPoints.web.transport.respondingTimeouts.writeTimeout=500ms"],
        &Gateway::one_service(&backend.url()),
    );
    let mut client = Frames::connect(gateway.web());
    // SETTINGS_INITIAL_WINDOW_SIZE of 0.
    client.send(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    client.request(1, &PLAIN);
    assert_eq!(client.outcome(1), Outcome::Status(200));
    assert!(client.is_cut());
}
