//! The gateway's own services: `api@internal`, `ping@internal`, `noop@internal`.
//!
//! They are reached through routers like any other service. The routers for settings (`api.insecure`, `ping`,
//! redirections of entry points) belong to a provider called `internal`; users can define others.

mod answers;
mod api;
mod dashboard;
mod debug;
mod jwks;
mod prometheus;
mod provider;
mod rest;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use tidegate_providers::Updates;

use crate::acme::Acme;
use crate::announcements::Announcements;
use crate::cluster::Cluster;
use crate::configuration::Readiness;
use crate::identity::Announcer;
use crate::maintenance::Switches;
use crate::observability::metrics::Metrics;
use crate::observability::requests::live::Live;
use crate::observability::{AuditLog, Requests, Statistics};
use crate::service::Service;
use crate::settings::Settings;
use crate::snapshot::WeakSnapshotHandle;

pub use debug::Runtimes;
pub use provider::provided;

/// Name of the provider.
pub const PROVIDER: &str = "internal";

/// What the gateway's own services depend on.
#[derive(Clone)]
pub struct Surroundings {
    /// The settings.
    pub settings: Arc<Settings>,
    /// The active snapshots.
    pub snapshots: Arc<OnceLock<WeakSnapshotHandle>>,
    /// Whether all providers have delivered.
    pub readiness: Arc<Readiness>,
    /// True during shutdown.
    pub terminating: Arc<AtomicBool>,
    /// Receives configurations sent to the REST provider.
    pub updates: Updates,
    /// Kinds of the providers, as in `/api/overview`: `File`, `Docker`.
    pub providers: Vec<String>,
    /// Certificate resolvers.
    pub acme: Acme,
    /// The members of the cluster.
    pub cluster: Cluster,
    /// What members tell each other.
    pub(crate) announcements: Announcements,
    /// What tells servers who the client is.
    pub announcer: Option<Arc<Announcer>>,
    /// Metrics, if there are any.
    pub metrics: Option<Arc<Metrics>>,
    /// The audit log, if there is one.
    pub audit: Option<Arc<AuditLog>>,
    /// Recent requests, if they are recorded.
    pub requests: Option<Arc<Requests>>,
    /// Who reads requests as they end.
    pub live: Option<Arc<Live>>,
    /// Statistics of requests, if there are any.
    pub statistics: Option<Arc<Statistics>>,
    /// The runtimes and connections, for `api.debug`.
    pub runtimes: Arc<Runtimes>,
    /// The routers that operators have put in maintenance.
    pub maintenance: Arc<Switches>,
}

/// Returns the services by qualified name.
pub fn services(around: &Surroundings) -> BTreeMap<String, Arc<dyn Service>> {
    let mut services: BTreeMap<String, Arc<dyn Service>> = BTreeMap::new();
    let mut add = |name: &str, service: Arc<dyn Service>| {
        services.insert(format!("{name}@{PROVIDER}"), service);
    };
    add("noop", Arc::new(answers::Noop));
    if around.settings.certificates_resolvers.values().any(|one| one.http_entry_point().is_some()) {
        add("acme-http", Arc::new(around.acme.responder()));
    }
    if let Some(ping) = &around.settings.ping {
        add("ping", Arc::new(answers::Ping::new(ping.terminating_status_code, around.terminating.clone())));
        add("ready", Arc::new(answers::Ready::new(around.readiness.clone(), around.terminating.clone())));
    }
    let senders: Vec<Arc<str>> = around.settings.providers.rest().map(|(name, _)| name.into()).collect();
    if !senders.is_empty() {
        add("rest", Arc::new(rest::RestEndpoint::new(senders, around.updates.clone())));
    }
    if let Some(announcer) = around.announcer.as_ref().filter(|one| one.public_keys().is_some()) {
        add("jwks", Arc::new(jwks::Jwks::new(announcer.clone())));
    }
    if let Some(metrics) = around.metrics.as_ref().filter(|metrics| metrics.is_scraped()) {
        let endpoint = prometheus::PrometheusEndpoint::new(metrics.clone(), around.snapshots.clone());
        add("prometheus", Arc::new(endpoint));
    }
    if let Some(options) = &around.settings.api {
        add("api", Arc::new(api::Api::new(around.clone(), options)));
        if options.dashboard {
            add("dashboard", Arc::new(dashboard::Dashboard::new(options)));
        }
    }
    services
}
