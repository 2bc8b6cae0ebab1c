//! What TCP and UDP services keep when the configuration changes: servers with their health, and turns.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::round_robin::RoundRobin;
use super::server::Server;
use crate::live::Live;

/// It holds nothing alive by itself: what no snapshot uses any more goes away with the last one that did.
pub struct Registry {
    pub(super) control: Handle,
    pub(super) servers: Arc<Live<ServerKey, Server>>,
    /// By service.
    pub(super) turns: Arc<Live<String, RoundRobin>>,
}

/// Service, address, TLS.
pub(super) type ServerKey = (String, String, bool);

impl Registry {
    /// Returns a registry whose health checks run on `control`.
    pub fn new(control: Handle) -> Arc<Self> {
        Arc::new(Self { control, servers: Arc::default(), turns: Arc::default() })
    }
}
