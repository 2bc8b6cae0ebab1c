//! A chunked body of HTTP/1, whole and in pieces, of a client and of a server.
//!
//! The first byte of the input says how large the pieces are: what is found must not depend on it.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tidegate_wire::http1::body::Decoder;
use tidegate_wire::http1::{Error, Framing, Limits, Piece, Sender};

/// The content, the trailers and the rest.
fn decode(stream: &[u8], size: usize, sender: Sender) -> Result<(Vec<u8>, String, Option<Vec<u8>>), Error> {
    let (mut decoder, mut input) = (Decoder::new(Framing::Chunked, sender), BytesMut::new());
    let (mut content, mut trailers, mut pieces) = (Vec::new(), String::new(), stream.chunks(size));
    loop {
        match decoder.decode(&mut input, &Limits::default())? {
            Some(Piece::Data(data)) => content.extend_from_slice(&data),
            Some(Piece::Trailers(found)) => trailers = format!("{:?}", found.headers),
            Some(Piece::End) => {
                pieces.for_each(|piece| input.extend_from_slice(piece));
                return Ok((content, trailers, Some(input.to_vec())));
            }
            None => match pieces.next() {
                Some(piece) => input.extend_from_slice(piece),
                None => return Ok((content, trailers, None)),
            },
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, stream)) = input.split_first() else { return };
    for sender in [Sender::Client, Sender::Server] {
        // Of several violations in a line, the pieces decide which is found first.
        let found = |size| decode(stream, size, sender).map_err(|error| error.kind);
        assert_eq!(found(usize::from(size).max(1)), found(usize::MAX));
    }
    // A server may send all that a client may.
    if let Ok(body) = decode(stream, usize::MAX, Sender::Client) {
        assert_eq!(decode(stream, usize::MAX, Sender::Server), Ok(body));
    }
});
