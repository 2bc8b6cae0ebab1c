//! Services of the gateway's own that a router can name: `api@internal`, `ping@internal`, `noop@internal`.
//!
//! They are reached through routers like any other service: those that the settings ask for (`api.insecure`, `ping`,
//! redirections of entry points) come from a provider called `internal`, further ones from whoever names the service.

mod answers;
mod api;
mod dashboard;
mod provider;
mod rest;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use tidegate_providers::Updates;

use crate::acme::Acme;
use crate::cluster::Cluster;
use crate::configuration::Readiness;
use crate::service::Service;
use crate::settings::Settings;
use crate::snapshot::WeakSnapshotHandle;

pub use provider::provided;

/// Name of the provider of all this.
pub const PROVIDER: &str = "internal";

/// What the gateway's own services look at.
#[derive(Clone)]
pub struct Surroundings {
    /// The settings.
    pub settings: Arc<Settings>,
    /// What is served, from the first snapshot on.
    pub snapshots: Arc<OnceLock<WeakSnapshotHandle>>,
    /// Whether all providers have delivered.
    pub readiness: Arc<Readiness>,
    /// True while the gateway stops.
    pub terminating: Arc<AtomicBool>,
    /// Where the REST provider sends what it is given.
    pub updates: Updates,
    /// Kinds of the providers, as `/api/overview` names them: `File`, `Docker`.
    pub providers: Vec<String>,
    /// Certificate resolvers.
    pub acme: Acme,
    /// The gateways that work together with this one.
    pub cluster: Cluster,
}

/// The services, by qualified name.
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
    if let Some(options) = &around.settings.api {
        add("api", Arc::new(api::Api::new(around.clone(), options)));
        if options.dashboard {
            add("dashboard", Arc::new(dashboard::Dashboard::new(options)));
        }
    }
    services
}
