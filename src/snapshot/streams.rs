//! From TCP routers, services, middlewares and transports to the routes of each entry point.
//!
//! A router that cannot do what it says keeps its rule and closes its connections, so that they never reach a weaker
//! router. Only a router whose rule cannot be read takes none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidegate_config::service::WeightedService;
use tidegate_config::tcp::{
    Delay, TcpLoadBalancer, TcpRouter, TcpServersTransport, TcpService, TcpTransportTls,
};
use tidegate_config::{Kind, Map, ObjectRef};
use tidegate_core::BuildError;
use tidegate_core::values::Duration;

use super::attach::{MAX_PRIORITY, default_entry_points, provider_of, qualify};
use super::build::Builder;
use super::report::{Finding, ObjectReport};
use super::routes::Outcome;
use crate::tcp::{Entry, HttpsNames, Index, Middleware, Route, Routes, Security, Service, Transport, rule};
use crate::tls::{DEFAULT_OPTIONS, TlsStore};

/// What the TCP part of a configuration compiles to.
pub(super) struct Streams {
    /// For each entry point, in the order of the settings.
    pub(super) routes: Vec<Option<Arc<Routes>>>,
    /// Services that routers use.
    pub(super) services: BTreeMap<String, Arc<dyn Service>>,
    /// Routers as they are served: entry points and priorities filled in, names qualified.
    pub(super) routers: Map<TcpRouter>,
    /// What became of each object.
    pub(super) findings: Vec<Finding>,
}

/// Objects whose options could not be read, with the reasons.
type Broken = BTreeMap<ObjectRef, Vec<String>>;
type Entries = Vec<Entry<Route>>;

/// Compiles the TCP part. `https` says for which names an entry point has HTTPS routers.
pub(super) fn compile(
    builder: &Builder<'_>,
    tls: &TlsStore,
    broken: &Broken,
    https: impl Fn(usize) -> HttpsNames,
) -> Streams {
    let settings = &builder.environment.settings;
    let mut compiler = Compiler {
        builder,
        tls,
        broken,
        services: HashMap::new(),
        transports: HashMap::new(),
        path: Vec::new(),
        outcomes: BTreeMap::new(),
        users: BTreeMap::new(),
    };
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
            side.push(Entry {
                rule: entry.rule.clone(),
                priority: entry.priority,
                tie: entry.tie.clone(),
                value: entry.value.clone(),
            });
        }
        findings.push(made.finding);
    }
    let used = compiler.services.clone();
    compiler.build_unused();
    let services = used.into_iter().filter_map(|(name, service)| Some((name, service.ok()?))).collect();
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
    builder.environment.tcp.sweep();
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
    broken: &'a Broken,
    services: HashMap<String, Result<Arc<dyn Service>, BuildError>>,
    transports: HashMap<String, Result<Arc<Transport>, BuildError>>,
    /// Services that are being built, outermost first.
    path: Vec<String>,
    outcomes: BTreeMap<ObjectRef, Outcome>,
    /// Routers by what they use.
    users: BTreeMap<ObjectRef, Vec<String>>,
}

impl Compiler<'_, '_> {
    fn router(&mut self, name: &str, router: &mut TcpRouter) -> Made {
        let object = ObjectRef { kind: Kind::TcpRouter, name: name.to_owned() };
        let (places, mut outcome) = self.place(router);
        let mut entry = None;
        for middleware in &mut router.middlewares {
            *middleware = qualify(middleware, provider_of(name));
            self.use_of(Kind::TcpMiddleware, middleware, name);
        }
        if !router.service.is_empty() {
            self.use_of(Kind::TcpService, &qualify(&router.service, provider_of(name)), name);
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

    /// The entry points of a router, with Traefik's words for those that do not exist.
    fn place(&self, router: &mut TcpRouter) -> (Vec<usize>, Outcome) {
        let settings = &self.builder.environment.settings;
        if router.entry_points.is_empty() {
            router.entry_points = default_entry_points(settings);
        }
        let mut places = Vec::new();
        let mut missing = Vec::new();
        for wanted in &router.entry_points {
            let mut points = settings.entry_points.iter().enumerate();
            match points.find(|(_, (name, point))| *name == wanted && !point.is_udp()) {
                Some((place, _)) if places.contains(&place) => {}
                Some((place, _)) => places.push(place),
                None => missing.push(format!("entryPoint \"{wanted}\" doesn't exist")),
            }
        }
        let mut outcome = Outcome::default();
        if places.is_empty() {
            missing.push("no valid entryPoint for this router".into());
            outcome.errors = missing;
        } else {
            outcome.warnings = missing;
        }
        (places, outcome)
    }

    /// The route of a router with its rule; `None` when the rule cannot be used.
    fn entry(&mut self, name: &str, router: &TcpRouter, outcome: &mut Outcome) -> Option<Entry<Route>> {
        let read = rule::read(&router.rule);
        let parts = self.parts(name, router, &read, outcome);
        let rule = read.ok()?.rule.ok()?;
        let security = match &router.tls {
            None => Security::Plain,
            Some(tls) if tls.passthrough => Security::Passthrough,
            Some(tls) => Security::Terminate(tls_options(&tls.options, name).into()),
        };
        let (middlewares, service) =
            parts.map_or((Vec::new(), None), |(middlewares, service)| (middlewares, Some(service)));
        let rank = self.builder.environment.settings.providers.rank(provider_of(name));
        Some(Entry {
            rule,
            priority: router.priority,
            tie: (rank, name.to_owned()),
            value: Arc::new(Route { name: Arc::from(name), middlewares, service, security }),
        })
    }

    /// Middlewares and service of a router; `None`, and what is wrong, when it cannot serve.
    #[expect(clippy::type_complexity, reason = "the two parts of a route, named right where they are made")]
    fn parts(
        &mut self,
        name: &str,
        router: &TcpRouter,
        read: &Result<rule::Read, String>,
        outcome: &mut Outcome,
    ) -> Option<(Vec<Arc<dyn Middleware>>, Arc<dyn Service>)> {
        let checked = self.check(name, router, read).and_then(|read| {
            self.check_tls(name, router, read, &mut outcome.errors)?;
            Ok(read)
        });
        let read = match checked {
            Ok(read) => read,
            Err(errors) => {
                outcome.errors.extend(errors);
                return None;
            }
        };
        let service = self.service(&qualify(&router.service, provider_of(name)));
        let parts = service.and_then(|service| Ok((self.middlewares(name, router)?, service)));
        let parts = parts.map_err(|error| outcome.errors.push(error.0)).ok();
        if let Err(error) = &read.rule {
            outcome.errors.push(error.clone());
        }
        parts
    }

    /// Checks what a router says itself. The order and the words are Traefik's.
    fn check<'r>(
        &self,
        name: &str,
        router: &TcpRouter,
        read: &'r Result<rule::Read, String>,
    ) -> Result<&'r rule::Read, Vec<String>> {
        let one = |error: String| Err(vec![error]);
        let object = ObjectRef { kind: Kind::TcpRouter, name: name.to_owned() };
        if let Some(reasons) = self.broken.get(&object) {
            return Err(reasons.clone());
        }
        if router.service.is_empty() {
            return one("the service is missing on the router".into());
        }
        if router.rule.is_empty() {
            return one("router has no rule".into());
        }
        let read = read.as_ref().map_err(|error| vec![error.clone()])?;
        if router.tls.is_none() && read.names.first().is_some_and(|first| first != "*") {
            return one(format!(
                "invalid rule: {:?} , has HostSNI matcher, but no TLS on router",
                router.rule
            ));
        }
        if router.priority > MAX_PRIORITY && provider_of(name) != "internal" {
            return one(format!(
                "the router priority {} exceeds the max user-defined priority {MAX_PRIORITY}",
                router.priority
            ));
        }
        if !matches!(router.rule_syntax.as_str(), "" | "v3" | "default") {
            return one(format!("ruleSyntax `{}` is not supported: only `v3` is", router.rule_syntax));
        }
        Ok(read)
    }

    /// Checks the names and the TLS options of a router that ends TLS. Wrong names do not keep the rest from being told.
    fn check_tls(
        &self,
        router_name: &str,
        router: &TcpRouter,
        read: &rule::Read,
        errors: &mut Vec<String>,
    ) -> Result<(), Vec<String>> {
        let Some(tls) = router.tls.as_ref().filter(|tls| !tls.passthrough) else { return Ok(()) };
        for name in read.names.iter().filter(|name| !name.is_ascii()) {
            errors.push(format!("invalid domain name value {name:?}, non-ASCII characters are not allowed"));
        }
        let options = tls_options(&tls.options, router_name);
        match self.tls.has_options(&options) {
            true => Ok(()),
            false => Err(vec![format!("unknown TLS options: {options}")]),
        }
    }

    /// The middlewares of a router, in order. As in Traefik the last one that is wrong is told.
    fn middlewares(
        &mut self,
        router: &str,
        options: &TcpRouter,
    ) -> Result<Vec<Arc<dyn Middleware>>, BuildError> {
        let mut made = Vec::new();
        for name in options.middlewares.iter().rev() {
            made.push(self.middleware(router, name)?);
        }
        made.reverse();
        Ok(made)
    }

    fn middleware(&mut self, router: &str, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        let object = ObjectRef { kind: Kind::TcpMiddleware, name: name.to_owned() };
        self.refuse_broken(&object)?;
        let Some(options) = self.builder.config.tcp.middlewares.get(name) else {
            return Err(BuildError(format!("middleware \"{name}\" does not exist")));
        };
        let made = self.builder.environment.tcp.middleware(router, name, options);
        self.note(object, &made);
        made
    }

    /// The service of this qualified name.
    fn service(&mut self, name: &str) -> Result<Arc<dyn Service>, BuildError> {
        if let Some(known) = self.services.get(name) {
            return known.clone();
        }
        if self.path.iter().any(|outer| outer == name) {
            let path = [&self.path[..], &[name.to_owned()]].concat().join("->");
            return Err(BuildError(format!(
                "could not instantiate TCP service {name}: recursion detected in {path}"
            )));
        }
        self.path.push(name.to_owned());
        let object = ObjectRef { kind: Kind::TcpService, name: name.to_owned() };
        let made = self.refuse_broken(&object).and_then(|()| {
            let options = self.builder.config.tcp.services.get(name);
            let options =
                options.ok_or_else(|| BuildError(format!("the service \"{name}\" does not exist")))?;
            let made = self.build_service(name, options);
            self.note(object, &made);
            made
        });
        self.path.pop();
        self.services.insert(name.to_owned(), made.clone());
        made
    }

    fn build_service(&mut self, name: &str, options: &TcpService) -> Result<Arc<dyn Service>, BuildError> {
        match (&options.load_balancer, &options.weighted) {
            (Some(_), Some(_)) => Err(BuildError::new(
                "cannot create service: multi-types service not supported, consider declaring two different pieces of service instead",
            )),
            (Some(balancer), None) => self.load_balancer(name, balancer),
            (None, Some(weighted)) => {
                let child = |child: &WeightedService| {
                    let service = self.service(&qualify(&child.name, provider_of(name)))?;
                    Ok((child.name.clone(), child.weight.unwrap_or(1), service))
                };
                let children = weighted.services.iter().map(child).collect::<Result<_, BuildError>>()?;
                Ok(self.builder.environment.tcp.weighted(name, children))
            }
            (None, None) => Err(BuildError(format!("the service \"{name}\" does not have any type defined"))),
        }
    }

    fn load_balancer(
        &mut self,
        name: &str,
        options: &TcpLoadBalancer,
    ) -> Result<Arc<dyn Service>, BuildError> {
        let transport = match options.servers_transport.as_str() {
            "" => self.default_transport(options)?,
            transport => self.transport(&qualify(transport, provider_of(name)))?,
        };
        let (service, wrong) = self.builder.environment.tcp.load_balancer(name, options, &transport)?;
        let object = ObjectRef { kind: Kind::TcpService, name: name.to_owned() };
        self.outcomes.entry(object).or_default().warnings.extend(wrong);
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
        let object = ObjectRef { kind: Kind::TcpServersTransport, name: name.to_owned() };
        let made = self.refuse_broken(&object).and_then(|()| {
            let options = self.builder.config.tcp.servers_transports.get(name);
            let options = options
                .ok_or_else(|| BuildError(format!("no transport configuration found for \"{name}\"")))?;
            let made = Transport::build(options, &mut |path| self.builder.file(path));
            self.note(object, &made);
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
            let object = ObjectRef { kind: Kind::TcpMiddleware, name: name.clone() };
            if !self.users.contains_key(&object) {
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
            let object = ObjectRef { kind, name: name.clone() };
            // Traefik's API does not tell who uses a TCP middleware.
            let shown = kind == Kind::TcpService;
            let mut used_by = self.users.remove(&object).filter(|_| shown).unwrap_or_default();
            used_by.sort();
            let outcome = self.outcomes.remove(&object).unwrap_or_default();
            Finding { object, known: ObjectReport { used_by, ..ObjectReport::default() }, outcome }
        })
        .collect()
    }

    fn use_of(&mut self, kind: Kind, name: &str, router: &str) {
        self.users.entry(ObjectRef { kind, name: name.to_owned() }).or_default().push(router.to_owned());
    }

    fn refuse_broken(&self, object: &ObjectRef) -> Result<(), BuildError> {
        self.broken.get(object).map_or(Ok(()), |reasons| Err(BuildError(reasons.join("; "))))
    }

    fn note<T>(&mut self, object: ObjectRef, made: &Result<T, BuildError>) {
        if let Err(error) = made {
            let errors = &mut self.outcomes.entry(object).or_default().errors;
            if !errors.contains(&error.0) {
                errors.push(error.0.clone());
            }
        }
    }
}

/// The name of a router's TLS options.
fn tls_options(written: &str, router: &str) -> String {
    match written {
        "" | DEFAULT_OPTIONS => DEFAULT_OPTIONS.to_owned(),
        other => qualify(other, provider_of(router)),
    }
}
