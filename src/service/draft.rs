//! Builds services next to the live ones: a draft reads the registry and collects the changes to it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use tidegate_config::service::{
    Failover, LoadBalancer as LoadBalancerOptions, Mirroring, Sticky as StickyOptions, Strategy,
};
use tidegate_core::{BuildError, BuildErrors, RequestCounters};

use super::Service;
use super::balance::{Balance, Member};
use super::check::Check;
use super::failover::FailoverService;
use super::health;
use super::hold::{Hold, Queue};
use super::load_balancer::{Candidate, LoadBalancer, Outside};
use super::mirror::MirrorService;
use super::registry::{Registry, ServerKey};
use super::server::Server;
use super::sticky::Sticky;
use super::weighted::{Child, WeightedService};
use crate::live::{Checks, Staged};
use crate::upstream::{Endpoint, Transport};

/// Services being built. The [`Registry`] does not change: new servers and balances are plain values until
/// the [`Effects`] are applied.
pub struct Draft {
    registry: Arc<Registry>,
    servers: Staged<ServerKey, Server>,
    balances: Staged<String, Balance>,
    queues: Staged<String, Queue>,
    /// New services for whose names requests wait.
    awaited: RefCell<Vec<Awaited>>,
    checks: Checks<Server, Check>,
}

/// The changes that make drafted services live: new servers and balances are registered; health checks are
/// started, replaced and stopped. If dropped, nothing changes.
#[must_use = "the services have no health checks, and lose their state with the next configuration"]
pub struct Effects(Draft);

/// The queue of a name, and the service that has it now.
type Awaited = (Arc<Queue>, Weak<dyn Service>);

/// Options shared by the new servers of a service.
struct ServerContext<'a> {
    service: &'a str,
    transport: &'a Arc<Transport>,
    newcomer: bool,
    has_check: bool,
}

/// How the requests of a service with servers are counted.
pub struct Counters<'a> {
    /// Counts those of the service.
    pub service: Option<Arc<RequestCounters>>,
    /// Returns what counts those of the server with a URL.
    pub server: &'a dyn Fn(&str) -> Option<Arc<RequestCounters>>,
}

impl Default for Counters<'_> {
    /// Counts nothing.
    fn default() -> Self {
        Self { service: None, server: &|_| None }
    }
}

impl Effects {
    /// Makes the changes. Call this once the services are live.
    pub fn apply(self) {
        let Draft { registry, servers, balances, queues, awaited, checks } = self.0;
        servers.enter(Server::start);
        balances.enter(|_| ());
        queues.enter(|_| ());
        for (queue, service) in awaited.into_inner() {
            queue.replace(service);
        }
        for (server, check) in checks.into_all() {
            health::set_check(&server, check, &registry.control);
        }
    }
}

impl Draft {
    /// Returns an empty draft.
    pub fn new(registry: Arc<Registry>) -> Self {
        let (servers, balances) = (registry.servers.clone(), registry.balances.clone());
        let queues = Staged::new(registry.queues.clone());
        Self {
            registry,
            servers: Staged::new(servers),
            balances: Staged::new(balances),
            queues,
            awaited: RefCell::default(),
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

    /// Returns the queue of a service. Without `needed`, only if requests may already wait for it.
    fn queue(&self, name: &str, needed: bool) -> Option<Arc<Queue>> {
        let name = name.to_owned();
        let known = self.queues.find(&name, |_| true);
        known.or_else(|| needed.then(|| self.queues.add(name, Queue::default())))
    }

    /// Returns a service with servers. Known servers are reused with their connections and health.
    pub fn load_balancer(
        &self,
        name: &str,
        options: &LoadBalancerOptions,
        transport: Arc<Transport>,
        counters: &Counters<'_>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        let mut errors = BuildErrors::default();
        let strategy = errors.check(strategy(options));
        errors.check(check_passive(options));
        errors.check(options.hold.as_ref().map_or(Ok(()), Hold::check));
        let mut checks = Vec::new();
        let mut servers = Vec::new();
        let mut members = Vec::new();
        let context = ServerContext {
            service: name,
            transport: &transport,
            newcomer: self.registry.balances.get(&name.to_owned()).is_some(),
            has_check: options.health_check.is_some(),
        };
        for server in &options.servers {
            let weight = server.weight.unwrap_or(1);
            if weight <= 0 {
                continue;
            }
            let Some(found) = errors.check(self.server(&server.url, &context)) else { continue };
            members.push(Member::new(&server.url, weight));
            let counters = (counters.server)(&server.url);
            servers.push(Candidate { server: found, preserve_path: server.preserve_path, counters });
        }
        for Candidate { server, .. } in &servers {
            let check = options.health_check.as_ref();
            let check = check.map(|options| Check::build(options, server.endpoint(), &transport)).transpose();
            if let Some(check) = errors.check(check) {
                checks.push((server.clone(), check));
            }
        }
        let sticky = sticky(name, options.sticky.as_ref(), members.iter().map(|member| member.name.as_str()));
        let (strategy, sticky) = (strategy.unwrap_or(Strategy::Wrr), errors.check(sticky).flatten());
        errors.finish()?;
        let balance = self.balance(name, strategy, members);
        self.checks.set(name, checks);
        let queue = self.queue(name, options.hold.is_some());
        let hold = options.hold.zip(queue.clone()).map(|(options, queue)| Hold { queue, options });
        let outside = Outside { sticky, counters: counters.service.clone(), hold };
        let service: Arc<dyn Service> = Arc::new(LoadBalancer::new(name, options, servers, balance, outside));
        self.awaited.borrow_mut().extend(queue.map(|queue| (queue, Arc::downgrade(&service))));
        Ok(service)
    }

    /// Returns a service that distributes requests over `children` (name as configured, weight, service).
    pub fn weighted(
        &self,
        name: &str,
        sticky_options: Option<&StickyOptions>,
        children: Vec<(String, i64, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        self.composite(name, Strategy::Wrr, sticky_options, children)
    }

    /// Returns a service that assigns each client to one of `children` (name as configured, weight, service)
    /// by a hash of its address.
    pub fn highest_random_weight(
        &self,
        name: &str,
        children: Vec<(String, i64, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        self.composite(name, Strategy::Hrw, None, children)
    }

    /// Returns a service that responds from `main` and sends copies to `mirrors` (percent, service).
    pub fn mirroring(
        &self,
        options: &Mirroring,
        main: Arc<dyn Service>,
        mirrors: Vec<(u8, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        Ok(Arc::new(MirrorService::build(options, main, mirrors)?))
    }

    /// Returns a service that responds from `main`, and from `fallback` while `main` is down or fails.
    pub fn failover(
        &self,
        options: &Failover,
        main: Arc<dyn Service>,
        fallback: Arc<dyn Service>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        Ok(Arc::new(FailoverService::build(options, main, fallback)?))
    }

    fn composite(
        &self,
        name: &str,
        strategy: Strategy,
        sticky_options: Option<&StickyOptions>,
        children: Vec<(String, i64, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        let used: Vec<_> = children.into_iter().filter(|(_, weight, _)| *weight > 0).collect();
        let sticky = sticky(name, sticky_options, used.iter().map(|(name, _, _)| name.as_str()))?;
        let members = used.iter().map(|(name, weight, _)| Member::new(name, *weight)).collect();
        let balance = self.balance(name, strategy, members);
        let children = used.into_iter().map(|(_, _, service)| Child(service)).collect();
        Ok(Arc::new(WeightedService::new(children, balance, sticky)))
    }

    /// Returns the server of a service at this URL: the live one, or a new one.
    fn server(&self, url: &str, context: &ServerContext<'_>) -> Result<Arc<Server>, BuildError> {
        let ServerContext { service, transport, newcomer, has_check } = *context;
        let key = (service.to_owned(), url.to_owned(), *transport.fingerprint());
        if let Some(found) = self.servers.find(&key, |_| true) {
            return Ok(found);
        }
        let endpoint = Endpoint::new(url, transport.clone(), self.registry.workers)?;
        Ok(self.servers.add(key, Server::new(endpoint, newcomer, has_check)))
    }

    /// Returns the balance of a service: the live one if its members are unchanged, or a new one.
    fn balance(&self, name: &str, strategy: Strategy, members: Vec<Member>) -> Arc<Balance> {
        let key = name.to_owned();
        let known = self.balances.find(&key, |known| known.is_for(strategy, &members));
        known.unwrap_or_else(|| self.balances.add(key, Balance::new(strategy, members)))
    }
}

/// Returns the strategy of a service. The text of the error is Traefik's.
fn strategy(options: &LoadBalancerOptions) -> Result<Strategy, BuildError> {
    match options.strategy.meaning() {
        Ok(strategy) => Ok(strategy.unwrap_or(Strategy::Wrr)),
        Err(error) => {
            Err(BuildError::new(format!("unsupported load-balancer strategy \"{}\"", error.written)))
        }
    }
}

fn check_passive(options: &LoadBalancerOptions) -> Result<(), BuildError> {
    let Some(passive) = &options.passive_health_check else { return Ok(()) };
    let bad = |why: &str| Err(BuildError::new(format!("passiveHealthCheck: {why}")));
    if passive.ejection_time.is_some_and(|time| time.is_zero()) {
        return bad("ejectionTime must be greater than zero");
    }
    if passive.max_ejected_percent.is_some_and(|percent| percent > 100) {
        return bad("maxEjectedPercent must be at most 100");
    }
    let base = passive.ejection_time.unwrap_or(passive.failure_window);
    if passive.max_ejection_time.is_some_and(|most| most < base) {
        return bad("maxEjectionTime must not be shorter than ejectionTime");
    }
    Ok(())
}

fn sticky<'a>(
    service: &str,
    options: Option<&StickyOptions>,
    names: impl Iterator<Item = &'a str>,
) -> Result<Option<Sticky>, BuildError> {
    match options.and_then(|sticky| sticky.cookie.as_ref()) {
        Some(cookie) => Sticky::build(service, cookie, names).map(Some),
        None => Ok(None),
    }
}
