//! Attaches routers to entry points and applies the defaults of these entry points.
//!
//! A router that names no entry point is attached to the default ones. An entry point may define middlewares,
//! TLS and observability for its routers (its model). A router attached to such an entry point and to another
//! one is split, and the copy for that entry point is called `<entry point>-<router>`, as in Traefik.

use std::collections::BTreeMap;

use tidegate_config::Map;
use tidegate_config::router::{Observability, Router};
use tidegate_core::reference::{self, Name as _, Target, is_plain, provider_of};

use super::diagnostics::Outcome;
use super::routers::{default_entry_points, entry_points};
use crate::settings::{EncodedCharacters, EntryPoint, EntryPointObservability, Settings, is_named};

/// A router with the defaults of its entry points applied and names qualified.
pub(super) struct Attached {
    /// Qualified name.
    pub(super) name: String,
    /// Name of the configured router that this one was derived from.
    pub(super) source: String,
    /// The router.
    pub(super) router: Router,
    /// Indexes of its entry points in the settings; missing ones are left out.
    pub(super) entry_points: Vec<usize>,
    /// Errors and warnings about its entry points.
    pub(super) outcome: Outcome,
}

/// Attaches every router of a merged configuration.
pub(super) fn attach(settings: &Settings, routers: &Map<Router>) -> Vec<Attached> {
    let defaults = default_entry_points(settings, false);
    let mut split = BTreeMap::new();
    let mut attached: Vec<Attached> = Vec::with_capacity(routers.len());
    for (name, router) in routers {
        let mut router = Router::clone(router);
        let provider = provider_of(name);
        if !router.parent_refs.is_empty() {
            let (name, source) = (name.clone(), name.clone());
            let (entry_points, outcome) = (Vec::new(), Outcome::default());
            attached.push(Attached { name, source, router, entry_points, outcome });
            continue;
        }
        if router.entry_points.is_empty() {
            router.entry_points.clone_from(&defaults);
        }
        let mut ineffective = ineffective_skips(settings, &router, provider);
        ineffective.extend(unknown_verbosity(&router));
        let parts = split_by_model(settings, name, router);
        if parts.len() > 1 {
            split.insert(name.clone(), parts.iter().map(|(part, _)| part.clone()).collect::<Vec<_>>());
        }
        attached.extend(parts.into_iter().map(|(part, router)| {
            let (entry_points, mut outcome) = entry_points(settings, &router.entry_points, false);
            outcome.warnings.extend(ineffective.iter().cloned());
            Attached { name: part, source: name.clone(), router, entry_points, outcome }
        }));
    }
    for child in attached.iter_mut().filter(|router| !router.router.parent_refs.is_empty()) {
        let refs = std::mem::take(&mut child.router.parent_refs);
        child.router.parent_refs = refs
            .into_iter()
            .flat_map(|parent| split.get(&parent).cloned().unwrap_or_else(|| vec![parent]))
            .collect();
    }
    attached
}

/// Splits a router: one part for each entry point with a model, and one for all others.
fn split_by_model(settings: &Settings, name: &str, mut router: Router) -> Vec<(String, Router)> {
    let wanted = std::mem::take(&mut router.entry_points);
    let several = wanted.len() > 1;
    let mut parts = Vec::with_capacity(1);
    let mut rest = Vec::new();
    for entry_point in wanted {
        match settings.entry_points.get(&entry_point) {
            Some(point) if has_model(point) => {
                let part = if several { format!("{entry_point}-{name}") } else { name.to_owned() };
                let mut copy = with_model(point, router.clone(), provider_of(name));
                copy.entry_points = vec![entry_point];
                parts.push((part, copy));
            }
            _ => rest.push(entry_point),
        }
    }
    if !rest.is_empty() || parts.is_empty() {
        router.observability =
            Some(filled(&EntryPointObservability::default(), router.observability.as_ref()));
        router.entry_points = rest;
        parts.push((name.to_owned(), router));
    }
    parts
}

fn has_model(point: &EntryPoint) -> bool {
    !point.http.middlewares.is_empty()
        || point.http.tls.is_some()
        || point
            .http
            .encoded_characters
            .as_ref()
            .is_some_and(|allowed| *allowed != EncodedCharacters::default())
        || point.observability != EntryPointObservability::default()
}

/// Adds the model of an entry point to a router. Plain names in the model refer to objects of the router's
/// provider.
fn with_model(point: &EntryPoint, mut router: Router, provider: &str) -> Router {
    if router.tls.is_none() {
        router.tls.clone_from(&point.http.tls);
    }
    let own = std::mem::take(&mut router.middlewares);
    router.middlewares = point.http.middlewares.clone();
    reference::qualify(&mut router, provider);
    router.middlewares.retain(|name| {
        !router.skip_middlewares.iter().any(|skipped| is_named(name, skipped)) || point.http.requires(name)
    });
    router.middlewares.extend(own);
    router.observability = Some(filled(&point.observability, router.observability.as_ref()));
    router
}

/// Returns a warning for a word that no `traceVerbosity` has.
fn unknown_verbosity(router: &Router) -> Option<String> {
    let error = router.observability.as_ref()?.trace_verbosity.meaning().err()?;
    Some(format!("observability.traceVerbosity: {error}: only the fewest spans are created"))
}

/// Returns warnings for names in `skipMiddlewares` that have no effect, because none of the router's entry
/// points has such a middleware or one of them requires it.
fn ineffective_skips(settings: &Settings, router: &Router, provider: &str) -> Vec<String> {
    let points = || router.entry_points.iter().filter_map(|name| settings.entry_points.get(name));
    let known = || points().flat_map(|point| &point.http.middlewares).map(String::as_str);
    let plain = |name: &str| name.split('@').next().unwrap_or("").to_owned();
    let is_known = |skipped: &&String| {
        known().any(|name| is_named(name, skipped) || (!name.contains('@') && plain(skipped) == name))
    };
    let names: Vec<String> = known().map(plain).collect();
    let message = |skipped: &String| {
        let hint = match tidegate_core::expression::nearest(&plain(skipped), names.iter().map(String::as_str))
        {
            Some(name) => format!("did you mean `{name}`?"),
            None => "it has no effect".to_owned(),
        };
        format!("skipMiddlewares: no entry point of this router has a middleware `{skipped}`: {hint}")
    };
    let unknown = router.skip_middlewares.iter().filter(|name| *name != "*" && !is_known(name)).map(message);
    let places = router.entry_points.iter().filter_map(|name| Some((name, settings.entry_points.get(name)?)));
    let required = places.flat_map(|(place, point)| {
        let skipped = |name: &str| router.skip_middlewares.iter().any(|skipped| is_named(name, skipped));
        let names = point.http.middlewares.iter().map(|name| qualified(name, provider));
        let kept = names.filter(move |name| skipped(name) && point.http.requires(name));
        kept.map(move |name| {
            format!(
                "skipMiddlewares: cannot skip `{name}`: the entry point `{place}` requires it (http.requiredMiddlewares)"
            )
        })
    });
    unknown.chain(required).collect()
}

/// Qualifies a name in the settings of an entry point for a router of `provider`.
fn qualified(name: &str, provider: &str) -> String {
    let mut name = name.to_owned();
    if is_plain(Target::Middleware, &name) {
        name.qualify(provider);
    }
    name
}

fn filled(defaults: &EntryPointObservability, own: Option<&Observability>) -> Observability {
    let all = defaults.for_router(own);
    Observability {
        access_logs: Some(all.access_logs),
        metrics: Some(all.metrics),
        tracing: Some(all.tracing),
        trace_verbosity: all.trace_verbosity,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn settings(points: &[(&str, EntryPoint)]) -> Settings {
        let entry_points = points.iter().map(|(name, point)| ((*name).to_owned(), point.clone())).collect();
        Settings { entry_points, ..Settings::default() }
    }

    fn names(attached: &[Attached]) -> Vec<(&str, Vec<&str>)> {
        attached
            .iter()
            .map(|a| (a.name.as_str(), a.router.entry_points.iter().map(String::as_str).collect()))
            .collect()
    }

    #[test]
    fn a_router_without_entry_points_gets_the_default_ones() {
        let udp = EntryPoint { address: ":1/udp".into(), ..EntryPoint::default() };
        let plain = EntryPoint::default();
        let all =
            settings(&[("traefik", plain.clone()), ("u", udp), ("web", plain.clone()), ("x", plain.clone())]);
        assert_eq!(default_entry_points(&all, false), ["web", "x"]);
        let flagged = EntryPoint { as_default: true, ..EntryPoint::default() };
        assert_eq!(default_entry_points(&settings(&[("a", plain), ("b", flagged)]), false), ["b"]);
    }

    #[test]
    fn a_router_is_split_by_entry_points_with_a_model() {
        let mut secure = EntryPoint::default();
        secure.http.tls = Some(Default::default());
        secure.http.middlewares = vec!["m@docker".into(), "n".into()];
        let settings = settings(&[("secure", secure), ("web", EntryPoint::default())]);
        let router = Router { middlewares: vec!["own@file".into()], ..Router::default() };
        let attached = attach(&settings, &Map::from([("r@file".to_owned(), Arc::new(router))]));
        assert_eq!(names(&attached), [("secure-r@file", vec!["secure"]), ("r@file", vec!["web"])]);
        assert_eq!(attached[0].router.middlewares, ["m@docker", "n@file", "own@file"]);
        assert!(attached[0].router.tls.is_some() && attached[1].router.tls.is_none());
    }

    #[test]
    fn an_unknown_verbosity_of_traces_is_reported() {
        let settings = settings(&[("web", EntryPoint::default())]);
        let warnings = |word: &str| {
            let observability = Observability { trace_verbosity: word.into(), ..Observability::default() };
            let router = Router { observability: Some(observability), ..Router::default() };
            attach(&settings, &Map::from([("r@file".to_owned(), Arc::new(router))]))
                .remove(0)
                .outcome
                .warnings
        };
        assert!(warnings("Detailed").is_empty() && warnings("").is_empty());
        assert_eq!(
            warnings("all"),
            [
                "observability.traceVerbosity: `all` is unknown: expected `minimal` or `detailed`: only the fewest spans are created"
            ]
        );
    }

    #[test]
    fn routers_can_skip_middlewares_of_their_entry_point() {
        let mut point = EntryPoint::default();
        point.http.middlewares = vec!["auth@file".into(), "limit@docker".into(), "own".into()];
        let settings = settings(&[("web", point)]);
        let attached = |skipped: &[&str]| {
            let router = Router {
                middlewares: vec!["auth@file".into()],
                skip_middlewares: skipped.iter().map(|name| (*name).to_owned()).collect(),
                ..Router::default()
            };
            attach(&settings, &Map::from([("r@file".to_owned(), Arc::new(router))])).remove(0)
        };
        for (skipped, left) in [
            (&[][..], &["auth@file", "limit@docker", "own@file", "auth@file"][..]),
            (&["*"], &["auth@file"]),
            (&["auth", "own"], &["limit@docker", "auth@file"]),
            (&["limit@docker", "own@file"], &["auth@file", "auth@file"]),
        ] {
            let attached = attached(skipped);
            assert_eq!(attached.router.middlewares, left, "{skipped:?}");
            assert!(attached.outcome.warnings.is_empty(), "{skipped:?}");
        }
        assert_eq!(
            attached(&["limit@file", "auht"]).outcome.warnings,
            [
                "skipMiddlewares: no entry point of this router has a middleware `limit@file`: did you mean `limit`?",
                "skipMiddlewares: no entry point of this router has a middleware `auht`: did you mean `auth`?",
            ]
        );
    }

    #[test]
    fn routers_cannot_skip_required_middlewares() {
        let mut point = EntryPoint::default();
        point.http.middlewares = vec!["auth@file".into(), "limit@docker".into(), "own".into()];
        let attached = |required: &[&str], skipped: &str| {
            let mut point = point.clone();
            point.http.required_middlewares = required.iter().map(|name| (*name).to_owned()).collect();
            let router = Router { skip_middlewares: vec![skipped.into()], ..Router::default() };
            let settings = settings(&[("web", point)]);
            attach(&settings, &Map::from([("r@file".to_owned(), Arc::new(router))])).remove(0)
        };
        for (required, skipped, left, warned) in [
            (&["auth"][..], "*", &["auth@file"][..], &["auth@file"][..]),
            (&["auth@file"], "auth@file", &["auth@file", "limit@docker", "own@file"], &["auth@file"]),
            (&["auth@docker"], "auth", &["limit@docker", "own@file"], &[]),
            (&["own"], "own@file", &["auth@file", "limit@docker", "own@file"], &["own@file"]),
            (&["*"], "limit", &["auth@file", "limit@docker", "own@file"], &["limit@docker"]),
        ] {
            let attached = attached(required, skipped);
            assert_eq!(attached.router.middlewares, left, "{required:?} {skipped}");
            let message = |name: &&str| {
                format!(
                    "skipMiddlewares: cannot skip `{name}`: the entry point `web` requires it (http.requiredMiddlewares)"
                )
            };
            assert_eq!(
                attached.outcome.warnings,
                warned.iter().map(message).collect::<Vec<_>>(),
                "{required:?}"
            );
        }
    }

    #[test]
    fn a_router_on_one_entry_point_with_a_model_keeps_its_name() {
        let mut secure = EntryPoint::default();
        secure.http.tls = Some(Default::default());
        let settings = settings(&[("secure", secure), ("web", EntryPoint::default())]);
        let router = Router { entry_points: vec!["secure".into()], ..Router::default() };
        let attached = attach(&settings, &Map::from([("r@file".to_owned(), Arc::new(router))]));
        assert_eq!(names(&attached), [("r@file", vec!["secure"])]);
    }

    #[test]
    fn unknown_entry_points_are_reported() {
        let settings = settings(&[("web", EntryPoint::default())]);
        let router = Router { entry_points: vec!["nope".into()], ..Router::default() };
        let attached = attach(&settings, &Map::from([("r@file".to_owned(), Arc::new(router))]));
        let expected = ["entryPoint \"nope\" doesn't exist", "no valid entryPoint for this router"];
        assert_eq!(attached[0].outcome.errors, expected);
        assert!(attached[0].entry_points.is_empty());
    }
}
