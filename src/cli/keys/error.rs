//! Why keys cannot be read or stored.

use std::io;
use std::path::PathBuf;

use tidegate_clients::OptionError;
use tidegate_clients::consul::store::{Refusal, StoreError as ConsulError};
use tidegate_clients::redis::{MasterError, RedisError};

/// Why keys cannot be read or stored.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum StoreError {
    /// The settings name no place, or several.
    #[error("{0}")]
    NoPlace(String),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not valid, or cannot be edited. The text names file and line.
    #[error("{0}")]
    Text(String),
    /// An option of the store is wrong.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The runtime could not be started.
    #[error(transparent)]
    Runtime(io::Error),
    /// Consul failed.
    #[error("Consul at {0}: {1}")]
    Consul(String, #[source] ConsulError),
    /// Consul has applied nothing, because something has changed.
    #[error("Consul at {0}: {1}: nothing was stored, try again")]
    Changed(String, #[source] Refusal),
    /// Redis is unreachable.
    #[error("Redis at {0}: {1}")]
    Unreachable(String, #[source] MasterError),
    /// Redis failed.
    #[error("Redis at {0}: {1}")]
    Redis(String, #[source] RedisError),
    /// Somebody else has changed the keys.
    #[error("{0} was changed by someone else: nothing was stored, try again")]
    Conflict(String),
    /// The change is too large for one transaction.
    #[error("too many options for one transaction: at most {0}")]
    TooLarge(usize),
    /// The name cannot be part of a key.
    #[error("invalid name of a consumer `{0}`: expected one without slashes and control characters")]
    Name(String),
    /// A consumer is broken.
    #[error("{0}")]
    Broken(String),
}
