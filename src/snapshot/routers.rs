//! Code shared by HTTP, TCP and UDP routers: entry points, priorities, middlewares, certificate resolvers.

use std::sync::Arc;

use tidegate_config::Map;
use tidegate_core::reference::{Reference, provider_of};

use super::builder::{Builder, Component};
use super::diagnostics::{Finding, Outcome};
use crate::router::{Rule, RuleError};
use crate::settings::Settings;
use crate::tls::DEFAULT_OPTIONS;

/// Maximum priority in a configuration. Higher ones are reserved for the gateway's own routers.
pub(super) const MAX_PRIORITY: i64 = i64::MAX - 1000;

/// Rules by their text, for the next snapshot to reuse.
pub(super) type Rules = foldhash::HashMap<String, Result<Rule, RuleError>>;

/// The compiled routers of one protocol: `E` holds the routes of an entry point, `R` is the router type.
pub(super) struct Routed<E, R> {
    /// In the order of the settings.
    pub(super) entry_points: Vec<E>,
    /// The routers as they are served: entry points and priorities filled in.
    pub(super) routers: Map<R>,
    /// The outcomes of the routers.
    pub(super) findings: Vec<Finding>,
}

/// Returns the entry points of routers that name none: those with `asDefault`, or all but `traefik`. For UDP,
/// all of them.
pub(super) fn default_entry_points(settings: &Settings, udp: bool) -> Vec<String> {
    let all = || settings.entry_points.iter().filter(|(_, point)| point.is_udp() == udp);
    let flagged: Vec<String> =
        all().filter(|(_, point)| point.as_default && !udp).map(|(name, _)| name.clone()).collect();
    if !flagged.is_empty() {
        return flagged;
    }
    all().filter(|(name, _)| udp || *name != "traefik").map(|(name, _)| name.clone()).collect()
}

/// Returns the entry points of a router as indexes in the settings, in the order of `wanted`. The messages
/// about missing ones are Traefik's.
pub(super) fn entry_points(settings: &Settings, wanted: &[String], udp: bool) -> (Vec<usize>, Outcome) {
    let mut indexes = Vec::with_capacity(wanted.len());
    let mut missing = Vec::new();
    for wanted in wanted {
        let mut points = settings.entry_points.iter().enumerate();
        match points.find(|(_, (name, point))| *name == wanted && point.is_udp() == udp) {
            Some((index, _)) if indexes.contains(&index) => {}
            Some((index, _)) => indexes.push(index),
            None => missing.push(format!("entryPoint \"{wanted}\" doesn't exist")),
        }
    }
    let mut outcome = Outcome::default();
    if indexes.is_empty() {
        missing.push("no valid entryPoint for this router".into());
        outcome.errors = missing;
    } else {
        outcome.warnings = missing;
    }
    (indexes, outcome)
}

/// Returns the names of the `wanted` entry points that exist, in the same order.
pub(super) fn existing(settings: &Settings, wanted: &[String], udp: bool) -> Vec<String> {
    let exists = |name: &&String| settings.entry_points.get(*name).is_some_and(|point| point.is_udp() == udp);
    wanted.iter().filter(exists).cloned().collect()
}

/// Rejects priorities that are reserved for the gateway's own routers.
pub(super) fn check_priority(router: &str, priority: i64, outcome: &mut Outcome) {
    if priority > MAX_PRIORITY && provider_of(router) != "internal" {
        outcome.add_error(format!(
            "the router priority {priority} exceeds the max user-defined priority {MAX_PRIORITY}"
        ));
    }
}

/// Builds the middlewares of a router in order. Of several errors, that of the last middleware is reported
/// first, as in Traefik.
pub(super) fn middlewares<M: Component>(
    builder: &Builder<'_>,
    router: &str,
    names: &[String],
    outcome: &mut Outcome,
) -> Vec<(Arc<str>, Arc<M::Instance>)> {
    let mut middlewares = Vec::with_capacity(names.len());
    for name in names.iter().rev() {
        let made = outcome.check(builder.instance_for::<M>(name, router));
        middlewares.extend(made.map(|made| (Arc::from(name.as_str()), made)));
    }
    middlewares.reverse();
    middlewares
}

/// Returns the name of the TLS options that a router refers to.
pub(super) fn options_name(options: &Reference) -> &str {
    if options.is_empty() { DEFAULT_OPTIONS } else { options.as_str() }
}

/// Reports an unknown certificate resolver. As in Traefik, the router is served anyway.
pub(super) fn check_resolver(settings: &Settings, resolver: &str, outcome: &mut Outcome) {
    let known = settings.certificates_resolvers.get(resolver).is_some_and(|known| known.acme.is_some());
    if !resolver.is_empty() && !known {
        outcome.notes.push(format!(
            "Router uses a nonexistent certificate resolver: tls.certResolver `{resolver}` is none of the \
             settings' `certificatesResolvers`"
        ));
    }
}
