//! Shared by the tests: backends, a client that sends exact bytes, and a gateway in this process.

pub mod apis;
pub mod backend;
pub mod chromium;
pub mod client;
pub mod frames;
pub mod gateway;
pub mod http3;
pub mod jws;
pub mod keys;
pub mod name_server;
pub mod oidc;
pub mod openssl;
pub mod otlp;
pub mod outage;
pub mod outside;
pub mod pebble;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod streams;
pub mod time;
pub mod tls;
pub mod tokens;
pub mod websocket;

use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

pub use backend::Backend;
pub use client::{Answer, Client, get, get_with, raw};
pub use gateway::Gateway;
pub use time::{eventually, eventually_async, pause_for, pause_for_async, repeat_for, wait_until};

/// Returns an unused port below those for outgoing connections. Each process searches its own range.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(number % 12_000).unwrap();
        let address = ("127.0.0.1", port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
}
