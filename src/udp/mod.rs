//! UDP: entry points, sessions, and the services that their datagrams go to.
//!
//! A session is all that one client address sends to one entry point. Its first datagram chooses the server; replies go
//! back to the client until there was silence for `udp.timeout`. Each worker has a socket of its own on the shared
//! port: the system gives all datagrams of one client to one of them, so sessions are known to one worker only.

mod listen;
mod listener;
mod service;
mod session;

pub use listen::bind;
pub use listener::Listener;
pub use service::{Server, Service};

use std::sync::Arc;

/// The UDP route of an entry point: it has one at most.
pub struct Route {
    /// Name of the router.
    pub name: Arc<str>,
    /// The service; `None` for a broken router, which drops its datagrams.
    pub service: Option<Arc<Service>>,
}
