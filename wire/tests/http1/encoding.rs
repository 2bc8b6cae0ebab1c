//! What is written.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use tidegate_wire::http1::encode::{self, Connection, Fields, Frame};
use tidegate_wire::http1::request::RequestParser;
use tidegate_wire::http1::{Framing, Limits, Spelling};

use crate::corpus::buffer;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    headers
}

fn request(uri: &str, fields: &[(&str, &str)], framing: Framing, connection: Connection) -> (String, bool) {
    let (headers, mut out) = (map(fields), Vec::new());
    let fields = Fields { headers: &headers, spelling: &Spelling::USUAL };
    let uri: Uri = uri.parse().unwrap();
    let method =
        if uri.scheme().is_none() && uri.authority().is_some() { Method::CONNECT } else { Method::GET };
    let persists = encode::request(&method, &uri, fields, framing, connection, &mut out);
    (String::from_utf8(out).unwrap(), persists)
}

#[test]
fn targets_are_written_in_their_form() {
    for (uri, line) in [
        ("/a?b", "GET /a?b HTTP/1.1"),
        ("*", "GET * HTTP/1.1"),
        ("http://h/a?b", "GET http://h/a?b HTTP/1.1"),
        ("http://h", "GET http://h/ HTTP/1.1"),
        ("http://h?q", "GET http://h/?q HTTP/1.1"),
        ("h:443", "CONNECT h:443 HTTP/1.1"),
    ] {
        let (written, _) = request(uri, &[], Framing::None, Connection::Unsaid);
        assert_eq!(written, format!("{line}\r\n\r\n"));
    }
}

#[test]
fn only_the_framing_says_how_a_body_ends() {
    let fields =
        [("host", "h"), ("content-length", "9"), ("transfer-encoding", "gzip"), ("content-length", "8")];
    for (framing, line) in [
        (Framing::None, ""),
        (Framing::UntilClose, ""),
        (Framing::Length(0), "Content-Length: 0\r\n"),
        (Framing::Length(u64::MAX), "Content-Length: 18446744073709551615\r\n"),
        (Framing::Chunked, "Transfer-Encoding: chunked\r\n"),
    ] {
        for fields in [&fields[..], &fields[..1]] {
            let (written, _) = request("/", fields, framing, Connection::Unsaid);
            assert_eq!(written, format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n"), "{framing:?}");
        }
    }
}

#[test]
fn the_connection_is_decided_here() {
    for (value, connection, line, expected) in [
        ("x", Connection::Unsaid, "", true),
        ("x, Close", Connection::Unsaid, "Connection: close\r\n", false),
        ("x", Connection::Close, "Connection: close\r\n", false),
        ("x", Connection::KeepAlive, "Connection: keep-alive\r\n", true),
        ("close", Connection::KeepAlive, "Connection: close\r\n", false),
        ("upgrade, x", Connection::Upgrade, "Connection: Upgrade\r\n", true),
    ] {
        let (written, persists) = request("/", &[("connection", value)], Framing::None, connection);
        assert_eq!((written, persists), (format!("GET / HTTP/1.1\r\n{line}\r\n"), expected), "{value}");
    }
}

#[test]
fn responses_have_a_status_line() {
    let (headers, mut out) = (map(&[("x-a", "1"), ("etag", "x")]), Vec::new());
    let fields = Fields { headers: &headers, spelling: &Spelling::LOWER };
    let write = |version, status: u16, out: &mut Vec<u8>| {
        let status = StatusCode::from_u16(status).unwrap();
        let (framing, unsaid) = (Framing::Length(2), Connection::Unsaid);
        encode::response(version, status, None, fields, framing, unsaid, out);
    };
    write(Version::HTTP_11, 200, &mut out);
    write(Version::HTTP_10, 404, &mut out);
    write(Version::HTTP_11, 599, &mut out);
    let fields = "x-a: 1\r\netag: x\r\ncontent-length: 2\r\n\r\n";
    let expected =
        format!("HTTP/1.1 200 OK\r\n{fields}HTTP/1.0 404 Not Found\r\n{fields}HTTP/1.1 599 \r\n{fields}");
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_head_is_written_as_it_was_received() {
    for head in [
        "GET /a?b=c HTTP/1.1\r\nHost: h\r\nX-Own: 1\r\nsec-fetch-mode: x\r\nDNT: 1\r\nX-ALL: 2\r\nEtag: \u{e9}\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: a\r\ncontent-length: 5\r\nX-Odd: 1\r\nx-own: 2\r\n\r\n",
        "PUT http://h/x HTTP/1.1\r\nHOST: h\r\nTRANSFER-ENCODING: chunked\r\nACCEPT: */*\r\n\r\n",
    ] {
        let parsed = RequestParser::default().parse(&mut buffer(head), &Limits::default()).unwrap().unwrap();
        let fields = Fields { headers: &parsed.parts.headers, spelling: &parsed.spelling };
        let mut out = Vec::new();
        encode::request(
            &parsed.parts.method,
            &parsed.parts.uri,
            fields,
            parsed.framing,
            Connection::Unsaid,
            &mut out,
        );
        assert_eq!(String::from_utf8(out).unwrap(), head);
    }
}

/// Writes a frame in pieces of a size, once byte by byte and once vectored.
fn written(mut frame: Frame, size: usize) -> Vec<u8> {
    let mut slices = [std::io::IoSlice::new(&[]); 3];
    let count = frame.chunks_vectored(&mut slices);
    let vectored: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
    assert_eq!(vectored.len(), frame.remaining());
    let mut all = Vec::new();
    while frame.has_remaining() {
        let piece = frame.chunk();
        let length = piece.len().min(size);
        all.extend_from_slice(&piece[..length]);
        frame.advance(length);
    }
    assert_eq!(all, vectored);
    all
}

#[test]
fn chunks_have_a_size_and_an_end() {
    let data = |length: usize| Bytes::from(vec![b'x'; length]);
    for size in [1, 2, 100_000] {
        assert_eq!(written(Frame::chunk(data(3), false), size), b"3\r\nxxx\r\n");
        assert_eq!(written(Frame::chunk(data(3), true), size), b"3\r\nxxx\r\n0\r\n\r\n");
        assert_eq!(written(Frame::chunk(data(0), true), size), b"0\r\n\r\n");
        assert_eq!(written(Frame::chunk(data(0), false), size), b"");
        assert_eq!(written(Frame::plain(data(2)), size), b"xx");
        let long = written(Frame::chunk(data(0x1_2ab0), false), size);
        assert!(long.starts_with(b"12ab0\r\nx") && long.len() == 0x1_2ab0 + 9);
    }
    let mut crossing = Frame::chunk(data(4), true);
    crossing.advance(8);
    assert_eq!(written(crossing, 1), b"\n0\r\n\r\n");
}

#[test]
fn trailers_come_after_the_last_chunk() {
    let mut out = Vec::new();
    encode::last_chunk(None, &mut out);
    assert_eq!(out, b"0\r\n\r\n");
    out.clear();
    let headers = map(&[("x-sum", "1"), ("content-length", "5"), ("transfer-encoding", "x"), ("etag", "y")]);
    encode::last_chunk(Some(Fields { headers: &headers, spelling: &Spelling::USUAL }), &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "0\r\nX-Sum: 1\r\nETag: y\r\n\r\n");
}

#[test]
fn nothing_is_written_that_parses_as_more_than_one_head() {
    // No type of a value, a method or a target holds a line end.
    assert!(HeaderValue::from_bytes(b"a\r\nb").is_err() && HeaderValue::from_bytes(b"a\0").is_err());
    assert!(Method::from_bytes(b"GET / x").is_err() && "/a\r\nb".parse::<Uri>().is_err());
    let mut input = BytesMut::new();
    input.extend_from_slice(
        request("/", &[("host", "h"), ("x", "a")], Framing::None, Connection::Close).0.as_bytes(),
    );
    let mut parser = RequestParser::default();
    assert!(parser.parse(&mut input, &Limits::default()).unwrap().is_some());
    assert!(input.is_empty());
}
