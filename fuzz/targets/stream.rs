//! What decides about TCP connections: the ClientHello, whole and in pieces, and rules, which the index must agree with.
//!
//! The input up to the first zero byte is a rule; what follows are the first bytes of a connection.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tidegate::tcp::rule::{self, View};
use tidegate::tcp::{Entry, Index};
use tidegate_wire::client_hello::{self, Hello, Parsed};

fuzz_target!(|input: &[u8]| {
    let at = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (text, rest) = input.split_at(at);
    let bytes = rest.get(1..).unwrap_or_default();
    let whole = client_hello::parse(bytes);
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
        let found = client_hello::parse(&bytes[..end]);
        // More bytes never change what was found, and a ClientHello never looked like none.
        assert!(found == Parsed::Partial || found == whole, "{found:?} at {end} of {}", bytes.len());
    }
    let hello = match whole {
        Parsed::Hello(hello) => hello,
        _ => Hello { server_name: "a.test".into(), protocols: vec![b"h2".to_vec()] },
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = rule::priority(text);
    let Ok(Ok(rule)) = rule::read(text).map(|read| read.rule) else { return };
    let peer = [127, 0, 0, 1].into();
    let view = View { server_name: &hello.server_name, peer, protocols: &hello.protocols };
    let taken = rule.matches(&view);
    let entry = Entry { rule, priority: 1, tie: (0, String::new()), value: Arc::new(()) };
    assert_eq!(Index::new(vec![entry]).find(&view).is_some(), taken, "the index disagrees with {text}");
});
