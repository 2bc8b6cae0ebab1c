//! What TCP services keep when the configuration changes: servers with their health, turns, and open connections' counts.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tidegate_config::tcp::TcpMiddleware;
use tokio::runtime::Handle;

use super::draft::{Draft, Effects};
use super::middlewares::Middleware;
use super::round_robin::RoundRobin;
use super::server::Server;

/// It holds nothing alive by itself: what no snapshot uses any more goes away with the last one that did.
pub struct Registry {
    control: Handle,
    servers: Mutex<HashMap<ServerKey, Weak<Server>>>,
    turns: Mutex<HashMap<String, Weak<RoundRobin>>>,
    middlewares: Mutex<HashMap<MiddlewareKey, KnownMiddleware>>,
}

/// Service, address, TLS.
pub(super) type ServerKey = (String, String, bool);
/// Router and middleware.
pub(super) type MiddlewareKey = (String, String);
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

    /// Begins a draft of services. The registry stays as it is until the draft's effects are applied.
    pub fn draft(self: &Arc<Self>) -> Draft {
        Draft::new(self.clone())
    }

    /// The live server of a service at this address.
    pub(super) fn server(&self, key: &ServerKey) -> Option<Arc<Server>> {
        self.servers.lock().get(key).and_then(Weak::upgrade)
    }

    /// The live turns of a service.
    pub(super) fn turns(&self, service: &str) -> Option<Arc<RoundRobin>> {
        self.turns.lock().get(service).and_then(Weak::upgrade)
    }

    /// The live middleware of a router that was built with these options.
    pub(super) fn middleware(
        &self,
        key: &MiddlewareKey,
        options: &TcpMiddleware,
    ) -> Option<Arc<dyn Middleware>> {
        let known = self.middlewares.lock();
        known.get(key).filter(|(before, _)| before == options).and_then(|(_, found)| found.upgrade())
    }

    /// Makes the changes of a draft, and drops the entries of what is no longer used.
    pub(super) fn enter(&self, effects: Effects) {
        let Effects { registry: _, services, turns, middlewares } = effects;
        for service in services.into_values() {
            for (key, server) in service.created {
                self.servers.lock().insert(key, Arc::downgrade(&server));
            }
            for server in service.servers {
                server.set_check(service.check.as_ref(), &self.control);
            }
        }
        for (service, turns) in turns {
            self.turns.lock().insert(service, Arc::downgrade(&turns));
        }
        for (key, (options, middleware)) in middlewares {
            self.middlewares.lock().insert(key, (options, Arc::downgrade(&middleware)));
        }
        self.sweep();
    }

    fn sweep(&self) {
        self.servers.lock().retain(|_, server| server.strong_count() > 0);
        self.turns.lock().retain(|_, turns| turns.strong_count() > 0);
        self.middlewares.lock().retain(|_, (_, middleware)| middleware.strong_count() > 0);
    }
}
