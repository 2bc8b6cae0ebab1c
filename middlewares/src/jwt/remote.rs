//! Keys that are fetched: from a key set, or from what an issuer publishes (OpenID Connect Discovery).
//!
//! One task per middleware fetches them, so requests never do: they wait for it, or wake it when a token names a key
//! that is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{StatusCode, Uri};
use serde::Deserialize;
use tidegate_core::building::ClientTls;
use tidegate_core::{
    Body, BodyError, Clock, CollectError, Connection, Context, HttpClient, Request, UpstreamError,
};
use tokio::sync::{Mutex, Notify, watch};

use super::keys::{KeyError, KeySet};

/// Maximum length of a response in bytes.
const MAX_RESPONSE: u64 = 1024 * 1024;
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

/// Fetched keys. They outlive changes of the options, and outages of their source.
pub(super) struct Remote {
    keys: ArcSwapOption<KeySet>,
    /// Number of attempts to fetch them that have ended.
    attempts: watch::Sender<u64>,
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

impl Remote {
    /// Creates the state without keys.
    pub(super) fn new() -> Self {
        Self {
            keys: ArcSwapOption::empty(),
            attempts: watch::Sender::new(0),
            wake: Notify::new(),
            is_requested: AtomicBool::new(false),
            next_unknown: AtomicU64::new(0),
            due: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            fetching: Mutex::new(()),
        }
    }

    /// Returns the current keys.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Returns true if these are the current keys.
    pub(super) fn is_current(&self, keys: &Arc<KeySet>) -> bool {
        self.keys.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, keys))
    }

    /// Waits for the end of an attempt to fetch keys, if one is running or is worth a try: when a key is unknown, one
    /// per cool-down.
    pub(super) async fn wait(&self, clock: &Clock, timeout: Duration) {
        let mut attempts = self.attempts.subscribe();
        let is_worth = match self.keys.load().is_some() {
            true => self.request(clock) || self.is_requested.load(Ordering::Acquire),
            false => *attempts.borrow() == 0,
        };
        if is_worth && let Some(_place) = Waiting::begin(&self.waiting) {
            let _ = tokio::time::timeout(timeout, attempts.changed()).await;
        }
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

    /// Fetches the keys now and keeps them fresh. Runs until it is dropped.
    pub(super) async fn keep_fresh(self: Arc<Self>, fetcher: Fetcher, clock: Clock) {
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
            let next = match fetcher.fetch().await {
                Ok(fetched) => {
                    if failures > 0 {
                        tracing::info!(source = %fetcher.source, "jwt: keys are available again");
                    }
                    failures = 0;
                    self.replace(fetched.keys);
                    fetched.lifetime
                }
                Err(error) => {
                    let has_keys = self.keys.load().is_some();
                    tracing::warn!(source = %fetcher.source, %error, has_keys, "jwt: fetching keys failed");
                    failures += 1;
                    FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(5)).min(MAX_PAUSE)
                }
            };
            self.due.store(millis(clock.uptime() + next), Ordering::Relaxed);
            drop(attempt);
        }
    }

    /// Equal keys are not replaced, so that tokens stay verified.
    fn replace(&self, keys: KeySet) {
        if !self.keys.load().as_ref().is_some_and(|current| current.is_same(&keys)) {
            self.keys.store(Some(Arc::new(keys)));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An attempt to fetch keys, which ends when dropped.
struct Attempt<'a>(&'a Remote);

impl Drop for Attempt<'_> {
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
            Self::Keys(uri) | Self::Issuer { metadata: uri, .. } => shown(uri).fmt(f),
        }
    }
}

/// Returns a URL without its query, which may be secret.
fn shown(uri: &Uri) -> String {
    format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or(""),
        uri.authority().map_or("", |a| a.as_str()),
        uri.path()
    )
}

/// Reads an absolute http or https URL without user and password.
pub(super) fn url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    (matches!(uri.scheme_str(), Some("http" | "https")) && is_plain).then_some(uri)
}

/// Fetches keys.
pub(super) struct Fetcher {
    pub(super) client: Arc<dyn HttpClient>,
    pub(super) tls: ClientTls,
    /// Timeout for an attempt, with all its requests.
    pub(super) timeout: Duration,
    pub(super) source: Source,
}

/// Keys, and how long they may be used without asking again.
struct Fetched {
    keys: KeySet,
    lifetime: Duration,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Unreachable(#[from] UpstreamError),
    #[error("no complete response within {0:?}")]
    Timeout(Duration),
    #[error("the response has status {0}: expected 200")]
    Status(StatusCode),
    #[error("the response is longer than {MAX_RESPONSE} bytes")]
    TooLarge,
    #[error("the response broke off: {0}")]
    Broken(BodyError),
    #[error("invalid metadata: {0}")]
    Metadata(serde_json::Error),
    #[error("the metadata is of issuer `{0}`")]
    OtherIssuer(String),
    #[error("invalid jwks_uri `{0}`: expected a URL that is as secure as the issuer's")]
    KeysUrl(String),
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// What is needed of an issuer's metadata (OpenID Connect Discovery section 3).
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    async fn fetch(&self) -> Result<Fetched, FetchError> {
        let attempt = async {
            let keys = match &self.source {
                Source::Keys(uri) => uri.clone(),
                Source::Issuer { issuer, metadata } => self.discover(issuer, metadata).await?,
            };
            let (headers, json) = self.get(&keys).await?;
            Ok(Fetched { keys: KeySet::jwks(&json, false)?, lifetime: lifetime(&headers) })
        };
        tokio::time::timeout(self.timeout, attempt).await.unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }

    /// Returns where the issuer's keys are. The metadata must be the issuer's own.
    async fn discover(&self, issuer: &str, metadata: &Uri) -> Result<Uri, FetchError> {
        let (_, json) = self.get(metadata).await?;
        let found: Metadata = serde_json::from_slice(&json).map_err(FetchError::Metadata)?;
        if found.issuer != issuer {
            return Err(FetchError::OtherIssuer(found.issuer.chars().take(200).collect()));
        }
        url(&found.jwks_uri)
            .filter(|keys| keys.scheme_str() == Some("https") || metadata.scheme_str() == Some("http"))
            .ok_or_else(|| FetchError::KeysUrl(found.jwks_uri.chars().take(200).collect()))
    }

    async fn get(&self, uri: &Uri) -> Result<(HeaderMap, Bytes), FetchError> {
        let mut head = http::Request::new(()).into_parts().0;
        head.uri = uri.clone();
        if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
            head.headers.insert(HOST, host);
        }
        head.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        head.headers.insert(USER_AGENT, HeaderValue::from_static("tidegate"));
        let connection = Connection::plain(([127, 0, 0, 1], 0).into());
        let request = Request::new(head, Body::empty(), Context::new(Arc::new(connection)));
        let response = self.client.send(request, &self.tls, self.timeout).await?;
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(FetchError::Status(head.status));
        }
        let body = body.collect(MAX_RESPONSE).await.map_err(|error| match error {
            CollectError::TooLarge { .. } => FetchError::TooLarge,
            CollectError::Failed(error) => FetchError::Broken(error),
        })?;
        Ok((head.headers, body.bytes))
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
    fn unknown_keys_are_a_reason_to_fetch_once_per_cool_down() {
        let manual = Arc::new(tidegate_core::ManualClock::new());
        let (clock, remote) = (Clock::Manual(manual.clone()), Remote::new());
        let requested = || (0..1000).filter(|_| remote.request(&clock)).count();
        assert_eq!(requested(), 1);
        manual.advance(Duration::from_secs(29));
        assert_eq!(requested(), 0);
        manual.advance(Duration::from_secs(1));
        assert_eq!(requested(), 1);
    }

    #[test]
    fn urls_are_absolute() {
        assert!(url("https://a.test/keys?x=1").is_some() && url("http://127.0.0.1:1/").is_some());
        for wrong in ["", "/keys", "a.test", "ftp://a.test/", "https://u:p@a.test/", "https://"] {
            assert!(url(wrong).is_none(), "{wrong}");
        }
    }
}
