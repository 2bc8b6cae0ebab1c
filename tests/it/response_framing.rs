//! Answers of servers whose framing two parsers could read in two ways: they pass as one, or visibly fail.

use std::io::Write;

use crate::support::{Backend, Client, Gateway, get, raw};

/// An answer of a server, whether it then hangs up, and what the client may see.
type AnswerCase = (String, bool, AnswerExpect);

#[derive(Clone, Debug)]
enum AnswerExpect {
    /// This status and body, complete.
    Whole(u16, &'static str),
    /// A 5xx, or an answer that visibly breaks off.
    Failed,
}

use AnswerExpect::{Failed, Whole};

fn answer_cases() -> Vec<AnswerCase> {
    let ok = "HTTP/1.1 200 OK\r\n";
    let mut cases: Vec<AnswerCase> = Vec::new();
    for (rest, expect) in [
        ("Content-Length: 2\r\n\r\nok", Whole(200, "ok")),
        ("Content-Length: 2\r\n\r\nokEXTRA", Whole(200, "ok")),
        ("Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", Whole(200, "")),
        ("Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", Whole(200, "ok")),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Whole(200, "ok")),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nEXTRA", Whole(200, "ok")),
        ("Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Whole(200, "ok")),
        ("Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", Whole(200, "ok")),
        ("\r\nok", Whole(200, "ok")),
        ("Transfer-Encoding: gzip\r\n\r\nok", Failed),
        ("Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Failed),
        ("Content-Length: -1\r\n\r\nok", Failed),
        ("Content-Length: +2\r\n\r\nok", Failed),
        ("Content-Length: two\r\n\r\nok", Failed),
        ("Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk", Failed),
        ("Content-Length: 2, 3\r\n\r\nokk", Failed),
        ("Content-Length: 99999999999999999999\r\n\r\nok", Failed),
        ("Content-Length: 5\r\n\r\nok", Failed),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nok", Failed),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Failed),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", Failed),
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", Failed),
        ("Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n", Failed),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nokXX0\r\n\r\n", Failed),
        ("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok\r\n", Failed),
        ("X: a\0b\r\nContent-Length: 2\r\n\r\nok", Failed),
        ("X y: a\r\nContent-Length: 2\r\n\r\nok", Failed),
        (": a\r\nContent-Length: 2\r\n\r\nok", Failed),
        ("no colon\r\nContent-Length: 2\r\n\r\nok", Failed),
    ] {
        cases.push((format!("{ok}{rest}"), true, expect));
    }
    for (answer, expect) in [
        ("", Failed),
        ("garbage\r\n\r\n", Failed),
        ("\0\0\0\0", Failed),
        ("HTTP/9.9 200 OK\r\n\r\n", Failed),
        ("HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n", Failed),
        ("HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n", Failed),
        ("HTTP/1.1 200 OK\r\nContent-Len", Failed),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nGET", Failed),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", Whole(204, "")),
        (
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Whole(204, ""),
        ),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", Whole(304, "")),
        ("HTTP/1.0 200 OK\r\n\r\nok", Whole(200, "ok")),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Whole(200, "ok"),
        ),
    ] {
        cases.push((answer.to_owned(), true, expect));
    }
    // An answer to nothing, on a connection that stays open: the next request must not take it.
    cases.push((
        format!("{ok}Content-Length: 2\r\n\r\nok{ok}Content-Length: 3\r\n\r\nbad"),
        false,
        Whole(200, "ok"),
    ));
    cases.push((format!("{ok}Content-Length: 2\r\n\r\nokEXTRA"), false, Whole(200, "ok")));
    cases.push((
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad".into(),
        false,
        Whole(204, ""),
    ));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(50);
    cases.push((format!("{interim}{ok}Content-Length: 2\r\n\r\nok"), false, Whole(200, "ok")));
    cases.push((format!("{ok}X: {}\r\nContent-Length: 2\r\n\r\nok", "y".repeat(2 << 20)), true, Failed));
    cases.push((format!("{ok}{}Content-Length: 2\r\n\r\nok", "X: y\r\n".repeat(2000)), true, Failed));
    cases
}

#[test]
fn ambiguous_answers_of_servers_pass_as_one_or_visibly_fail() {
    let mut failures = Vec::new();
    for (bytes, closes, expect) in answer_cases() {
        let backend = if closes { Backend::closing(bytes.clone()) } else { Backend::bytes(bytes.clone()) };
        let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
        let shown = &bytes[..bytes.len().min(160)];
        // Twice and more: what the first answer left over must not become the second one.
        for turn in 0..3 {
            let seen = raw(gateway.web(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            let fine = match (&expect, &seen) {
                (Whole(status, body), Ok(answer)) => {
                    answer.status == *status && answer.complete && answer.text() == *body
                }
                (Failed, Ok(answer)) => (500..600).contains(&answer.status) || !answer.complete,
                (Failed, Err(_)) => true,
                (Whole(..), Err(_)) => false,
            };
            if !fine {
                failures.push(format!("{shown:?} (turn {turn}) became {seen:?}, not {expect:?}"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A server that writes the same for ever.
fn endless(start: &'static str, piece: &'static str) -> Backend {
    Backend::with(move |seen, stream| {
        if seen.target() != "/endless" {
            return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok();
        }
        let many = piece.repeat(100);
        let mut fine = stream.write_all(start.as_bytes()).is_ok();
        while fine {
            fine = stream.write_all(many.as_bytes()).is_ok();
        }
        false
    })
}

#[test]
fn an_endless_response_head_is_refused() {
    let backend = endless("HTTP/1.1 200 OK\r\n", "X-More: of the same\r\n");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let answer = raw(gateway.web(), "GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert!((500..600).contains(&answer.status), "{answer:?}");
}

#[test]
fn endless_informational_responses_time_out_without_blocking_others() {
    let backend = endless("", "HTTP/1.1 102 Processing\r\n\r\n");
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}], serversTransport: short}}}}
  serversTransports:
    short: {{forwardingTimeouts: {{responseHeaderTimeout: 1s}}}}
",
        backend.url()
    ));
    let mut held = Client::connect(gateway.web());
    held.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n");
    for _ in 0..20 {
        assert_eq!(get(gateway.web(), "h", "/").text(), "ok");
    }
    assert_eq!(held.read().unwrap().status, 504);
}

#[test]
fn requests_in_one_packet_are_answered_in_order() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    client.send(concat!(
        "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /last HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\nGET /bad HTTP/1.1\nHost: h\r\n\r\n",
    ));
    for expected in ["POST /p", "POST /p", "GET /last"] {
        let answer = client.read().unwrap();
        assert!(answer.status == 200 && answer.text().starts_with(expected), "{answer:?}");
    }
    assert_eq!(client.read().unwrap().status, 400);
    assert!(client.is_closed());
    assert_eq!(backend.seen().len(), 3);
}
