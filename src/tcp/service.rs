//! Where TCP connections go: servers that take turns, and services by weight.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::round_robin::RoundRobin;
use super::server::Server;

/// A TCP service.
pub trait Service: Send + Sync {
    /// The server for a new connection; `None` when none can be used.
    fn choose(&self) -> Option<Arc<Server>>;

    /// True when a connection would find a server.
    fn is_up(&self) -> bool;

    /// `UP` or `DOWN` by server address, for the API.
    fn server_status(&self) -> BTreeMap<String, &'static str> {
        BTreeMap::new()
    }
}

/// Servers that take turns.
pub(super) struct LoadBalancer {
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) turns: Arc<RoundRobin>,
}

impl Service for LoadBalancer {
    fn choose(&self) -> Option<Arc<Server>> {
        let index = self.turns.next(|index| self.servers[index].is_up())?;
        Some(self.servers[index].clone())
    }

    fn is_up(&self) -> bool {
        self.servers.iter().any(|server| server.is_up())
    }

    fn server_status(&self) -> BTreeMap<String, &'static str> {
        let word = |server: &Server| if server.is_up() { "UP" } else { "DOWN" };
        self.servers.iter().map(|server| (server.address().to_owned(), word(server))).collect()
    }
}

/// Services by weight.
pub(super) struct Weighted {
    pub(super) children: Vec<Arc<dyn Service>>,
    pub(super) turns: Arc<RoundRobin>,
}

impl Service for Weighted {
    fn choose(&self) -> Option<Arc<Server>> {
        let index = self.turns.next(|index| self.children[index].is_up())?;
        self.children[index].choose()
    }

    fn is_up(&self) -> bool {
        self.children.iter().any(|child| child.is_up())
    }
}
