//! The sources of configuration: one file each, one line each in the list below.
//!
//! A provider delivers its whole state, every time it changes. It never sees a request.

pub mod consul;
pub mod consul_catalog;
pub mod docker;
pub mod etcd;
pub mod file;
pub mod http;
mod kv;
pub mod own_keys;
pub mod pace;
pub mod redis;
pub mod rest;
pub mod supervisor;
pub mod swarm;
pub mod template;
#[cfg(test)]
mod testing;
pub mod workload;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidegate_clients::OptionError;
use tidegate_config::Provided;
use tokio::sync::mpsc;

pub use supervisor::{Handle, Session, start, start_beside};

/// The whole state of one provider.
#[derive(Clone, Debug)]
pub struct Update {
    /// Name of the provider instance, the part after `@`: `docker`, `file`.
    pub provider: Arc<str>,
    /// Its state. `Arc`, so that an unchanged one is dropped cheaply.
    pub state: Arc<Provided>,
    /// False while the source could not be read even once: the state is empty and says why, and the gateway is not
    /// ready. After the first true it stays true.
    pub ready: bool,
}

/// Where providers send their state.
pub type Updates = mpsc::Sender<Update>;

/// A source of configuration.
pub trait Provider: Send + Sync + 'static {
    /// Runs until the session ends. An error, or a panic, makes the supervisor start it again after a pause; what it
    /// delivered last stays in force.
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>>;
}

/// Why a provider cannot go on, or cannot be made from its options.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option has a value that cannot be used.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The source cannot be reached, or its answer cannot be used.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// Nobody listens to updates any more: the gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

impl Error {
    /// Wraps the error of the client of a source.
    fn source(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Source(error.into())
    }

    /// Wraps the error of the client of one of several servers: `product` is what runs there, for messages.
    fn at(
        product: &'static str,
        endpoint: &str,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let (endpoint, source) = (endpoint.to_owned(), error.into());
        Self::source(ServerError { product, endpoint, source })
    }
}

/// Failure of one of the servers of a provider.
#[derive(Debug, thiserror::Error)]
#[error("{product} at {endpoint}: {source}")]
struct ServerError {
    product: &'static str,
    endpoint: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// One instance of a provider.
pub struct Instance {
    /// The part behind `@`: `docker`, `consulcatalog-team1`, or a name that was given.
    pub name: Arc<str>,
    /// The kind, as it is named under `providers`: `consulCatalog`.
    pub kind: &'static str,
    /// The provider itself.
    pub provider: Arc<dyn Provider>,
}

/// What the options of every provider can say.
trait Describe: Sized {
    /// Where it reads, for the log.
    fn place(&self) -> String;

    /// The options of each instance, with what is added to its name; by default there is one.
    fn split(self) -> Vec<(String, Self)> {
        vec![(String::new(), self)]
    }
}

/// The part behind `@`: the name that was given, or the kind in lower case, and what tells instances of one provider
/// apart.
fn instance_name(given: Option<&str>, kind: &str, suffix: &str) -> Arc<str> {
    let name = given.map_or_else(|| kind.to_lowercase(), str::to_owned);
    if suffix.is_empty() { name.into() } else { format!("{name}-{suffix}").into() }
}

/// The list of providers. A new one is a file and a line.
macro_rules! registry {
    ($($(#[$doc:meta])* $variant:ident $name:literal => $module:ident;)*) => {
        /// The kinds of providers, as they are named under `providers`.
        pub const KINDS: &[&str] = &[$($name),*];

        /// The options of one provider.
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub enum Options {
            $($(#[$doc])* $variant($module::Options),)*
        }

        impl Options {
            /// The kind: `docker`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }

            /// Where it reads, for the log.
            pub fn place(&self) -> String {
                match self {
                    $(Self::$variant(options) => options.place(),)*
                }
            }

            /// The names of the instances of the provider, which may have been given one.
            pub fn names(&self, given: Option<&str>) -> Vec<String> {
                match self {
                    $(Self::$variant(options) => options
                        .clone()
                        .split()
                        .iter()
                        .map(|(suffix, _)| instance_name(given, $name, suffix).to_string())
                        .collect(),)*
                }
            }

            /// Makes the provider, in one instance or several; their names begin with `given`, or else with the kind.
            /// An option that cannot be used is an error, and nothing has been started.
            pub fn instances(self, given: Option<&str>) -> Result<Vec<Instance>, Error> {
                let kind = self.kind();
                match self {
                    $(Self::$variant(options) => options
                        .split()
                        .into_iter()
                        .map(|(suffix, options)| {
                            let provider: Arc<dyn Provider> = Arc::new($module::build(options)?);
                            Ok(Instance { name: instance_name(given, kind, &suffix), kind, provider })
                        })
                        .collect(),)*
                }
            }
        }
    };
}

registry! {
    /// Files of routes: `providers.file`.
    File "file" => file;
    /// Labels of containers: `providers.docker`.
    Docker "docker" => docker;
    /// Labels of services of a swarm: `providers.swarm`.
    Swarm "swarm" => swarm;
    /// Services that are registered in Consul: `providers.consulCatalog`.
    ConsulCatalog "consulCatalog" => consul_catalog;
    /// Keys in Consul: `providers.consul`.
    Consul "consul" => consul;
    /// Keys in Redis: `providers.redis`.
    Redis "redis" => redis;
    /// Keys in etcd: `providers.etcd`.
    Etcd "etcd" => etcd;
    /// A configuration that is fetched: `providers.http`.
    Http "http" => http;
    /// A configuration that is sent: `providers.rest`.
    Rest "rest" => rest;
}
