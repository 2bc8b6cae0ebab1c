//! Building TCP services beside those that serve: a draft reads what the registry has, and collects what is to change
//! there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use tidegate_config::tcp::{TcpHealthCheck, TcpLoadBalancer, TcpMiddleware};
use tidegate_core::BuildError;

use super::health;
use super::middlewares::{self, Middleware};
use super::registry::{MiddlewareKey, Registry, ServerKey};
use super::round_robin::RoundRobin;
use super::server::Server;
use super::service::{LoadBalancer, Service, Weighted};
use super::transport::Transport;

/// TCP services that are being built, and the turns of UDP services. Those of the [`Registry`] are left as they are: new
/// servers, turns and middlewares are plain values until the [`Effects`] are applied.
pub struct Draft {
    registry: Arc<Registry>,
    effects: RefCell<Effects>,
}

/// What putting drafted services into service changes: new servers, turns and middlewares are entered in the registry,
/// unused ones are dropped from it, health checks are started, replaced and stopped. Dropping it changes nothing.
#[must_use = "the services have no health checks, and lose their state with the next configuration"]
pub struct Effects {
    pub(super) registry: Arc<Registry>,
    pub(super) services: HashMap<String, ServiceEffects>,
    pub(super) turns: HashMap<String, Arc<RoundRobin>>,
    pub(super) middlewares: HashMap<MiddlewareKey, (TcpMiddleware, Arc<dyn Middleware>)>,
}

/// The effects of one service.
#[derive(Default)]
pub(super) struct ServiceEffects {
    /// Servers that are new.
    pub(super) created: Vec<(ServerKey, Arc<Server>)>,
    /// All servers.
    pub(super) servers: Vec<Arc<Server>>,
    /// Their health check.
    pub(super) check: Option<TcpHealthCheck>,
}

impl Effects {
    /// Makes the changes. To be called when the services serve.
    pub fn apply(self) {
        let registry = self.registry.clone();
        registry.enter(self);
    }
}

impl Draft {
    /// An empty draft.
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let effects = Effects {
            registry: registry.clone(),
            services: HashMap::new(),
            turns: HashMap::new(),
            middlewares: HashMap::new(),
        };
        Self { registry, effects: RefCell::new(effects) }
    }

    /// Drops the effects of services that are not wanted after all.
    pub fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.effects.borrow_mut().services.retain(|name, _| is_wanted(name));
    }

    /// Ends the draft.
    pub fn finish(self) -> Effects {
        self.effects.into_inner()
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
        let mut effects = ServiceEffects { check: options.health_check.clone(), ..Default::default() };
        let mut wrong = Vec::new();
        for server in &options.servers {
            let key = (name.to_owned(), server.address.clone(), server.tls);
            match self.server(key, transport, &mut effects.created) {
                Ok(found) => effects.servers.push(found),
                Err(error) => wrong.extend_from_slice(error.messages()),
            }
        }
        let servers = effects.servers.clone();
        self.effects.borrow_mut().services.insert(name.to_owned(), effects);
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

    /// The middleware of a router: the live one if its options are the same, or a new one.
    pub fn middleware(
        &self,
        router: &str,
        name: &str,
        options: &TcpMiddleware,
    ) -> Result<Arc<dyn Middleware>, BuildError> {
        let key = (router.to_owned(), name.to_owned());
        if let Some((_, created)) = self.effects.borrow().middlewares.get(&key) {
            return Ok(created.clone());
        }
        if let Some(found) = self.registry.middleware(&key, options) {
            return Ok(found);
        }
        let made = middlewares::build(options)?;
        self.effects.borrow_mut().middlewares.insert(key, (options.clone(), made.clone()));
        Ok(made)
    }

    /// The turns of a service: the live ones if its members are the same, or new ones.
    pub(crate) fn turns(&self, name: &str, members: Vec<(String, i64)>) -> Arc<RoundRobin> {
        if let Some(found) = self.registry.turns(name).filter(|found| found.is_for(&members)) {
            return found;
        }
        let turns = Arc::new(RoundRobin::new(members));
        self.effects.borrow_mut().turns.insert(name.to_owned(), turns.clone());
        turns
    }

    /// The server of a service: the live one if its transport is the same, or a new one.
    fn server(
        &self,
        key: ServerKey,
        transport: &Arc<Transport>,
        created: &mut Vec<(ServerKey, Arc<Server>)>,
    ) -> Result<Arc<Server>, BuildError> {
        if let Some((_, server)) = created.iter().find(|(known, _)| *known == key) {
            return Ok(server.clone());
        }
        if let Some(found) = self.registry.server(&key).filter(|found| found.transport().is_same(transport)) {
            return Ok(found);
        }
        let (_, address, tls) = &key;
        let server = Arc::new(Server::new(address, *tls, transport.clone())?);
        created.push((key, server.clone()));
        Ok(server)
    }
}
