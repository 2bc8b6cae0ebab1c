//! Errors of announcements.

use std::time::Duration;

use tidegate_clients::consul::store::{Refusal, StoreError};
use tidegate_clients::redis::{MasterError, RedisError};

use crate::maintenance::ReplicaError;

/// Why the store of announcements cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// Consul failed.
    #[error(transparent)]
    Consul(#[from] StoreError),
    /// Others have announced something every time.
    #[error("too many gateways announce something at once: {0}")]
    Contended(String),
    /// There is no connection to the master of Redis.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// The connection to Redis failed, or Redis rejected the script.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The switches of routers beside the list cannot be read or replaced.
    #[error(transparent)]
    Switches(#[from] ReplicaError),
    /// What is stored is not what a gateway has written.
    #[error("unexpected content of the store")]
    Unexpected,
}

impl From<Refusal> for ChannelError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Condition(reason) => Self::Contended(reason),
            Refusal::Store(error) => Self::Consul(error),
        }
    }
}

/// Why something was not announced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    /// The store failed. The announcement is written as soon as that is possible.
    #[error("{0}")]
    Store(String),
    /// The store does not respond. The announcement is written as soon as that is possible.
    #[error("the cluster's store does not respond within {0:?}")]
    TimedOut(Duration),
    /// Too many announcements wait already.
    #[error("too many announcements wait for the cluster's store")]
    TooMany,
    /// The announcement is too long.
    #[error("the announcement is longer than {0} bytes")]
    TooLong(usize),
    /// The switches of routers in the store cannot be read or replaced.
    #[error(transparent)]
    Switches(ReplicaError),
}

impl AnnounceError {
    /// Returns true if the announcement is still written.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Self::Store(_) | Self::TimedOut(_))
    }
}
