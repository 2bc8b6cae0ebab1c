//! Heads of responses.

use http::{Method, Version};
use tidegate_wire::http1::response::{Reason, ResponseHead, ResponseParser};
use tidegate_wire::http1::{Asked, Error, ErrorKind, Framing, Limits};

use crate::corpus::buffer;

fn parse_for(bytes: &str, asked: Asked) -> Result<Option<ResponseHead>, Error> {
    let parse = |size: usize| {
        let (mut parser, mut input) = (ResponseParser::default(), buffer(b""));
        for piece in bytes.as_bytes().chunks(size) {
            input.extend_from_slice(piece);
            if let Some(head) = parser.parse(&mut input, asked, &Limits::default())? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    };
    let whole = parse(bytes.len());
    for size in [1, 2, 5] {
        let seen = |parsed: &Result<Option<ResponseHead>, Error>| format!("{parsed:?}");
        assert_eq!(seen(&parse(size)), seen(&whole), "pieces of {size}: {bytes:?}");
    }
    // A head that is repeated is not parsed again.
    let mut parser = ResponseParser::default();
    for _ in 0..4 {
        let again = parser.parse(&mut buffer(bytes), asked, &Limits::default());
        assert_eq!(format!("{again:?}"), format!("{whole:?}"), "repeated: {bytes:?}");
        if !matches!(again, Ok(Some(_))) {
            break;
        }
    }
    whole
}

fn head(bytes: &str) -> ResponseHead {
    parse_for(bytes, Asked::default()).unwrap().unwrap()
}

fn framing(fields: &str) -> Result<Framing, ErrorKind> {
    let parsed = parse_for(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), Asked::default());
    parsed.map(|head| head.unwrap().framing).map_err(|error| error.kind)
}

#[test]
fn a_head_is_parsed() {
    let parsed = head("HTTP/1.0 404 Nothing here\r\nServer: x\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n");
    assert_eq!((parsed.parts.version, parsed.parts.status.as_u16()), (Version::HTTP_10, 404));
    assert_eq!(parsed.reason.unwrap().as_bytes(), b"Nothing here");
    assert_eq!(parsed.parts.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(parsed.spelling.irregular().collect::<Vec<_>>(), [&b"set-cookie"[..]]);
    for line in ["HTTP/1.1 200 OK", "HTTP/1.1 200 ", "HTTP/1.1 200"] {
        assert_eq!(head(&format!("{line}\r\n\r\n")).reason, None, "{line}");
    }
    assert!(Reason::new(bytes::Bytes::from_static(b"a\r\nb")).is_none());
}

#[test]
fn repeated_fields_mean_what_the_first_line_and_the_limits_say() {
    let (get, usual) = (Asked::default(), Limits::default());
    let head = Asked { head: true, ..get };
    for (line, asked, limits, expected) in [
        ("HTTP/1.1 201 Created", get, usual, Ok((Framing::Chunked, 1))),
        ("HTTP/1.1 200 OK", head, usual, Ok((Framing::None, 2))),
        ("HTTP/1.1 204 No Content", get, usual, Ok((Framing::None, 2))),
        ("HTTP/1.0 200 OK", get, usual, Err(ErrorKind::OldTransferEncoding)),
        ("HTTP/1.1 200 OK", get, Limits { head: 40, ..usual }, Err(ErrorKind::HeadTooLarge)),
        ("HTTP/1.1 200 OK", get, Limits { fields: 0, ..usual }, Err(ErrorKind::TooManyFields)),
    ] {
        let mut parser = ResponseParser::default();
        let mut parse = |line: &str, asked, limits| {
            let mut input = buffer(format!("{line}\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n"));
            let parsed = parser.parse(&mut input, asked, limits).map_err(|error| error.kind)?.unwrap();
            Ok((parsed.framing, parsed.parts.headers.len()))
        };
        for _ in 0..3 {
            assert_eq!(parse("HTTP/1.1 200 OK", get, &usual), Ok((Framing::Chunked, 1)));
        }
        assert_eq!(parse(line, asked, &limits), expected, "{line}");
    }
}

#[test]
fn old_servers_may_end_lines_with_a_line_feed() {
    let parsed = head("HTTP/1.1 200 OK\nContent-Length: 2\r\nX: y\n\n");
    assert_eq!((parsed.framing, parsed.parts.headers.len()), (Framing::Length(2), 2));
}

#[test]
fn the_framing_is_that_of_rfc_9112() {
    assert_eq!(framing("X: y"), Ok(Framing::UntilClose));
    assert_eq!(framing("Content-Length: 5"), Ok(Framing::Length(5)));
    assert_eq!(framing("Content-Length: 5, 5"), Ok(Framing::Length(5)));
    assert_eq!(framing("Content-Length: 5\r\nContent-Length: 5"), Ok(Framing::Length(5)));
    assert_eq!(framing("Transfer-Encoding: Chunked"), Ok(Framing::Chunked));
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: -1",
        "Content-Length: +1",
        "Content-Length: x",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
    ] {
        assert_eq!(framing(fields), Err(ErrorKind::ContentLength), "{fields}");
    }
    for coding in
        ["gzip", "gzip, chunked", "chunked, gzip", "", "identity", "chunked\r\nTransfer-Encoding: chunked"]
    {
        assert_eq!(
            framing(&format!("Transfer-Encoding: {coding}")),
            Err(ErrorKind::TransferEncoding),
            "{coding}"
        );
    }
    let both = head("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(both.framing, Framing::Chunked);
    assert!(!both.parts.headers.contains_key("content-length"));
    let old = parse_for("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Asked::default());
    assert_eq!(old.unwrap_err().kind, ErrorKind::OldTransferEncoding);
}

#[test]
fn some_responses_have_no_body_whatever_they_say() {
    let asked = |method: &Method| Asked::new(method, false);
    let (get, head, connect) = (asked(&Method::GET), asked(&Method::HEAD), asked(&Method::CONNECT));
    for (status, asked) in
        [(204, get), (304, get), (100, get), (103, get), (200, head), (404, head), (200, connect)]
    {
        for fields in ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: x", "X: y"] {
            let bytes = format!("HTTP/1.1 {status} x\r\n{fields}\r\n\r\n");
            let parsed = parse_for(&bytes, asked).unwrap().unwrap();
            assert_eq!(parsed.framing, Framing::None, "{bytes}");
        }
    }
    let refused = parse_for("HTTP/1.1 403 x\r\nContent-Length: 5\r\n\r\n", connect).unwrap().unwrap();
    assert_eq!(refused.framing, Framing::Length(5));
}

#[test]
fn malformed_heads_are_refused() {
    use ErrorKind::*;
    for (bytes, kind) in [
        ("garbage\r\n", StatusLine),
        ("\r\n", StatusLine),
        ("HTTP/9.9 200 OK\r\n", Version),
        ("HTTP/1.1 99 Low\r\n", StatusLine),
        ("HTTP/1.1 abc OK\r\n", StatusLine),
        ("HTTP/1.1  200 OK\r\n", StatusLine),
        ("HTTP/1.1 2000 OK\r\n", StatusLine),
        ("HTTP/1.1 200 O\0K\r\n\r\n", StatusLine),
        ("HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", FieldValue),
        ("HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n", LineEnd),
        ("HTTP/1.1 200 OK\r\nX y: a\r\n\r\n", FieldName),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", Folded),
        ("HTTP/1.1 200 OK\r\n: a\r\n\r\n", FieldName),
    ] {
        assert_eq!(parse_for(bytes, Asked::default()).map(|_| ()).unwrap_err().kind, kind, "{bytes:?}");
    }
    let limits = Limits { head: 64, fields: 2, ..Limits::default() };
    for (bytes, kind) in [
        (format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(64)), HeadTooLarge),
        (format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(64)), HeadTooLarge),
        (format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(3)), TooManyFields),
    ] {
        let parsed = ResponseParser::default().parse(&mut buffer(&bytes), Asked::default(), &limits);
        assert_eq!(parsed.map(|_| ()).unwrap_err().kind, kind, "{bytes}");
    }
}

#[test]
fn what_only_frames_the_message_is_left_out() {
    for (fields, left, hop_by_hop) in [
        ("Connection: keep-alive", &[][..], false),
        ("connection: Close", &[], false),
        ("Transfer-Encoding: Chunked", &[], false),
        ("Server: x\r\nConnection: close\r\nDate: y", &["server", "date"], false),
        ("Connection: close, X-A\r\nX-A: b", &["connection", "x-a"], true),
        ("Connection: keep-alive\r\nConnection: x-a", &["connection"], true),
        ("Keep-Alive: timeout=5\r\nConnection: keep-alive", &["keep-alive"], true),
        ("Upgrade: h2c", &["upgrade"], true),
        ("Proxy-Connection: keep-alive", &["proxy-connection"], true),
        ("Proxy-Authenticate: Basic", &["proxy-authenticate"], true),
        ("TE: trailers", &["te"], true),
    ] {
        let parsed = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"));
        let names: Vec<_> = parsed.parts.headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!((names.as_slice(), parsed.hop_by_hop), (left, hop_by_hop), "{fields}");
    }
    assert!(head("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").options.close);
    let asked = Asked { head: true, ..Asked::default() };
    let parsed = parse_for("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", asked).unwrap().unwrap();
    assert!(
        parsed.hop_by_hop && parsed.parts.headers.contains_key("transfer-encoding"),
        "nothing is framed by it"
    );
}
