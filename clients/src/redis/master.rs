//! Connects to the Redis master.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Database;
use super::connection::{Connection, RedisError};
use super::sentinel::{Sentinel, SentinelError};
use crate::OptionError;
use crate::connect::Connector;

/// Failure to connect to the master.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// The sentinels do not name a master.
    #[error(transparent)]
    Sentinel(#[from] SentinelError),
    /// The master is unreachable or rejects the login.
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// The master: one of several servers, or the one named by sentinels.
pub struct Master {
    endpoints: Vec<Connector>,
    turn: AtomicUsize,
    database: Database,
}

impl Master {
    /// Validates the options, without connecting.
    pub fn new(database: Database) -> Result<Self, OptionError> {
        let endpoints = database.endpoints()?;
        if database.sentinel.as_ref().is_some_and(Sentinel::has_strategy) {
            let message = "strategies are not supported here, as only the master accepts writes";
            return Err(OptionError::new("sentinel", message));
        }
        Ok(Self { endpoints, turn: AtomicUsize::new(0), database })
    }

    /// Returns the current endpoint, for messages.
    pub fn endpoint(&self) -> &str {
        self.endpoints[self.turn.load(Ordering::Relaxed) % self.endpoints.len()].endpoint()
    }

    /// Connects and logs in. After a failure, the next call tries another endpoint.
    pub async fn connect(&self) -> Result<Connection, MasterError> {
        let endpoint = &self.endpoints[self.turn.load(Ordering::Relaxed) % self.endpoints.len()];
        let outcome = async {
            let found = match &self.database.sentinel {
                Some(sentinel) => Some(sentinel.find(endpoint, &self.database).await?),
                None => None,
            };
            Ok(Connection::open(found.as_ref().unwrap_or(endpoint), self.database.login()).await?)
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            self.advance();
        }
        outcome
    }

    /// Moves on to the next endpoint.
    pub fn advance(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }
}
