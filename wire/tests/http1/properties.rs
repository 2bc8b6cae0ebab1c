//! What holds for any bytes.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use tidegate_wire::http1::body::Decoder;
use tidegate_wire::http1::encode::{self, Connection, Fields, Frame};
use tidegate_wire::http1::request::RequestParser;
use tidegate_wire::http1::response::ResponseParser;
use tidegate_wire::http1::{Asked, ErrorKind, Framing, Limits, Piece, Sender, Spelling};

use crate::corpus::{End, Random, buffer, connection, is_refused_later, verdict};

/// Names in any spelling. Those that frame the message are left out.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,30}",
        "(Accept|accept|ETag|ETAG|Etag|x-request-id|X-Request-ID|DNT)"
    ]
    .prop_filter("framing", |name| {
        let lower = name.to_ascii_lowercase();
        !["content-length", "transfer-encoding", "connection", "host", "upgrade"].contains(&lower.as_str())
    })
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8.., Just(b'\t')], 0..60)
        .prop_map(|value| value.trim_ascii().to_vec())
}

proptest! {
    #[test]
    fn any_pieces_come_to_the_same(seed: u64, sizes in proptest::collection::vec(1usize..40, 1..6)) {
        let bytes = connection(&mut Random::new(seed));
        let whole = verdict(&bytes, &[usize::MAX]);
        for sizes in [&sizes[..], &[1]] {
            let mut pieces = verdict(&bytes, sizes);
            // A bare carriage return is refused before its line is complete, and so before what else is wrong.
            let is_refused = whole.end == End::Partial && is_refused_later(&bytes);
            let is_refused = is_refused || matches!(whole.end, End::Refused(_));
            if pieces.end == End::Refused(Some(ErrorKind::LineEnd)) && is_refused {
                pieces.end = whole.end.clone();
            }
            prop_assert_eq!(&pieces, &whole, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1usize..40) {
        verdict(&bytes, &[size]);
        let mut input = buffer(&bytes);
        let _ = ResponseParser::default().parse(&mut input, Asked::default(), &Limits::default());
        for sender in [Sender::Client, Sender::Server] {
            let (mut decoder, mut input) = (Decoder::new(Framing::Chunked, sender), buffer(&bytes));
            while let Ok(Some(piece)) = decoder.decode(&mut input, &Limits::default()) {
                if matches!(piece, Piece::End) {
                    break;
                }
            }
        }
    }

    /// What this parser accepts, the parser of the HTTP library accepts, too, and finds the same.
    #[test]
    fn httparse_finds_the_same(seed: u64) {
        let bytes = connection(&mut Random::new(seed));
        let mut input = buffer(&bytes);
        if let Ok(Some(head)) = RequestParser::default().parse(&mut input, &Limits::default()) {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut other = httparse::Request::new(&mut fields);
            let length = other.parse(&bytes).unwrap().unwrap();
            prop_assert_eq!(length, bytes.len() - input.len());
            prop_assert_eq!(other.method.unwrap(), head.parts.method.as_str());
            let mut theirs = HeaderMap::new();
            for field in other.headers {
                let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
                theirs.append(name, HeaderValue::from_bytes(field.value).unwrap());
            }
            prop_assert_eq!(theirs, head.parts.headers);
        }
    }

    /// A head that is written and parsed is the same, and written again it has the same bytes.
    #[test]
    fn heads_survive(fields in proptest::collection::vec((name(), value()), 0..20), lower: bool, length: Option<u64>) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        headers.insert("host", HeaderValue::from_static("h"));
        let framing = length.map_or(Framing::Chunked, Framing::Length);
        let spelling = if lower { Spelling::LOWER } else { Spelling::USUAL };
        let fields = Fields { headers: &headers, spelling: &spelling };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        encode::request(&Method::PUT, &"/p".parse().unwrap(), fields, framing, Connection::Unsaid, &mut first);
        let parsed = RequestParser::default().parse(&mut buffer(&first), &Limits::default()).unwrap().unwrap();
        prop_assert_eq!(parsed.framing, framing);
        let fields = Fields { headers: &parsed.parts.headers, spelling: &parsed.spelling };
        encode::request(&parsed.parts.method, &parsed.parts.uri, fields, framing, Connection::Unsaid, &mut second);
        prop_assert_eq!(&second, &first);
        for name in ["content-length", "transfer-encoding"] {
            headers.remove(name);
        }
        let mut received = parsed.parts.headers.clone();
        for name in ["content-length", "transfer-encoding"] {
            received.remove(name);
        }
        prop_assert_eq!(received, headers);
    }

    /// A received head is written as it was received, whatever its spelling, if its names are distinct.
    #[test]
    fn spellings_survive(fields in proptest::collection::btree_map(name(), value(), 0..20)) {
        let mut seen = std::collections::BTreeSet::new();
        let mut head = b"GET /a HTTP/1.1\r\nHost: h\r\n".to_vec();
        for (name, value) in fields.iter().filter(|(name, _)| seen.insert(name.to_ascii_lowercase())) {
            head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend_from_slice(b"\r\n");
        let parsed = RequestParser::default().parse(&mut buffer(&head), &Limits::default()).unwrap().unwrap();
        let fields = Fields { headers: &parsed.parts.headers, spelling: &parsed.spelling };
        let mut written = Vec::new();
        encode::request(&parsed.parts.method, &parsed.parts.uri, fields, Framing::None, Connection::Unsaid, &mut written);
        prop_assert_eq!(written.escape_ascii().to_string(), head.escape_ascii().to_string());
    }

    #[test]
    fn chunks_survive(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..600), 0..8), size in 1usize..700) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            use bytes::Buf as _;
            let mut frame = Frame::chunk(chunk.clone().into(), false);
            bytes.extend_from_slice(&frame.copy_to_bytes(frame.remaining()));
        }
        encode::last_chunk(None, &mut bytes);
        let (mut decoder, mut input, mut data) = (Decoder::new(Framing::Chunked, Sender::Client), BytesMut::new(), Vec::new());
        let mut pieces = bytes.chunks(size);
        loop {
            match decoder.decode(&mut input, &Limits::default()).unwrap() {
                Some(Piece::Data(piece)) => data.extend_from_slice(&piece),
                Some(Piece::End) => break,
                Some(Piece::Trailers(_)) => prop_assert!(false, "there are no trailers"),
                None => input.extend_from_slice(pieces.next().unwrap()),
            }
        }
        prop_assert_eq!(data, chunks.concat());
    }
}
