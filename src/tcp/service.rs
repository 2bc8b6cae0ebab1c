//! TCP services: round robin over servers, and weighted services.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::traffic::TrafficCounters;

use super::round_robin::RoundRobin;
use super::server::Server;

/// The server for a connection.
pub struct Chosen {
    /// The server.
    pub server: Arc<Server>,
    /// The counters of its service, if metrics have it.
    pub traffic: Option<Arc<TrafficCounters>>,
    /// Its own counters, if metrics have it.
    pub server_traffic: Option<Arc<TrafficCounters>>,
}

/// A TCP service.
pub trait Service: Send + Sync {
    /// Returns the server for a new connection; `None` if none is available.
    fn choose(&self) -> Option<Chosen>;

    /// Returns true if a server is available.
    fn is_up(&self) -> bool;

    /// Returns `UP` or `DOWN` by server address, for the API.
    fn server_status(&self) -> BTreeMap<String, &'static str> {
        BTreeMap::new()
    }
}

/// Round robin over servers.
pub(super) struct LoadBalancer {
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) round_robin: Arc<RoundRobin>,
    pub(super) traffic: Option<Arc<TrafficCounters>>,
    /// Of each server.
    pub(super) server_traffic: Vec<Option<Arc<TrafficCounters>>>,
}

impl Service for LoadBalancer {
    fn choose(&self) -> Option<Chosen> {
        let index = self.round_robin.next(|index| self.servers[index].is_up())?;
        Some(Chosen {
            server: self.servers[index].clone(),
            traffic: self.traffic.clone(),
            server_traffic: self.server_traffic[index].clone(),
        })
    }

    fn is_up(&self) -> bool {
        self.servers.iter().any(|server| server.is_up())
    }

    fn server_status(&self) -> BTreeMap<String, &'static str> {
        let word = |server: &Server| if server.is_up() { "UP" } else { "DOWN" };
        self.servers.iter().map(|server| (server.address().to_owned(), word(server))).collect()
    }
}

/// Weighted round robin over services.
pub(super) struct Weighted {
    pub(super) children: Vec<Arc<dyn Service>>,
    pub(super) round_robin: Arc<RoundRobin>,
}

impl Service for Weighted {
    fn choose(&self) -> Option<Chosen> {
        let index = self.round_robin.next(|index| self.children[index].is_up())?;
        self.children[index].choose()
    }

    fn is_up(&self) -> bool {
        self.children.iter().any(|child| child.is_up())
    }
}
