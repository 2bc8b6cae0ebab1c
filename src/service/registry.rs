//! What services share and keep when the configuration changes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_config::service::{
    Failover, LoadBalancer as LoadBalancerOptions, Mirroring, Sticky as StickyOptions,
};
use tidegate_core::{BuildError, BuildErrors, HttpClient};
use tokio::runtime::Handle;

use super::Service;
use super::balance::{Balance, Kind, Member};
use super::failover::FailoverService;
use super::load_balancer::LoadBalancer;
use super::mirror::MirrorService;
use super::server::Server;
use super::sticky::Sticky;
use super::weighted::{Child, WeightedService};
use crate::upstream::{Client, Endpoint, Transport};

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// What services share and keep across snapshots: endpoints with their pools, health, balancing and sticky state, by
/// (service name, server URL, transport options).
///
/// It holds nothing alive by itself: what no snapshot uses any more goes away with the last one that did.
pub struct Registry {
    workers: usize,
    control: Handle,
    client: Arc<Client>,
    servers: Mutex<HashMap<ServerKey, Weak<Server>>>,
    balances: Mutex<HashMap<String, Weak<Balance>>>,
}

/// Service, URL and fingerprint of the transport.
type ServerKey = (String, String, [u8; 32]);

impl Registry {
    /// A registry for `workers` workers. Health checks and the care of idle connections run on `control`.
    pub fn new(workers: usize, control: Handle) -> Arc<Self> {
        let registry = Arc::new(Self {
            workers,
            client: Client::new(workers),
            servers: Mutex::default(),
            balances: Mutex::default(),
            control,
        });
        registry.control.spawn(sweep(Arc::downgrade(&registry)));
        registry
    }

    /// The client for requests that the gateway makes itself.
    pub fn client(&self) -> Arc<dyn HttpClient> {
        self.client.clone()
    }

    /// A service with servers. Endpoints and health of servers that were there before are re-used.
    pub fn load_balancer(
        self: &Arc<Self>,
        name: &str,
        options: &LoadBalancerOptions,
        transport: Arc<Transport>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        let mut errors = BuildErrors::default();
        let kind = errors.check(Kind::parse(&options.strategy));
        errors.check(check_passive(options));
        let mut servers = Vec::new();
        let mut members = Vec::new();
        let has_served = self.balances.lock().get(name).is_some_and(|balance| balance.strong_count() > 0);
        for server in &options.servers {
            let weight = server.weight.unwrap_or(1);
            if weight <= 0 {
                continue;
            }
            let found = self.server(name, &server.url, &transport, has_served);
            let Some(found) = errors.check(found) else { continue };
            members.push(Member::new(&server.url, weight));
            servers.push((found, server.preserve_path));
        }
        for (server, _) in &servers {
            errors.check(server.check(options.health_check.as_ref(), &transport, &self.control));
        }
        let sticky = sticky(name, options.sticky.as_ref(), members.iter().map(|member| member.name.as_str()));
        let (kind, sticky) = (kind.unwrap_or(Kind::Wrr), errors.check(sticky).flatten());
        errors.finish()?;
        let ramp = options.slow_start.0;
        let balance = self.balance(name, kind, members, |index| servers[index].0.share(ramp));
        Ok(Arc::new(LoadBalancer::new(name, options, servers, balance, sticky)))
    }

    /// A service that shares its requests among `children` (name as written, weight, service).
    pub fn weighted(
        self: &Arc<Self>,
        name: &str,
        sticky_options: Option<&StickyOptions>,
        children: Vec<(String, i64, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        self.composite(name, Kind::Wrr, sticky_options, children)
    }

    /// A service that gives each client one of `children` (name as written, weight, service), by a hash of its address.
    pub fn highest_random_weight(
        self: &Arc<Self>,
        name: &str,
        children: Vec<(String, i64, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        self.composite(name, Kind::Hrw, None, children)
    }

    /// A service that answers from `main` and sends copies to `mirrors` (percent, service).
    pub fn mirroring(
        self: &Arc<Self>,
        options: &Mirroring,
        main: Arc<dyn Service>,
        mirrors: Vec<(u8, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        Ok(Arc::new(MirrorService::build(options, main, mirrors)?))
    }

    /// A service that answers from `main`, and from `fallback` while `main` is down or fails.
    pub fn failover(
        self: &Arc<Self>,
        options: &Failover,
        main: Arc<dyn Service>,
        fallback: Arc<dyn Service>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        Ok(Arc::new(FailoverService::build(options, main, fallback)?))
    }

    fn composite(
        &self,
        name: &str,
        kind: Kind,
        sticky_options: Option<&StickyOptions>,
        children: Vec<(String, i64, Arc<dyn Service>)>,
    ) -> Result<Arc<dyn Service>, BuildError> {
        let used: Vec<_> = children.into_iter().filter(|(_, weight, _)| *weight > 0).collect();
        let sticky = sticky(name, sticky_options, used.iter().map(|(name, _, _)| name.as_str()))?;
        let members = used.iter().map(|(name, weight, _)| Member::new(name, *weight)).collect();
        let balance = self.balance(name, kind, members, |_| 1.0);
        let children = used.into_iter().map(|(_, _, service)| Child(service)).collect();
        Ok(Arc::new(WeightedService::new(children, balance, sticky)))
    }

    fn server(
        &self,
        service: &str,
        url: &str,
        transport: &Arc<Transport>,
        newcomer: bool,
    ) -> Result<Arc<Server>, BuildError> {
        let key = (service.to_owned(), url.to_owned(), *transport.fingerprint());
        let mut servers = self.servers.lock();
        if let Some(found) = servers.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        let endpoint = Endpoint::new(url, transport.clone(), self.workers)?;
        let server = Arc::new(Server::new(endpoint, newcomer));
        servers.insert(key, Arc::downgrade(&server));
        Ok(server)
    }

    /// The balance of a service, the same as before when its members are the same.
    fn balance(
        &self,
        name: &str,
        kind: Kind,
        members: Vec<Member>,
        share: impl Fn(usize) -> f64,
    ) -> Arc<Balance> {
        let mut balances = self.balances.lock();
        if let Some(found) = balances.get(name).and_then(Weak::upgrade)
            && found.is_for(kind, &members)
        {
            return found;
        }
        let balance = Arc::new(Balance::new(kind, members, share));
        balances.insert(name.to_owned(), Arc::downgrade(&balance));
        balance
    }

    fn sweep(&self) {
        let mut live = Vec::new();
        self.servers.lock().retain(|_, server| match server.upgrade() {
            Some(server) => {
                live.push(server);
                true
            }
            None => false,
        });
        self.balances.lock().retain(|_, balance| balance.strong_count() > 0);
        for server in live {
            server.endpoint().sweep();
        }
        self.client.sweep();
    }
}

fn check_passive(options: &LoadBalancerOptions) -> Result<(), BuildError> {
    let Some(passive) = &options.passive_health_check else { return Ok(()) };
    let bad = |why: &str| Err(BuildError::new(format!("passiveHealthCheck: {why}")));
    if passive.ejection_time.is_some_and(|time| time.is_zero()) {
        return bad("ejectionTime must be longer than zero");
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

async fn sweep(registry: Weak<Registry>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match registry.upgrade() {
            Some(registry) => registry.sweep(),
            None => return,
        }
    }
}
