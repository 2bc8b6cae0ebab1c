//! The requests of an HTTP/1 connection, whole and in pieces, each answered as soon as it is complete.
//!
//! The first byte of the input says how large the pieces are: what is found must not depend on it.
#![no_main]

use http::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;
use tidegate_wire::http1::encode::{self, Connection, Fields};
use tidegate_wire::http1::request::{RequestHead, RequestParser};
use tidegate_wire::http1::server::{Event, Phase, Response, Server};
use tidegate_wire::http1::{ErrorKind, Limits, Payload, Spelling};

/// The heads and the content of all requests, how they end, and whether the last one is complete.
fn read(stream: &[u8], size: usize) -> (Vec<String>, Vec<u8>, Option<ErrorKind>, bool) {
    let mut server = Server::new(Limits::default());
    let (mut heads, mut content, mut pieces) = (Vec::new(), Vec::new(), stream.chunks(size));
    loop {
        let is_complete = match server.poll() {
            Err(error) => return (heads, content, Some(error.kind), false),
            Ok(None) => match pieces.next().filter(|_| !server.is_closed()) {
                Some(piece) => {
                    server.input().extend_from_slice(piece);
                    continue;
                }
                None => return (heads, content, None, server.phase() == Phase::Idle),
            },
            Ok(Some(Event::Head(head))) => {
                heads.push(format!("{} {} {:?}", head.parts.method, head.parts.uri, head.parts.headers));
                same_when_written(&head);
                !head.framing.has_body()
            }
            Ok(Some(Event::Data(data))) => {
                content.extend_from_slice(&data);
                false
            }
            Ok(Some(Event::Trailers(trailers))) => {
                heads.push(format!("{:?}", trailers.headers));
                false
            }
            Ok(Some(Event::End)) => true,
            Ok(Some(Event::Upgraded(_))) => unreachable!("no upgrade is accepted"),
        };
        if is_complete {
            let fields = Fields { headers: &HeaderMap::new(), spelling: &Spelling::LOWER };
            let (status, payload) = (StatusCode::NOT_FOUND, Payload::None);
            let response = Response { status, reason: None, fields, payload };
            server.respond(response, &mut Vec::new()).expect("a request");
        }
    }
}

/// A head that is written is parsed as the same head.
fn same_when_written(head: &RequestHead) {
    let fields = Fields { headers: &head.parts.headers, spelling: &head.spelling };
    let mut out = Vec::new();
    encode::request(&head.parts.method, &head.parts.uri, fields, head.framing, Connection::Unsaid, &mut out);
    // HTTP/1.0 needs no host.
    if head.parts.headers.contains_key("host") && out.len() < 1 << 20 {
        let mut parser = RequestParser::default();
        let parsed =
            parser.parse(&mut out[..].into(), &Limits::default()).expect("what was written is valid");
        let parsed = parsed.expect("what was written is complete");
        assert_eq!((&parsed.parts.method, parsed.framing), (&head.parts.method, head.framing));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, stream)) = input.split_first() else { return };
    let whole = read(stream, usize::MAX);
    let pieces = read(stream, usize::from(size).max(1));
    // A bare carriage return is refused before its line is complete, and so before what else is wrong.
    if pieces.2 != Some(ErrorKind::LineEnd) {
        assert_eq!(pieces, whole);
    }
    assert!(!whole.3 || pieces == whole);
});
