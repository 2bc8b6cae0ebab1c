//! What the tests share: backends, a client that sends exact bytes, and a gateway in process.

pub mod backend;
pub mod client;
pub mod frames;
pub mod gateway;
pub mod http3;
pub mod outside;
pub mod pebble;
pub mod process;
pub mod streams;
pub mod tls;

use std::time::{Duration, Instant};

pub use backend::Backend;
pub use client::{Answer, Client, get, get_with, raw};
pub use gateway::Gateway;

/// Waits until a condition holds, at most 20 s. Panics with `what` otherwise.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "waited 20 s in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
