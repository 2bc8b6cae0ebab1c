//! UDP services: round robin over servers, and weighted services.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_core::BuildError;
use tidegate_core::traffic::TrafficCounters;

use crate::tcp::{RoundRobin, split_address};
use crate::upstream::Host;

/// A UDP service.
pub enum Service {
    /// Round robin over servers.
    Servers(Servers),
    /// Weighted round robin over services.
    Weighted(Vec<Arc<Service>>, Arc<RoundRobin>),
}

/// The servers of a service.
pub struct Servers {
    /// Each with its counters, if metrics have it.
    pub servers: Vec<(Arc<Server>, Option<Arc<TrafficCounters>>)>,
    /// The order.
    pub round_robin: Arc<RoundRobin>,
    /// The counters of the service, if metrics have it.
    pub traffic: Option<Arc<TrafficCounters>>,
}

/// The server for a session.
pub(super) struct Chosen {
    pub(super) server: Arc<Server>,
    /// The counters of its service.
    pub(super) traffic: Option<Arc<TrafficCounters>>,
    /// Its own counters.
    pub(super) server_traffic: Option<Arc<TrafficCounters>>,
}

/// A UDP server.
pub struct Server {
    address: String,
    pub(super) host: Host,
    pub(super) port: u16,
    /// Number of refused datagrams, to try the next address of its name in the next session.
    refusals: AtomicUsize,
}

impl Service {
    /// Returns the server for a new session; `None` if there is none.
    pub(super) fn choose(&self) -> Option<Chosen> {
        match self {
            Self::Servers(all) => {
                let (server, server_traffic) = all.servers.get(all.round_robin.next(|_| true)?)?.clone();
                Some(Chosen { server, traffic: all.traffic.clone(), server_traffic })
            }
            Self::Weighted(children, turns) => {
                children.get(turns.next(|index| children[index].has_servers())?)?.choose()
            }
        }
    }

    fn has_servers(&self) -> bool {
        match self {
            Self::Servers(all) => !all.servers.is_empty(),
            Self::Weighted(children, _) => children.iter().any(|child| child.has_servers()),
        }
    }
}

impl Server {
    /// Returns a server at `host:port`.
    pub fn new(address: &str) -> Result<Self, BuildError> {
        let (host, port) = split_address(address)?;
        Ok(Self { address: address.to_owned(), host, port, refusals: AtomicUsize::new(0) })
    }

    /// Returns `host:port` as configured.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the addresses for a new session. IPv4 comes first: most servers that listen on one family only
    /// use IPv4, and a refused datagram is lost.
    pub(super) fn candidates(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let mut candidates = addresses.to_vec();
        candidates.sort_by_key(IpAddr::is_ipv6);
        let turn = self.refusals.load(Ordering::Relaxed) % candidates.len().max(1);
        candidates.rotate_left(turn);
        candidates
    }

    /// Records that the server refuses datagrams.
    pub(super) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(addresses: &[&str]) -> Arc<Service> {
        let servers: Vec<_> =
            addresses.iter().map(|address| (Arc::new(Server::new(address).unwrap()), None)).collect();
        let members = addresses.iter().map(|address| ((*address).to_owned(), 1)).collect();
        let round_robin = Arc::new(RoundRobin::new(members));
        Arc::new(Service::Servers(Servers { servers, round_robin, traffic: None }))
    }

    #[test]
    fn sessions_take_turns_and_skip_empty_services() {
        let children = vec![servers(&["a:1", "b:1"]), servers(&["c:1"]), servers(&[])];
        let members = vec![("x".into(), 2), ("y".into(), 1), ("z".into(), 5)];
        let service = Service::Weighted(children, Arc::new(RoundRobin::new(members)));
        let chosen: Vec<_> = (0..6).map(|_| service.choose().unwrap().server.address().to_owned()).collect();
        assert_eq!(chosen, ["a:1", "c:1", "b:1", "a:1", "c:1", "b:1"]);
        assert!(servers(&[]).choose().is_none());
        assert!(Server::new("nowhere").is_err());
    }
}
