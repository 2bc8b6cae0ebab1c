//! Services: which server a request goes to.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::service::LoadBalancer as LoadBalancerOptions;
use tidegate_core::{BuildError, Handler};

use crate::upstream::Transport;

/// A service that routers and other services can name.
pub trait Service: Handler {
    /// True while it can serve a request: some server, or some child, is up.
    fn is_up(&self) -> bool;

    /// `UP` or `DOWN` by server URL, for services with servers of their own.
    fn server_status(&self) -> BTreeMap<String, &'static str> {
        BTreeMap::new()
    }
}

/// What services share and keep across snapshots: endpoints with their pools, health, balancing and sticky state, by
/// (service name, server URL, transport options).
#[derive(Default)]
pub struct Registry {}

impl Registry {
    /// A registry for `workers` workers.
    pub fn new(_workers: usize) -> Arc<Self> {
        Arc::new(Self {})
    }

    /// A service with servers. Endpoints and health of servers that were there before are re-used.
    pub fn load_balancer(
        self: &Arc<Self>,
        _name: &str,
        _options: &LoadBalancerOptions,
        _transport: Arc<Transport>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        Err(BuildError::new("not built yet"))
    }
}
