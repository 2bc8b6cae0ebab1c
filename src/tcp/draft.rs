//! Building TCP services beside those that serve: a draft reads what the registry has, and collects what is to change
//! there.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_config::tcp::{TcpHealthCheck, TcpLoadBalancer};
use tidegate_core::BuildError;

use super::health;
use super::registry::{Registry, ServerKey};
use super::round_robin::RoundRobin;
use super::server::Server;
use super::service::{LoadBalancer, Service, Weighted};
use super::transport::Transport;
use crate::live::{Checks, Staged};

/// TCP services that are being built, and the turns of UDP services. Those of the [`Registry`] are left as they are: new
/// servers and turns are plain values until the [`Effects`] are applied.
pub struct Draft {
    registry: Arc<Registry>,
    servers: Staged<ServerKey, Server>,
    turns: Staged<String, RoundRobin>,
    checks: Checks<Server, TcpHealthCheck>,
}

/// What putting drafted services into service changes: new servers and turns are entered in the registry, unused ones are
/// dropped from it, health checks are started, replaced and stopped. Dropping it changes nothing.
#[must_use = "the services have no health checks, and lose their state with the next configuration"]
pub struct Effects(Draft);

impl Effects {
    /// Makes the changes. To be called when the services serve.
    pub fn apply(self) {
        let Draft { registry, servers, turns, checks } = self.0;
        servers.enter(|_| ());
        turns.enter(|_| ());
        for (server, check) in checks.into_all() {
            health::set_check(&server, check, &registry.control);
        }
        registry.servers.sweep();
        registry.turns.sweep();
    }
}

impl Draft {
    /// Returns an empty draft.
    pub fn new(registry: Arc<Registry>) -> Self {
        let (servers, turns) = (registry.servers.clone(), registry.turns.clone());
        Self { registry, servers: Staged::new(servers), turns: Staged::new(turns), checks: Checks::default() }
    }

    /// Drops the health checks of all other services.
    pub fn retain(&self, services: &BTreeSet<String>) {
        self.checks.retain(services);
    }

    /// Ends the draft.
    pub fn finish(self) -> Effects {
        Effects(self)
    }

    /// A service with servers, and what is wrong with the servers that are left out.
    pub fn load_balancer(
        &self,
        name: &str,
        options: &TcpLoadBalancer,
        transport: &Arc<Transport>,
    ) -> Result<(Arc<dyn Service>, Vec<String>), BuildError> {
        if let Some(check) = &options.health_check {
            health::check_options(check)?;
        }
        let mut servers = Vec::new();
        let mut wrong = Vec::new();
        for server in &options.servers {
            match self.server((name.to_owned(), server.address.clone(), server.tls), transport) {
                Ok(found) => servers.push(found),
                Err(error) => wrong.extend_from_slice(error.messages()),
            }
        }
        let check = &options.health_check;
        self.checks.set(name, servers.iter().map(|server| (server.clone(), check.clone())).collect());
        let members = servers.iter().map(|server| (server.address().to_owned(), 1)).collect();
        let turns = self.turns(name, members);
        Ok((Arc::new(LoadBalancer { servers, turns }), wrong))
    }

    /// A service that shares its connections among `children` (name as written, weight, service).
    pub fn weighted(&self, name: &str, children: Vec<(String, i64, Arc<dyn Service>)>) -> Arc<dyn Service> {
        let members = children.iter().map(|(child, weight, _)| (child.clone(), *weight)).collect();
        let turns = self.turns(name, members);
        Arc::new(Weighted { children: children.into_iter().map(|(_, _, child)| child).collect(), turns })
    }

    /// The turns of a service: the live ones if its members are the same, or new ones.
    pub(crate) fn turns(&self, name: &str, members: Vec<(String, i64)>) -> Arc<RoundRobin> {
        let key = name.to_owned();
        let known = self.turns.find(&key, |known| known.is_for(&members));
        known.unwrap_or_else(|| self.turns.add(key, RoundRobin::new(members)))
    }

    /// The server of a service: the live one if its transport is the same, or a new one.
    fn server(&self, key: ServerKey, transport: &Arc<Transport>) -> Result<Arc<Server>, BuildError> {
        if let Some(found) = self.servers.find(&key, |known| known.transport().is_same(transport)) {
            return Ok(found);
        }
        let server = Server::new(&key.1, key.2, transport.clone())?;
        Ok(self.servers.add(key, server))
    }
}
