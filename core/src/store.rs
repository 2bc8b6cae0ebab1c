//! State shared between gateways: limits that they count together, and values.
//!
//! Middlewares see only the trait. The gateway implements it, and equal options share connections.

use std::time::Duration;

use bytes::Bytes;

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
}
