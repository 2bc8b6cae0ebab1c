//! The parts of the API that are not lists of configured objects: version, overview, entry points.

use std::collections::BTreeSet;
use std::time::SystemTime;

use tidegate_config::{Kind, Origin};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::json::{Object, is_listed};
use super::{certificates, names};
use crate::acme::Row;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::snapshot::report::Status;

/// `/api/version`.
pub(super) fn version(started: SystemTime) -> String {
    let mut object = Object::new();
    object.member("Version", env!("CARGO_PKG_VERSION"));
    object.member("Codename", "tidegate");
    object.member("startDate", &OffsetDateTime::from(started).format(&Rfc3339).unwrap_or_default());
    object.finish()
}

/// `/api/overview`.
pub(super) fn overview(snapshot: &Snapshot, settings: &Settings, providers: &[String]) -> String {
    let mut all = Object::new();
    for section in Kind::ALL.chunk_by(|one, next| one.keys().0 == next.keys().0) {
        let mut object = Object::new();
        for &kind in section.iter().filter(|kind| is_listed(**kind)) {
            object.raw(kind.keys().1, &count(snapshot, kind));
        }
        if section.iter().any(|kind| is_listed(*kind)) {
            all.raw(section[0].keys().0, &object.finish());
        }
    }
    let certificates = certificates::all(&snapshot.tls);
    let with = |status| certificates.iter().filter(|certificate| certificate.status == status).count();
    all.raw("certificates", &totals(certificates.len(), with("warning"), with("expired")));
    let mut features = Object::new();
    features.member("tracing", "");
    features.member("metrics", "");
    features.member("accessLog", &settings.access_log.is_some());
    all.raw("features", &features.finish());
    if !providers.is_empty() {
        all.member("providers", providers);
    }
    all.finish()
}

/// `/api/problems`, which does not exist in Traefik: all current problems with the place where they were
/// written.
///
/// Excerpts of the source are omitted, since they can contain passwords.
pub(super) fn problems(snapshot: &Snapshot, resolvers: &[Row]) -> String {
    let mut texts = Vec::new();
    for problem in &snapshot.report.problems {
        let mut object = Object::new();
        if let Some(about) = &problem.object {
            object.member("kind", &about.kind.to_string());
            object.member("name", &about.name);
        }
        object.member("message", &problem.message);
        object.member("origin", &problem.origin.to_string());
        texts.push(object.finish());
    }
    // Many names can have the same problem.
    let of_resolvers: BTreeSet<String> = resolvers.iter().filter_map(Row::problem).collect();
    for message in of_resolvers {
        let mut object = Object::new();
        object.member("message", &message);
        object.member("origin", &Origin::Internal.to_string());
        texts.push(object.finish());
    }
    format!("[{}]", texts.join(","))
}

/// Returns one entry point as in the settings.
pub(super) fn entry_point(settings: &Settings, name: &str) -> Option<String> {
    let mut object = Object::of(settings.entry_points.get(name)?);
    object.member("name", name);
    Some(object.finish())
}

fn count(snapshot: &Snapshot, kind: Kind) -> String {
    let names = names(snapshot, kind);
    let with = |status: Status| {
        names
            .iter()
            .filter(|name| snapshot.report.object(kind, name).is_some_and(|o| o.status == status))
            .count()
    };
    totals(names.len(), with(Status::Warning), with(Status::Disabled))
}

fn totals(total: usize, warnings: usize, errors: usize) -> String {
    let mut object = Object::new();
    object.member("total", &total);
    object.member("warnings", &warnings);
    object.member("errors", &errors);
    object.finish()
}
