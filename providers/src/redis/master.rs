//! The server of Redis that takes writes, for parts of the gateway that keep something there.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Options, SentinelError, check};
use crate::Error;
use crate::connect::Connector;
use crate::redis_client::{Connection, RedisError};

/// Failure to connect to the master.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// The sentinels do not name it.
    #[error(transparent)]
    Sentinel(#[from] SentinelError),
    /// It cannot be reached, or refuses the login.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// A way to the master: one of several servers, or the one that sentinels name.
pub struct Master {
    endpoints: Vec<Connector>,
    turn: AtomicUsize,
    options: Options,
}

impl Master {
    /// A way. Nothing is connected yet.
    pub fn new(options: Options) -> Result<Self, Error> {
        let endpoints = check(&options)?;
        if options.sentinel.as_ref().is_some_and(super::Sentinel::has_strategy) {
            let message = "only the master can be written: expected no strategy".into();
            return Err(Error::Option { option: "sentinel", message });
        }
        Ok(Self { endpoints, turn: AtomicUsize::new(0), options })
    }

    /// Where it is, for messages.
    pub fn endpoint(&self) -> &str {
        self.endpoints[self.turn.load(Ordering::Relaxed) % self.endpoints.len()].endpoint()
    }

    /// Connects and logs in. After a failure another endpoint is next.
    pub async fn connect(&self) -> Result<Connection, MasterError> {
        let endpoint = &self.endpoints[self.turn.load(Ordering::Relaxed) % self.endpoints.len()];
        let outcome = async {
            let found = match &self.options.sentinel {
                Some(sentinel) => Some(sentinel.find(endpoint, &self.options).await?),
                None => None,
            };
            Ok(Connection::open(found.as_ref().unwrap_or(endpoint), self.options.login()).await?)
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            self.leave();
        }
        outcome
    }

    /// Tries another endpoint next time.
    pub fn leave(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }
}
