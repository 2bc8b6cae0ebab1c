//! From routers to routes: rules, priorities, TLS options, middlewares, the service, and layers of routers.
//!
//! A router that cannot do what it says keeps its rule and answers 503, so that its requests never reach a weaker router
//! that was not meant for them. Only a router whose rule cannot be read takes no requests.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use tidegate_config::router::RuleSyntax;
use tidegate_core::reference::provider_of;
use tidegate_core::word::Word;
use tidegate_core::{BoxFuture, Handler, Middleware, Next, Reason, Request, Response, RouteInfo, reply};

use super::attach::{Attached, MAX_PRIORITY};
use super::build::Builder;
use super::outcome::{Outcome, Rules, options_name};
use super::syntax::syntax_error;
use super::{Route, Routes, Timeouts, tls_hosts};
use crate::entrypoint::forwarded::append_for;
use crate::router::{Entry, Index, Rule};
use crate::settings::EntryPointObservability;
use crate::tls::TlsStore;

/// Makes the routes of one configuration.
pub(super) struct Router<'a, 'b> {
    pub(super) builder: &'a Builder<'b>,
    pub(super) attached: &'a mut [Attached],
    pub(super) tls: &'a TlsStore,
    pub(super) previous_rules: Option<&'a Rules>,
    pub(super) broken: &'a dyn Fn(&str) -> Option<Vec<String>>,
}

/// Routes for each entry point, and what else is known of the routers.
pub(super) struct Routed {
    pub(super) entry_points: Vec<Routes>,
    /// In the order of the attached routers.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) rules: Rules,
}

type Entries = Vec<Entry<Route>>;

/// The middlewares of a route with their names, and what is behind them.
type Parts = (Vec<(Arc<str>, Arc<dyn Middleware>)>, Arc<dyn Handler>);

impl Router<'_, '_> {
    /// Makes the routes.
    pub(super) fn route(mut self) -> Routed {
        let default_syntax = &self.builder.environment.settings.core.default_rule_syntax;
        let mut rules = Rules::with_capacity_and_hasher(self.attached.len(), Default::default());
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(self.attached.len());
        for router in self.attached.iter_mut() {
            let mut outcome = check(router, default_syntax, self.previous_rules, &mut rules);
            if router.router.rule.is_empty() && (self.broken)(&router.source).is_some() {
                // The rule itself may be what could not be read: why is told already.
                outcome.rule_error.take().map(|at| outcome.errors.remove(at));
            }
            outcomes.push(outcome);
        }
        self.warn_of_ties(&mut outcomes);
        let points = self.builder.environment.settings.entry_points.values();
        let points: Vec<Option<&str>> =
            points.map(|point| point.http.tls.as_ref().map(|tls| tls.options.as_str())).collect();
        let ranks = &self.builder.environment.settings.providers;
        let rank = |name: &str| ranks.rank(provider_of(name));
        let tls_options = tls_hosts::settle(self.attached, &rules, self.tls, (&points, &rank), &mut outcomes);
        let children = self.children(&mut outcomes);
        let settings = &self.builder.environment.settings;
        let mut plain: Vec<Entries> = settings.entry_points.iter().map(|_| Vec::new()).collect();
        let mut tls: Vec<Entries> = settings.entry_points.iter().map(|_| Vec::new()).collect();
        for place in 0..self.attached.len() {
            if !self.attached[place].router.parent_refs.is_empty() {
                continue;
            }
            let route = self.make(place, &children, &rules, &mut outcomes, &mut Vec::new());
            let router = &self.attached[place];
            let Some(Ok(rule)) = rules.get(&router.router.rule) else { continue };
            let provider = provider_of(&router.name);
            let rank = settings.providers.rank(provider);
            let side = if router.router.tls.is_some() { &mut tls } else { &mut plain };
            for &entry_point in &router.entry_points {
                side[entry_point].push(entry(rule, router, rank, route.clone()));
            }
        }
        let entry_points = plain.into_iter().zip(tls).zip(tls_options);
        let entry_points = entry_points
            .map(|((plain, tls), tls_options)| Routes {
                plain: Index::new(plain),
                tls: Index::new(tls),
                tcp: None,
                udp: None,
                tls_options,
            })
            .collect();
        Routed { entry_points, outcomes, rules }
    }

    /// Makes the route of one router and, before it, those of its children.
    fn make(
        &mut self,
        place: usize,
        children: &HashMap<String, Vec<usize>>,
        rules: &Rules,
        outcomes: &mut [Outcome],
        above: &mut Vec<usize>,
    ) -> Arc<Route> {
        let name = self.attached[place].name.clone();
        let below = children.get(&name).filter(|_| !above.contains(&place));
        let layer = below.map(|below| {
            above.push(place);
            let mut entries = Vec::new();
            for &child in below {
                let route = self.make(child, children, rules, outcomes, above);
                if let Some(Ok(rule)) = rules.get(&self.attached[child].router.rule) {
                    entries.push(entry(rule, &self.attached[child], 0, route));
                }
            }
            above.pop();
            let skipped = below.iter().filter(|child| !outcomes[**child].errors.is_empty()).count();
            if skipped == below.len() {
                outcomes[place].errors.push(format!(
                    "building child routers muxer: no child routers could be added to muxer ({skipped} skipped)"
                ));
            }
            Arc::new(Layer { index: Index::new(entries) }) as Arc<dyn Handler>
        });
        let router = &self.attached[place].router;
        let service_name = router.service.as_str().to_owned();
        let Outcome { errors, rule_error, .. } = &mut outcomes[place];
        let was_sound = errors.is_empty();
        let parts = match self.build_parts(place, &service_name, layer) {
            Ok(built) => was_sound.then_some(built),
            Err(more) => {
                // A mistake in the rule comes last, as in Traefik.
                let rule = rule_error.map(|at| errors.remove(at));
                errors.extend(more);
                errors.extend(rule);
                *rule_error = rule_error.map(|_| errors.len() - 1);
                None
            }
        };
        let named = router.tls.as_ref().map(|tls| options_name(&tls.options));
        // A broken router answers so whoever asks.
        let tls_options =
            named.filter(|name| parts.is_some() && self.tls.is_checked(name)).map(str::to_owned);
        let (middlewares, service) = parts.unwrap_or_else(|| (Vec::new(), Arc::new(Unavailable)));
        let (chain, middlewares) = Next::route(middlewares, end(service, above.is_empty()));
        let mut label: Vec<&str> = above.iter().map(|&outer| self.attached[outer].name.as_str()).collect();
        label.push(&name);
        Arc::new(Route {
            info: Arc::new(RouteInfo {
                router: Arc::from(label.join(" -> ")),
                service: Arc::from(service_name),
                middlewares,
            }),
            chain,
            timeouts: Timeouts::of(router.timeouts.as_ref()),
            observability: EntryPointObservability::default().for_router(router.observability.as_ref()),
            tls_options: tls_options.map(|name| self.tls.named(&name)),
        })
    }

    fn build_parts(
        &self,
        place: usize,
        service_name: &str,
        layer: Option<Arc<dyn Handler>>,
    ) -> Result<Parts, Vec<String>> {
        let Attached { name, source, router, .. } = &self.attached[place];
        let broken = (self.broken)(source);
        let is_broken = broken.is_some();
        let mut errors = broken.unwrap_or_default();
        let mut add = |error: String| {
            if !errors.contains(&error) {
                errors.push(error);
            }
        };
        let service = match layer {
            Some(_) if !service_name.is_empty() => {
                add("router has both a service and is referenced as a parent by other routers".into());
                None
            }
            Some(layer) => Some(layer),
            // What could not be read may have named it.
            None if service_name.is_empty() && is_broken => None,
            None if service_name.is_empty() => {
                add("router has no service and no child routers".into());
                add("router must have either a service or child routers".into());
                None
            }
            None => {
                let service =
                    self.builder.service_named(service_name).map_err(|error| add(error.to_string())).ok();
                service.map(|service| service as Arc<dyn Handler>)
            }
        };
        let mut middlewares = Vec::with_capacity(router.middlewares.len());
        // The last that is wrong comes first, as in Traefik.
        for middleware in router.middlewares.iter().rev() {
            match self.builder.middleware_for(middleware, name) {
                Ok(made) => middlewares.push((Arc::from(middleware.as_str()), made)),
                Err(error) => add(error.to_string()),
            }
        }
        middlewares.reverse();
        service.filter(|_| errors.is_empty()).map(|service| (middlewares, service)).ok_or(errors)
    }

    /// Which routers stand below which, by name.
    fn children(&mut self, outcomes: &mut [Outcome]) -> HashMap<String, Vec<usize>> {
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
            let errors = &mut outcomes[place].errors;
            if errors.is_empty() {
                errors.push("router is not reachable".into());
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
    fn warn_of_ties(&self, outcomes: &mut [Outcome]) {
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

/// Parses the rule and settles the priority.
fn check(
    router: &mut Attached,
    default_syntax: &Word<RuleSyntax>,
    previous: Option<&Rules>,
    rules: &mut Rules,
) -> Outcome {
    let mut outcome = Outcome::default();
    let options = &mut router.router;
    let text = options.rule.clone();
    if options.priority == 0 && (!router.entry_points.is_empty() || !options.parent_refs.is_empty()) {
        options.priority = i64::try_from(text.len()).unwrap_or(MAX_PRIORITY);
    }
    let parsed = rules.entry(text).or_insert_with_key(|text| {
        previous.and_then(|known| known.get(text).cloned()).unwrap_or_else(|| Rule::parse(text))
    });
    if router.entry_points.is_empty() && options.parent_refs.is_empty() {
        outcome.errors.append(&mut router.errors);
    } else {
        outcome.warnings.append(&mut router.errors);
    }
    outcome.warnings.append(&mut router.warnings);
    if options.priority > MAX_PRIORITY && provider_of(&router.source) != "internal" {
        outcome.errors.push(format!(
            "the router priority {} exceeds the max user-defined priority {MAX_PRIORITY}",
            options.priority
        ));
    }
    outcome.errors.extend(syntax_error(default_syntax, &options.rule_syntax, &options.rule));
    if let Err(error) = parsed {
        outcome.rule_error = Some(outcome.errors.len());
        outcome.errors.push(error.to_string());
    }
    outcome
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
