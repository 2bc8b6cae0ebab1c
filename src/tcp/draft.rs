//! Builds TCP services next to the live ones: a draft reads the registry and collects the changes to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_config::tcp::{TcpHealthCheck, TcpLoadBalancer};
use tidegate_core::BuildError;
use tidegate_core::traffic::TrafficCounters;

use super::health;
use super::registry::{Registry, ServerKey};
use super::round_robin::RoundRobin;
use super::server::Server;
use super::service::{LoadBalancer, Service, Weighted};
use super::transport::Transport;
use crate::live::{Checks, Staged};
use crate::observability::metrics::Role;

/// TCP services being built, and the round robins of UDP services. The [`Registry`] does not change: new
/// servers and round robins are plain values until the [`Effects`] are applied.
pub struct Draft {
    registry: Arc<Registry>,
    servers: Staged<ServerKey, Server>,
    round_robin: Staged<String, RoundRobin>,
    checks: Checks<Server, TcpHealthCheck>,
}

/// The changes that make drafted services live: new servers and round robins are registered, unused ones are
/// removed; health checks are started, replaced and stopped. If dropped, nothing changes.
#[must_use = "the services have no health checks, and lose their state with the next configuration"]
pub struct Effects(Draft);

impl Effects {
    /// Makes the changes. Call this once the services are live.
    pub fn apply(self) {
        let Draft { registry, servers, round_robin, checks } = self.0;
        servers.enter(|_| ());
        round_robin.enter(|_| ());
        for (server, check) in checks.into_all() {
            health::set_check(&server, check, &registry.control);
        }
        registry.servers.sweep();
        registry.round_robins.sweep();
    }
}

impl Draft {
    /// Returns an empty draft.
    pub fn new(registry: Arc<Registry>) -> Self {
        let (servers, round_robin) = (registry.servers.clone(), registry.round_robins.clone());
        Self {
            registry,
            servers: Staged::new(servers),
            round_robin: Staged::new(round_robin),
            checks: Checks::default(),
        }
    }

    /// Drops the health checks of all other services.
    pub fn retain(&self, services: &BTreeSet<String>) {
        self.checks.retain(services);
    }

    /// Returns the effects of the draft.
    pub fn finish(self) -> Effects {
        Effects(self)
    }

    /// Returns a service with servers, and the errors of invalid servers, which are left out. `traffic` returns the
    /// counters of the service and of its servers.
    pub fn load_balancer(
        &self,
        name: &str,
        options: &TcpLoadBalancer,
        transport: &Arc<Transport>,
        traffic: &dyn Fn(Role) -> Option<Arc<TrafficCounters>>,
    ) -> Result<(Arc<dyn Service>, Vec<String>), BuildError> {
        if let Some(check) = &options.health_check {
            health::check_options(check)?;
        }
        let mut servers = Vec::new();
        let mut server_traffic = Vec::new();
        let mut errors = Vec::new();
        for server in &options.servers {
            match self.server((name.to_owned(), server.address.clone(), server.tls), transport) {
                Ok(found) => {
                    let role = Role::Server { service: name.to_owned(), server: server.address.clone() };
                    server_traffic.push(traffic(role));
                    servers.push(found);
                }
                Err(error) => errors.extend_from_slice(error.messages()),
            }
        }
        let check = &options.health_check;
        self.checks.set(name, servers.iter().map(|server| (server.clone(), check.clone())).collect());
        let members = servers.iter().map(|server| (server.address().to_owned(), 1)).collect();
        let round_robin = self.round_robin(name, members);
        let traffic = traffic(Role::Service(name.to_owned()));
        Ok((Arc::new(LoadBalancer { servers, round_robin, traffic, server_traffic }), errors))
    }

    /// Returns a service that distributes connections over `children` (name as configured, weight, service).
    pub fn weighted(&self, name: &str, children: Vec<(String, i64, Arc<dyn Service>)>) -> Arc<dyn Service> {
        let members = children.iter().map(|(child, weight, _)| (child.clone(), *weight)).collect();
        let round_robin = self.round_robin(name, members);
        Arc::new(Weighted {
            children: children.into_iter().map(|(_, _, child)| child).collect(),
            round_robin,
        })
    }

    /// Returns the round robin of a service: the live one if its members are unchanged, or a new one.
    pub(crate) fn round_robin(&self, name: &str, members: Vec<(String, i64)>) -> Arc<RoundRobin> {
        let key = name.to_owned();
        let known = self.round_robin.find(&key, |known| known.is_for(&members));
        known.unwrap_or_else(|| self.round_robin.add(key, RoundRobin::new(members)))
    }

    /// Returns the server of a service: the live one if its transport is unchanged, or a new one.
    fn server(&self, key: ServerKey, transport: &Arc<Transport>) -> Result<Arc<Server>, BuildError> {
        if let Some(found) = self.servers.find(&key, |known| known.transport().is_same(transport)) {
            return Ok(found);
        }
        let server = Server::new(&key.1, key.2, transport.clone())?;
        Ok(self.servers.add(key, server))
    }
}
