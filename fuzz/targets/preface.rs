//! The first bytes of a connection: PROXY header and HTTP/2 frames, whole and in pieces.
//!
//! The first byte of the input says how large the pieces are: what is found must not depend on it.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use tidegate_wire::http2::scan::FrameScan;
use tidegate_wire::proxy_protocol::{self, Parsed};

fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else { return };
    let size = usize::from(size).max(1);
    let behind = match proxy_protocol::parse(bytes) {
        Parsed::Header { length, .. } => &bytes[length..],
        Parsed::Absent | Parsed::Malformed(_) => bytes,
        Parsed::Partial => {
            // Whatever comes first, more bytes never take back that it may become a header.
            assert!((0..bytes.len()).all(|end| proxy_protocol::parse(&bytes[..end]) == Parsed::Partial));
            bytes
        }
    };
    let now = Instant::now();
    let mut whole = FrameScan::default();
    let expected = whole.feed(behind, now);
    let mut pieces = FrameScan::default();
    let found = behind.chunks(size).try_for_each(|piece| pieces.feed(piece, now));
    assert_eq!(found, expected);
});
