//! Certificate resolvers in the gateway: what snapshots ask them for, and how what they obtain is served.

mod wanted;

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tidegate_config::router::Router;
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use tidegate_acme::{Acme, Admin, AdminError, Leadership, Member, Row};
pub(crate) use tidegate_acme::{CHALLENGE_PREFIX, places};
use tidegate_acme::{ChallengeResponder, Configuration, Surroundings, Wanted, canonical, refuse};

use crate::opening::Opening;
use crate::service::Service;
use crate::settings::Settings;
use crate::snapshot::SnapshotHandle;

/// Starts all resolvers of these settings.
pub(crate) fn start(
    acme: &Acme,
    settings: &Settings,
    snapshots: &SnapshotHandle,
    generation: &watch::Receiver<u64>,
    opening: &Arc<Opening>,
    control: &Handle,
) {
    let resolvers = settings.certificates_resolvers.iter();
    let resolvers = resolvers.map(|(name, one)| (name.as_str(), one.acme.as_ref().ok_or(one.out.as_str())));
    let around = Surroundings {
        configuration: Arc::new(Snapshots { handle: snapshots.clone(), generation: generation.clone() }),
        handshakes: snapshots.load().tls.obtained().clone(),
        hold: &|what| Box::new(opening.hold(what)),
        control,
    };
    acme.start(resolvers, &around);
}

/// The current snapshot, as resolvers see it.
struct Snapshots {
    handle: SnapshotHandle,
    generation: watch::Receiver<u64>,
}

impl Configuration for Snapshots {
    fn wanted(&self, resolver: &str, known: Option<u64>) -> Option<(u64, Vec<Wanted>)> {
        let snapshot = self.handle.load();
        let is_new = known != Some(snapshot.generation);
        is_new.then(|| (snapshot.generation, wanted::wanted(&snapshot.report.config, resolver)))
    }

    fn configured(&self, name: &str) -> Option<CertificateDer<'static>> {
        self.handle.load().tls.configured(name)
    }

    fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }
}

/// `acme-http@internal`.
impl Service for ChallengeResponder {
    fn is_up(&self) -> bool {
        true
    }
}

/// Returns why no certificate can be had for names that a router asks a resolver for. The router serves all the same.
pub(crate) fn wrong_names(settings: &Settings, router: &Router) -> Vec<String> {
    let resolver =
        router.tls.as_ref().and_then(|tls| settings.certificates_resolvers.get(&tls.cert_resolver));
    let Some(acme) = resolver.and_then(|resolver| resolver.acme.as_ref()) else { return Vec::new() };
    let dns = acme.dns_challenge.is_some();
    let names = wanted::of_router(router).into_iter().flatten();
    names.filter_map(|name| refuse(&canonical(&name), dns)).collect()
}
