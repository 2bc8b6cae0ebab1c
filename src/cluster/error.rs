//! Why a gateway is not a member of its cluster.

use std::time::Duration;

use tidegate_clients::consul::store::StoreError;
use tidegate_clients::redis::{MasterError, RedisError};

/// Failure to be a member.
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
        /// When the other one would be forgotten at the latest.
        within: Duration,
    },
    /// The session in Consul was not renewed in time.
    #[error("the session has ended")]
    SessionEnded,
    /// Consul cannot be used.
    #[error(transparent)]
    Consul(#[from] StoreError),
    /// There is no connection to the master of Redis.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// Redis breaks off, or refuses the script.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// Redis did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The script returned something else than it should.
    #[error("the script has given an unexpected answer")]
    UnexpectedAnswer,
}
