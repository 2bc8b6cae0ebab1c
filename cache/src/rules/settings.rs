//! The choices that RFC 9111 leaves to a cache.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;

/// How a cache behaves where the RFC lets it choose. The default is strict.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Targeted fields that replace `Cache-Control`, the first one first (RFC 9213).
    pub targets: Vec<HeaderName>,
    /// Whether requests may ask for a validation, a fresh answer or none by `Cache-Control` (RFC 9111 §5.2.1).
    /// If not, their directives and `Pragma` are ignored, so that clients cannot pass the cache by.
    pub honour_requests: bool,
    /// Whether responses with `Set-Cookie` are stored with it. Otherwise they are not stored at all.
    pub store_cookies: bool,
    /// The share of the time since `Last-Modified` for which a response without a lifetime is fresh, in per cent
    /// (RFC 9111 §4.2.2).
    pub heuristic_percent: u32,
    /// The longest such lifetime; zero stores nothing without a lifetime.
    pub heuristic_limit: Duration,
    /// Lifetimes that replace those of responses, by status. The first that contains the status counts. What forbids
    /// storing, or reuse without a validation, stays in force.
    pub lifetimes: Vec<(RangeInclusive<u16>, Duration)>,
    /// The longest lifetime of any response from when it is received.
    pub max_lifetime: Option<Duration>,
    /// Status codes that are not stored.
    pub excluded: Vec<RangeInclusive<u16>>,
    /// The longest time for which `max-stale` of a request allows a stale response (RFC 9111 §5.2.1.2).
    pub max_stale: Option<Duration>,
    /// `stale-while-revalidate` of responses that have none (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// `stale-if-error` of responses that have none (RFC 5861 §4).
    pub stale_if_error: Duration,
    /// Whether `stale-while-revalidate` and `stale-if-error` of a response count beside its `s-maxage`. RFC 9111
    /// §5.2.2.10 forbids it; content networks commonly allow it.
    pub stale_after_s_maxage: bool,
    /// The largest number of tags of a response. One with more is not stored, since it could not be purged by them.
    pub max_tags: usize,
    /// The largest size of a response's stored header fields in bytes.
    pub max_head_bytes: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            targets: vec![HeaderName::from_static("cdn-cache-control")],
            honour_requests: true,
            store_cookies: false,
            heuristic_percent: 10,
            heuristic_limit: Duration::from_secs(24 * 60 * 60),
            lifetimes: Vec::new(),
            max_lifetime: None,
            excluded: Vec::new(),
            max_stale: None,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_after_s_maxage: false,
            max_tags: 128,
            max_head_bytes: 64 * 1024,
        }
    }
}

impl Rules {
    /// The lifetime that replaces those of responses with this status, in seconds.
    pub(super) fn lifetime_of(&self, status: u16) -> Option<u32> {
        let (_, lifetime) = self.lifetimes.iter().find(|(statuses, _)| statuses.contains(&status))?;
        Some(crate::time::seconds(lifetime.as_secs()))
    }
}
