//! The relying party: what it knows, and how it finds, keeps and ends sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tidegate_core::consumers::ConsumerBroken;
use tidegate_core::store::{SharedStore, StoreError};
use tidegate_core::{Clock, ConsumersHandle, Identity};

use super::cookies::{CookieStyle, TooLong};
use super::provider::Provider;
use super::seal::{self, KeyRing, NoRandomness};
use super::session::{self, Lifetime, Live, Session, Unusable};
use super::target::Place;
use crate::jwt::claims::Expression;

/// Maximum size of the cache of sessions, and of that of refreshed ones, in bytes.
const MAX_CACHED: u64 = 16 * 1024 * 1024;
/// Maximum number of used states and of ended sessions that are remembered.
const MAX_REMEMBERED: usize = 65_536;
/// Maximum number of sessions that the list in a store has.
const MAX_INDEXED: usize = 10_000;
/// Key prefix in shared stores.
const STORE_PREFIX: &str = "tidegate:oidc:";
/// The value of a session that has ended.
const ENDED: &[u8] = b"ended";

/// The relying party of a middleware.
pub(super) struct Party {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) consumers: ConsumersHandle,
    pub(super) ring: Arc<KeyRing>,
    pub(super) providers: Vec<Provider>,
    pub(super) places: Places,
    pub(super) disable_login: bool,
    pub(super) sessions_required: bool,
    pub(super) claims: Option<Expression>,
    /// Headers for the service, with their claims.
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) session_cookie: CookieStyle,
    pub(super) state_cookie: CookieStyle,
    /// Whether the secret is this gateway's own, so that replicas do not share sessions.
    pub(super) has_own_secret: bool,
    /// Domain of the session's cookie; empty for one host.
    pub(super) domain: String,
    /// Whether cookies need TLS.
    pub(super) is_secure: bool,
    pub(super) csrf: Option<(CookieStyle, HeaderName)>,
    /// How long a login may take, in seconds.
    pub(super) state_lifetime: u64,
    pub(super) lifetime: Lifetime,
    pub(super) refreshes: bool,
    pub(super) store: Option<Store>,
    pub(super) kept: Arc<Kept>,
    pub(super) cache: Cache<Box<str>, Arc<Live>, ByLength>,
}

/// URLs that belong to the middleware, or that users are sent to.
pub(super) struct Places {
    pub(super) redirect: Place,
    pub(super) login: Option<Place>,
    pub(super) logout: Option<Place>,
    pub(super) after_login: Option<Place>,
    pub(super) after_logout: Option<Place>,
    pub(super) back_channel: Option<Place>,
    pub(super) front_channel: Option<Place>,
}

/// Where sessions are, if not in cookies.
pub(super) struct Store {
    pub(super) store: Arc<dyn SharedStore>,
    pub(super) deadline: Duration,
}

/// What outlives changes of the options.
pub(super) struct Kept {
    /// Secret of this gateway, for options without secrets.
    pub(super) secret: Vec<u8>,
    /// States of logins that are complete, and identifiers of logout tokens.
    used: Cache<String, ()>,
    /// When sessions have ended, by their names.
    ended: Cache<String, u64>,
    has_ended: AtomicBool,
    /// Results of refreshes by session and generation.
    pub(super) refreshed: Cache<String, Arc<Refreshed>, BySession>,
    /// Until when no provider is asked to refresh tokens, in milliseconds since 1970.
    pub(super) unavailable_until: AtomicU64,
}

/// The result of a refresh.
pub(super) enum Refreshed {
    New(Box<Session>),
    /// The provider has ended the session.
    Ended,
    /// The provider is not available until this time, in milliseconds since 1970.
    Unavailable(u64),
}

impl Kept {
    /// Creates the state with a new secret.
    pub(super) fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            secret: seal::random::<32>()?.into_bytes(),
            used: Cache::new(MAX_REMEMBERED),
            ended: Cache::new(MAX_REMEMBERED),
            has_ended: AtomicBool::new(false),
            refreshed: Cache::with_weighter(1024, MAX_CACHED, BySession),
            unavailable_until: AtomicU64::new(0),
        })
    }

    /// Returns true the first time.
    pub(super) fn use_once(&self, name: &str) -> bool {
        let mut is_first = false;
        let _ = self.used.get_or_insert_with(name, || {
            is_first = true;
            Ok::<_, std::convert::Infallible>(())
        });
        is_first
    }

    /// Ends the sessions with this name that have begun until now.
    pub(super) fn end(&self, mark: String, now: u64) {
        self.ended.insert(mark, now);
        self.has_ended.store(true, Ordering::Release);
    }

    fn has_ended(&self, live: &Live) -> bool {
        self.has_ended.load(Ordering::Acquire)
            && live
                .marks
                .iter()
                .any(|mark| self.ended.get(mark).is_some_and(|time| live.session.login <= time))
    }
}

/// Weighs sessions by the length of their cookies.
#[derive(Clone)]
pub(super) struct ByLength;

impl Weighter<Box<str>, Arc<Live>> for ByLength {
    fn weight(&self, key: &Box<str>, _: &Arc<Live>) -> u64 {
        // With the names and values of the claims, which are separate allocations.
        4 * key.len() as u64 + 1024
    }
}

/// Weighs results of refreshes by the length of their sessions.
#[derive(Clone)]
pub(super) struct BySession;

impl Weighter<String, Arc<Refreshed>> for BySession {
    fn weight(&self, _: &String, refreshed: &Arc<Refreshed>) -> u64 {
        let length = match &**refreshed {
            Refreshed::New(session) => serde_json::to_vec(session).map_or(0, |json| json.len()),
            _ => 0,
        };
        3 * length as u64 + 512
    }
}

/// Returns an empty cache of sessions.
pub(super) fn cache() -> Cache<Box<str>, Arc<Live>, ByLength> {
    Cache::with_weighter(1024, MAX_CACHED, ByLength)
}

/// What the cookie of a session in a store says.
#[derive(Serialize, Deserialize)]
struct Ticket {
    #[serde(rename = "i")]
    id: String,
    #[serde(rename = "l")]
    login: u64,
    /// Names under which the session can be ended.
    #[serde(rename = "m")]
    marks: Vec<String>,
}

/// Why a session cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("the session is too long: cookies hold 21 KiB, and session.store.redis 1 MiB")]
    TooLong,
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("invalid session")]
    Invalid,
}

impl From<StoreError> for KeepError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Invalid { .. } => Self::TooLong,
            StoreError::Unavailable { .. } => Self::Store(error),
        }
    }
}

impl From<TooLong> for KeepError {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl Party {
    /// Returns the time in milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        session::millis(&self.clock)
    }

    /// Returns the provider of a session.
    pub(super) fn provider_of(&self, session: &Session) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.key == session.provider)
    }

    /// Prepares a session for requests.
    pub(super) fn live(&self, session: Session) -> Result<Live, Unusable> {
        let provider = self.provider_of(&session).ok_or(Unusable::NoName)?;
        Live::new(session, &self.name, provider, &self.headers, self.claims.as_ref())
    }

    /// Returns the session in the request's cookies, for parties without a store.
    pub(super) fn local(&self, request: &HeaderMap, now: u64) -> Option<Arc<Live>> {
        let value = self.session_cookie.value(request)?;
        let live = match self.cache.get(&*value) {
            Some(live) => live,
            None => {
                let plain = self.ring.open(&self.purpose("session"), &value)?;
                let session: Session = serde_json::from_slice(&plain).ok()?;
                let live = Arc::new(self.live(session).ok()?);
                self.cache.insert(value.into_owned().into_boxed_str(), live.clone());
                live
            }
        };
        self.is_valid(&live, now).then_some(live)
    }

    pub(super) fn is_valid(&self, live: &Live, now: u64) -> bool {
        now < live.session.end(&self.lifetime) && !self.kept.has_ended(live)
    }

    /// Returns the request's session, wherever it is.
    pub(super) async fn find(&self, request: &HeaderMap) -> Result<Option<Arc<Live>>, StoreError> {
        let Some(store) = &self.store else { return Ok(self.local(request, self.now())) };
        let ticket = self.session_cookie.value(request);
        let ticket = ticket.and_then(|value| self.ring.open(&self.purpose("ticket"), &value));
        let Some(ticket) = ticket.and_then(|plain| serde_json::from_slice::<Ticket>(&plain).ok()) else {
            return Ok(None);
        };
        let ended = futures_util::future::try_join_all(ticket.marks.iter().map(|mark| store.ended(mark)));
        let (session, ended) = futures_util::try_join!(self.stored(store, &ticket.id), ended)?;
        if ended.into_iter().flatten().any(|time| ticket.login <= time) {
            return Ok(None);
        }
        let live = session.and_then(|session| self.live(session).ok()).map(Arc::new);
        Ok(live.filter(|live| self.is_valid(live, self.now())))
    }

    /// Returns a session in the store.
    pub(super) async fn stored(&self, store: &Store, id: &str) -> Result<Option<Session>, StoreError> {
        self.stored_by_mark(store, &session::session_mark(id)).await
    }

    /// Returns the session in the store that has this mark.
    pub(super) async fn stored_by_mark(
        &self,
        store: &Store,
        mark: &str,
    ) -> Result<Option<Session>, StoreError> {
        let value = store.store.get(&session_key(mark), store.deadline).await?;
        let value = value.and_then(|value| String::from_utf8(value.to_vec()).ok());
        let plain = value.and_then(|value| self.ring.open(&self.purpose("stored"), &value));
        let session = plain.and_then(|plain| serde_json::from_slice::<Session>(&plain).ok());
        Ok(session.filter(|session| session::session_mark(&session.id) == mark))
    }

    /// Returns the key of the list of sessions, which the API shows.
    pub(super) fn index_key(&self) -> String {
        format!("{STORE_PREFIX}index:{}", self.session_cookie.name)
    }

    /// Returns who the client is: the consumer with this login, if there is one.
    pub(super) fn identity(&self, live: &Live) -> Result<Arc<Identity>, ConsumerBroken> {
        let directory = self.consumers.load();
        if directory.is_empty() {
            return Ok(live.identity.clone());
        }
        let text = |name: &str| session::session_claim(&live.session, name);
        let consumer = directory.by_login(text("iss").unwrap_or_default(), text);
        Ok(match consumer? {
            Some(consumer) => Arc::new(Identity::clone(&live.identity).of_consumer(Some(consumer))),
            None => live.identity.clone(),
        })
    }

    /// Keeps a session, and returns the cookies for it.
    pub(super) async fn keep(
        &self,
        session: &Session,
        request: &HeaderMap,
    ) -> Result<Vec<HeaderValue>, KeepError> {
        let left = session.end(&self.lifetime).saturating_sub(self.now()).max(1_000);
        let mut cookies = match &self.store {
            Some(store) => {
                let plain = serde_json::to_vec(session).map_err(|_| KeepError::Invalid)?;
                let value = self.ring.seal(&self.purpose("stored"), &plain)?;
                let mark = session::session_mark(&session.id);
                let (key, expiry) = (session_key(&mark), Duration::from_millis(left));
                store.store.set(&key, value.as_bytes(), expiry, store.deadline).await?;
                // The store logs failures. A session counts without being listed.
                let index = self.index_key();
                let _ = store.store.add_member(&index, &mark, MAX_INDEXED, expiry, store.deadline).await;
                let ticket = Ticket { id: session.id.clone(), login: session.login, marks: session.marks() };
                let plain = serde_json::to_vec(&ticket).map_err(|_| KeepError::Invalid)?;
                let value = self.ring.seal(&self.purpose("ticket"), &plain)?;
                self.session_cookie.fields(&value, left.div_ceil(1_000), request)?
            }
            None => match self.in_cookies(session, left, request) {
                // It is only a hint (OpenID Connect RP-Initiated Logout section 2).
                Err(KeepError::TooLong) if session.id_token.is_some() => {
                    self.in_cookies(&Session { id_token: None, ..session.clone() }, left, request)?
                }
                result => result?,
            },
        };
        cookies.extend(self.csrf_cookie(&session.id, left.div_ceil(1_000)));
        Ok(cookies)
    }

    fn in_cookies(
        &self,
        session: &Session,
        left: u64,
        request: &HeaderMap,
    ) -> Result<Vec<HeaderValue>, KeepError> {
        let plain = serde_json::to_vec(session).map_err(|_| KeepError::Invalid)?;
        let value = self.ring.seal(&self.purpose("session"), &plain)?;
        Ok(self.session_cookie.fields(&value, left.div_ceil(1_000), request)?)
    }

    /// Ends a session here, and in the store if there is one.
    pub(super) async fn end(&self, session: &Session) -> Result<(), StoreError> {
        self.kept.end(session::session_mark(&session.id), self.now());
        let Some(store) = &self.store else { return Ok(()) };
        let left = session.end(&self.lifetime).saturating_sub(self.now()).max(1_000);
        let key = session_key(&session::session_mark(&session.id));
        store.store.set(&key, ENDED, Duration::from_millis(left), store.deadline).await
    }

    /// Ends all sessions with this name that have begun until now.
    pub(super) async fn end_all(&self, mark: String) -> Result<(), StoreError> {
        let now = self.now();
        if let Some(store) = &self.store {
            let (key, time) = (ended_key(&mark), now.to_string());
            let expiry = Duration::from_millis(self.lifetime.absolute.max(1_000));
            store.store.set(&key, time.as_bytes(), expiry, store.deadline).await?;
        }
        self.kept.end(mark, now);
        Ok(())
    }

    /// Returns the cookies that remove the session.
    pub(super) fn removal(&self, request: &HeaderMap) -> Vec<HeaderValue> {
        let csrf = self.csrf.iter().flat_map(|(cookie, _)| cookie.removal(request));
        self.session_cookie.removal(request).into_iter().chain(csrf).collect()
    }

    /// Returns true for cookies that services must not see.
    pub(super) fn is_own_cookie(&self, name: &str) -> bool {
        let plain = name.strip_prefix("__Host-").or_else(|| name.strip_prefix("__Secure-")).unwrap_or(name);
        plain.starts_with(super::cookies::PREFIX)
            || self.session_cookie.is_own(name)
            || self.state_cookie.is_own(name)
            || self.csrf.as_ref().is_some_and(|(cookie, _)| cookie.is_own(name))
    }

    /// Cookies of other names, and values with other contents, do not decrypt.
    pub(super) fn purpose(&self, content: &str) -> String {
        format!("{content} {}", self.session_cookie.name)
    }

    /// Returns what the CSRF token of a session is derived from.
    pub(super) fn csrf_text(id: &str) -> String {
        format!("csrf {id}")
    }

    fn csrf_cookie(&self, id: &str, seconds: u64) -> Option<HeaderValue> {
        let (cookie, _) = self.csrf.as_ref()?;
        cookie.field("", &self.ring.mac(&Self::csrf_text(id)), seconds)
    }
}

impl Store {
    /// Returns when the sessions with this name have ended.
    pub(super) async fn ended(&self, mark: &str) -> Result<Option<u64>, StoreError> {
        let value = self.store.get(&ended_key(mark), self.deadline).await?;
        Ok(value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()))
    }

    /// Returns true for the one gateway that may refresh a session now.
    pub(super) async fn lock(&self, id: &str, expiry: Duration) -> Result<bool, StoreError> {
        let key = format!("{STORE_PREFIX}refresh:{}", session::session_mark(id));
        self.store.compare_and_set(&key, None, b"1", expiry, self.deadline).await
    }
}

fn session_key(mark: &str) -> String {
    format!("{STORE_PREFIX}session:{mark}")
}

fn ended_key(mark: &str) -> String {
    format!("{STORE_PREFIX}ended:{mark}")
}
