//! What is fetched from issuers: key sets, or metadata that names them (OpenID Connect Discovery).
//!
//! One task per issuer fetches it, so requests never do: they wait for it, or wake it when a token names a key that is
//! unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use http::header::{CACHE_CONTROL, HeaderMap};
use serde::Deserialize;
use tidegate_core::Clock;
use tokio::sync::{Mutex, Notify, watch};

use super::keys::{KeyError, KeySet};
use crate::api_client::{ApiClient, ApiError, parse_url, without_query};

/// Minimum time between two requests because of unknown keys.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// How long keys are kept if the response does not say so.
const LIFETIME: Duration = Duration::from_mins(15);
const MIN_LIFETIME: Duration = Duration::from_mins(1);
const MAX_LIFETIME: Duration = Duration::from_hours(24);
/// Pause after the first failure, which doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Maximum number of requests that wait for keys; further ones are answered at once.
const MAX_WAITING: usize = 1024;

/// A fetched value, such as keys. It outlives changes of the options, and outages of its source.
pub(crate) struct Remote<T> {
    value: ArcSwapOption<T>,
    /// Number of attempts to fetch it that have ended.
    attempts: watch::Sender<u64>,
    /// Whether the last attempt failed.
    is_failing: AtomicBool,
    /// Uptime in milliseconds of the last success, and of the last attempt.
    succeeded: AtomicU64,
    attempted: AtomicU64,
    wake: Notify,
    /// Whether an attempt was requested that has not ended.
    is_requested: AtomicBool,
    /// Uptime in milliseconds from which an unknown key is a reason to fetch.
    next_unknown: AtomicU64,
    /// Uptime in milliseconds of the next attempt.
    due: AtomicU64,
    waiting: AtomicUsize,
    /// Held during an attempt: the tasks of two configurations may overlap.
    fetching: Mutex<()>,
}

impl<T> Remote<T> {
    /// Creates the state without a value.
    pub(crate) fn new() -> Self {
        Self {
            value: ArcSwapOption::empty(),
            attempts: watch::Sender::new(0),
            is_failing: AtomicBool::new(false),
            succeeded: AtomicU64::new(0),
            attempted: AtomicU64::new(0),
            wake: Notify::new(),
            is_requested: AtomicBool::new(false),
            next_unknown: AtomicU64::new(0),
            due: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            fetching: Mutex::new(()),
        }
    }

    /// Returns the current value.
    pub(crate) fn current(&self) -> Option<Arc<T>> {
        self.value.load_full()
    }

    /// Returns true if this is the current value.
    pub(crate) fn is_current(&self, value: &Arc<T>) -> bool {
        self.value.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, value))
    }

    /// Waits for the end of an attempt to fetch the value, if one is running or is worth a try: when a key is unknown,
    /// one per cool-down.
    pub(crate) async fn wait(&self, clock: &Clock, timeout: Duration) {
        let mut attempts = self.attempts.subscribe();
        let is_worth = match self.value.load().is_some() {
            true => self.request(clock) || self.is_requested.load(Ordering::Acquire),
            false => *attempts.borrow() == 0,
        };
        if is_worth && let Some(_place) = Waiting::begin(&self.waiting) {
            let _ = tokio::time::timeout(timeout, attempts.changed()).await;
        }
    }

    /// Returns the value if its source has answered within `age`, or answers now within `timeout`. A source that fails
    /// is asked at most once a second.
    pub(crate) async fn confirmed(&self, clock: &Clock, age: Duration, timeout: Duration) -> Option<Arc<T>> {
        let now = millis(clock.uptime());
        let is_within =
            |time: &AtomicU64, age: Duration| now.saturating_sub(time.load(Ordering::Relaxed)) < millis(age);
        match self.is_failing.load(Ordering::Relaxed) {
            true if is_within(&self.attempted, FIRST_PAUSE) => return None,
            false if is_within(&self.succeeded, age) => {
                if let Some(value) = self.current() {
                    return Some(value);
                }
            }
            _ => {}
        }
        let mut attempts = self.attempts.subscribe();
        let _place = Waiting::begin(&self.waiting)?;
        self.is_requested.store(true, Ordering::Release);
        self.wake.notify_one();
        tokio::time::timeout(timeout, attempts.changed()).await.ok()?.ok()?;
        if self.is_failing.load(Ordering::Relaxed) { None } else { self.current() }
    }

    /// Requests an attempt. Returns false during the cool-down.
    fn request(&self, clock: &Clock) -> bool {
        let now = millis(clock.uptime());
        let next = self.next_unknown.load(Ordering::Relaxed);
        if now < next {
            return false;
        }
        let later = now.saturating_add(millis(COOL_DOWN));
        if self.next_unknown.compare_exchange(next, later, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        self.is_requested.store(true, Ordering::Release);
        self.wake.notify_one();
        true
    }

    /// Fetches the value now and keeps it fresh. Runs until it is dropped.
    pub(crate) async fn keep_fresh(self: Arc<Self>, source: impl Fetch<Value = T>, clock: Clock) {
        let mut failures = 0;
        // The options have changed, and may have made a difference.
        self.due.store(0, Ordering::Relaxed);
        loop {
            let pause = self.due.load(Ordering::Relaxed).saturating_sub(millis(clock.uptime()));
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                () = self.wake.notified() => {}
            }
            let _one = self.fetching.lock().await;
            let attempt = Attempt(&self);
            let next = match source.fetch().await {
                Ok(fetched) => {
                    if failures > 0 {
                        tracing::info!(source = %source.shown(), "keys are available again");
                    }
                    failures = 0;
                    self.replace(&source, fetched.value);
                    self.succeeded.store(millis(clock.uptime()), Ordering::Relaxed);
                    fetched.lifetime
                }
                Err(error) => {
                    let has_keys = self.value.load().is_some();
                    tracing::warn!(source = %source.shown(), %error, has_keys, "fetching keys failed");
                    failures += 1;
                    FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(5)).min(MAX_PAUSE)
                }
            };
            self.is_failing.store(failures > 0, Ordering::Relaxed);
            self.attempted.store(millis(clock.uptime()), Ordering::Relaxed);
            self.due.store(millis(clock.uptime() + next), Ordering::Relaxed);
            drop(attempt);
        }
    }

    /// Equal values are not replaced, so that tokens stay verified.
    fn replace(&self, source: &impl Fetch<Value = T>, value: T) {
        if !self.value.load().as_ref().is_some_and(|current| source.is_same(current, &value)) {
            self.value.store(Some(Arc::new(value)));
        }
    }
}

/// What fetches a value.
pub(crate) trait Fetch: Send + Sync + 'static {
    /// What is fetched.
    type Value: Send + Sync + 'static;

    /// Fetches it.
    fn fetch(&self) -> impl Future<Output = Result<Fetched<Self::Value>, FetchError>> + Send;

    /// Returns true if both values are equal.
    fn is_same(&self, one: &Self::Value, other: &Self::Value) -> bool;

    /// Returns the source for the log.
    fn shown(&self) -> String;
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An attempt to fetch keys, which ends when dropped.
struct Attempt<'a, T>(&'a Remote<T>);

impl<T> Drop for Attempt<'_, T> {
    fn drop(&mut self) {
        self.0.is_requested.store(false, Ordering::Release);
        self.0.attempts.send_modify(|attempts| *attempts += 1);
    }
}

/// A request that waits for keys.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A JSON Web Key Set.
    Keys(Uri),
    /// An issuer, whose metadata names the key set.
    Issuer { issuer: String, metadata: Uri },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Keys(uri) | Self::Issuer { metadata: uri, .. } => without_query(uri).fmt(f),
        }
    }
}

/// Fetches keys.
pub(super) struct Fetcher {
    pub(super) client: ApiClient,
    pub(super) source: Source,
}

/// A value, and how long it may be used without asking again.
pub(crate) struct Fetched<T> {
    pub(crate) value: T,
    pub(crate) lifetime: Duration,
}

/// Why a value could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("no complete response within {0:?}")]
    Timeout(Duration),
    #[error("invalid metadata: {0}")]
    Metadata(serde_json::Error),
    #[error("the metadata is of issuer `{0}`")]
    OtherIssuer(String),
    #[error("invalid {0} `{1}`: expected a URL that is as secure as the issuer's")]
    Url(&'static str, String),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// What is needed of an issuer's metadata (OpenID Connect Discovery section 3).
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Fetch for Fetcher {
    type Value = KeySet;

    async fn fetch(&self) -> Result<Fetched<KeySet>, FetchError> {
        let timeout = self.client.timeout;
        let attempt = async {
            let keys = match &self.source {
                Source::Keys(uri) => uri.clone(),
                Source::Issuer { issuer, metadata } => self.discover(issuer, metadata).await?,
            };
            fetch_keys(&self.client, &keys).await
        };
        tokio::time::timeout(timeout, attempt).await.unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    fn is_same(&self, one: &KeySet, other: &KeySet) -> bool {
        one.is_same(other)
    }

    fn shown(&self) -> String {
        self.source.to_string()
    }
}

/// Fetches a JSON Web Key Set.
pub(crate) async fn fetch_keys(client: &ApiClient, uri: &Uri) -> Result<Fetched<KeySet>, FetchError> {
    let response = client.get(uri).await?;
    let lifetime = lifetime(&response.headers);
    Ok(Fetched { value: KeySet::jwks(&response.body, false)?, lifetime })
}

/// Returns a URL that an issuer publishes, if it is as secure as the issuer's `metadata`.
pub(crate) fn published(name: &'static str, text: &str, metadata: &Uri) -> Result<Uri, FetchError> {
    parse_url(text)
        .filter(|uri| uri.scheme_str() == Some("https") || metadata.scheme_str() == Some("http"))
        .ok_or_else(|| FetchError::Url(name, text.chars().take(200).collect()))
}

impl Fetcher {
    /// Returns where the issuer's keys are. The metadata must be the issuer's own.
    async fn discover(&self, issuer: &str, metadata: &Uri) -> Result<Uri, FetchError> {
        let response = self.client.get(metadata).await?;
        let found: Metadata = serde_json::from_slice(&response.body).map_err(FetchError::Metadata)?;
        if found.issuer != issuer {
            return Err(FetchError::OtherIssuer(found.issuer.chars().take(200).collect()));
        }
        published("jwks_uri", &found.jwks_uri, metadata)
    }
}

/// Returns how long a response may be used, within limits (`Cache-Control`, RFC 9111 section 5.2.2).
fn lifetime(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let age = directives.flat_map(|value| value.split(',')).find_map(|directive| {
        let (name, value) = directive.trim().split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok())?
    });
    age.map_or(LIFETIME, |age| Duration::from_secs(age).clamp(MIN_LIFETIME, MAX_LIFETIME))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn lifetimes_are_within_limits() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(text));
            lifetime(&headers).as_secs()
        };
        assert_eq!(lifetime(&HeaderMap::new()), LIFETIME);
        assert_eq!([of("public, max-age=3600"), of("Max-Age=\"120\"")], [3600, 120]);
        assert_eq!([of("max-age=0"), of("max-age=99999999"), of("max-age=x")], [60, 86_400, 900]);
    }

    #[test]
    fn a_source_that_fails_is_asked_once_a_second() {
        let manual = Arc::new(tidegate_core::ManualClock::new());
        let (clock, remote) = (Clock::Manual(manual.clone()), Remote::<KeySet>::new());
        manual.advance(Duration::from_secs(10));
        remote.is_failing.store(true, Ordering::Relaxed);
        remote.attempted.store(millis(clock.uptime()), Ordering::Relaxed);
        let asks = || {
            let confirmed = remote.confirmed(&clock, Duration::from_secs(10), Duration::from_millis(1));
            assert!(crate::testing::block_on(confirmed).is_none());
            remote.is_requested.swap(false, Ordering::Relaxed)
        };
        assert!(!asks());
        manual.advance(FIRST_PAUSE);
        assert!(asks());
    }

    #[test]
    fn unknown_keys_are_a_reason_to_fetch_once_per_cool_down() {
        let manual = Arc::new(tidegate_core::ManualClock::new());
        let (clock, remote) = (Clock::Manual(manual.clone()), Remote::<KeySet>::new());
        let requested = || (0..1000).filter(|_| remote.request(&clock)).count();
        assert_eq!(requested(), 1);
        manual.advance(Duration::from_secs(29));
        assert_eq!(requested(), 0);
        manual.advance(Duration::from_secs(1));
        assert_eq!(requested(), 1);
    }
}
