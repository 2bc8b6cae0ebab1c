//! What services share and keep when the configuration changes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_core::HttpClient;
use tokio::runtime::Handle;

use super::balance::Balance;
use super::server::Server;
use crate::live::Live;
use crate::upstream::Client;

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// What services share and keep across snapshots: endpoints with their pools, health, balancing and sticky state, by
/// (service name, server URL, transport options).
///
/// It holds nothing alive by itself: what no snapshot uses any more goes away with the last one that did.
pub struct Registry {
    pub(super) workers: usize,
    pub(super) control: Handle,
    client: Arc<Client>,
    pub(super) servers: Arc<Live<ServerKey, Server>>,
    /// By service.
    pub(super) balances: Arc<Live<String, Balance>>,
}

/// Service, URL and fingerprint of the transport.
pub(super) type ServerKey = (String, String, [u8; 32]);

impl Registry {
    /// A registry for `workers` workers. Health checks and the care of idle connections run on `control`.
    pub fn new(workers: usize, control: Handle) -> Arc<Self> {
        let registry = Arc::new(Self {
            workers,
            client: Client::new(workers),
            servers: Arc::default(),
            balances: Arc::default(),
            control,
        });
        registry.control.spawn(sweep(Arc::downgrade(&registry)));
        registry
    }

    /// The client for requests that the gateway makes itself.
    pub fn client(&self) -> Arc<dyn HttpClient> {
        self.client.clone()
    }

    fn sweep(&self) {
        self.balances.sweep();
        for server in self.servers.sweep() {
            server.endpoint().sweep();
        }
        self.client.sweep();
    }
}

async fn sweep(registry: Weak<Registry>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match registry.upgrade() {
            Some(registry) => registry.sweep(),
            None => return,
        }
    }
}
