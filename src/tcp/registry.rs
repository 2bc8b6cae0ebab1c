//! What TCP services keep when the configuration changes: servers with their health, turns, and open connections' counts.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tidegate_config::tcp::{TcpLoadBalancer, TcpMiddleware};
use tidegate_core::BuildError;
use tokio::runtime::Handle;

use super::health;
use super::middlewares::{self, Middleware};
use super::server::Server;
use super::service::{LoadBalancer, Service, Weighted};
use super::transport::Transport;
use super::turns::Turns;

/// It holds nothing alive by itself: what no snapshot uses any more goes away with the last one that did.
pub struct Registry {
    control: Handle,
    servers: Mutex<HashMap<ServerKey, Weak<Server>>>,
    turns: Mutex<HashMap<String, Weak<Turns>>>,
    middlewares: Mutex<HashMap<MiddlewareKey, KnownMiddleware>>,
}

/// Service, address, TLS.
type ServerKey = (String, String, bool);
/// Router and middleware.
type MiddlewareKey = (String, String);
/// A middleware and the options that it was made with.
type KnownMiddleware = (TcpMiddleware, Weak<dyn Middleware>);

impl Registry {
    /// A registry whose health checks run on `control`.
    pub fn new(control: Handle) -> Arc<Self> {
        Arc::new(Self {
            control,
            servers: Mutex::default(),
            turns: Mutex::default(),
            middlewares: Mutex::default(),
        })
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
            match self.server(name, &server.address, server.tls, transport) {
                Ok(found) => servers.push(found),
                Err(error) => wrong.extend_from_slice(error.messages()),
            }
        }
        for server in &servers {
            server.check(options.health_check.as_ref(), &self.control);
        }
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

    /// The middleware of a router, the same as before when its options are.
    pub fn middleware(
        &self,
        router: &str,
        name: &str,
        options: &TcpMiddleware,
    ) -> Result<Arc<dyn Middleware>, BuildError> {
        let key = (router.to_owned(), name.to_owned());
        let mut known = self.middlewares.lock();
        if let Some((before, found)) = known.get(&key)
            && before == options
            && let Some(found) = found.upgrade()
        {
            return Ok(found);
        }
        let made = middlewares::build(options)?;
        known.insert(key, (options.clone(), Arc::downgrade(&made)));
        Ok(made)
    }

    /// Forgets what is no longer used.
    pub fn sweep(&self) {
        self.servers.lock().retain(|_, server| server.strong_count() > 0);
        self.turns.lock().retain(|_, turns| turns.strong_count() > 0);
        self.middlewares.lock().retain(|_, (_, middleware)| middleware.strong_count() > 0);
    }

    fn server(
        &self,
        service: &str,
        address: &str,
        tls: bool,
        transport: &Arc<Transport>,
    ) -> Result<Arc<Server>, BuildError> {
        let key = (service.to_owned(), address.to_owned(), tls);
        let mut servers = self.servers.lock();
        if let Some(found) = servers.get(&key).and_then(Weak::upgrade)
            && found.transport().is_same(transport)
        {
            return Ok(found);
        }
        let server = Arc::new(Server::new(address, tls, transport.clone())?);
        servers.insert(key, Arc::downgrade(&server));
        Ok(server)
    }

    /// The turns of a service, the same as before when its members are.
    pub(crate) fn turns(&self, name: &str, members: Vec<(String, i64)>) -> Arc<Turns> {
        let mut all = self.turns.lock();
        if let Some(found) = all.get(name).and_then(Weak::upgrade)
            && found.is_for(&members)
        {
            return found;
        }
        let turns = Arc::new(Turns::new(members));
        all.insert(name.to_owned(), Arc::downgrade(&turns));
        turns
    }
}
