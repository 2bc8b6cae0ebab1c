//! What several gateways share: limits that they count together, and values that they keep for each other.
//!
//! Middlewares see only the trait. The gateway implements it, and gives equal options the same connections.

use std::time::Duration;

use bytes::Bytes;

use crate::BoxFuture;
use crate::client_tls::ClientTls;
use crate::values::Secret;

/// Where the store is, and how it is talked to.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreOptions {
    /// Servers as `host:port`: nodes of one cluster, or servers that stand in for one another.
    pub endpoints: Vec<String>,
    /// TLS towards them, with PEM instead of paths.
    pub tls: Option<ClientTls>,
    /// User name.
    pub username: Secret,
    /// Password.
    pub password: Secret,
    /// Number of the database.
    pub db: i64,
    /// Connections to each server that are opened under load.
    pub pool_size: usize,
    /// Connections that stay open without load.
    pub min_idle: usize,
    /// Longest time until an answer comes.
    pub read_timeout: Duration,
    /// Longest time to send.
    pub write_timeout: Duration,
    /// Longest time to connect.
    pub dial_timeout: Duration,
}

/// A token bucket: one token per `interval`, never more than `burst`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Time between two tokens.
    pub interval: Duration,
    /// How many tokens it holds.
    pub burst: u32,
    /// How early a request may come: its token is promised to it, and it is told how long to wait.
    pub ahead: Duration,
}

/// What became of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The token is taken; it may be used after this time.
    In(Duration),
    /// None is left. The next comes after this time.
    Over(Duration),
}

/// Why a store does not do what it is asked.
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

/// Maximum length of the key of a value, in bytes.
pub const MAX_KEY: usize = 1024;
/// Maximum length of a value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;

/// Buckets and values that several gateways share.
///
/// No call takes longer than its `deadline`. While the store is away all fail at once; how the store is found out again
/// is its own matter. Keys begin with `tidegate:` and what they are for.
pub trait SharedStore: Send + Sync {
    /// Takes one token from the bucket of this key, by the clock of the store. It takes no longer than `deadline`.
    fn take<'a>(
        &'a self,
        key: &'a str,
        bucket: &'a Bucket,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Turn, StoreError>>;

    /// The value of this key; `None` when there is none, or its time is over. One that is longer than [`MAX_VALUE`] is
    /// an error: somebody else has written it.
    fn get<'a>(
        &'a self,
        key: &'a str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Sets the value of this key for as long as `expiry` says. Keys, values and times that are empty, and keys and
    /// values that are too long, are errors.
    fn set<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The same, if the value is `expected` (`None`: if there is none). False when it is another one: then nothing is
    /// changed. After an error it is unknown whether it was set.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;
}
