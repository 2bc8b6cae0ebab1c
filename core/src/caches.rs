//! Stored responses, for the API and metrics: which there are, and how an operator removes them.

use std::time::Duration;

use crate::BoxFuture;

/// A middleware with stored responses.
pub trait ResponseCache: Send + Sync {
    /// Returns what it holds and has done. Called when metrics or the API are read.
    fn statistics(&self) -> CacheStatistics;

    /// Returns some of its responses. May look at all of them.
    fn list<'a>(
        &'a self,
        which: &'a ListedResponses,
    ) -> BoxFuture<'a, Result<Vec<CachedResponse>, InvalidUrl>>;

    /// Removes responses, and returns their number; a response in memory and on disk counts once for each. Responses to
    /// requests that have begun before are not stored. `announcement` is the id under which it is announced to the
    /// cluster afterwards; empty if it is not.
    fn purge<'a>(
        &'a self,
        which: &'a PurgedResponses,
        announcement: &'a str,
    ) -> BoxFuture<'a, Result<usize, InvalidUrl>>;

    /// Writes what waits for the disk for at most this long, and lets others use its folder. False if something is
    /// lost. Called when the gateway stops.
    fn close(&self, within: Duration) -> BoxFuture<'_, bool>;
}

/// A URL that names no resource of a cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid URL `{0}`: expected one like `https://example.com/path`")]
pub struct InvalidUrl(pub String);

/// Which responses are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgedResponses {
    /// All.
    All,
    /// Those of a URL, whatever else their keys have.
    Url(String),
    /// Those whose URLs begin so.
    Prefix(String),
    /// Those with a tag.
    Tag(String),
}

/// Which responses are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedResponses {
    /// The largest ones, at most this many.
    Largest(usize),
    /// Those that were sent most often, at most this many.
    Hottest(usize),
    /// Those of a URL.
    Url(String),
}

/// A stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedResponse {
    /// `memory` or `disk`.
    pub tier: &'static str,
    /// Its URL, as far as it is part of the key.
    pub url: String,
    /// What its key consists of, without the values of headers and cookies.
    pub key: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Bytes of its body.
    pub bytes: u64,
    /// How often it was found.
    pub uses: u64,
    /// Its age in seconds; `None` if it cannot be read.
    pub age: Option<u32>,
    /// How much longer it is fresh in seconds, negative if it is stale; `None` if it cannot be read.
    pub ttl: Option<i64>,
}

/// What a cache holds and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStatistics {
    /// Number of requests.
    pub requests: CachedRequests,
    /// The requests of the last minutes: for each length of time, which has a name, their number.
    pub recent: Vec<(&'static str, CachedRequests)>,
    /// The requests of each 10 seconds of the last minutes, the oldest first.
    pub history: Vec<CachedRequests>,
    /// Number of responses that were stored.
    pub stored: u64,
    /// What is in memory.
    pub memory: TierStatistics,
    /// What is on disk; `None` without a disk.
    pub disk: Option<DiskStatistics>,
}

/// Requests to a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachedRequests {
    /// Their number by outcome, in the order of the names.
    pub by_outcome: Vec<(&'static str, u64)>,
    /// Number of those that have waited for the response to another one.
    pub collapsed: u64,
}

/// What a tier of a cache holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStatistics {
    /// Number of responses.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Maximum size in bytes.
    pub max_bytes: u64,
    /// Number of responses that were removed because others needed their place.
    pub evictions: u64,
}

/// What the disk of a cache holds and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskStatistics {
    /// The folder.
    pub path: String,
    /// Whether everything that was stored before is found.
    pub is_ready: bool,
    /// Why nothing can be read or stored now, or what went wrong last.
    pub problem: Option<String>,
    /// What it holds.
    pub tier: TierStatistics,
    /// Maximum number of responses.
    pub max_objects: u64,
    /// Number of responses that the last start has found.
    pub recovered: u64,
    /// Number of responses that were not stored because too much was waiting for the disk, or it could not be written.
    pub lost: u64,
    /// Number of errors when writing.
    pub failures: u64,
    /// Number of files that were removed because they were damaged.
    pub corrupt: u64,
}
