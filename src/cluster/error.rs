//! Errors of cluster membership.

use std::time::Duration;

use tidegate_clients::consul::store::StoreError;
use tidegate_clients::redis::{MasterError, RedisError};

/// Why a gateway is not a member of its cluster.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemberError {
    /// Another member has the same id.
    #[error(
        "another gateway calls itself `{id}`: set `cluster.id`. If it was this one before it crashed, its place is \
         free within {within:?}"
    )]
    IdTaken {
        /// The id.
        id: String,
        /// When the other member expires at the latest.
        within: Duration,
    },
    /// The session in Consul was not renewed in time.
    #[error("the session has expired")]
    SessionEnded,
    /// Consul failed.
    #[error(transparent)]
    Consul(#[from] StoreError),
    /// There is no connection to the master of Redis.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// The connection to Redis failed, or Redis rejected the script.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Redis did not reply in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// The script returned an unexpected reply.
    #[error("unexpected reply of the script")]
    UnexpectedReply,
}
