//! State shared between gateways: limits that they count together, and values.
//!
//! Middlewares see only the trait. The gateway implements it, and equal options share connections.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::BoxFuture;
use crate::client_tls::ClientTls;
use crate::values::Secret;

/// The address of the store, and how to connect to it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreOptions {
    /// Servers as `host:port`: nodes of one cluster, or alternatives for failover.
    pub endpoints: Vec<String>,
    /// TLS for the connections, with PEM instead of paths.
    pub tls: Option<ClientTls>,
    /// User name.
    pub username: Secret,
    /// Password.
    pub password: Secret,
    /// Database number.
    pub db: i64,
    /// Connections to each server under load.
    pub pool_size: usize,
    /// Idle connections to keep open.
    pub min_idle: usize,
    /// Timeout for a reply.
    pub read_timeout: Duration,
    /// Timeout for a write.
    pub write_timeout: Duration,
    /// Timeout for connecting.
    pub dial_timeout: Duration,
    /// How the endpoints, which are sentinels then, name the server.
    pub sentinel: Option<StoreSentinel>,
}

/// `redis.sentinel`: Redis Sentinel, which names the server that is the master (Traefik Hub's option).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StoreSentinel {
    /// Name of the master.
    pub master_set: String,
    /// User name for the sentinels.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub username: Secret,
    /// Password for the sentinels.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
}

/// A token bucket: one token per `interval`, up to `burst`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Time between two tokens.
    pub interval: Duration,
    /// Maximum number of tokens.
    pub burst: u32,
    /// How early a request may be: it is promised the next token and told how long to wait.
    pub ahead: Duration,
}

/// The outcome of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A token was taken; it may be used after this time.
    In(Duration),
    /// No token is left; the next one arrives after this time.
    Over(Duration),
}

/// How fast tokens are taken from a level: one token per `interval`, up to `burst`, with costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Time between two tokens.
    pub interval: Duration,
    /// Maximum number of tokens.
    pub burst: u64,
    /// How long a request may wait for tokens that are promised to it.
    pub ahead: Duration,
    /// Maximum number of tokens that count as used. Beyond `burst`, they are debts.
    pub most: f64,
}

/// How many tokens of a bucket were used, as of a time. The time is the caller's, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Tokens in use.
    pub used: f64,
    /// When that was.
    pub at: f64,
}

/// What is asked of one of several buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Takes the tokens if all enforced buckets have theirs.
    Enforce,
    /// Takes the tokens if they are there and all enforced buckets have theirs. Refuses nothing.
    Shadow,
    /// Takes the tokens even if that leaves a debt.
    Charge,
}

/// A request for tokens of one of several buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// The key of the bucket.
    pub key: String,
    /// Its rate.
    pub allowance: Allowance,
    /// Number of tokens. A request that costs more than `burst` needs a full bucket, and leaves a debt.
    pub cost: u64,
    /// How they are asked for.
    pub demand: Demand,
    /// When the bucket is forgotten, counted from its first use; if not given, a second after it is full again.
    pub lifetime: Option<Duration>,
}

/// The outcome of a [`Draw`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// Whether the bucket has the tokens. They were only taken if no enforced bucket is over.
    pub turn: Turn,
    /// Number of tokens left.
    pub left: u64,
    /// Time until the bucket is full again, or until the end of its lifetime.
    pub full_in: Duration,
}

impl Level {
    /// Returns the level at a later time, after tokens have come back.
    #[must_use]
    pub fn at(self, now: f64, allowance: &Allowance) -> Self {
        let elapsed = (now - self.at).max(0.0);
        let used = (self.used - elapsed / allowance.interval_micros()).clamp(0.0, allowance.most.max(0.0));
        Self { used, at: now }
    }

    /// Returns whether `cost` tokens are there now, or how long that takes.
    pub fn turn(&self, cost: u64, allowance: &Allowance) -> Turn {
        let need = cost.min(allowance.burst) as f64;
        let wait = (self.used + need - allowance.burst as f64) * allowance.interval_micros();
        // Less than a microsecond is an error of rounding.
        let wait = if wait < 1.0 { Duration::ZERO } else { micros(wait) };
        if wait <= allowance.ahead { Turn::In(wait) } else { Turn::Over(wait) }
    }

    /// Returns the level after `cost` tokens were taken.
    #[must_use]
    pub fn taking(self, cost: u64, allowance: &Allowance) -> Self {
        Self { used: (self.used + cost as f64).min(allowance.most), ..self }
    }

    /// Returns the outcome at this level.
    pub fn drawn(&self, turn: Turn, allowance: &Allowance) -> Drawn {
        let left = (allowance.burst as f64 - self.used + 1e-6).max(0.0) as u64;
        Drawn { turn, left, full_in: micros(self.used * allowance.interval_micros()) }
    }
}

impl Allowance {
    /// Returns the time between two tokens in microseconds.
    pub fn interval_micros(&self) -> f64 {
        (self.interval.as_nanos() as f64 / 1e3).max(1e-3)
    }
}

/// Returns a time in whole microseconds, rounded up, of at most a hundred years.
fn micros(time: f64) -> Duration {
    Duration::from_micros(time.clamp(0.0, 3.2e15).ceil() as u64)
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The caller's key, value or expiry is not allowed. Asking again fails as well.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The store cannot be reached, does not answer in time, or refuses.
    #[error("{reason}")]
    Unavailable {
        /// What failed, and at which server.
        reason: String,
    },
}

/// Maximum length of a key in bytes.
pub const MAX_KEY: usize = 1024;
/// Maximum length of a value in bytes.
pub const MAX_VALUE: usize = 1 << 20;

/// Buckets and values shared between gateways.
///
/// No call takes longer than its `deadline`. While the store is unavailable, all calls fail at once;
/// reconnecting is up to the implementation. Keys start with `tidegate:` and their purpose.
pub trait SharedStore: Send + Sync {
    /// Takes one token from the bucket with this key, by the store's clock, within `deadline`.
    fn take<'a>(
        &'a self,
        key: &'a str,
        bucket: &'a Bucket,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Turn, StoreError>>;

    /// Asks several buckets at once, by the store's clock, within `deadline`: if an enforced one is over, no token of
    /// any is taken. Keys of one call have one hash tag (`{…}`), so that a cluster has them on one server.
    fn draw<'a>(
        &'a self,
        draws: &'a [Draw],
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<Drawn>, StoreError>>;

    /// Returns the value of this key; `None` if there is none or it has expired. A value longer than
    /// [`MAX_VALUE`] is an error: it was not written by us.
    fn get<'a>(
        &'a self,
        key: &'a str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Sets the value of this key for the duration of `expiry`. Keys, values and durations that are empty,
    /// and keys and values that are too long, are errors.
    fn set<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Sets the value if the current one is `expected` (`None`: if there is none). Returns false, without
    /// changing it, if it differs. After an error it is unknown whether it was set.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Adds a member to the set with this key for the duration of `expiry`. Of more than `most` members, those that
    /// expire first are lost.
    fn add_member<'a>(
        &'a self,
        key: &'a str,
        member: &'a str,
        most: usize,
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Returns at most `most` members of the set with this key, those that expire last first.
    fn members<'a>(
        &'a self,
        key: &'a str,
        most: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>>;
}
