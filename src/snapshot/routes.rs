//! Compiles HTTP routers into routes: rules, priorities, TLS options, middlewares, services and parent
//! routers.
//!
//! A broken router keeps its rule and answers 503, so that its requests never reach a router with a lower
//! priority that was not meant for them. Only a router whose rule cannot be parsed receives no requests.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use tidegate_config::middleware::Middleware as MiddlewareOptions;
use tidegate_config::router::Router as Options;
use tidegate_config::service::Service;
use tidegate_config::{Kind, Map, ObjectRef};
use tidegate_core::reference::provider_of;
use tidegate_core::{
    BoxFuture, BuildContext, Handler, Middleware, MiddlewareInfo, Next, OpenSpan, Reason, Request, Response,
    RouteInfo, SpanKind, boxed, reply,
};
use tidegate_middlewares::access;
use time::OffsetDateTime;

use super::attach::{Attached, attach};
use super::builder::Builder;
use super::diagnostics::{Finding, Outcome};
use super::maintenance::{self, GATE, InMaintenance, MaintenanceState};
use super::routers::{self, MAX_PRIORITY, Rules, check_priority, check_resolver, existing, options_name};
use super::syntax::syntax_error;
use super::{Route, Routes, Timeouts, tls_hosts};
use crate::entrypoint::http::forwarded::append_for;
use crate::identity::Announcer;
use crate::maintenance::SwitchMap;
use crate::observability::metrics::CountedObject;
use crate::observability::tracing::type_name;
use crate::router::{Entry, Index, Rule};
use crate::settings::EntryPointObservability;
use crate::tcp::HttpsNames;
use crate::tls::TlsStore;

/// Compiles the routers of one configuration.
pub(super) struct Router<'a, 'b> {
    pub(super) builder: &'a Builder<'b>,
    pub(super) tls: &'a TlsStore,
    pub(super) previous_rules: Option<&'a Rules>,
    pub(super) attached: Vec<Attached>,
    /// In the order of the attached routers.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) rules: Rules,
    switches: Arc<SwitchMap>,
    now: OffsetDateTime,
    maintenance: MaintenanceState,
}

/// What the decision of a router's `access` is called among its middlewares. Their names contain `@`.
pub(crate) const ACCESS: &str = "access";

type Entries = Vec<Entry<Route>>;

/// The middlewares of a route with their names, and the handler behind them.
type Parts = (Vec<(Arc<str>, Arc<dyn Middleware>)>, Arc<dyn Handler>);

impl<'a, 'b> Router<'a, 'b> {
    /// Attaches the routers of a configuration to their entry points.
    pub(super) fn new(
        builder: &'a Builder<'b>,
        tls: &'a TlsStore,
        previous_rules: Option<&'a Rules>,
        now: OffsetDateTime,
    ) -> Self {
        let mut attached = attach(&builder.environment.settings, &builder.config.http.routers);
        let outcomes = attached.iter_mut().map(|router| std::mem::take(&mut router.outcome)).collect();
        let rules = Rules::with_capacity_and_hasher(attached.len(), Default::default());
        let switches = builder.environment.maintenance.current();
        let parts = attached.iter().filter(|part| part.name != part.source);
        let split = parts.map(|part| (part.name.clone(), part.source.clone())).collect();
        let maintenance = MaintenanceState { split, ..MaintenanceState::default() };
        Self { builder, tls, previous_rules, attached, outcomes, rules, switches, now, maintenance }
    }

    /// Returns which routers are in maintenance.
    pub(super) fn take_maintenance(&mut self) -> MaintenanceState {
        std::mem::take(&mut self.maintenance)
    }

    /// Compiles the routes of all entry points.
    pub(super) fn route(&mut self) -> Vec<Routes> {
        for index in 0..self.attached.len() {
            self.check(index);
        }
        self.warn_of_ties();
        let builder = self.builder;
        let settings = &builder.environment.settings;
        let points = settings.entry_points.values();
        let points: Vec<Option<&str>> =
            points.map(|point| point.http.tls.as_ref().map(|tls| tls.options.as_str())).collect();
        let rank = |name: &str| settings.providers.rank(provider_of(name));
        let tls_options =
            tls_hosts::resolve(&self.attached, &self.rules, self.tls, (&points, &rank), &mut self.outcomes);
        let children = self.children();
        let mut sides: Vec<(Entries, Entries)> = points.iter().map(|_| Default::default()).collect();
        for index in 0..self.attached.len() {
            if !self.attached[index].router.parent_refs.is_empty() {
                continue;
            }
            let route = self.compile(index, &children, &mut Vec::new());
            let router = &self.attached[index];
            let Some(Ok(rule)) = self.rules.get(&router.router.rule) else { continue };
            let entry = entry(rule, router, rank(&router.name), route);
            for &entry_point in &router.entry_points {
                let (plain, tls) = &mut sides[entry_point];
                let side = if router.router.tls.is_some() { tls } else { plain };
                side.push(entry.clone());
            }
        }
        let routes = sides.into_iter().zip(tls_options).map(|((plain, tls), tls_options)| Routes {
            plain: Index::new(plain),
            tls: Index::new(tls),
            tcp: None,
            udp: None,
            tls_options,
            error_pages: None,
        });
        routes.collect()
    }

    /// Returns the server names that the HTTPS routers of an entry point match.
    pub(super) fn https_names(&self, entry_point: usize) -> HttpsNames {
        let mut names = HttpsNames::default();
        let here = self.attached.iter().filter(|router| router.entry_points.contains(&entry_point));
        for router in here.filter(|router| router.router.tls.is_some()) {
            if let Some(Ok(rule)) = self.rules.get(&router.router.rule) {
                names.add(rule);
            }
        }
        names
    }

    /// Returns the rules, the routers as they are served, and their outcomes.
    pub(super) fn finish(self) -> (Rules, Map<Options>, Vec<Finding>) {
        let settings = &self.builder.environment.settings;
        let mut findings = Vec::with_capacity(self.attached.len());
        let mut routers = Vec::with_capacity(self.attached.len());
        for (attached, mut outcome) in self.attached.into_iter().zip(self.outcomes) {
            let Attached { name, source, router, .. } = attached;
            let mut used_by = existing(settings, &router.entry_points, false);
            used_by.sort();
            let resolver = router.tls.as_ref().map_or("", |tls| &tls.cert_resolver);
            check_resolver(settings, resolver, &mut outcome);
            outcome.notes.extend(crate::acme::wrong_names(settings, &router));
            let object = ObjectRef { kind: Kind::Router, name: name.clone() };
            let written = ObjectRef { kind: Kind::Router, name: source };
            findings.push(Finding { object, written, used_by, priority: router.priority, outcome });
            routers.push((name, Arc::new(router)));
        }
        // Collecting is much cheaper than inserting one by one.
        (self.rules, routers.into_iter().collect(), findings)
    }

    /// Parses the rule of a router and determines its priority.
    fn check(&mut self, index: usize) {
        let settings = &self.builder.environment.settings;
        let (attached, outcome) = (&mut self.attached[index], &mut self.outcomes[index]);
        let options = &mut attached.router;
        let service = options.service.as_str();
        self.builder.note_uses::<Service, MiddlewareOptions>(&attached.name, service, &options.middlewares);
        let text = options.rule.clone();
        if options.priority == 0 && (!attached.entry_points.is_empty() || !options.parent_refs.is_empty()) {
            options.priority = i64::try_from(text.len()).unwrap_or(MAX_PRIORITY);
        }
        let previous = self.previous_rules;
        let parsed = self.rules.entry(text).or_insert_with_key(|text| {
            previous.and_then(|known| known.get(text).cloned()).unwrap_or_else(|| Rule::parse(text))
        });
        check_priority(&attached.source, options.priority, outcome);
        let default_syntax = &settings.core.default_rule_syntax;
        outcome.errors.extend(syntax_error(default_syntax, &options.rule_syntax, &options.rule));
        // An empty rule of a broken router may be the option that could not be decoded, which is already
        // reported.
        let is_undecoded =
            options.rule.is_empty() && self.builder.broken(Kind::Router, &attached.source).is_some();
        if let Err(error) = parsed
            && !is_undecoded
        {
            outcome.rule_error = Some(error.to_string());
        }
    }

    /// Compiles the route of one router after those of its children. `above` are its parents, outermost
    /// first.
    fn compile(
        &mut self,
        index: usize,
        children: &HashMap<String, Vec<usize>>,
        above: &mut Vec<usize>,
    ) -> Arc<Route> {
        let below = children.get(&self.attached[index].name).filter(|_| !above.contains(&index));
        let child_routers = below.map(|below| {
            above.push(index);
            let child_routers = self.child_routers(index, below, children, above);
            above.pop();
            child_routers
        });
        let child_index = child_routers.as_ref().map(|routers| routers.index.clone());
        let parts = self.build_parts(index, child_routers.map(|routers| routers as Arc<dyn Handler>));
        let Attached { router, .. } = &self.attached[index];
        let named = router.tls.as_ref().map(|tls| options_name(&tls.options));
        let requires = router.middlewares.iter().find(|name| self.requires_certificate(name));
        let warning =
            requires.filter(|_| above.is_empty()).and_then(|name| self.without_certificates(name, named));
        self.outcomes[index].warnings.extend(warning);
        // A broken router answers 503 on any connection.
        let tls_options = named.filter(|name| parts.is_some() && self.tls.is_checked(name));
        let tls_options = tls_options.map(|name| self.tls.named(name));
        let (middlewares, service) = parts.unwrap_or_else(|| (Vec::new(), Arc::new(Unavailable)));
        let announcer = self.builder.environment.announcer.clone();
        let announcing = announcer.map(|announcer| (announcer, router.service.as_str().into()));
        let end = end(service, above.is_empty(), announcing);
        let (chain, middlewares) =
            match maintenance::of_router(&self.attached[index], &self.switches, self.now) {
                None => Next::route(middlewares, end),
                Some(found) => self.behind_gate(index, found, middlewares, end),
            };
        let Attached { name, router, .. } = &self.attached[index];
        let (middleware_types, rule) = self.traced(&middlewares, &router.rule);
        let counted =
            CountedObject::Router { router: name.clone(), service: router.service.as_str().to_owned() };
        let counters = self.builder.counters(counted);
        let mut label: Vec<&str> = above.iter().map(|&outer| self.attached[outer].name.as_str()).collect();
        label.push(name);
        Arc::new(Route {
            info: Arc::new(RouteInfo {
                router: Arc::from(label.join(" -> ")),
                service: Arc::from(router.service.as_str()),
                middleware_types,
                rule,
                middlewares,
                counters,
            }),
            chain,
            timeouts: Timeouts::from_options(router.timeouts.as_ref()),
            observability: EntryPointObservability::default().for_router(router.observability.as_ref()),
            tls_options,
            children: child_index,
        })
    }

    /// Returns the chain of a router in maintenance.
    fn behind_gate(
        &mut self,
        index: usize,
        found: InMaintenance,
        mut middlewares: Vec<(Arc<str>, Arc<dyn Middleware>)>,
        end: Next,
    ) -> (Next, Box<[MiddlewareInfo]>) {
        let (open, infos) = Next::route(middlewares.clone(), end.clone());
        let made = maintenance::gate(self.builder, &found, &infos, open.middlewares());
        // Mistakes in the options are reported, and break the router. Those of a switch are refused earlier.
        let Ok(gate) = made else { return (open, infos) };
        self.maintenance.active.insert(self.attached[index].name.clone(), found);
        middlewares.insert(0, (Arc::from(GATE), gate));
        Next::route(middlewares, end)
    }

    /// Returns true for a middleware that refuses clients without a certificate.
    fn requires_certificate(&self, middleware: &str) -> bool {
        let options = self.builder.config.http.middlewares.get(middleware);
        options.is_some_and(|options| options.kind() == "clientCertificate")
    }

    /// Returns a warning if clients of a router with these TLS options never have the certificate that a middleware
    /// requires.
    fn without_certificates(&self, middleware: &str, options: Option<&str>) -> Option<String> {
        let what = match options {
            None => "the router is not for TLS".to_owned(),
            Some(options) if !self.tls.named(options).verifies_clients => {
                format!("the TLS options {options} verify no client certificates")
            }
            Some(_) => return None,
        };
        Some(format!("middleware {middleware} requires a client certificate, but {what}"))
    }

    /// Returns what spans say about a route besides its names, if there is tracing.
    fn traced(&self, middlewares: &[MiddlewareInfo], rule: &str) -> (Box<[Arc<str>]>, Arc<str>) {
        if self.builder.environment.settings.tracing.is_none() {
            return Default::default();
        }
        let options = &self.builder.config.http.middlewares;
        let kind = |name: &str| match name {
            ACCESS => ACCESS,
            GATE => GATE,
            name => options.get(name).map_or("", |options| options.kind()),
        };
        (middlewares.iter().map(|middleware| type_name(kind(&middleware.name)).into()).collect(), rule.into())
    }

    /// Compiles the routes of the children of a router, which run after its middlewares.
    fn child_routers(
        &mut self,
        index: usize,
        below: &[usize],
        children: &HashMap<String, Vec<usize>>,
        above: &mut Vec<usize>,
    ) -> Arc<ChildRouters> {
        let mut entries = Vec::new();
        for &child in below {
            let route = self.compile(child, children, above);
            if let Some(Ok(rule)) = self.rules.get(&self.attached[child].router.rule) {
                entries.push(entry(rule, &self.attached[child], 0, route));
            }
        }
        let skipped = below.iter().filter(|child| self.outcomes[**child].is_broken()).count();
        if skipped == below.len() {
            self.outcomes[index].errors.push(format!(
                "building child routers muxer: no child routers could be added to muxer ({skipped} skipped)"
            ));
        }
        Arc::new(ChildRouters { index: Arc::new(Index::new(entries)) })
    }

    /// Builds the middlewares and the service of a router; `None` if it is broken.
    fn build_parts(&mut self, index: usize, child_routers: Option<Arc<dyn Handler>>) -> Option<Parts> {
        let Attached { name, source, router, .. } = &self.attached[index];
        let broken = self.builder.broken(Kind::Router, source);
        let mut found = Outcome::default();
        broken.into_iter().flatten().for_each(|reason| found.add_error(reason));
        let service = match child_routers {
            Some(_) if !router.service.is_empty() => {
                found.add_error("router has both a service and is referenced as a parent by other routers");
                None
            }
            Some(child_routers) => Some(child_routers),
            // The option that could not be decoded may have been the service.
            None if router.service.is_empty() && broken.is_some() => None,
            None if router.service.is_empty() => {
                found.add_error("router has no service and no child routers");
                found.add_error("router must have either a service or child routers");
                None
            }
            None => {
                let service =
                    found.check(self.builder.instance_for::<Service>(router.service.as_str(), name));
                service.map(|service| service as Arc<dyn Handler>)
            }
        };
        let mut middlewares =
            routers::middlewares::<MiddlewareOptions>(self.builder, name, &router.middlewares, &mut found);
        // Last, when the client has been authenticated.
        if let Some(allow) = &router.access {
            let context = BuildContext::new(name, self.builder).instance(ACCESS, name);
            let made = found.check(access::of_router(allow, &context));
            middlewares.extend(made.map(|made| (Arc::from(ACCESS), made)));
        }
        if let Some(options) = &router.maintenance {
            found.check(options.check());
        }
        let outcome = &mut self.outcomes[index];
        let is_valid = !outcome.is_broken() && !found.is_broken();
        outcome.errors.append(&mut found.errors);
        service.filter(|_| is_valid).map(|service| (middlewares, service))
    }

    /// Returns the children of each router, by name.
    fn children(&mut self) -> HashMap<String, Vec<usize>> {
        let outcomes = &mut self.outcomes;
        let mut children: HashMap<String, Vec<usize>> = HashMap::new();
        let mut unreachable = Vec::new();
        let with_refs =
            self.attached.iter().enumerate().filter(|(_, child)| !child.router.parent_refs.is_empty());
        for (index, child) in with_refs {
            let router = &child.router;
            let mut is_reachable = false;
            for parent in &router.parent_refs {
                if self.attached.iter().any(|other| other.name == *parent) {
                    is_reachable = true;
                    children.entry(parent.clone()).or_default().push(index);
                } else {
                    outcomes[index].errors.push(format!("parent router \"{parent}\" does not exist"));
                }
            }
            if !is_reachable {
                outcomes[index].errors.push("router is not reachable".into());
                unreachable.push(index);
            }
            let own = [
                (!router.entry_points.is_empty(), "Entrypoints"),
                (router.tls.is_some(), "TLS"),
                (router.observability.is_some(), "Observability"),
                (router.timeouts.is_some(), "timeouts"),
                (!router.skip_middlewares.is_empty(), "skipMiddlewares"),
            ];
            for (_, option) in own.iter().filter(|(is_set, _)| *is_set) {
                outcomes[index].errors.push(format!("non-root router cannot have {option} configuration"));
            }
        }
        let cut_off = self.cut_off(&children);
        for index in cut_off {
            let outcome = &mut self.outcomes[index];
            if !outcome.is_broken() {
                outcome.errors.push("router is not reachable".into());
                unreachable.push(index);
            }
        }
        // Traefik computes priorities from the entry points down and never visits these.
        for index in unreachable {
            let router = &mut self.attached[index].router;
            if usize::try_from(router.priority).is_ok_and(|priority| priority == router.rule.len()) {
                router.priority = 0;
            }
        }
        children
    }

    /// Returns the children that cannot be reached from a root: they are part of a cycle or below one.
    fn cut_off(&self, children: &HashMap<String, Vec<usize>>) -> Vec<usize> {
        let is_root = |index: &usize| self.attached[*index].router.parent_refs.is_empty();
        let mut reached = vec![false; self.attached.len()];
        let mut open: Vec<usize> = (0..self.attached.len()).filter(is_root).collect();
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut reached[index], true) {
                open.extend(children.get(&self.attached[index].name).into_iter().flatten());
            }
        }
        (0..self.attached.len()).filter(|index| !reached[*index]).collect()
    }

    /// Warns about routers with the same rule and priority: only the first by name receives requests.
    fn warn_of_ties(&mut self) {
        let outcomes = &mut self.outcomes;
        let mut first: HashMap<(usize, bool, i64, &str), &str> = HashMap::new();
        for (index, router) in self.attached.iter().enumerate() {
            let Attached { name, router: options, entry_points, .. } = router;
            for &entry_point in entry_points {
                let key = (entry_point, options.tls.is_some(), options.priority, options.rule.as_str());
                let other = *first.entry(key).or_insert(name);
                if other != name && outcomes[index].warnings.is_empty() {
                    outcomes[index].warnings.push(format!(
                        "router {other} has the same rule and priority: the order of providers and names decides which one receives requests"
                    ));
                }
            }
        }
    }
}

fn entry(rule: &Rule, router: &Attached, rank: usize, route: Arc<Route>) -> Entry<Route> {
    Entry {
        rule: rule.clone(),
        priority: router.router.priority,
        tie: (rank, router.name.clone()),
        value: route,
    }
}

/// The end of the chain of a parent router.
struct ChildRouters {
    index: Arc<Index<Route>>,
}

impl Handler for ChildRouters {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let Some(route) = self.index.find(&request) else {
            return Box::pin(std::future::ready(reply::not_found(Reason::NoRouter)));
        };
        request.context.exchange.enter_route(route.info.clone());
        let Some(span) = begin_span(&request, SpanKind::Router) else { return route.chain.run(request) };
        boxed(move || async move {
            let response = route.chain.run(request).await;
            span.finish(response.status().as_u16());
            response
        })
    }
}

/// What tells the service who the client is, and the service's name.
type Announcing = (Arc<Announcer>, Arc<str>);

/// Returns the end of a router's chain. `is_first` is true if the router has no parent.
pub(crate) fn end(service: Arc<dyn Handler>, is_first: bool, announcing: Option<Announcing>) -> Next {
    Next::service(Arc::new(End { service, is_first, announcing }))
}

/// The end of a router's chain. It records that the service is reached, and appends to `X-Forwarded-For` only
/// here, so that middlewares see the header as received (Traefik's `ipStrategy.depth` counts it so).
struct End {
    service: Arc<dyn Handler>,
    /// Whether to append to `X-Forwarded-For`: a parent router has not done so yet.
    is_first: bool,
    announcing: Option<Announcing>,
}

impl Handler for End {
    fn call<'a>(&'a self, mut request: Request) -> BoxFuture<'a, Response> {
        request.context.exchange.reach_service();
        let span = begin_span(&request, SpanKind::Service);
        if self.is_first {
            append_for(&mut request);
        }
        if let Some((announcer, service)) = &self.announcing {
            announcer.announce(&mut request, service);
        }
        match span {
            None => self.service.call(request),
            Some(span) => boxed(move || async move {
                let response = self.service.call(request).await;
                span.finish(response.status().as_u16());
                response
            }),
        }
    }
}

/// Begins the span of a part of the current route, if it is recorded.
pub(crate) fn begin_span(request: &Request, kind: fn(Arc<RouteInfo>) -> SpanKind) -> Option<OpenSpan> {
    let exchange = &request.context.exchange;
    exchange.detailed_spans()?.begin(kind(exchange.route()?.clone()))
}

/// The service of a broken router.
struct Unavailable;

impl Handler for Unavailable {
    fn call<'a>(&'a self, _: Request) -> BoxFuture<'a, Response> {
        Box::pin(std::future::ready(reply::status_text(
            StatusCode::SERVICE_UNAVAILABLE,
            Reason::RouterBroken,
        )))
    }
}
