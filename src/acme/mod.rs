//! Certificates by ACME (RFC 8555): a consumer of snapshots that has certificates ordered, renewed and served.
//!
//! Each certificate resolver is one task of the control plane (`resolver`). It compares what routers ask for
//! (`wanted`) with what the storage holds (`storage`, `file`), orders what is missing (`order`, over `protocol`), and
//! hands certificates to the TLS store, which serves them at once. Nothing on the request path waits for it.

mod account;
mod admin;
mod backoff;
mod certificate;
mod challenge;
mod client;
mod cluster;
mod consul;
mod dns;
mod error;
mod file;
mod key;
mod managed;
mod on_demand;
mod order;
mod protocol;
mod renewal;
mod resolver;
mod shared;
mod storage;
mod wanted;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_config::router::Router;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::opening::Opening;
use crate::settings::{Acme as Options, DnsChallenge, Settings};
use crate::snapshot::SnapshotHandle;
use crate::tls::Elsewhere;
use challenge::Prover;
use challenge::http::{Http as HttpProver, Shown};
use challenge::tls_alpn::TlsAlpn;
use consul::ConsulStorage;
use file::FileStorage;
use on_demand::OnDemand;
use resolver::{Parts, Resolver};
use shared::Shared;
use storage::Storage;

pub use admin::{Admin, AdminError, Exported};
pub(crate) use challenge::http::{PREFIX as CHALLENGE_PREFIX, Tokens};
pub use cluster::{Leadership, Member};
pub(crate) use consul::places;
pub use error::Error;
pub use shared::Row;

/// Who proves names for a resolver, and where it keeps what it has.
type Parties = (Arc<dyn Prover>, Arc<dyn Storage>);

/// Handshakes that may wait for certificates.
const DEMANDS: usize = 256;

/// What the rest of the gateway sees of certificate resolvers.
#[derive(Clone, Default)]
pub struct Acme {
    tokens: Tokens,
    shared: Arc<std::sync::OnceLock<Arc<Shared>>>,
    /// Storages that other gateways use too.
    in_common: Arc<Mutex<Vec<ConsulStorage>>>,
}

impl Acme {
    /// The service that shows proofs over HTTP.
    pub(crate) fn shown(&self) -> Arc<dyn crate::service::Service> {
        Arc::new(Shown(self.tokens.clone()))
    }

    /// What resolvers hold, and what they lack.
    pub fn rows(&self) -> Vec<Row> {
        self.shared.get().map(|shared| shared.rows()).unwrap_or_default()
    }

    /// Who orders for the resolvers whose storage is shared with other gateways: one entry for each, none where
    /// storages are files.
    pub fn leadership(&self) -> Vec<Leadership> {
        self.in_common.lock().iter().map(ConsulStorage::leadership).collect()
    }

    /// Lets other gateways order from now on.
    pub(crate) async fn stop(&self) {
        let storages = self.in_common.lock().clone();
        for storage in storages {
            storage.stop().await;
        }
    }

    /// Starts all resolvers.
    pub(crate) fn start(
        &self,
        settings: &Settings,
        snapshots: &SnapshotHandle,
        generation: &watch::Receiver<u64>,
        opening: &Arc<Opening>,
        control: &Handle,
    ) {
        let obtained = snapshots.load().tls.obtained().clone();
        let shared = self.shared.get_or_init(|| Shared::new(obtained.clone()));
        let mut storages: HashMap<&str, FileStorage> = HashMap::new();
        let resolvers = &settings.certificates_resolvers;
        let out = |name: &String, why: String| {
            shared.tell(&Arc::from(name.as_str()), vec![Row::of_resolver(name, why)])
        };
        for (name, one) in resolvers.iter().filter(|(_, one)| one.acme.is_none()) {
            out(name, one.out.clone());
        }
        for (name, options) in resolvers.iter().filter_map(|(name, one)| Some((name, one.acme.as_ref()?))) {
            let prover: Arc<dyn Prover> = match self.prover(options, &obtained) {
                Ok(prover) => prover,
                Err(error) => {
                    tracing::error!(resolver = %name, "the certificate resolver cannot work: {error}");
                    out(name, error.to_string());
                    continue;
                }
            };
            let kept = match options.consul_place() {
                Some(_) => self.join(options, name, &prover, &obtained, control),
                None => {
                    let file = storages.entry(&options.storage);
                    let file = file.or_insert_with(|| FileStorage::new(&options.storage));
                    Ok((prover, Arc::new(file.clone()) as Arc<dyn Storage>))
                }
            };
            let (prover, storage) = match kept {
                Ok(kept) => kept,
                Err(error) => {
                    tracing::error!(resolver = %name, "the certificate resolver cannot work: {error}");
                    out(name, error.to_string());
                    continue;
                }
            };
            let (sender, demands) = mpsc::channel(DEMANDS);
            let on_demand = match OnDemand::new(options.on_demand.clone(), sender, shared.changes()) {
                Ok(on_demand) => Arc::new(on_demand),
                Err(error) => {
                    tracing::error!(resolver = %name, "onDemand: {error}");
                    out(name, format!("onDemand: {error}"));
                    continue;
                }
            };
            if on_demand.is_on() {
                obtained.set_on_demand(on_demand.clone());
            }
            let parts = Parts {
                name: Arc::from(name.as_str()),
                options: Arc::new(options.clone()),
                storage,
                prover,
                shared: shared.clone(),
                snapshots: snapshots.clone(),
                generation: generation.clone(),
                demands,
                on_demand,
                hold: Some(opening.hold(format!("certificates of the resolver `{name}`"))),
            };
            control.spawn(Resolver::new(parts).run());
        }
    }

    /// Joins those who share a storage.
    fn join(
        &self,
        options: &Options,
        resolver: &str,
        prover: &Arc<dyn Prover>,
        obtained: &Arc<crate::tls::Obtained>,
        control: &Handle,
    ) -> Result<Parties, Error> {
        let storage = ConsulStorage::new(options, resolver, Some(prover.clone()))?;
        let elsewhere: Arc<dyn Elsewhere> = Arc::new(storage.clone());
        match prover.kind() {
            "http-01" => self.tokens.look_at(elsewhere),
            "tls-alpn-01" => obtained.look_at(&elsewhere),
            _ => {}
        }
        storage.start(control);
        self.in_common.lock().push(storage.clone());
        Ok((storage.shared(prover.clone()), Arc::new(storage)))
    }

    /// The way to prove names: of several the first of DNS, HTTP and TLS, as in Traefik.
    fn prover(
        &self,
        options: &Options,
        obtained: &Arc<crate::tls::Obtained>,
    ) -> Result<Arc<dyn Prover>, Error> {
        if let Some(dns) = &options.dns_challenge {
            return dns::prover(dns);
        }
        if let Some(http) = &options.http_challenge {
            return Ok(Arc::new(HttpProver { tokens: self.tokens.clone(), delay: http.delay.0 }));
        }
        match &options.tls_challenge {
            Some(tls) => Ok(Arc::new(TlsAlpn { obtained: obtained.clone(), delay: tls.delay.0 })),
            None => Err(Error::local("there is no challenge")),
        }
    }
}

/// Names that a router asks a resolver for, and that no certificate can be had for. It serves all the same.
pub(crate) fn wrong_names(settings: &Settings, router: &Router) -> Vec<String> {
    let resolver =
        router.tls.as_ref().and_then(|tls| settings.certificates_resolvers.get(&tls.cert_resolver));
    let Some(acme) = resolver.and_then(|resolver| resolver.acme.as_ref()) else { return Vec::new() };
    let dns = acme.dns_challenge.is_some();
    let names = wanted::of_router(router).into_iter().flatten();
    names.filter_map(|name| wanted::refuse(&wanted::canonical(&name), dns)).collect()
}

/// Checks the options of a DNS challenge, as far as that is possible without asking anybody.
pub(crate) fn check_dns(options: &DnsChallenge) -> Result<(), Error> {
    dns::prover(options).map(drop)
}

/// Runs something that takes a while on a thread of its own.
async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(what).await;
    done.unwrap_or_else(|error| Err(Error::local(error.to_string())))
}
