//! Compiles TCP routers, services, middlewares and transports into the routes of each entry point.
//!
//! A broken router keeps its rule and closes its connections, so that they never reach a router with a lower
//! priority. Only a router whose rule cannot be parsed receives none.

use std::sync::Arc;

use tidegate_config::service::WeightedService;
use tidegate_config::tcp::{
    Delay, TcpLoadBalancer, TcpMiddleware, TcpRouter, TcpServersTransport, TcpService, TcpTransportTls,
};
use tidegate_config::{Kind, ObjectRef};
use tidegate_core::reference::provider_of;
use tidegate_core::values::Duration;
use tidegate_core::{BuildError, BuildErrors};

use super::builder::{Builder, Component, Instances, Pool, Scope};
use super::diagnostics::{Finding, Outcome};
use super::routers::{
    self, Routed, check_priority, check_resolver, default_entry_points, existing, options_name,
};
use super::services::not_one_type;
use super::syntax::syntax_error;
use crate::observability::metrics::{Role, Transport as Carrier};
use crate::router::RuleError;
use crate::settings::Settings;
use crate::tcp::{
    Entry, HttpsNames, Index, Middleware, Route, Routes, Security, Service, Transport, middleware, rule,
};
use crate::tls::TlsStore;

type Entries = Vec<Entry<Route>>;

/// The middlewares and the service of a route.
type Parts = (Vec<Arc<dyn Middleware>>, Arc<dyn Service>);

/// Compiles the TCP routers. `https` returns the names that the HTTPS routers of an entry point match.
pub(super) fn route(
    builder: &Builder<'_>,
    tls: &TlsStore,
    https: impl Fn(usize) -> HttpsNames,
) -> Routed<Option<Arc<Routes>>, TcpRouter> {
    let settings = &*builder.environment.settings;
    let router = Router { builder, settings, tls };
    let mut sides: Vec<(Entries, Entries)> =
        settings.entry_points.iter().map(|_| Default::default()).collect();
    let mut routers = builder.config.tcp.routers.clone();
    let mut findings = Vec::new();
    for (name, options) in &mut routers {
        let options = Arc::make_mut(options);
        let (indexes, entry, finding) = router.compile(name, options);
        for (index, entry) in indexes.into_iter().zip(entry.into_iter().cycle()) {
            let (plain, tls) = &mut sides[index];
            if options.tls.is_some() { tls } else { plain }.push(entry);
        }
        findings.push(finding);
    }
    // As in Traefik, TLS challenges are ordinary connections if no resolver answers them.
    let mut resolvers =
        settings.certificates_resolvers.values().filter_map(|resolver| resolver.acme.as_ref());
    let answers_challenges = resolvers.any(|acme| acme.tls_challenge.is_some());
    let entry_points = sides.into_iter().enumerate().map(|(index, (plain, tls))| {
        if plain.is_empty() && tls.is_empty() {
            return None;
        }
        let point = settings.entry_points.values().nth(index);
        let acme_bypass = !answers_challenges || point.is_some_and(|point| point.allow_acme_by_pass);
        let (plain, tls) = (Index::new(plain), Index::new(tls));
        Some(Arc::new(Routes { plain, tls, https: https(index), acme_bypass }))
    });
    Routed { entry_points: entry_points.collect(), routers, findings }
}

/// Compiles routers one by one.
struct Router<'a, 'b> {
    builder: &'a Builder<'b>,
    settings: &'a Settings,
    tls: &'a TlsStore,
}

impl Router<'_, '_> {
    /// Fills in the defaults of a router. Returns the indexes of its entry points, its route, and its
    /// outcome.
    fn compile(&self, name: &str, router: &mut TcpRouter) -> (Vec<usize>, Option<Entry<Route>>, Finding) {
        if router.entry_points.is_empty() {
            router.entry_points = default_entry_points(self.settings, false);
        }
        self.builder.note_uses::<TcpService, TcpMiddleware>(
            name,
            router.service.as_str(),
            &router.middlewares,
        );
        let (indexes, mut outcome) = routers::entry_points(self.settings, &router.entry_points, false);
        let mut entry = None;
        if !indexes.is_empty() {
            if router.priority == 0 {
                router.priority = rule::priority(&router.rule);
            }
            entry = self.entry(name, router, &mut outcome);
        }
        if let Some(tls) = router.tls.as_ref().filter(|tls| !tls.passthrough) {
            check_resolver(self.settings, &tls.cert_resolver, &mut outcome);
        }
        // In the configured order, as in Traefik.
        let used_by = existing(self.settings, &router.entry_points, false);
        let object = ObjectRef { kind: Kind::TcpRouter, name: name.to_owned() };
        let finding =
            Finding { written: object.clone(), object, used_by, priority: router.priority, outcome };
        (indexes, entry, finding)
    }

    /// Returns the route of a router with its rule; `None` if the rule is invalid.
    fn entry(&self, name: &str, router: &TcpRouter, outcome: &mut Outcome) -> Option<Entry<Route>> {
        let read = rule::read(&router.rule);
        let parts = self.parts(name, router, &read, outcome);
        let rule = read.ok()?.rule.ok()?;
        let security = match &router.tls {
            None => Security::Plain,
            Some(tls) if tls.passthrough => Security::Passthrough,
            Some(tls) => Security::Terminate(options_name(&tls.options).into()),
        };
        let domains = router.tls.as_ref().map(|tls| tls.domains.clone()).unwrap_or_default();
        let (middlewares, service) =
            parts.map_or((Vec::new(), None), |(middlewares, service)| (middlewares, Some(service)));
        let rank = self.settings.providers.rank(provider_of(name));
        Some(Entry {
            rule,
            priority: router.priority,
            tie: (rank, name.to_owned()),
            value: Arc::new(Route {
                name: Arc::from(name),
                middlewares,
                service,
                traffic: self.builder.traffic(
                    Carrier::Tcp,
                    Role::Router { router: name.to_owned(), service: router.service.as_str().to_owned() },
                ),
                security,
                domains,
            }),
        })
    }

    /// Builds the middlewares and the service of a router; `None` if it is broken.
    fn parts(
        &self,
        name: &str,
        router: &TcpRouter,
        read: &Result<rule::Read, RuleError>,
        outcome: &mut Outcome,
    ) -> Option<Parts> {
        let mut found = Outcome::default();
        let broken = self.builder.broken(Kind::TcpRouter, name);
        broken.into_iter().flatten().for_each(|reason| found.add_error(reason));
        if router.service.is_empty() && broken.is_none() {
            found.add_error("the service is missing on the router");
        }
        if router.rule.is_empty() && broken.is_none() {
            found.add_error("router has no rule");
        }
        self.check(name, router, read, &mut found);
        let service = (!router.service.is_empty())
            .then(|| found.check(self.builder.instance_for::<TcpService>(router.service.as_str(), name)))
            .flatten();
        let middlewares =
            routers::middlewares::<TcpMiddleware>(self.builder, name, &router.middlewares, &mut found);
        let is_valid = !found.is_broken();
        // The following errors do not prevent the router from being built.
        let names = read.as_ref().map(|read| &read.names[..]).unwrap_or_default();
        if router.tls.as_ref().is_some_and(|tls| !tls.passthrough) {
            let warnings = names.iter().filter(|name| !name.is_ascii());
            let refused = warnings.map(|name| format!("HostSNI: {}", crate::router::not_ascii(name)));
            outcome.errors.extend(refused);
        }
        outcome.errors.append(&mut found.errors);
        if let Ok(rule::Read { rule: Err(error), .. }) = read {
            outcome.rule_error = Some(error.to_string());
        }
        let middlewares = middlewares.into_iter().map(|(_, middleware)| middleware).collect();
        service.filter(|_| is_valid).map(|service| (middlewares, service))
    }

    /// Checks the options of a router. The order and text of the messages are Traefik's.
    fn check(
        &self,
        name: &str,
        router: &TcpRouter,
        read: &Result<rule::Read, RuleError>,
        found: &mut Outcome,
    ) {
        match read {
            _ if router.rule.is_empty() => {}
            Err(error) => found.add_error(error.to_string()),
            Ok(read) if router.tls.is_none() && read.names.first().is_some_and(|first| first != "*") => {
                let rule = &router.rule;
                found
                    .add_error(format!("invalid rule: {rule:?} , has HostSNI matcher, but no TLS on router"));
            }
            Ok(_) => {}
        }
        check_priority(name, router.priority, found);
        let default_syntax = &self.settings.core.default_rule_syntax;
        if let Some(message) = syntax_error(default_syntax, &router.rule_syntax, &router.rule) {
            found.add_error(message);
        }
        let terminating = router.tls.as_ref().filter(|tls| !tls.passthrough);
        let options = terminating.map(|tls| options_name(&tls.options));
        if let Some(options) = options.filter(|options| !self.tls.has_options(options)) {
            found.add_error(format!("unknown TLS options: {options}"));
        }
    }
}

impl Component for TcpMiddleware {
    type Instance = dyn Middleware;

    const SCOPE: Scope = Scope::Router;

    fn pool(instances: &Instances) -> &Pool<dyn Middleware> {
        &instances.tcp_middlewares
    }

    fn pool_mut(instances: &mut Instances) -> &mut Pool<dyn Middleware> {
        &mut instances.tcp_middlewares
    }

    fn missing(name: &str) -> String {
        format!("middleware \"{name}\" does not exist")
    }

    /// Middlewares count the connections of one router.
    fn is_per_router(&self) -> bool {
        true
    }

    fn build(&self, _: &Builder<'_>, _: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        middleware(self)
    }
}

impl Component for TcpService {
    type Instance = dyn Service;

    const SCOPE: Scope = Scope::Own;

    fn pool(instances: &Instances) -> &Pool<dyn Service> {
        &instances.tcp_services
    }

    fn pool_mut(instances: &mut Instances) -> &mut Pool<dyn Service> {
        &mut instances.tcp_services
    }

    fn missing(name: &str) -> String {
        format!("the service \"{name}\" does not exist")
    }

    fn build(&self, builder: &Builder<'_>, name: &str) -> Result<Arc<dyn Service>, BuildError> {
        match (&self.load_balancer, &self.weighted) {
            (Some(balancer), None) => load_balancer(builder, name, balancer),
            (None, Some(weighted)) => {
                let child = |child: &WeightedService| {
                    let (written, weight) = (child.name.written(), child.weight.unwrap_or(1));
                    if weight < 0 {
                        return Err(BuildError::new(format!(
                            "invalid negative weight {weight} for service \"{written}\""
                        )));
                    }
                    Ok((written.to_owned(), weight, builder.instance::<Self>(child.name.as_str())?))
                };
                let children = BuildErrors::collect(weighted.services.iter().map(child))?;
                Ok(builder.tcp.weighted(name, children))
            }
            (balancer, _) => Err(not_one_type("service", name, balancer.is_some())),
        }
    }
}

impl Component for TcpServersTransport {
    type Instance = Transport;

    const SCOPE: Scope = Scope::Own;

    fn pool(instances: &Instances) -> &Pool<Transport> {
        &instances.tcp_transports
    }

    fn pool_mut(instances: &mut Instances) -> &mut Pool<Transport> {
        &mut instances.tcp_transports
    }

    fn missing(name: &str) -> String {
        format!("no transport configuration found for \"{name}\"")
    }

    fn build(&self, builder: &Builder<'_>, _: &str) -> Result<Arc<Transport>, BuildError> {
        Transport::build(self, &mut |path| builder.file(path))
    }
}

fn load_balancer(
    builder: &Builder<'_>,
    name: &str,
    options: &TcpLoadBalancer,
) -> Result<Arc<dyn Service>, BuildError> {
    let transport = match options.servers_transport.as_str() {
        "" => default_transport(builder, options)?,
        transport => builder.instance::<TcpServersTransport>(transport)?,
    };
    let traffic = |role| builder.traffic(Carrier::Tcp, role);
    let (service, warnings) = builder.tcp.load_balancer(name, options, &transport, &traffic)?;
    builder.warn(warnings);
    Ok(service)
}

/// Returns the transport of services that name none. Options of the service override those of the settings.
fn default_transport(builder: &Builder<'_>, options: &TcpLoadBalancer) -> Result<Arc<Transport>, BuildError> {
    let settings = &builder.environment.settings.tcp_servers_transport;
    let endless = Delay::Endless(Duration::default());
    let delay = match options.termination_delay {
        None => settings.termination_delay.unwrap_or(endless),
        Some(delay) => {
            u64::try_from(delay).map_or(endless, |delay| Delay::Limited(Duration::from_millis(delay)))
        }
    };
    let tls = settings.tls.as_ref().map(|tls| TcpTransportTls {
        insecure_skip_verify: tls.insecure_skip_verify,
        root_cas: tls.root_cas.clone(),
        spiffe: tls.spiffe.clone(),
        ..TcpTransportTls::default()
    });
    let transport = TcpServersTransport {
        dial_keep_alive: settings.dial_keep_alive,
        dial_timeout: settings.dial_timeout,
        proxy_protocol: options.proxy_protocol.clone(),
        termination_delay: delay,
        tls,
    };
    Transport::build(&transport, &mut |path| builder.file(path))
}
