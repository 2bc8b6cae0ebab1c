//! Errors of the servers of a store.

use std::sync::Arc;
use std::time::Duration;

use tidegate_clients::OptionError;
use tidegate_clients::redis::{RedisError, SentinelError};
use tidegate_core::store::{MAX_KEY, MAX_VALUE};

/// Why a server did not reply. All commands waiting for a connection get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NodeError {
    /// Connecting and logging in took too long.
    #[error("no login within {0:?}")]
    LoginTimedOut(Duration),
    /// The server did not reply in time.
    #[error("no reply within {0:?}")]
    ReadTimedOut(Duration),
    /// There was no reply before the deadline of the request.
    #[error("no reply before the deadline")]
    DeadlineExceeded,
    /// Too many commands are waiting for a connection.
    #[error("queue full: {0} commands waiting")]
    QueueFull(usize),
    /// The connection was closed before the reply.
    #[error("the connection was closed")]
    Closed,
    /// The sentinel does not name a server.
    #[error("sentinel: {0}")]
    Sentinel(Arc<SentinelError>),
    /// The connection failed, or the server rejected the login.
    #[error(transparent)]
    Redis(Arc<RedisError>),
}

impl From<RedisError> for NodeError {
    fn from(error: RedisError) -> Self {
        Self::Redis(Arc::new(error))
    }
}

impl From<SentinelError> for NodeError {
    fn from(error: SentinelError) -> Self {
        Self::Sentinel(Arc::new(error))
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// A server did not reply.
    #[error("{endpoint}: {source}")]
    Node {
        /// The server.
        endpoint: String,
        /// The cause.
        source: NodeError,
    },
    /// A server replied with an error.
    #[error("{endpoint}: {answer}")]
    Refused {
        /// The server.
        endpoint: String,
        /// The error code and message.
        answer: String,
    },
    /// A redirection is invalid.
    #[error("invalid redirection: {0}")]
    Redirection(String),
    /// A redirection has an invalid endpoint.
    #[error(transparent)]
    Endpoint(#[from] OptionError),
    /// There were too many redirections or retries.
    #[error("no reply after {0} attempts")]
    TooManyAttempts(usize),
    /// The reply does not match the command.
    #[error("unexpected reply to {0}")]
    UnexpectedReply(&'static str),
    /// A value in the store is too long.
    #[error("a value is longer than {MAX_VALUE} bytes")]
    ValueTooLong,
    /// The length of the caller's key is invalid.
    #[error("a key has {0} bytes: expected 1 to {MAX_KEY}")]
    KeyLength(usize),
    /// The length of the caller's value is invalid.
    #[error("a value has {0} bytes: expected 1 to {MAX_VALUE}")]
    ValueLength(usize),
    /// The caller's value would expire immediately.
    #[error("a value expires immediately: expected a longer time")]
    NoExpiry,
}
