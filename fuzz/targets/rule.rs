//! Rules: parses any text, and decides about a request; the index must find what the rule itself says.
//!
//! The first line of the input is the rule; the others are the request's host, target and one header.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tidegate::router::{Entry, Index, Rule};
use tidegate_core::{Body, Connection, Context, Request};

fuzz_target!(|input: &str| {
    let mut lines = input.split('\n');
    let text = lines.next().unwrap_or_default();
    let _ = tidegate_core::expression::parse(text);
    let _ = tidegate_core::expression::parse_fields(text);
    let Ok(rule) = Rule::parse(text) else { return };
    assert_eq!(rule.text(), text);
    let _ = rule.hosts();
    let mut next = |default: &'static str| lines.next().unwrap_or(default);
    let request = http::Request::builder().header("host", next("a.test")).uri(next("/api/x?a=1"));
    let Ok(request) = request.header("x-a", next("1")).body(()) else { return };
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 5000));
    let context = Context::new(Arc::new(Connection::plain(peer)));
    let request = Request::new(request.into_parts().0, Body::empty(), context);
    let taken = rule.matches(&request);
    let entry = Entry { rule, priority: 1, tie: (0, String::new()), value: Arc::new(()) };
    assert_eq!(Index::new(vec![entry]).find(&request).is_some(), taken, "the index disagrees with {text}");
});
