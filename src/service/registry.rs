//! What services share and keep when the configuration changes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::HttpClient;
use tokio::runtime::Handle;

use super::balance::Balance;
use super::draft::{Draft, ServiceEffects};
use super::server::Server;
use crate::upstream::Client;

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// What services share and keep across snapshots: endpoints with their pools, health, balancing and sticky state, by
/// (service name, server URL, transport options).
///
/// It holds nothing alive by itself: what no snapshot uses any more goes away with the last one that did.
pub struct Registry {
    pub(super) workers: usize,
    control: Handle,
    client: Arc<Client>,
    servers: Mutex<HashMap<ServerKey, Weak<Server>>>,
    balances: Mutex<HashMap<String, Weak<Balance>>>,
}

/// Service, URL and fingerprint of the transport.
pub(super) type ServerKey = (String, String, [u8; 32]);

impl Registry {
    /// A registry for `workers` workers. Health checks and the care of idle connections run on `control`.
    pub fn new(workers: usize, control: Handle) -> Arc<Self> {
        let registry = Arc::new(Self {
            workers,
            client: Client::new(workers),
            servers: Mutex::default(),
            balances: Mutex::default(),
            control,
        });
        registry.control.spawn(sweep(Arc::downgrade(&registry)));
        registry
    }

    /// The client for requests that the gateway makes itself.
    pub fn client(&self) -> Arc<dyn HttpClient> {
        self.client.clone()
    }

    /// Begins a draft of services. The registry stays as it is until the draft's effects are applied.
    pub fn draft(self: &Arc<Self>) -> Draft {
        Draft::new(self.clone())
    }

    /// The live server of a service at this URL, over a transport with this fingerprint.
    pub(super) fn server(&self, key: &ServerKey) -> Option<Arc<Server>> {
        self.servers.lock().get(key).and_then(Weak::upgrade)
    }

    /// The live balance of a service.
    pub(super) fn balance(&self, service: &str) -> Option<Arc<Balance>> {
        self.balances.lock().get(service).and_then(Weak::upgrade)
    }

    /// Enters what a draft has created for a service, and sets the health checks of its servers.
    pub(super) fn enter(&self, service: String, effects: ServiceEffects) {
        let ServiceEffects { servers, balance, checks } = effects;
        for (key, server) in servers {
            server.start();
            self.servers.lock().insert(key, Arc::downgrade(&server));
        }
        if let Some(balance) = balance {
            self.balances.lock().insert(service, Arc::downgrade(&balance));
        }
        for (server, check) in checks {
            server.set_check(check, &self.control);
        }
    }

    fn sweep(&self) {
        let mut live = Vec::new();
        self.servers.lock().retain(|_, server| match server.upgrade() {
            Some(server) => {
                live.push(server);
                true
            }
            None => false,
        });
        self.balances.lock().retain(|_, balance| balance.strong_count() > 0);
        for server in live {
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
