//! The parts of the API that are not lists of configured objects: version, overview, entry points.

use std::collections::BTreeSet;
use std::time::SystemTime;

use serde_json::{Value, json};
use tidegate_config::{Kind, Origin};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::json::{Object, add, is_listed, members};
use super::{certificates, names};
use crate::acme::Row;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::snapshot::report::Status;

/// `/api/version`.
pub(super) fn version(started: SystemTime) -> Value {
    json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Codename": "tidegate",
        "startDate": OffsetDateTime::from(started).format(&Rfc3339).unwrap_or_default(),
    })
}

/// `/api/overview`.
pub(super) fn overview(snapshot: &Snapshot, settings: &Settings, providers: &[String]) -> Value {
    let mut all = Object::new();
    for section in Kind::ALL.chunk_by(|one, next| one.keys().0 == next.keys().0) {
        let mut object = Object::new();
        for &kind in section.iter().filter(|kind| is_listed(**kind)) {
            add(&mut object, kind.keys().1, count(snapshot, kind));
        }
        if section.iter().any(|kind| is_listed(*kind)) {
            add(&mut all, section[0].keys().0, object);
        }
    }
    let certificates = certificates::all(&snapshot.tls);
    let with = |status| certificates.iter().filter(|certificate| certificate.status == status).count();
    add(&mut all, "certificates", totals(certificates.len(), with("warning"), with("expired")));
    let metrics = metrics(settings);
    let traced = settings.tracing.as_ref().is_some_and(|tracing| tracing.otlp.is_some());
    let tracing = if traced { "OTLP" } else { "" };
    let features =
        json!({"tracing": tracing, "metrics": metrics, "accessLog": settings.access_log.is_some()});
    add(&mut all, "features", features);
    if !providers.is_empty() {
        add(&mut all, "providers", providers);
    }
    all.into()
}

/// Returns the system that gets metrics; the first in Traefik's order if there are several.
fn metrics(settings: &Settings) -> &'static str {
    let Some(options) = &settings.metrics else { return "" };
    let all = [
        ("Prometheus", options.prometheus.is_some()),
        ("Datadog", options.datadog.is_some()),
        ("StatsD", options.stats_d.is_some()),
        ("InfluxDB2", options.influx_db2.is_some()),
        ("OTLP", options.otlp.is_some()),
    ];
    all.into_iter().find(|(_, is_enabled)| *is_enabled).map_or("", |(name, _)| name)
}

/// `/api/problems`, which does not exist in Traefik: all current problems with the place where they were
/// written.
///
/// Excerpts of the source are omitted, since they can contain passwords.
pub(super) fn problems(snapshot: &Snapshot, resolvers: &[Row]) -> Value {
    let mut all = Vec::new();
    for problem in &snapshot.report.problems {
        let mut object = Object::new();
        if let Some(about) = &problem.object {
            add(&mut object, "kind", about.kind.to_string());
            add(&mut object, "name", about.name.as_str());
        }
        add(&mut object, "message", problem.message.as_str());
        add(&mut object, "origin", problem.origin.to_string());
        all.push(object.into());
    }
    // Many names can have the same problem.
    let of_resolvers: BTreeSet<String> = resolvers.iter().filter_map(Row::problem).collect();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let of_lists = snapshot.tls.revocation_lists().filter_map(|list| list.problem(now));
    let of_caches = snapshot.caches.iter().filter_map(|(name, middleware)| {
        let problem = middleware.cache()?.statistics().disk?.problem?;
        Some(format!("middleware {name}: cache: {problem}"))
    });
    for message in of_resolvers.into_iter().chain(of_lists).chain(of_caches) {
        all.push(json!({"message": message, "origin": Origin::Internal.to_string()}));
    }
    all.into()
}

/// Returns one entry point as in the settings.
pub(super) fn entry_point(settings: &Settings, name: &str) -> Option<Value> {
    let mut object = members(settings.entry_points.get(name)?);
    add(&mut object, "name", name);
    Some(object.into())
}

fn count(snapshot: &Snapshot, kind: Kind) -> Value {
    let names = names(snapshot, kind);
    let with = |status: Status| {
        names
            .iter()
            .filter(|name| snapshot.report.object(kind, name).is_some_and(|o| o.status == status))
            .count()
    };
    totals(names.len(), with(Status::Warning), with(Status::Disabled))
}

fn totals(total: usize, warnings: usize, errors: usize) -> Value {
    json!({"total": total, "warnings": warnings, "errors": errors})
}
