//! State of HTTP services that outlives a configuration.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_core::HttpClient;
use tokio::runtime::Handle;

use super::balance::Balance;
use super::hold::Queue;
use super::server::Server;
use crate::live::Live;
use crate::upstream::Client;

/// Interval for closing idle connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// State of services that is kept across snapshots: endpoints with their pools, health, balances and sticky
/// state, by service name, server URL and transport options.
///
/// References are weak: state is dropped with the last snapshot that uses it.
pub struct Registry {
    pub(super) workers: usize,
    pub(super) control: Handle,
    client: Arc<Client>,
    pub(super) servers: Arc<Live<ServerKey, Server>>,
    /// By service.
    pub(super) balances: Arc<Live<String, Balance>>,
    /// Requests that wait, by service.
    pub(super) queues: Arc<Live<String, Queue>>,
}

/// Service, URL and fingerprint of the transport.
pub(super) type ServerKey = (String, String, [u8; 32]);

impl Registry {
    /// Returns a registry for `workers` workers. Health checks and the sweep of idle connections run on
    /// `control`.
    pub fn new(workers: usize, control: Handle) -> Arc<Self> {
        let registry = Arc::new(Self {
            workers,
            client: Client::new(workers),
            servers: Arc::default(),
            balances: Arc::default(),
            queues: Arc::default(),
            control,
        });
        registry.control.spawn(sweep(Arc::downgrade(&registry)));
        registry
    }

    /// Returns the client for requests made by the gateway itself.
    pub fn client(&self) -> Arc<dyn HttpClient> {
        self.client.clone()
    }

    fn sweep(&self) {
        self.balances.sweep();
        self.queues.sweep();
        for server in self.servers.sweep() {
            server.endpoint().sweep();
        }
        self.client.sweep();
    }
}

async fn sweep(registry: Weak<Registry>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        match registry.upgrade() {
            Some(registry) => registry.sweep(),
            None => return,
        }
    }
}
