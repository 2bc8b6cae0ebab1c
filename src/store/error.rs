//! What goes wrong between this gateway and the servers of a store.

use std::sync::Arc;
use std::time::Duration;

use tidegate_clients::OptionError;
use tidegate_clients::redis::RedisError;
use tidegate_core::store::{MAX_KEY, MAX_VALUE};

/// Why a server gives no answer. All commands that wait for a connection get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NodeError {
    /// Connecting and logging in took too long.
    #[error("no login within {0:?}")]
    LoginTimedOut(Duration),
    /// The server did not take what was sent to it.
    #[error("nothing could be sent within {0:?}")]
    WriteTimedOut(Duration),
    /// The server took a command and did not answer in time.
    #[error("no answer within {0:?}")]
    ReadTimedOut(Duration),
    /// No answer came while the request could still wait for one.
    #[error("no answer within the deadline")]
    DeadlineExceeded,
    /// Too many commands wait for a connection.
    #[error("{0} commands wait already")]
    QueueFull(usize),
    /// The connection was closed before the command was answered.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed, or the server refuses the login.
    #[error(transparent)]
    Redis(Arc<RedisError>),
}

impl From<RedisError> for NodeError {
    fn from(error: RedisError) -> Self {
        Self::Redis(Arc::new(error))
    }
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// A server gave no answer.
    #[error("{endpoint}: {source}")]
    Node {
        /// The server.
        endpoint: String,
        /// The cause.
        source: NodeError,
    },
    /// A server answered with an error.
    #[error("{endpoint}: {answer}")]
    Refused {
        /// The server.
        endpoint: String,
        /// Its answer: the code, and why.
        answer: String,
    },
    /// A server of a cluster names another one in a form that cannot be read.
    #[error("a redirection is not understood: {0}")]
    Redirection(String),
    /// A redirection names an endpoint that cannot be used.
    #[error(transparent)]
    Endpoint(#[from] OptionError),
    /// The servers sent the command around.
    #[error("no answer after {0} attempts")]
    TooManyAttempts(usize),
    /// The answer is not one that the command can have.
    #[error("unexpected answer to {0}")]
    UnexpectedAnswer(&'static str),
    /// A value in the store is longer than any that is written there.
    #[error("a value is longer than {MAX_VALUE} bytes")]
    ValueTooLong,
    /// The caller's key has a length that keys do not have.
    #[error("a key has {0} bytes: expected 1 to {MAX_KEY}")]
    KeyLength(usize),
    /// The caller's value has a length that values do not have.
    #[error("a value has {0} bytes: expected 1 to {MAX_VALUE}")]
    ValueLength(usize),
    /// The caller's value would expire at once.
    #[error("a value expires at once: expected a longer time")]
    NoExpiry,
}
