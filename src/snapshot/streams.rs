//! From TCP routers, services, middlewares and transports to the routes of each entry point.
//!
//! A router that cannot do what it says keeps its rule and closes its connections, so that they never reach a weaker
//! router. Only a router whose rule cannot be read takes none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidegate_config::service::WeightedService;
use tidegate_config::tcp::{Delay, TcpLoadBalancer, TcpRouter, TcpServersTransport, TcpTransportTls};
use tidegate_config::{Kind, Map, ObjectRef};
use tidegate_core::reference::provider_of;
use tidegate_core::values::Duration;
use tidegate_core::{BuildError, BuildErrors};

use super::attach::{MAX_PRIORITY, default_entry_points};
use super::build::Builder;
use super::diagnostics::{self, Broken, Diagnostics, Services, not_one_type};
use super::outcome::{Outcome, options_name};
use super::report::{Finding, ObjectReport};
use super::syntax::syntax_error;
use crate::router::RuleError;
use crate::tcp::{Entry, HttpsNames, Index, Middleware, Route, Routes, Security, Service, Transport, rule};
use crate::tls::TlsStore;

/// What the TCP part of a configuration compiles to.
pub(super) struct Streams {
    /// For each entry point, in the order of the settings.
    pub(super) routes: Vec<Option<Arc<Routes>>>,
    /// Services that routers use.
    pub(super) services: BTreeMap<String, Arc<dyn Service>>,
    /// Routers as they are served: entry points and priorities filled in.
    pub(super) routers: Map<TcpRouter>,
    /// What became of each object.
    pub(super) findings: Vec<Finding>,
}

type Entries = Vec<Entry<Route>>;

/// Compiles the TCP part. `https` says for which names an entry point has HTTPS routers.
pub(super) fn compile(
    builder: &Builder<'_>,
    tls: &TlsStore,
    broken: &Broken,
    https: impl Fn(usize) -> HttpsNames,
) -> Streams {
    let settings = &builder.environment.settings;
    let mut compiler =
        Compiler { builder, tls, diagnostics: Diagnostics::new(broken), transports: HashMap::new() };
    let mut sides: Vec<(Entries, Entries)> =
        settings.entry_points.iter().map(|_| Default::default()).collect();
    let mut routers = builder.config.tcp.routers.clone();
    let mut findings = Vec::new();
    for (name, router) in &mut routers {
        let made = compiler.router(name, Arc::make_mut(router));
        for &place in &made.places {
            let Some(entry) = &made.entry else { continue };
            let side = &mut sides[place];
            let side = if router.tls.is_some() { &mut side.1 } else { &mut side.0 };
            side.push(entry.clone());
        }
        findings.push(made.finding);
    }
    let services = compiler.diagnostics.built();
    compiler.build_unused();
    builder.tcp.retain(|name| services.contains_key(name));
    findings.extend(compiler.findings());
    // As in Traefik: without a resolver that answers TLS challenges, they are connections like others.
    let mut resolvers =
        settings.certificates_resolvers.values().filter_map(|resolver| resolver.acme.as_ref());
    let answers_challenges = resolvers.any(|acme| acme.tls_challenge.is_some());
    let routes = sides.into_iter().enumerate().map(|(place, (plain, tls))| {
        if plain.is_empty() && tls.is_empty() {
            return None;
        }
        let point = settings.entry_points.values().nth(place);
        let acme_bypass = !answers_challenges || point.is_some_and(|point| point.allow_acme_by_pass);
        Some(Arc::new(Routes {
            plain: Index::new(plain),
            tls: Index::new(tls),
            https: https(place),
            acme_bypass,
        }))
    });
    let routes = routes.collect();
    Streams { routes, services, routers, findings }
}

/// A router that was compiled.
struct Made {
    places: Vec<usize>,
    entry: Option<Entry<Route>>,
    finding: Finding,
}

struct Compiler<'a, 'b> {
    builder: &'a Builder<'b>,
    tls: &'a TlsStore,
    diagnostics: Diagnostics<'a, Arc<dyn Service>>,
    transports: HashMap<String, Result<Arc<Transport>, BuildError>>,
}

impl Compiler<'_, '_> {
    fn router(&mut self, name: &str, router: &mut TcpRouter) -> Made {
        let object = ObjectRef { kind: Kind::TcpRouter, name: name.to_owned() };
        let settings = &self.builder.environment.settings;
        if router.entry_points.is_empty() {
            router.entry_points = default_entry_points(settings);
        }
        let (places, mut outcome) = diagnostics::places(settings, &router.entry_points, false);
        let mut entry = None;
        for middleware in &router.middlewares {
            self.diagnostics.use_of(Kind::TcpMiddleware, middleware, name);
        }
        if !router.service.is_empty() {
            self.diagnostics.use_of(Kind::TcpService, router.service.as_str(), name);
        }
        if !places.is_empty() {
            if router.priority == 0 {
                router.priority = rule::priority(&router.rule);
            }
            entry = self.entry(name, router, &mut outcome);
        }
        let points = &self.builder.environment.settings.entry_points;
        // In the order in which they are written, as Traefik shows them.
        let used_by: Vec<String> = router
            .entry_points
            .iter()
            .filter(|point| points.get(*point).is_some_and(|point| !point.is_udp()))
            .cloned()
            .collect();
        let known = ObjectReport { used_by, priority: router.priority, ..ObjectReport::default() };
        Made { places, entry, finding: Finding { object, known, outcome } }
    }

    /// The route of a router with its rule; `None` when the rule cannot be used.
    fn entry(&mut self, name: &str, router: &TcpRouter, outcome: &mut Outcome) -> Option<Entry<Route>> {
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
        let rank = self.builder.environment.settings.providers.rank(provider_of(name));
        Some(Entry {
            rule,
            priority: router.priority,
            tie: (rank, name.to_owned()),
            value: Arc::new(Route { name: Arc::from(name), middlewares, service, security, domains }),
        })
    }

    /// Middlewares and service of a router; `None`, and everything that is wrong, when it cannot serve.
    #[expect(clippy::type_complexity, reason = "the two parts of a route, named right where they are made")]
    fn parts(
        &mut self,
        name: &str,
        router: &TcpRouter,
        read: &Result<rule::Read, RuleError>,
        outcome: &mut Outcome,
    ) -> Option<(Vec<Arc<dyn Middleware>>, Arc<dyn Service>)> {
        let mut errors = BuildErrors::default();
        let reasons = self.diagnostics.broken(Kind::TcpRouter, name).map(<[String]>::to_vec);
        let is_broken = reasons.is_some();
        reasons.into_iter().flatten().for_each(|reason| errors.add(reason));
        if router.service.is_empty() && !is_broken {
            errors.add("the service is missing on the router".into());
        }
        if router.rule.is_empty() && !is_broken {
            errors.add("router has no rule".into());
        }
        self.check(name, router, read, &mut errors);
        let service = (!router.service.is_empty())
            .then(|| errors.check(self.service(router.service.as_str())))
            .flatten();
        let mut middlewares = Vec::with_capacity(router.middlewares.len());
        // The last that is wrong comes first, as in Traefik.
        for middleware in router.middlewares.iter().rev() {
            middlewares.extend(errors.check(self.middleware(name, middleware)));
        }
        middlewares.reverse();
        let is_sound = errors.messages().is_empty();
        // Neither of these keeps the router from being built.
        let names = read.as_ref().map(|read| &read.names[..]).unwrap_or_default();
        if router.tls.as_ref().is_some_and(|tls| !tls.passthrough) {
            let wrong = names.iter().filter(|name| !name.is_ascii());
            let refused = wrong.map(|name| format!("HostSNI: {}", crate::router::not_ascii(name)));
            outcome.errors.extend(refused);
        }
        outcome.errors.extend_from_slice(errors.messages());
        if let Ok(rule::Read { rule: Err(error), .. }) = read {
            outcome.errors.push(error.to_string());
        }
        service.filter(|_| is_sound).map(|service| (middlewares, service))
    }

    /// Checks what a router says itself. The order and the words are Traefik's.
    fn check(
        &self,
        name: &str,
        router: &TcpRouter,
        read: &Result<rule::Read, RuleError>,
        errors: &mut BuildErrors,
    ) {
        match read {
            _ if router.rule.is_empty() => {}
            Err(error) => errors.add(error.to_string()),
            Ok(read) if router.tls.is_none() && read.names.first().is_some_and(|first| first != "*") => {
                let rule = &router.rule;
                errors.add(format!("invalid rule: {rule:?} , has HostSNI matcher, but no TLS on router"));
            }
            Ok(_) => {}
        }
        if router.priority > MAX_PRIORITY && provider_of(name) != "internal" {
            errors.add(format!(
                "the router priority {} exceeds the max user-defined priority {MAX_PRIORITY}",
                router.priority
            ));
        }
        let default_syntax = &self.builder.environment.settings.core.default_rule_syntax;
        if let Some(message) = syntax_error(default_syntax, &router.rule_syntax, &router.rule) {
            errors.add(message);
        }
        let ends_tls = router.tls.as_ref().filter(|tls| !tls.passthrough);
        let options = ends_tls.map(|tls| options_name(&tls.options));
        if let Some(options) = options.filter(|options| !self.tls.has_options(options)) {
            errors.add(format!("unknown TLS options: {options}"));
        }
    }

    fn middleware(&mut self, router: &str, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        self.diagnostics.refuse_broken(Kind::TcpMiddleware, name)?;
        let Some(options) = self.builder.config.tcp.middlewares.get(name) else {
            return Err(BuildError::new(format!("middleware \"{name}\" does not exist")));
        };
        let made = self.builder.tcp.middleware(router, name, options);
        self.diagnostics.note(Kind::TcpMiddleware, name, &made);
        made
    }

    fn load_balancer(
        &mut self,
        name: &str,
        options: &TcpLoadBalancer,
    ) -> Result<Arc<dyn Service>, BuildError> {
        let transport = match options.servers_transport.as_str() {
            "" => self.default_transport(options)?,
            transport => self.transport(transport)?,
        };
        let (service, wrong) = self.builder.tcp.load_balancer(name, options, &transport)?;
        self.diagnostics.warn(Kind::TcpService, name, wrong);
        Ok(service)
    }

    /// The transport of services that name none; what they say themselves counts.
    fn default_transport(&self, options: &TcpLoadBalancer) -> Result<Arc<Transport>, BuildError> {
        let settings = &self.builder.environment.settings.tcp_servers_transport;
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
        Transport::build(&transport, &mut |path| self.builder.file(path))
    }

    fn transport(&mut self, name: &str) -> Result<Arc<Transport>, BuildError> {
        if let Some(known) = self.transports.get(name) {
            return known.clone();
        }
        let made = self.diagnostics.refuse_broken(Kind::TcpServersTransport, name).and_then(|()| {
            let options = self.builder.config.tcp.servers_transports.get(name);
            let options = options
                .ok_or_else(|| BuildError::new(format!("no transport configuration found for \"{name}\"")))?;
            let made = Transport::build(options, &mut |path| self.builder.file(path));
            self.diagnostics.note(Kind::TcpServersTransport, name, &made);
            made
        });
        self.transports.insert(name.to_owned(), made.clone());
        made
    }

    /// Builds what no router has asked for, so that its mistakes are told, and lets it go again.
    fn build_unused(&mut self) {
        let config = self.builder.config;
        for name in config.tcp.services.keys() {
            // The outcome is noted.
            let _ = self.service(name);
        }
        for name in config.tcp.servers_transports.keys() {
            let _ = self.transport(name);
        }
        for name in config.tcp.middlewares.keys() {
            if !self.diagnostics.is_used(Kind::TcpMiddleware, name) {
                let _ = self.middleware("", name);
            }
        }
    }

    /// What became of services, middlewares and transports.
    fn findings(mut self) -> Vec<Finding> {
        let tcp = &self.builder.config.tcp;
        let services = tcp.services.keys().map(|name| (Kind::TcpService, name));
        let middlewares = tcp.middlewares.keys().map(|name| (Kind::TcpMiddleware, name));
        let transports = tcp.servers_transports.keys().map(|name| (Kind::TcpServersTransport, name));
        let all = services.chain(middlewares).chain(transports);
        all.map(|(kind, name)| {
            let mut finding = self.diagnostics.finding(kind, name);
            if kind != Kind::TcpService {
                // Traefik's API does not tell who uses a TCP middleware.
                finding.known.used_by.clear();
            }
            finding
        })
        .collect()
    }
}

impl<'a> Services<'a> for Compiler<'a, '_> {
    type Service = Arc<dyn Service>;
    const KIND: Kind = Kind::TcpService;
    const PROTOCOL: &'static str = "TCP";

    fn diagnostics(&mut self) -> &mut Diagnostics<'a, Self::Service> {
        &mut self.diagnostics
    }

    fn build_service(&mut self, name: &str) -> Result<Arc<dyn Service>, BuildError> {
        let options = self.builder.config.tcp.services.get(name);
        let options =
            options.ok_or_else(|| BuildError::new(format!("the service \"{name}\" does not exist")))?;
        match (&options.load_balancer, &options.weighted) {
            (Some(balancer), None) => self.load_balancer(name, balancer),
            (None, Some(weighted)) => {
                let mut child = |child: &WeightedService| {
                    let (written, weight) = (child.name.written(), child.weight.unwrap_or(1));
                    if weight < 0 {
                        return Err(BuildError::new(format!(
                            "invalid negative weight {weight} for service \"{written}\""
                        )));
                    }
                    Ok((written.to_owned(), weight, self.service(child.name.as_str())?))
                };
                let children = BuildErrors::collect(weighted.services.iter().map(&mut child))?;
                Ok(self.builder.tcp.weighted(name, children))
            }
            (balancer, _) => Err(not_one_type("service", name, balancer.is_some())),
        }
    }
}
