//! The routers that a request is compared with, and why each does not match.

use tidegate_config::Kind;
use tidegate_config::router::Router;
use tidegate_core::Request;
use tidegate_core::reference::provider_of;

use super::origin_of;
use super::report::{Candidate, Failed};
use crate::router::unmet;
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// Maximum number of candidates that are listed, those that match first.
const MAX_LISTED: usize = 100;
/// Maximum number of characters of a rule.
const MAX_RULE: usize = 1000;

/// Returns the routers of an entry point for connections with TLS, or without it.
pub(super) fn of_entry_point<'a>(
    snapshot: &'a Snapshot,
    settings: &Settings,
    entry_point: &str,
    is_tls: bool,
) -> Vec<(&'a str, &'a Router)> {
    let all = snapshot.report.config.http.routers.iter();
    let mut found: Vec<(&str, &Router)> = all
        .filter(|(_, router)| {
            router.parent_refs.is_empty()
                && router.tls.is_some() == is_tls
                && router.entry_points.iter().any(|name| name == entry_point)
        })
        .map(|(name, router)| (name.as_str(), &**router))
        .collect();
    let rank = |name: &str| settings.providers.rank(provider_of(name));
    found.sort_by_cached_key(|(name, router)| (std::cmp::Reverse(router.priority), rank(name), *name));
    found
}

/// Returns the child routers of a router.
pub(super) fn of_parent<'a>(snapshot: &'a Snapshot, parent: &str) -> Vec<(&'a str, &'a Router)> {
    let all = snapshot.report.config.http.routers.iter();
    let mut found: Vec<(&str, &Router)> = all
        .filter(|(_, router)| router.parent_refs.iter().any(|name| name == parent))
        .map(|(name, router)| (name.as_str(), &**router))
        .collect();
    found.sort_by_key(|(name, router)| (std::cmp::Reverse(router.priority), *name));
    found
}

/// Compares routers with a request; `chosen` is the one that handles it. Returns the candidates, and the number of
/// those that are not listed.
pub(super) fn compare(
    snapshot: &Snapshot,
    routers: &[(&str, &Router)],
    request: &Request,
    chosen: Option<&str>,
) -> (Vec<Candidate>, usize) {
    let mut left = MAX_LISTED;
    let mut candidates = Vec::new();
    let mut others = Vec::new();
    for (place, (name, router)) in routers.iter().enumerate() {
        let failed = match unmet(&router.rule, request) {
            Ok(None) => None,
            Ok(Some(unmet)) => Some(Failed { condition: unmet.condition, because: unmet.because }),
            Err(error) => Some(Failed { condition: shortened(&router.rule), because: error.to_string() }),
        };
        let list = if failed.is_none() { &mut candidates } else { &mut others };
        if list.len() < MAX_LISTED {
            list.push((place, candidate(snapshot, name, router, chosen, failed)));
        }
    }
    left -= candidates.len();
    others.truncate(left);
    candidates.append(&mut others);
    candidates.sort_by_key(|(place, _)| *place);
    let omitted = routers.len() - candidates.len();
    (candidates.into_iter().map(|(_, candidate)| candidate).collect(), omitted)
}

fn candidate(
    snapshot: &Snapshot,
    name: &str,
    router: &Router,
    chosen: Option<&str>,
    failed: Option<Failed>,
) -> Candidate {
    let report = snapshot.report.object(Kind::Router, name);
    Candidate {
        router: name.to_owned(),
        rule: shortened(&router.rule),
        priority: router.priority,
        matches: failed.is_none(),
        chosen: chosen == Some(name),
        failed,
        status: report.map_or("disabled", |report| report.status.as_str()),
        origin: origin_of(snapshot, Kind::Router, name),
    }
}

fn shortened(rule: &str) -> String {
    match rule.char_indices().nth(MAX_RULE) {
        Some((at, _)) => format!("{}…", &rule[..at]),
        None => rule.to_owned(),
    }
}
