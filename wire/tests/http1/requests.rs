//! Heads of requests.

use http::{Method, Version};
use tidegate_wire::http1::request::{RequestHead, RequestParser};
use tidegate_wire::http1::{Error, ErrorKind, Framing, Limits, Rule};

use crate::corpus::{buffer, fields};

/// A head, and the bytes after it.
type Parsed = (RequestHead, Vec<u8>);

fn parse_within(bytes: &[u8], size: usize, limits: &Limits) -> Result<Option<Parsed>, Error> {
    let (mut parser, mut input) = (RequestParser::default(), buffer(b""));
    let mut pieces = bytes.chunks(size);
    while let Some(piece) = pieces.next() {
        input.extend_from_slice(piece);
        if let Some(head) = parser.parse(&mut input, limits)? {
            pieces.for_each(|piece| input.extend_from_slice(piece));
            return Ok(Some((head, input.to_vec())));
        }
    }
    Ok(None)
}

/// Parses a head in one piece and in many, which must come to the same, and returns it with the bytes after it.
fn parse(bytes: impl AsRef<[u8]>) -> Result<Option<Parsed>, Error> {
    let bytes = bytes.as_ref();
    let whole = parse_within(bytes, usize::MAX, &Limits::default());
    let mut parser = RequestParser::default();
    let mut repeated = || -> Result<Option<Parsed>, Error> {
        let mut input = buffer(bytes);
        Ok(parser.parse(&mut input, &Limits::default())?.map(|head| (head, input.to_vec())))
    };
    let count = if let Ok(Some(_)) = whole { 4 } else { 1 };
    let repeated = (0..count).map(|_| repeated());
    let pieces = [1, 2, 3, 7, 64].map(|size| parse_within(bytes, size, &Limits::default()));
    for parsed in pieces.into_iter().chain(repeated) {
        let seen = |parsed: &Result<Option<Parsed>, Error>| match parsed {
            Ok(Some((head, rest))) => Ok(Some((
                head.parts.method.clone(),
                head.parts.uri.clone(),
                head.parts.version,
                fields(&head.parts.headers),
                head.spelling.clone(),
                head.framing,
                head.options,
                rest.clone(),
            ))),
            Ok(None) => Ok(None),
            Err(error) => Err(*error),
        };
        assert_eq!(seen(&parsed), seen(&whole), "{}", bytes.escape_ascii());
    }
    whole
}

fn head(bytes: impl AsRef<[u8]>) -> RequestHead {
    parse(bytes).unwrap().unwrap().0
}

fn kind(bytes: impl AsRef<[u8]>) -> ErrorKind {
    let shown = bytes.as_ref().escape_ascii().to_string();
    parse(bytes).map(|parsed| parsed.is_some()).expect_err(&shown).kind
}

#[test]
fn a_head_is_parsed_and_the_rest_stays() {
    let (head, rest) = parse(
        "\r\nPOST /a/b?c=d HTTP/1.1\r\nHost: h.test:80\r\ncontent-length: 5\r\nX-Two: 1\r\nX-Two:2 \t\r\nEmpty:\r\n\r\nhelloGET",
    )
    .unwrap()
    .unwrap();
    assert_eq!((head.parts.method, head.parts.version), (Method::POST, Version::HTTP_11));
    assert_eq!(head.parts.uri, "/a/b?c=d");
    assert_eq!(head.framing, Framing::Length(5));
    let seen: Vec<_> =
        head.parts.headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
    assert_eq!(seen, ["host=h.test:80", "content-length=5", "x-two=1", "x-two=2", "empty="]);
    assert_eq!(rest, b"helloGET");
}

#[test]
fn spellings_are_kept_where_they_are_irregular() {
    let usual =
        head("GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: x\r\nSec-WebSocket-Key: x\r\nX-Own: x\r\n\r\n");
    assert_eq!((usual.spelling.rule(), usual.spelling.irregular().count()), (Rule::Usual, 0));
    let lower = head("GET / HTTP/1.1\r\nhost: h\r\nuser-agent: x\r\nx-own: x\r\n\r\n");
    assert_eq!((lower.spelling.rule(), lower.spelling.irregular().count()), (Rule::Lower, 0));
    let mixed = head("GET / HTTP/1.1\r\nHost: h\r\nuser-agent: x\r\nX-OWN: x\r\nEtag: x\r\n\r\n");
    let irregular: Vec<_> = mixed.spelling.irregular().collect();
    assert_eq!(irregular, [&b"user-agent"[..], b"X-OWN", b"Etag"]);
}

#[test]
fn targets_in_every_form_are_accepted() {
    for target in ["/", "/?", "/a?b?c", "//h/x", "/a:b@c", "http://h", "http://h?q", "HTTP://h/u", "*"] {
        let line = format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let uri = head(line).parts.uri.to_string();
        assert!(uri.eq_ignore_ascii_case(target) || uri.replace("/", "") == target.replace("/", ""), "{uri}");
    }
    assert_eq!(head("CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n").parts.uri, "h:443");
    assert_eq!(head("GET /\u{e9}|{}^\\[] HTTP/1.1\r\nHost: h\r\n\r\n").parts.uri.path(), "/\u{e9}|{}^\\[]");
    assert_eq!(head("GET /%2F?%zz HTTP/1.1\r\nHost: h\r\n\r\n").parts.uri, "/%2F?%zz");
}

#[test]
fn characters_that_uris_cannot_hold_are_escaped() {
    for (target, expected) in [
        ("/a<b", "/a%3Cb"),
        ("/`", "/%60"),
        ("/a?f=\"b", "/a?f=%22b"),
        ("/a<?f={\"t\":`21`}", "/a%3C?f={%22t%22:`21`}"),
    ] {
        assert_eq!(head(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).parts.uri, expected);
    }
    let target = |count| format!("GET /?{} HTTP/1.1\r\nHost: h\r\n\r\n", "<".repeat(count));
    assert_eq!(head(target(20_000)).parts.uri.to_string().len(), 60_002);
    assert_eq!(kind(target(30_000)), ErrorKind::TargetTooLong);
}

#[test]
fn options_are_recognised() {
    let options = |fields: &str| head(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")).options;
    assert!(options("Connection: x, close").close);
    assert!(options("connection: Keep-Alive").keep_alive);
    assert!(options("Upgrade: websocket").upgrade);
    assert!(options("Expect: 100-Continue").expects_continue);
    assert!(options("TE: gzip, trailers").accepts_trailers);
    assert_eq!(options("X: close"), Default::default());
    assert!(head("GET / HTTP/1.1\r\nHost: h\r\n\r\n").persists());
    assert!(!head("GET / HTTP/1.0\r\n\r\n").persists());
    assert!(head("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").persists());
}

#[test]
fn violations_say_what_and_where() {
    use ErrorKind::*;
    let start = "GET / HTTP/1.1\r\n";
    for (bytes, kind, at) in [
        ("GET / HTTP/1.1\nHost: h\r\n\r\n".to_owned(), LineEnd, 14),
        (format!("{start}Host: h\n\r\n"), LineEnd, 23),
        ("\nGET / HTTP/1.1\r\n".to_owned(), LineEnd, 0),
        ("\r\n".repeat(9), EmptyLines, 0),
        ("GET  / HTTP/1.1\r\n".to_owned(), RequestLine, 5),
        ("GET / HTTP/1.1 \r\n".to_owned(), RequestLine, 6),
        ("GET /\r\n".to_owned(), RequestLine, 5),
        ("G@T / HTTP/1.1\r\n".to_owned(), RequestLine, 1),
        (" GET / HTTP/1.1\r\n".to_owned(), RequestLine, 0),
        ("GET / http/1.1\r\n".to_owned(), RequestLine, 6),
        ("GET / HTTP/1.10\r\n".to_owned(), RequestLine, 6),
        ("GET / HTTP/1.2\r\n".to_owned(), Version, 6),
        ("GET / HTTP/2.0\r\n".to_owned(), Version, 6),
        ("GET foo HTTP/1.1\r\n".to_owned(), Target, 4),
        ("GET foo?: HTTP/1.1\r\n".to_owned(), Target, 4),
        ("GET /a%zz HTTP/1.1\r\n".to_owned(), Target, 6),
        ("GET /a\tb HTTP/1.1\r\n".to_owned(), Target, 6),
        ("GET /a\x7f HTTP/1.1\r\n".to_owned(), Target, 6),
        ("GET /a?b#c HTTP/1.1\r\n".to_owned(), Fragment, 8),
        ("GET * HTTP/1.1\r\n".to_owned(), Target, 4),
        ("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Target, 4),
        ("GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Target, 4),
        ("CONNECT * HTTP/1.1\r\n".to_owned(), Target, 8),
        ("CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Target, 8),
        ("CONNECT http://h HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Target, 8),
        (format!("{start} Host: h\r\n"), Folded, 16),
        (format!("{start}X : y\r\n"), SpaceBeforeColon, 17),
        (format!("{start}X\t: y\r\n"), SpaceBeforeColon, 17),
        (format!("{start}X y: z\r\n"), FieldName, 17),
        (format!("{start}: y\r\n"), FieldName, 16),
        (format!("{start}no\r\n"), FieldName, 18),
        (format!("{start}Cookie\r\n"), FieldName, 22),
        (format!("{start}Host: h\r\nX: a\rb\r\n\r\n"), LineEnd, 29),
        (format!("{start}Host: h\r\nX: a\rb"), LineEnd, 29),
        ("GET /p HTTP/1.1\rHost: h\r\r".to_owned(), LineEnd, 15),
        (format!("{start}Content-Length: 5\rX: y\r\n"), LineEnd, 33),
        ("GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Target, 4),
        ("GET http://h:x/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Target, 4),
        (format!("{start}Host: h\r\nX: \0\r\n\r\n"), FieldValue, 28),
        (format!("{start}\r\n"), NoHost, 18),
        (format!("{start}Host: h\r\nhost: h\r\n"), RepeatedHost, 31),
        (format!("{start}Host: a b\r\n"), Host, 22),
        (format!("{start}Content-Length: +5\r\n"), ContentLength, 32),
        (format!("{start}Content-Length: 05\r\n"), ContentLength, 32),
        (format!("{start}Content-Length: 5, 5\r\n"), ContentLength, 32),
        (format!("{start}Content-Length: 5\r\nContent-Length: 5\r\n"), ContentLength, 51),
        (format!("{start}Transfer-Encoding: gzip\r\n"), TransferEncoding, 35),
        (format!("{start}Transfer-Encoding: chunked, chunked\r\n"), TransferEncoding, 35),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n".to_owned(), OldTransferEncoding, 35),
        (
            format!("{start}Host: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            TwoLengths,
            74,
        ),
    ] {
        assert_eq!(parse(&bytes).map(|_| ()), Err(Error { kind, at }), "{bytes:?}");
    }
}

#[test]
fn every_violation_has_its_status() {
    let error = Error { kind: ErrorKind::FieldName, at: 7 };
    assert_eq!(error.to_string(), "invalid field name: expected a token and a colon, at byte 7 of the head");
    for (bytes, status) in [
        ("GET / HTTP/2.0\r\n", 505),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n", 501),
        ("GET / HTTP/1.1\r\nX : y\r\n", 400),
        ("GET /# HTTP/1.1\r\n", 400),
    ] {
        let error = parse(bytes).map(|_| ()).unwrap_err();
        assert_eq!(error.status(), status);
        let response = String::from_utf8(error.refusal().response().to_vec()).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
        assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
    }
}

#[test]
fn limits_are_part_of_parsing() {
    let limits = Limits { head: 100, target: 20, fields: 3, ..Limits::default() };
    let outcome = |bytes: &str, size| {
        parse_within(bytes.as_bytes(), size, &limits).map(|head| head.is_some()).map_err(|error| error.kind)
    };
    let with = |fields: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(fields));
    let of = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(length - 1));
    let sized =
        |length: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "v".repeat(length - 32));
    assert_eq!(sized(100).len(), 100);
    for size in [1, 9, usize::MAX] {
        assert_eq!(outcome(&with(2), size), Ok(true));
        assert_eq!(outcome(&with(3), size), Err(ErrorKind::TooManyFields));
        assert_eq!(outcome(&of(20), size), Ok(true));
        assert_eq!(outcome(&of(21), size), Err(ErrorKind::TargetTooLong));
        assert_eq!(outcome(&sized(100), size), Ok(true));
        assert_eq!(outcome(&sized(101), size), Err(ErrorKind::HeadTooLarge));
        // Without an end.
        assert_eq!(outcome(&"G".repeat(99), size), Ok(false));
        assert_eq!(outcome(&"G".repeat(101), size), Err(ErrorKind::TargetTooLong));
        let open = format!("GET / HTTP/1.1\r\nX: {}", "v".repeat(100));
        assert_eq!(outcome(&open, size), Err(ErrorKind::HeadTooLarge));
    }
    let error = |kind| Error { kind, at: 0 }.status();
    assert_eq!(error(ErrorKind::TooManyFields), 431);
    assert_eq!(error(ErrorKind::HeadTooLarge), 431);
    assert_eq!(error(ErrorKind::TargetTooLong), 414);
    // Long before the whole head is full of it.
    let line = format!("GET /{}", "a".repeat(66_000));
    let kind = parse_within(line.as_bytes(), 1000, &Limits::default()).map(|_| ()).unwrap_err().kind;
    assert_eq!(kind, ErrorKind::TargetTooLong);
}

/// Starting again at each byte would look at 10^11 of them.
#[test]
fn a_large_head_may_come_byte_by_byte() {
    let lines = "X-Some-Name: some value that is not short at all\r\n".repeat(1000);
    let long = "v".repeat(400_000);
    let bytes = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}X-Long: {long}\r\n\r\n");
    let (head, _) = parse_within(bytes.as_bytes(), 1, &Limits::default()).unwrap().unwrap();
    assert_eq!(head.parts.headers.len(), 1002);
}

#[test]
fn heads_are_parsed_one_after_the_other() {
    let mut input = buffer("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.0\r\n\r\n");
    let mut parser = RequestParser::default();
    for target in ["/1", "/2"] {
        assert!(parser.is_at_start());
        assert_eq!(parser.parse(&mut input, &Limits::default()).unwrap().unwrap().parts.uri, target);
    }
    assert!(parser.parse(&mut input, &Limits::default()).unwrap().is_none());
    assert!(parser.allocated() > 0);
    parser.release();
    assert_eq!(parser.allocated(), 0);
}

#[test]
fn only_small_heads_are_kept() {
    for (target, fields, is_kept) in [
        ("/".to_owned(), String::new(), true),
        ("/".to_owned(), "X: y\r\n".repeat(40), false),
        ("/".to_owned(), format!("X: {}\r\n", "y".repeat(1024)), false),
        ("/".repeat(4096), String::new(), false),
    ] {
        let (mut parser, limits) = (RequestParser::default(), Limits::default());
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let allocated = [(); 3].map(|()| {
            parser.parse(&mut buffer(&head), &limits).unwrap().unwrap();
            parser.allocated()
        });
        assert_eq!(allocated[2] > allocated[0], is_kept, "{target} {fields}");
    }
}
