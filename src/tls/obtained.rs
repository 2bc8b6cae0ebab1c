//! Certificates obtained at run time by certificate resolvers, and the configurations for their challenges.
//!
//! They outlive snapshots and change independently of them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tidegate_acme::{Certificate, Elsewhere, Handshakes, OnDemand};

use super::certificates::{Certificates, with_issuers};

/// Certificates of resolvers, and current challenges.
#[derive(Default)]
pub(crate) struct Obtained {
    certificates: ArcSwap<Published>,
    /// By server name.
    proofs: ArcSwap<HashMap<String, Arc<ServerConfig>>>,
    on_demand: ArcSwapOption<OnDemand>,
    /// Where unknown proofs are looked up.
    elsewhere: ArcSwap<Vec<Arc<dyn Elsewhere>>>,
}

impl std::fmt::Debug for Obtained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Obtained").finish_non_exhaustive()
    }
}

/// The certificates being served.
#[derive(Default)]
pub(super) struct Published {
    pub(super) certificates: Certificates,
    pub(super) leaves: Vec<CertificateDer<'static>>,
    pub(super) with_issuers: Vec<Arc<CertifiedKey>>,
}

impl Obtained {
    pub(super) fn on_demand(&self) -> Option<Arc<OnDemand>> {
        self.on_demand.load_full()
    }

    fn proof(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.proofs.load().get(name).cloned()
    }

    /// Returns the proof for this name, which another gateway may have presented.
    pub(super) async fn find_proof(&self, name: &str) -> Option<Arc<ServerConfig>> {
        if let Some(proof) = self.proof(name) {
            return Some(proof);
        }
        for place in self.elsewhere.load_full().iter() {
            place.look().await;
            if let Some(proof) = self.proof(name) {
                return Some(proof);
            }
        }
        None
    }

    pub(super) fn served(&self) -> arc_swap::Guard<Arc<Published>> {
        self.certificates.load()
    }
}

impl Handshakes for Obtained {
    fn publish(&self, certificates: &[&Certificate], default: Option<&Certificate>) {
        let mut published = Published {
            with_issuers: with_issuers(certificates.iter().map(|one| &one.key)),
            ..Published::default()
        };
        for one in certificates {
            published.certificates.add(&one.names, &one.key);
            published.leaves.extend(one.key.cert.first().cloned());
        }
        published.certificates.default = default.map(|one| one.key.clone());
        self.certificates.store(Arc::new(published));
    }

    fn show(&self, server_name: &str, challenge: Arc<ServerConfig>) {
        self.proofs.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            shown.insert(server_name.to_owned(), challenge.clone());
            shown
        });
    }

    fn hide(&self, server_name: &str) {
        self.proofs.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            shown.remove(server_name);
            shown
        });
    }

    fn look_at(&self, elsewhere: Arc<dyn Elsewhere>) {
        self.elsewhere.rcu(|known| {
            let mut known = Vec::clone(known);
            known.push(elsewhere.clone());
            known
        });
    }

    fn set_on_demand(&self, on_demand: Arc<OnDemand>) {
        self.on_demand.store(Some(on_demand));
    }
}
