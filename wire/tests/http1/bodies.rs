//! Bodies: where they end, and what their framing may be.

use tidegate_wire::http1::body::Decoder;
use tidegate_wire::http1::{Error, ErrorKind, Framing, Limits, Piece, Sender};

use crate::corpus::{buffer, fields};

#[derive(Debug, Default, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    trailers: Option<Vec<(String, Vec<u8>)>>,
    is_complete: bool,
    rest: Vec<u8>,
}

fn decode_within(
    bytes: &[u8],
    framing: Framing,
    sender: Sender,
    size: usize,
    limits: &Limits,
) -> Result<Body, Error> {
    let (mut decoder, mut input, mut body) = (Decoder::new(framing, sender), buffer(b""), Body::default());
    let mut pieces = bytes.chunks(size);
    loop {
        match decoder.decode(&mut input, limits)? {
            Some(Piece::Data(data)) => {
                assert!(!data.is_empty());
                body.data.extend_from_slice(&data);
            }
            Some(Piece::Trailers(trailers)) => body.trailers = Some(fields(&trailers.headers)),
            Some(Piece::End) => {
                body.is_complete = true;
                break;
            }
            None => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => {
                    body.is_complete = decoder.end_of_input().is_ok();
                    break;
                }
            },
        }
    }
    body.rest = input.to_vec();
    pieces.for_each(|piece| body.rest.extend_from_slice(piece));
    Ok(body)
}

/// Decodes a body in one piece and in many, which must come to the same.
fn decode(bytes: impl AsRef<[u8]>, framing: Framing, sender: Sender) -> Result<Body, Error> {
    let decode = |size| decode_within(bytes.as_ref(), framing, sender, size, &Limits::default());
    let whole = decode(usize::MAX);
    for size in [1, 2, 3, 7] {
        assert_eq!(decode(size), whole, "pieces of {size}: {}", bytes.as_ref().escape_ascii());
    }
    whole
}

fn chunked(bytes: impl AsRef<[u8]>) -> Result<Body, Error> {
    decode(bytes, Framing::Chunked, Sender::Client)
}

#[test]
fn a_length_ends_a_body() {
    let body = decode("helloGET", Framing::Length(5), Sender::Client).unwrap();
    assert_eq!((&body.data[..], &body.rest[..], body.is_complete), (&b"hello"[..], &b"GET"[..], true));
    assert!(!decode("hell", Framing::Length(5), Sender::Client).unwrap().is_complete);
    assert!(decode("x", Framing::Length(0), Sender::Client).unwrap().is_complete);
    let mut decoder = Decoder::new(Framing::Length(u64::MAX), Sender::Client);
    decoder.decode(&mut buffer("abc"), &Limits::default()).unwrap();
    assert_eq!(decoder.left(), Some(u64::MAX - 3));
    assert_eq!(decoder.end_of_input(), Err(Error { kind: ErrorKind::IncompleteBody, at: 3 }));
}

#[test]
fn the_end_of_a_connection_ends_a_body() {
    let body = decode("anything\r\n\0", Framing::UntilClose, Sender::Server).unwrap();
    assert_eq!((&body.data[..], body.is_complete), (&b"anything\r\n\0"[..], true));
}

#[test]
fn chunks_are_joined() {
    for bytes in [
        "5\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n00\r\n\r\n",
        "000000000000005\r\nhello\r\n0000\r\n\r\n",
        "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "5;x\r\nhello\r\n0\r\n\r\n",
        "5;x=y;z=\"q w\"\r\nhello\r\n0;last\r\n\r\n",
        "5 ;x\r\nhello\r\n0\r\n\r\n",
        "5\t ;\u{e9}\r\nhello\r\n0\r\n\r\n",
    ] {
        let body = chunked(format!("{bytes}GET")).unwrap();
        let expected = Body { data: b"hello".into(), is_complete: true, rest: b"GET".into(), trailers: None };
        assert_eq!(body, expected, "{bytes:?}");
    }
    assert_eq!(chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n").unwrap().data.len(), 20);
    for bytes in
        ["5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nX: y\r\n", ""]
    {
        assert!(!chunked(bytes).unwrap().is_complete, "{bytes:?}");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    use ErrorKind::*;
    for (bytes, kind, at) in [
        ("5\nhello", ChunkSize, 1),
        ("\r\n5\r\n", ChunkSize, 0),
        (" 5\r\n", ChunkSize, 0),
        ("-5\r\n", ChunkSize, 0),
        ("+5\r\n", ChunkSize, 0),
        ("0x5\r\n", ChunkSize, 1),
        ("g\r\n", ChunkSize, 0),
        ("1000000000000000\r\n", ChunkSize, 15),
        ("5 5\r\n", ChunkSize, 2),
        ("5 \r\n", ChunkSize, 2),
        ("5\r\r\n", ChunkSize, 2),
        ("5\rhello", ChunkSize, 2),
        ("5;\nhello", Extension, 2),
        ("5;x\rhello", ChunkSize, 4),
        ("5;a\0b\r\n", Extension, 3),
        ("5;a\x7f\r\n", Extension, 3),
        ("5\r\nhelloX", ChunkEnd, 8),
        ("5\r\nhello\n", ChunkEnd, 8),
        ("5\r\nhello\rX", ChunkEnd, 9),
        ("5\r\nhello\r\n0\r\nX\r\n\r\n", Trailer, 14),
        ("0\r\n X: y\r\n\r\n", Trailer, 3),
        ("0\r\nX : y\r\n\r\n", Trailer, 4),
        ("0\r\nX: y\n\r\n", Trailer, 7),
        ("0\r\nX: \0\r\n\r\n", Trailer, 6),
        ("0\r\nHost: a\rb\r\n\r\n", Trailer, 10),
        ("0\n\n", ChunkSize, 1),
        ("0\r\n\n", Trailer, 3),
        ("0\r\n\rX\r\n\r\n", Trailer, 3),
    ] {
        assert_eq!(chunked(bytes), Err(Error { kind, at }), "{bytes:?}");
    }
}

#[test]
fn servers_may_fill_up_the_line_of_a_size() {
    let body = decode("5  \r\nhello\r\n0 \t\r\n\r\n", Framing::Chunked, Sender::Server).unwrap();
    assert_eq!((&body.data[..], body.is_complete), (&b"hello"[..], true));
}

#[test]
fn trailers_are_fields_and_some_are_dropped() {
    let body = chunked(
        "0\r\nX-Sum: 1\r\nContent-Length: 9\r\nHost: evil\r\nTransfer-Encoding: x\r\nX-Two: 2\r\n\r\nGET",
    );
    let expected = vec![("x-sum".to_owned(), b"1".to_vec()), ("x-two".to_owned(), b"2".to_vec())];
    let body = body.unwrap();
    assert_eq!((body.trailers, &body.rest[..]), (Some(expected), &b"GET"[..]));
    assert_eq!(chunked("0\r\nAuthorization: x\r\n\r\n").unwrap().trailers, None);
}

#[test]
fn extensions_and_trailers_have_limits() {
    use ErrorKind::*;
    let limits = Limits { extensions: 20, trailers: 30, fields: 3, ..Limits::default() };
    let outcome = |bytes: &str, size| {
        decode_within(bytes.as_bytes(), Framing::Chunked, Sender::Client, size, &limits)
            .map(|body| body.is_complete)
            .map_err(|error| error.kind)
    };
    let many = |count: usize| format!("{}0\r\n\r\n", "1;x\r\na\r\n".repeat(count));
    for size in [1, 4, usize::MAX] {
        assert_eq!(outcome(&many(10), size), Ok(true));
        assert_eq!(outcome(&many(11), size), Err(ExtensionsTooLarge));
        assert_eq!(outcome(&format!("1{}", " ".repeat(21)), size), Err(ExtensionsTooLarge));
        assert_eq!(outcome(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(3)), size), Ok(true));
        assert_eq!(outcome(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(4)), size), Err(TrailersTooLarge));
        assert_eq!(outcome(&format!("0\r\nA: {}\r\n\r\n", "b".repeat(30)), size), Err(TrailersTooLarge));
        assert_eq!(outcome(&format!("0\r\nA: {}", "b".repeat(30)), size), Err(TrailersTooLarge));
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5000));
    assert_eq!(chunked(long).unwrap_err().kind, ExtensionsTooLarge);
}

#[test]
fn what_is_left_is_known() {
    let mut decoder = Decoder::new(Framing::Chunked, Sender::Client);
    assert_eq!(decoder.left(), None);
    let mut input = buffer("ff\r\nabc");
    let piece = decoder.decode(&mut input, &Limits::default()).unwrap();
    assert!(matches!(piece, Some(Piece::Data(data)) if data == "abc"));
    assert_eq!(decoder.left(), Some(252));
    assert_eq!(Decoder::new(Framing::UntilClose, Sender::Server).left(), None);
    assert_eq!(Decoder::new(Framing::None, Sender::Server).left(), Some(0));
}
