//! State of TCP and UDP services that outlives a configuration: servers with their health, and round robins.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::round_robin::RoundRobin;
use super::server::Server;
use crate::live::Live;

/// State of TCP and UDP services. References are weak: state is dropped with the last snapshot that uses it.
pub struct Registry {
    pub(super) control: Handle,
    pub(super) servers: Arc<Live<ServerKey, Server>>,
    /// By service.
    pub(super) round_robins: Arc<Live<String, RoundRobin>>,
}

/// Service, address, TLS.
pub(super) type ServerKey = (String, String, bool);

impl Registry {
    /// Returns a registry whose health checks run on `control`.
    pub fn new(control: Handle) -> Arc<Self> {
        Arc::new(Self { control, servers: Arc::default(), round_robins: Arc::default() })
    }
}
