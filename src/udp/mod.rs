//! UDP listeners, sessions and services.
//!
//! A session is the traffic of one client address at one entry point. Its first datagram selects the server;
//! replies are sent to the client until the session is idle for `udp.timeout`. Each worker has its own socket
//! on the shared port. The kernel delivers all datagrams of a client to the same socket, so each session
//! belongs to one worker.

mod listen;
mod listener;
mod service;
mod session;

pub use listen::bind;
pub use listener::Listener;
pub use service::{Server, Servers, Service};

use std::sync::Arc;

use tidegate_core::traffic::TrafficCounters;

/// The UDP route of an entry point, which has at most one.
pub struct Route {
    /// Name of the router.
    pub name: Arc<str>,
    /// The service; `None` for a broken router, which drops its datagrams.
    pub service: Option<Arc<Service>>,
    /// Counters of its sessions, if metrics have them.
    pub traffic: Option<Arc<TrafficCounters>>,
}
