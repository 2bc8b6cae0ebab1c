//! The sources of configuration: one file each, one line each in the list below.
//!
//! A provider delivers its whole state, every time it changes. It never sees a request.

pub mod docker;
pub mod file;
pub mod supervisor;
pub mod template;
pub mod workload;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidegate_config::Provided;
use tokio::sync::mpsc;

pub use supervisor::{Handle, Session, start};

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
    #[error("option `{option}`: {message}")]
    Option {
        /// The option, as it is written.
        option: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The source is not there, or does not answer as it should.
    #[error("{0}")]
    Source(String),
    /// Nobody listens to updates any more: the gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
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
            /// The kind, which is also the name of the only instance: `docker`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }

            /// Makes the provider. An option that cannot be used is an error, and nothing has been started.
            pub fn build(self) -> Result<Arc<dyn Provider>, Error> {
                match self {
                    $(Self::$variant(options) => Ok(Arc::new($module::build(options)?)),)*
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
}
