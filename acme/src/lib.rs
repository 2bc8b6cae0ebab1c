//! Certificates by ACME (RFC 8555): takes wanted names, and has certificates ordered, renewed and served.
//!
//! Each certificate resolver is one task of the control plane (`resolver`). It compares what the configuration asks for
//! ([`Configuration`]) with what the storage holds (`storage`, `file`), orders what is missing (`order`, with the library
//! instant-acme over `transport`), and hands certificates to the gateway, which serves them at once ([`Handshakes`]).
//! Nothing on the request path waits for it.

mod account;
mod admin;
mod authority;
mod backoff;
mod certificate;
mod challenge;
mod client;
mod cluster;
mod consul;
mod dns;
mod error;
mod file;
mod handshakes;
mod jws;
mod key;
mod managed;
mod names;
mod on_demand;
pub mod options;
mod order;
mod renewal;
mod resolver;
mod shared;
mod storage;
mod transport;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use challenge::Prover;
use challenge::http::{Http as HttpProver, Tokens};
use challenge::tls_alpn::TlsAlpn;
use consul::ConsulStorage;
use file::FileStorage;
use options::Acme as Options;
use resolver::{Parts, Resolver};
use shared::Shared;
use storage::Storage;

pub use admin::{Admin, AdminError, Exported};
pub use certificate::Certificate;
pub use challenge::http::{ChallengeResponder, PREFIX as CHALLENGE_PREFIX};
pub use cluster::{Leadership, Member};
pub use consul::places;
pub use dns::{check as check_dns, table as dns_providers};
pub use error::Error;
pub use handshakes::{ACME_PROTOCOL, Configuration, Elsewhere, Handshakes};
pub use names::{Wanted, canonical, refuse};
pub use on_demand::OnDemand;
pub use shared::{Numbers, Row};

/// A resolver's prover of names, and its storage.
type Parties = (Arc<dyn Prover>, Arc<dyn Storage>);

/// Makes clients wait until it is dropped.
pub type Hold = Box<dyn Any + Send + Sync>;

/// Maximum number of handshakes that wait for certificates.
const MAX_DEMANDS: usize = 256;

/// The certificate resolvers, as the rest of the gateway sees them.
#[derive(Clone, Default)]
pub struct Acme {
    tokens: Tokens,
    shared: Arc<OnceLock<Arc<Shared>>>,
    /// Storages that are shared with other gateways.
    in_common: Arc<Mutex<Vec<ConsulStorage>>>,
}

/// The environment of resolvers.
pub struct Surroundings<'a> {
    /// The source of wanted names.
    pub configuration: Arc<dyn Configuration>,
    /// Serves the certificates.
    pub handshakes: Arc<dyn Handshakes>,
    /// Makes clients wait for a task, whose name is the argument.
    pub hold: &'a dyn Fn(String) -> Hold,
    /// The runtime of their tasks.
    pub control: &'a Handle,
}

impl Acme {
    /// Returns the handler for the paths below [`CHALLENGE_PREFIX`].
    pub fn responder(&self) -> ChallengeResponder {
        ChallengeResponder(self.tokens.clone())
    }

    /// Returns what resolvers hold, and what they lack.
    pub fn rows(&self) -> Vec<Row> {
        self.shared.get().map(|shared| shared.rows()).unwrap_or_default()
    }

    /// Returns the state of each resolver in numbers.
    pub fn numbers(&self) -> BTreeMap<Arc<str>, Numbers> {
        self.shared.get().map(|shared| shared.numbers()).unwrap_or_default()
    }

    /// Returns the leaders of resolvers whose storage is shared with other gateways; empty if all storages are files.
    pub fn leadership(&self) -> Vec<Leadership> {
        self.in_common.lock().iter().map(ConsulStorage::leadership).collect()
    }

    /// Lets other gateways order from now on.
    pub async fn stop(&self) {
        let storages = self.in_common.lock().clone();
        for storage in storages {
            storage.stop().await;
        }
    }

    /// Starts all resolvers: their names with their options, or with the reason why they cannot work.
    pub fn start<'a>(
        &self,
        resolvers: impl IntoIterator<Item = (&'a str, Result<&'a Options, &'a str>)>,
        around: &Surroundings<'_>,
    ) {
        let shared = self.shared.get_or_init(|| Shared::new(around.handshakes.clone()));
        let mut files = HashMap::new();
        for (name, options) in resolvers {
            let why = match options {
                Err(why) => why.to_owned(),
                Ok(options) => match self.start_resolver(name, options, around, shared, &mut files) {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!(resolver = %name, "the certificate resolver cannot work: {error}");
                        error.to_string()
                    }
                },
            };
            shared.tell(&Arc::from(name), vec![Row::of_resolver(name, why)]);
        }
    }

    fn start_resolver<'a>(
        &self,
        name: &str,
        options: &'a Options,
        around: &Surroundings<'_>,
        shared: &Arc<Shared>,
        files: &mut HashMap<&'a str, FileStorage>,
    ) -> Result<(), Error> {
        let prover = self.prover(options, &around.handshakes)?;
        let (prover, storage) = match options.consul_place() {
            Some(_) => self.join(options, name, &prover, around)?,
            None => {
                let file = files.entry(&options.storage);
                let file = file.or_insert_with(|| FileStorage::new(&options.storage));
                (prover, Arc::new(file.clone()) as Arc<dyn Storage>)
            }
        };
        let (sender, demands) = mpsc::channel(MAX_DEMANDS);
        let on_demand = Arc::new(OnDemand::new(options.on_demand.clone(), sender, shared.changes()));
        if on_demand.is_on() {
            around.handshakes.set_on_demand(on_demand.clone());
        }
        let parts = Parts {
            name: Arc::from(name),
            options: Arc::new(options.clone()),
            storage,
            prover,
            shared: shared.clone(),
            configuration: around.configuration.clone(),
            generation: around.configuration.generation(),
            demands,
            on_demand,
            hold: Some((around.hold)(format!("certificates of the resolver `{name}`"))),
        };
        around.control.spawn(Resolver::new(parts).run());
        Ok(())
    }

    /// Joins the gateways that share a storage.
    fn join(
        &self,
        options: &Options,
        resolver: &str,
        prover: &Arc<dyn Prover>,
        around: &Surroundings<'_>,
    ) -> Result<Parties, Error> {
        let storage = ConsulStorage::new(options, resolver, Some(prover.clone()))?;
        let elsewhere: Arc<dyn Elsewhere> = Arc::new(storage.clone());
        match prover.kind() {
            "http-01" => self.tokens.look_at(elsewhere),
            "tls-alpn-01" => around.handshakes.look_at(elsewhere),
            _ => {}
        }
        storage.start(around.control);
        self.in_common.lock().push(storage.clone());
        Ok((storage.shared(prover.clone()), Arc::new(storage)))
    }

    /// Returns the prover of names: the first configured one of DNS, HTTP and TLS, as in Traefik.
    fn prover(&self, options: &Options, handshakes: &Arc<dyn Handshakes>) -> Result<Arc<dyn Prover>, Error> {
        if let Some(dns) = &options.dns_challenge {
            return dns::prover(dns);
        }
        if let Some(http) = &options.http_challenge {
            return Ok(Arc::new(HttpProver { tokens: self.tokens.clone(), delay: http.delay.0 }));
        }
        match &options.tls_challenge {
            Some(tls) => Ok(Arc::new(TlsAlpn { handshakes: handshakes.clone(), delay: tls.delay.0 })),
            None => Err(Error::local("there is no challenge")),
        }
    }
}

/// Runs something that blocks on a separate thread.
async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(what).await;
    done.unwrap_or_else(|error| Err(Error::local(error.to_string())))
}
