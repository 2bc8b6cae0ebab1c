//! A request stream of HTTP/3: frames, whole and in pieces, and the heads and trailers in them.
//!
//! The first byte of the input says how large the pieces are: what is found must not depend on it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_wire::http3::frame::{Event, Fault, Frames};
use tidegate_wire::http3::head;

/// Largest header block, in bytes.
const LIMIT: usize = 1024;

/// The header blocks of a stream, its content, and how it ends.
fn read(mut frames: Frames, stream: &[u8], size: usize) -> (Vec<Event>, Vec<u8>, Result<(), Fault>) {
    let (mut blocks, mut content) = (Vec::new(), Vec::new());
    for piece in stream.chunks(size) {
        let mut input = piece.to_vec().into();
        loop {
            match frames.next(&mut input) {
                Ok(Some(Event::Data(data))) => content.extend_from_slice(&data),
                Ok(Some(event)) => blocks.push(event),
                Ok(None) => break,
                Err(fault) => return (blocks, content, Err(fault)),
            }
        }
    }
    let end = frames.end();
    (blocks, content, end)
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, stream)) = input.split_first() else { return };
    let size = usize::from(size).max(1);
    let whole = read(Frames::of_request(LIMIT), stream, usize::MAX);
    assert_eq!(read(Frames::of_request(LIMIT), stream, size), whole);
    let control = read(Frames::of_control(), stream, usize::MAX);
    assert_eq!(read(Frames::of_control(), stream, size), control);
    for event in whole.0 {
        let Event::Block(block) = event else { continue };
        if let Ok(head) = head::request(&block, LIMIT) {
            let _ = head::content_length(&head.parts.headers);
        }
        let _ = head::trailers(&block, LIMIT);
    }
});
