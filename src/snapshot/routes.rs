//! From routers to routes: rules, priorities, TLS options, middlewares, the service, and layers of routers.
//!
//! A router that cannot do what it says keeps its rule and answers 503, so that its requests never reach a weaker router
//! that was not meant for them. Only a router whose rule cannot be read takes no requests.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use tidegate_config::middleware::Middleware as MiddlewareOptions;
use tidegate_config::router::Router as Options;
use tidegate_config::service::Service;
use tidegate_config::{Kind, Map, ObjectRef};
use tidegate_core::reference::provider_of;
use tidegate_core::{BoxFuture, Handler, Middleware, Next, Reason, Request, Response, RouteInfo, reply};

use super::attach::{Attached, attach};
use super::builder::Builder;
use super::diagnostics::{Finding, Outcome};
use super::routers::{self, MAX_PRIORITY, Rules, check_priority, check_resolver, existing, options_name};
use super::syntax::syntax_error;
use super::{Route, Routes, Timeouts, tls_hosts};
use crate::entrypoint::forwarded::append_for;
use crate::router::{Entry, Index, Rule};
use crate::settings::EntryPointObservability;
use crate::tcp::HttpsNames;
use crate::tls::TlsStore;

/// Makes the routes of one configuration.
pub(super) struct Router<'a, 'b> {
    pub(super) builder: &'a Builder<'b>,
    pub(super) tls: &'a TlsStore,
    pub(super) previous_rules: Option<&'a Rules>,
    pub(super) attached: Vec<Attached>,
    /// In the order of the attached routers.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) rules: Rules,
}

type Entries = Vec<Entry<Route>>;

/// The middlewares of a route with their names, and what is behind them.
type Parts = (Vec<(Arc<str>, Arc<dyn Middleware>)>, Arc<dyn Handler>);

impl<'a, 'b> Router<'a, 'b> {
    /// Attaches the routers of a configuration to their entry points.
    pub(super) fn new(
        builder: &'a Builder<'b>,
        tls: &'a TlsStore,
        previous_rules: Option<&'a Rules>,
    ) -> Self {
        let mut attached = attach(&builder.environment.settings, &builder.config.http.routers);
        let outcomes = attached.iter_mut().map(|router| std::mem::take(&mut router.outcome)).collect();
        let rules = Rules::with_capacity_and_hasher(attached.len(), Default::default());
        Self { builder, tls, previous_rules, attached, outcomes, rules }
    }

    /// Makes the routes.
    pub(super) fn route(&mut self) -> Vec<Routes> {
        for place in 0..self.attached.len() {
            self.check(place);
        }
        self.warn_of_ties();
        let builder = self.builder;
        let settings = &builder.environment.settings;
        let points = settings.entry_points.values();
        let points: Vec<Option<&str>> =
            points.map(|point| point.http.tls.as_ref().map(|tls| tls.options.as_str())).collect();
        let rank = |name: &str| settings.providers.rank(provider_of(name));
        let tls_options =
            tls_hosts::settle(&self.attached, &self.rules, self.tls, (&points, &rank), &mut self.outcomes);
        let children = self.children();
        let mut sides: Vec<(Entries, Entries)> = points.iter().map(|_| Default::default()).collect();
        for place in 0..self.attached.len() {
            if !self.attached[place].router.parent_refs.is_empty() {
                continue;
            }
            let route = self.make(place, &children, &mut Vec::new());
            let router = &self.attached[place];
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
        });
        routes.collect()
    }

    /// The server names for which an entry point has HTTPS routers.
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

    /// Ends with the rules, the routers as they are served, and what became of each.
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
        // Built as a whole: much less work than one insertion after the other.
        (self.rules, routers.into_iter().collect(), findings)
    }

    /// Parses the rule of a router, and settles its priority.
    fn check(&mut self, place: usize) {
        let settings = &self.builder.environment.settings;
        let (attached, outcome) = (&mut self.attached[place], &mut self.outcomes[place]);
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
        // Without a rule, the rule itself may be what could not be read: why is reported already.
        let is_lost =
            options.rule.is_empty() && self.builder.broken(Kind::Router, &attached.source).is_some();
        if let Err(error) = parsed
            && !is_lost
        {
            outcome.rule_error = Some(error.to_string());
        }
    }

    /// Makes the route of one router and, before it, those of its children. `above` are the routers above it, outermost
    /// first.
    fn make(
        &mut self,
        place: usize,
        children: &HashMap<String, Vec<usize>>,
        above: &mut Vec<usize>,
    ) -> Arc<Route> {
        let below = children.get(&self.attached[place].name).filter(|_| !above.contains(&place));
        let layer = below.map(|below| {
            above.push(place);
            let layer = self.layer(place, below, children, above);
            above.pop();
            layer
        });
        let parts = self.build_parts(place, layer);
        let Attached { name, router, .. } = &self.attached[place];
        let named = router.tls.as_ref().map(|tls| options_name(&tls.options));
        // A broken router answers so whoever asks.
        let tls_options = named.filter(|name| parts.is_some() && self.tls.is_checked(name));
        let (middlewares, service) = parts.unwrap_or_else(|| (Vec::new(), Arc::new(Unavailable)));
        let (chain, middlewares) = Next::route(middlewares, end(service, above.is_empty()));
        let mut label: Vec<&str> = above.iter().map(|&outer| self.attached[outer].name.as_str()).collect();
        label.push(name);
        Arc::new(Route {
            info: Arc::new(RouteInfo {
                router: Arc::from(label.join(" -> ")),
                service: Arc::from(router.service.as_str()),
                middlewares,
            }),
            chain,
            timeouts: Timeouts::of(router.timeouts.as_ref()),
            observability: EntryPointObservability::default().for_router(router.observability.as_ref()),
            tls_options: tls_options.map(|name| self.tls.named(name)),
        })
    }

    /// Makes the routes of the children of a router, which stand behind its middlewares.
    fn layer(
        &mut self,
        place: usize,
        below: &[usize],
        children: &HashMap<String, Vec<usize>>,
        above: &mut Vec<usize>,
    ) -> Arc<dyn Handler> {
        let mut entries = Vec::new();
        for &child in below {
            let route = self.make(child, children, above);
            if let Some(Ok(rule)) = self.rules.get(&self.attached[child].router.rule) {
                entries.push(entry(rule, &self.attached[child], 0, route));
            }
        }
        let skipped = below.iter().filter(|child| self.outcomes[**child].is_broken()).count();
        if skipped == below.len() {
            self.outcomes[place].errors.push(format!(
                "building child routers muxer: no child routers could be added to muxer ({skipped} skipped)"
            ));
        }
        Arc::new(Layer { index: Index::new(entries) })
    }

    /// Builds the middlewares and the service of a router; `None` when it cannot serve.
    fn build_parts(&mut self, place: usize, layer: Option<Arc<dyn Handler>>) -> Option<Parts> {
        let Attached { name, source, router, .. } = &self.attached[place];
        let broken = self.builder.broken(Kind::Router, source);
        let mut found = Outcome::default();
        broken.into_iter().flatten().for_each(|reason| found.add_error(reason));
        let service = match layer {
            Some(_) if !router.service.is_empty() => {
                found.add_error("router has both a service and is referenced as a parent by other routers");
                None
            }
            Some(layer) => Some(layer),
            // What could not be read may have named it.
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
        let middlewares =
            routers::middlewares::<MiddlewareOptions>(self.builder, name, &router.middlewares, &mut found);
        let outcome = &mut self.outcomes[place];
        let is_sound = !outcome.is_broken() && !found.is_broken();
        outcome.errors.append(&mut found.errors);
        service.filter(|_| is_sound).map(|service| (middlewares, service))
    }

    /// Which routers stand below which, by name.
    fn children(&mut self) -> HashMap<String, Vec<usize>> {
        let outcomes = &mut self.outcomes;
        let mut children: HashMap<String, Vec<usize>> = HashMap::new();
        let mut unreachable = Vec::new();
        let with_refs =
            self.attached.iter().enumerate().filter(|(_, child)| !child.router.parent_refs.is_empty());
        for (place, child) in with_refs {
            let router = &child.router;
            let mut is_reachable = false;
            for parent in &router.parent_refs {
                if self.attached.iter().any(|other| other.name == *parent) {
                    is_reachable = true;
                    children.entry(parent.clone()).or_default().push(place);
                } else {
                    outcomes[place].errors.push(format!("parent router \"{parent}\" does not exist"));
                }
            }
            if !is_reachable {
                outcomes[place].errors.push("router is not reachable".into());
                unreachable.push(place);
            }
            let own = [
                (!router.entry_points.is_empty(), "Entrypoints"),
                (router.tls.is_some(), "TLS"),
                (router.observability.is_some(), "Observability"),
                (router.timeouts.is_some(), "timeouts"),
                (!router.skip_middlewares.is_empty(), "skipMiddlewares"),
            ];
            for (_, option) in own.iter().filter(|(is_set, _)| *is_set) {
                outcomes[place].errors.push(format!("non-root router cannot have {option} configuration"));
            }
        }
        let cut_off = self.cut_off(&children);
        for place in cut_off {
            let outcome = &mut self.outcomes[place];
            if !outcome.is_broken() {
                outcome.errors.push("router is not reachable".into());
                unreachable.push(place);
            }
        }
        // Traefik settles priorities from the entry points on, and does not get there.
        for place in unreachable {
            let router = &mut self.attached[place].router;
            if usize::try_from(router.priority).is_ok_and(|priority| priority == router.rule.len()) {
                router.priority = 0;
            }
        }
        children
    }

    /// The children to which no way leads from a root: they stand in a circle, or below one.
    fn cut_off(&self, children: &HashMap<String, Vec<usize>>) -> Vec<usize> {
        let is_root = |place: &usize| self.attached[*place].router.parent_refs.is_empty();
        let mut reached = vec![false; self.attached.len()];
        let mut open: Vec<usize> = (0..self.attached.len()).filter(is_root).collect();
        while let Some(place) = open.pop() {
            if !std::mem::replace(&mut reached[place], true) {
                open.extend(children.get(&self.attached[place].name).into_iter().flatten());
            }
        }
        (0..self.attached.len()).filter(|place| !reached[*place]).collect()
    }

    /// Warns of routers with the same rule and priority: only the first by name takes requests.
    fn warn_of_ties(&mut self) {
        let outcomes = &mut self.outcomes;
        let mut first: HashMap<(usize, bool, i64, &str), &str> = HashMap::new();
        for (place, router) in self.attached.iter().enumerate() {
            let Attached { name, router: options, entry_points, .. } = router;
            for &entry_point in entry_points {
                let key = (entry_point, options.tls.is_some(), options.priority, options.rule.as_str());
                let other = *first.entry(key).or_insert(name);
                if other != name && outcomes[place].warnings.is_empty() {
                    outcomes[place].warnings.push(format!(
                        "router {other} has the same rule and priority: which of them takes the requests is decided by the order of providers and names"
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

/// The end of the chain of a router that stands above others.
struct Layer {
    index: Index<Route>,
}

impl Handler for Layer {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let Some(route) = self.index.find(&request) else {
            return Box::pin(std::future::ready(reply::not_found(Reason::NoRouter)));
        };
        request.context.exchange.enter_route(route.info.clone());
        route.chain.run(request)
    }
}

/// The end of a router's chain. `is_first`: no router stands above.
pub(crate) fn end(service: Arc<dyn Handler>, is_first: bool) -> Next {
    Next::service(Arc::new(End { service, is_first }))
}

/// The end of a router's chain. The service is noted only when it is reached, and middlewares see `X-Forwarded-For` as it
/// came (Traefik's `ipStrategy.depth` counts so).
struct End {
    service: Arc<dyn Handler>,
    /// `X-Forwarded-For` is not appended to yet.
    is_first: bool,
}

impl Handler for End {
    fn call<'a>(&'a self, mut request: Request) -> BoxFuture<'a, Response> {
        request.context.exchange.reach_service();
        if self.is_first {
            append_for(&mut request);
        }
        self.service.call(request)
    }
}

/// What stands for a router that is broken.
struct Unavailable;

impl Handler for Unavailable {
    fn call<'a>(&'a self, _: Request) -> BoxFuture<'a, Response> {
        Box::pin(std::future::ready(reply::status_text(
            StatusCode::SERVICE_UNAVAILABLE,
            Reason::RouterBroken,
        )))
    }
}
