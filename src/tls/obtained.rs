//! Certificates that come while the gateway runs: those of certificate resolvers, and the proofs that they need.
//!
//! It outlives snapshots, and is changed without making one.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use tidegate_core::{BoxFuture, BuildError};

use super::certificates::{Certificates, Loaded, load};

/// The protocol that a certificate authority asks for when it looks at a proof (RFC 8737 section 6.2).
pub(crate) const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// Certificates of resolvers, and the proofs that are shown now.
#[derive(Default)]
pub(crate) struct Obtained {
    certificates: ArcSwap<Published>,
    /// By server name.
    proofs: ArcSwap<HashMap<String, Arc<ServerConfig>>>,
    on_demand: ArcSwapOption<Arc<dyn OnDemand>>,
    /// Where proofs are looked for that are not known here.
    elsewhere: ArcSwap<Vec<Arc<dyn Elsewhere>>>,
}

impl std::fmt::Debug for Obtained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Obtained").finish_non_exhaustive()
    }
}

/// What is served.
#[derive(Default)]
pub(super) struct Published {
    pub(super) certificates: Certificates,
    pub(super) leaves: Vec<CertificateDer<'static>>,
    pub(super) with_issuers: Vec<Arc<CertifiedKey>>,
}

/// A certificate that can be served.
#[derive(Clone)]
pub(crate) struct Usable(Arc<Loaded>);

/// Obtains certificates for names that nobody has configured.
pub(crate) trait OnDemand: Send + Sync {
    /// Returns when there is a certificate for the name (`is_there` says so), or will be none for now.
    fn wait_for<'a>(&'a self, name: &'a str, is_there: &'a (dyn Fn() -> bool + Sync)) -> BoxFuture<'a, ()>;
}

/// Proofs that another gateway may have presented.
pub(crate) trait Elsewhere: Send + Sync {
    /// Looks for them now. When it returns, what there is is shown here too.
    fn look(&self) -> BoxFuture<'_, ()>;
}

impl Usable {
    /// Checks that chain and key (PEM) belong together.
    pub(crate) fn load(chain: &str, key: &str) -> Result<Self, BuildError> {
        let mut no_files = |_: &str| Err(BuildError::new("expected PEM"));
        load(chain, key, &mut no_files).map(|loaded| Self(Arc::new(loaded)))
    }
}

impl Obtained {
    /// Replaces what is served. The first for a name wins. `default` is for clients whose name fits no certificate.
    pub(crate) fn publish<'a>(&self, all: impl Iterator<Item = &'a Usable>, default: Option<&Usable>) {
        let mut published = Published::default();
        let all: Vec<&Usable> = all.collect();
        published.with_issuers = super::with_issuers(all.iter().map(|Usable(loaded)| loaded));
        for Usable(loaded) in all {
            published.certificates.add(loaded);
            published.leaves.extend(loaded.key.cert.first().cloned());
        }
        published.certificates.default = default.map(|Usable(loaded)| loaded.key.clone());
        self.certificates.store(Arc::new(published));
    }

    /// Shows a proof to handshakes for this name that ask for [`ACME_PROTOCOL`].
    pub(crate) fn show(&self, name: &str, proof: Arc<ServerConfig>) {
        self.proofs.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            shown.insert(name.to_owned(), proof.clone());
            shown
        });
    }

    /// Shows it no longer.
    pub(crate) fn hide(&self, name: &str) {
        self.proofs.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            shown.remove(name);
            shown
        });
    }

    /// Sets who is asked for names without a certificate.
    pub(crate) fn set_on_demand(&self, on_demand: Arc<dyn OnDemand>) {
        self.on_demand.store(Some(Arc::new(on_demand)));
    }

    pub(super) fn on_demand(&self) -> Option<Arc<Arc<dyn OnDemand>>> {
        self.on_demand.load_full()
    }

    fn proof(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.proofs.load().get(name).cloned()
    }

    /// Has proofs that are not known looked for there.
    pub(crate) fn look_at(&self, elsewhere: &Arc<dyn Elsewhere>) {
        self.elsewhere.rcu(|known| {
            let mut known = Vec::clone(known);
            known.push(elsewhere.clone());
            known
        });
    }

    /// The proof for this name, which another gateway may have presented.
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
