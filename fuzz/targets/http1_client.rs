//! The responses of an HTTP/1 connection, whole and in pieces.
//!
//! The first byte of the input says how large the pieces are, the second one what was asked for: what is found must not
//! depend on the first.
#![no_main]

use http::{HeaderMap, Method, Uri};
use libfuzzer_sys::fuzz_target;
use tidegate_wire::http1::client::{Client, Event, Request};
use tidegate_wire::http1::encode::Fields;
use tidegate_wire::http1::{ErrorKind, Limits, Payload, Spelling};

/// The heads and the content of all responses, and how they end.
fn read(stream: &[u8], size: usize, asked: u8) -> (Vec<String>, Vec<u8>, Option<ErrorKind>) {
    let mut client = Client::new(Limits::default());
    let method = [Method::GET, Method::HEAD, Method::CONNECT][usize::from(asked) % 3].clone();
    let fields = Fields { headers: &HeaderMap::new(), spelling: &Spelling::USUAL };
    let (uri, payload, upgrade) = (Uri::from_static("/"), Payload::None, asked >= 128);
    let request = Request { method: &method, uri: &uri, fields, payload, upgrade };
    client.request(request, &mut Vec::new()).expect("a new connection");
    let (mut heads, mut content, mut pieces) = (Vec::new(), Vec::new(), stream.chunks(size));
    loop {
        match client.poll() {
            Err(error) => return (heads, content, Some(error.kind)),
            // After the response, how much has come decides.
            Ok(None) if client.is_reusable() || client.is_closed() => return (heads, content, None),
            Ok(None) => match pieces.next() {
                Some(piece) => client.input().extend_from_slice(piece),
                None => {
                    client.end_input();
                    match client.poll() {
                        Err(error) => return (heads, content, Some(error.kind)),
                        Ok(_) => return (heads, content, None),
                    }
                }
            },
            Ok(Some(Event::Informational(head))) => {
                heads.push(format!("{} {:?}", head.parts.status, head.parts.headers))
            }
            Ok(Some(Event::Head(head))) => {
                heads.push(format!("{} {:?}", head.parts.status, head.parts.headers))
            }
            Ok(Some(Event::Data(data))) => content.extend_from_slice(&data),
            Ok(Some(Event::Trailers(trailers))) => heads.push(format!("{:?}", trailers.headers)),
            Ok(Some(Event::End)) => return (heads, content, None),
            Ok(Some(Event::Upgraded(_))) => return (heads, content, None),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [size, asked, stream @ ..] = input else { return };
    let whole = read(stream, usize::MAX, *asked);
    let pieces = read(stream, usize::from(*size).max(1), *asked);
    // Bytes after a response without a body, and bare carriage returns, are errors that come sooner or later.
    let is_excess =
        |kind: &Option<ErrorKind>| matches!(kind, Some(ErrorKind::Unsolicited | ErrorKind::LineEnd));
    if !is_excess(&whole.2) && !is_excess(&pieces.2) {
        assert_eq!(pieces, whole);
    }
});
