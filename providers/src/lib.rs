//! The sources of configuration. Each has a file and a line in the list below.
//!
//! A provider delivers its whole state whenever it changes. It never sees a request.

pub mod consul;
pub mod consul_catalog;
pub mod consumers;
pub mod docker;
pub mod etcd;
pub mod file;
pub mod http;
mod kv;
pub mod own_keys;
pub mod redis;
pub mod rest;
pub mod supervisor;
pub mod swarm;
pub mod template;
#[cfg(test)]
mod testing;
pub mod throttle;
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
    /// Name of the provider instance, the part after `@`, such as `docker`.
    pub provider: Arc<str>,
    /// Its state. In an `Arc`, so that unchanged states are dropped cheaply.
    pub state: Arc<Provided>,
    /// False until the source has been read once: the state is empty except for the problem, and the gateway
    /// is not ready.
    pub ready: bool,
}

/// The channel for updates.
pub type Updates = mpsc::Sender<Update>;

/// A source of configuration.
pub trait Provider: Send + Sync + 'static {
    /// Runs until the session ends. After an error or panic, the supervisor restarts the provider with a
    /// delay; the last delivered state stays in force.
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>>;
}

/// Why a provider has failed or cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option has an invalid value.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The source is unreachable, or its response is invalid.
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
    /// The receiver of updates was dropped, as the gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

impl Error {
    /// Wraps an error of a source's client.
    fn source(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Source(error.into())
    }

    /// Wraps an error of a client of one of several servers. `product` names the software, for messages.
    fn at(
        product: &'static str,
        endpoint: &str,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let (endpoint, source) = (endpoint.to_owned(), error.into());
        Self::source(ServerError { product, endpoint, source })
    }
}

/// An error of one of the servers of a provider.
#[derive(Debug, thiserror::Error)]
#[error("{product} at {endpoint}: {source}")]
struct ServerError {
    product: &'static str,
    endpoint: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// One instance of a provider.
pub struct Instance {
    /// The part after `@`: `docker`, `consulcatalog-team1`, or a configured name.
    pub name: Arc<str>,
    /// The kind, as in `providers`: `consulCatalog`.
    pub kind: &'static str,
    /// The provider itself.
    pub provider: Arc<dyn Provider>,
}

/// Methods of all provider options.
trait Describe: Sized {
    /// Returns the location of the source, for the log.
    fn place(&self) -> String;

    /// Returns the options and name suffix of each instance; one by default.
    fn split(self) -> Vec<(String, Self)> {
        vec![(String::new(), self)]
    }
}

/// Returns the part after `@`: the configured name or the kind in lower case, with the suffix of the
/// instance.
fn instance_name(given: Option<&str>, kind: &str, suffix: &str) -> Arc<str> {
    let name = given.map_or_else(|| kind.to_lowercase(), str::to_owned);
    if suffix.is_empty() { name.into() } else { format!("{name}-{suffix}").into() }
}

/// Declares the list of providers.
macro_rules! registry {
    ($($(#[$doc:meta])* $variant:ident $name:literal => $module:ident;)*) => {
        /// The kinds of providers, as in `providers`.
        pub const KINDS: &[&str] = &[$($name),*];

        /// The options of one provider.
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub enum Options {
            $($(#[$doc])* $variant($module::Options),)*
        }

        impl Options {
            /// Returns the kind, such as `docker`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }

            /// Returns the location of the source, for the log.
            pub fn place(&self) -> String {
                match self {
                    $(Self::$variant(options) => options.place(),)*
                }
            }

            /// Returns the names of the provider's instances, based on the configured name if any.
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

            /// Builds the instances of the provider, without starting them. Their names start with `given` or
            /// the kind. Returns an error if an option is invalid.
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
    /// Route files: `providers.file`.
    File "file" => file;
    /// Container labels: `providers.docker`.
    Docker "docker" => docker;
    /// Labels of Swarm services: `providers.swarm`.
    Swarm "swarm" => swarm;
    /// Services registered in Consul: `providers.consulCatalog`.
    ConsulCatalog "consulCatalog" => consul_catalog;
    /// Keys in Consul: `providers.consul`.
    Consul "consul" => consul;
    /// Keys in Redis: `providers.redis`.
    Redis "redis" => redis;
    /// Keys in etcd: `providers.etcd`.
    Etcd "etcd" => etcd;
    /// Configuration fetched by HTTP: `providers.http`.
    Http "http" => http;
    /// Configuration sent to the API: `providers.rest`.
    Rest "rest" => rest;
    /// Consumers in a file of their own: `providers.consumers`.
    Consumers "consumers" => consumers;
}
