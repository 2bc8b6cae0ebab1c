//! What is known of one request, from its first byte to the last of its response.
//!
//! There is one [`Exchange`] per request. Whatever handles the request notes what it knows where it knows it; the access
//! log, metrics and spans read. Nothing here waits or locks: values are set once, counted, or appended.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, Version};

use crate::{Connection, Identity, Origin, Reason};

/// Maximum number of attempts, pages, routes and identities that are remembered of one request, of each kind.
const MAX_ENTRIES: usize = 64;
/// Maximum number of failed attempts in a [`Summary`].
const MAX_FAILED: usize = 16;
/// A length that is not known.
const UNKNOWN: u64 = u64::MAX;
/// [`Page::replaced`] of a page that went with the answer that it replaced.
const DROPPED: u16 = u16::MAX;

/// What is known of one request.
#[derive(Debug)]
pub struct Exchange {
    /// The connection it came by: entry point, client, TLS, and when it was accepted.
    pub connection: Arc<Connection>,
    /// The protocol version that the client uses.
    pub version: Version,
    /// When the request head had been read.
    pub started: Instant,
    /// Headers of servers' answers are kept, because a reader wants them.
    pub keep_headers: bool,
    route: Option<Arc<RouteInfo>>,
    /// Where routers stand below others: the routes after the first.
    inner_routes: Log<Arc<RouteInfo>>,
    /// Nanoseconds from `started` to when the route was known; 0 before.
    routed: AtomicU64,
    /// How many middlewares of the route are behind the one that has the request, itself included.
    stage: AtomicU16,
    /// The service of the route has been reached, since the last answer that was replaced.
    reached: AtomicBool,
    attempts: Log<Attempt>,
    retries: AtomicU32,
    pages: Log<Page>,
    identities: Log<Arc<Identity>>,
    users: Log<Box<str>>,
    received: AtomicU64,
    sent: AtomicU64,
    /// Nanoseconds from `started` to when the response began; 0 before.
    answered: AtomicU64,
    status: AtomicU16,
    /// A [`Reason`] and 1, or 0 when a server answered.
    reason: AtomicU8,
}

/// A route as readers know it.
#[derive(Debug, Default)]
pub struct RouteInfo {
    /// `name@provider` of the router; those above it come first, separated by ` -> `.
    pub router: Arc<str>,
    /// `name@provider` of the service; empty where there are routers below instead.
    pub service: Arc<str>,
    /// `name@provider` of the middlewares, first to last.
    pub middlewares: Box<[Arc<str>]>,
}

/// A server as readers know it.
#[derive(Debug)]
pub struct ServerInfo {
    /// What tells it from all others for as long as the gateway runs.
    pub id: u64,
    /// Its URL as configured.
    pub url: Arc<str>,
    /// `host:port`, or the URL of a socket.
    pub address: Arc<str>,
}

/// The request at one server.
#[derive(Debug)]
pub struct Attempt {
    /// `name@provider` of the service.
    pub service: Arc<str>,
    /// The server; `None` when the service has none that may be used.
    pub server: Option<Arc<ServerInfo>>,
    /// When the request was given to the server's connection pool.
    pub sent: Instant,
    /// Nanoseconds from `sent` to the head of the answer, or to the failure; 0 before.
    took: AtomicU64,
    /// Status of the server's answer; 0 without one.
    status: AtomicU16,
    /// Length of the body that the server announced.
    size: AtomicU64,
    /// Bytes of the body that came.
    received: AtomicU64,
    headers: OnceLock<HeaderMap>,
    /// The status that the client did not get, because something else followed; 0: it did.
    replaced: AtomicU16,
}

/// A page in place of an answer (`errors`).
#[derive(Debug)]
struct Page {
    exchange: Arc<Exchange>,
    /// As in [`Attempt`].
    replaced: AtomicU16,
}

/// What an exchange comes to, as the access log shows it.
#[derive(Clone, Debug, Default)]
pub struct Summary<'a> {
    /// The route.
    pub route: Option<&'a RouteInfo>,
    /// `name@provider` of the service that answered, or was asked last.
    pub service: Option<&'a str>,
    /// The server that answered, or was asked last.
    pub server: Option<&'a ServerInfo>,
    /// The name that the client has given itself.
    pub user: Option<&'a str>,
    /// When the server was asked.
    pub asked: Option<Instant>,
    /// Status of the server's answer.
    pub origin_status: Option<u16>,
    /// Length of the server's body, in bytes.
    pub origin_size: Option<u64>,
    /// Time from sending the request to the head of the answer, or to the failure.
    pub origin_duration: Option<Duration>,
    /// Headers of the server's answer, when they are kept.
    pub origin_headers: Option<&'a HeaderMap>,
    /// How often the request was sent again.
    pub retries: u32,
    /// The attempts whose answers the client did not get, oldest first, at most 16.
    pub failed: Vec<Failed<'a>>,
    /// The request for the page that the client got instead of the answer.
    pub page: Option<Box<Summary<'a>>>,
}

/// An attempt that was followed by another one.
#[derive(Clone, Debug)]
pub struct Failed<'a> {
    /// `name@provider` of the service.
    pub service: &'a str,
    /// The server, unless there was none.
    pub server: Option<&'a ServerInfo>,
    /// Status of the answer, which may be one of the gateway when the server gave none.
    pub status: u16,
    /// Time from sending the request to the head of the answer, or to the failure.
    pub duration: Option<Duration>,
    sent: Instant,
}

impl Exchange {
    /// An exchange whose request head has just been read.
    pub fn begin(connection: Arc<Connection>, version: Version) -> Self {
        Self {
            connection,
            version,
            started: Instant::now(),
            keep_headers: false,
            route: None,
            inner_routes: Log::default(),
            routed: AtomicU64::new(0),
            stage: AtomicU16::new(0),
            reached: AtomicBool::new(false),
            attempts: Log::default(),
            retries: AtomicU32::new(0),
            pages: Log::default(),
            identities: Log::default(),
            users: Log::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            status: AtomicU16::new(0),
            reason: AtomicU8::new(0),
        }
    }

    /// An exchange for a request that the gateway makes beside this one, such as a copy for a mirror.
    #[must_use]
    pub fn aside(&self) -> Arc<Self> {
        Arc::new(Self::begin(self.connection.clone(), self.version))
    }

    /// Notes the route, before anybody else knows of the exchange.
    pub fn set_route(&mut self, route: Arc<RouteInfo>) {
        self.route = Some(route);
        *self.routed.get_mut() = since(self.started);
    }

    /// Notes a route below the route (`parentRefs`).
    pub fn enter_route(&self, route: Arc<RouteInfo>) {
        self.reached.store(false, Ordering::Relaxed);
        self.inner_routes.push(route);
    }

    /// The route, the innermost where routers stand below others; `None` when no router took the request.
    pub fn route(&self) -> Option<&Arc<RouteInfo>> {
        self.inner_routes.last().or(self.route.as_ref())
    }

    /// `name@provider` of the router; empty when none took the request.
    pub fn router(&self) -> &str {
        self.route().map_or("", |route| &route.router)
    }

    /// Time from the head to when the route was known.
    pub fn routed(&self) -> Option<Duration> {
        duration(&self.routed)
    }

    /// Notes how many middlewares of the route are left, the one included that has the request now.
    pub(crate) fn pass_on(&self, left: u16) {
        self.stage.store(left, Ordering::Relaxed);
    }

    /// The middleware of the route that got furthest.
    pub fn middleware(&self) -> Option<&Arc<str>> {
        let middlewares = &self.route()?.middlewares;
        let left = usize::from(self.stage.load(Ordering::Relaxed));
        middlewares.get(middlewares.len().checked_sub(left)?)
    }

    /// Notes that the service of the route has the request.
    pub fn reach_service(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// Notes that the request goes to a server of `service`, or that the service has none.
    pub fn attempt(&self, service: &Arc<str>, server: Option<&Arc<ServerInfo>>) -> Option<&Attempt> {
        self.attempts.push(Attempt {
            service: service.clone(),
            server: server.cloned(),
            sent: Instant::now(),
            took: AtomicU64::new(0),
            status: AtomicU16::new(0),
            size: AtomicU64::new(UNKNOWN),
            received: AtomicU64::new(0),
            headers: OnceLock::new(),
            replaced: AtomicU16::new(0),
        })
    }

    /// The attempts, oldest first, at most 64.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter()
    }

    /// The latest attempt.
    pub fn last_attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// True when the request was sent to this server before.
    pub fn has_tried(&self, server: u64) -> bool {
        self.attempts.iter().any(|attempt| attempt.server.as_ref().is_some_and(|one| one.id == server))
    }

    /// Notes that the client does not get the answer `status`, because another attempt follows.
    pub fn replace(&self, status: u16) {
        if let Some(page) = self.pages.last().filter(|page| !is_set(&page.replaced)) {
            // What the page replaced is replaced with it.
            page.replaced.store(DROPPED, Ordering::Relaxed);
        }
        let reached = self.reached.swap(false, Ordering::Relaxed);
        let current = self.current().or_else(|| {
            // Nobody has asked a server.
            let route = self.route().filter(|route| reached && !route.service.is_empty())?;
            self.attempt(&route.service, None)
        });
        if let Some(attempt) = current {
            attempt.replaced.store(status, Ordering::Relaxed);
        }
    }

    /// Notes that the client does not get the answer `status`, and that the request is sent again.
    pub fn retry(&self, status: u16) {
        self.replace(status);
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the request was sent again.
    pub fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Notes that a page of `service` replaces the answer with this status and length. Returns the exchange for the
    /// page's request.
    pub fn begin_page(&self, service: Arc<str>, status: u16, size: Option<u64>) -> Arc<Self> {
        let mut page = Self::begin(self.connection.clone(), self.version);
        page.keep_headers = self.keep_headers;
        page.route = Some(Arc::new(RouteInfo { service, ..RouteInfo::default() }));
        *page.reached.get_mut() = true;
        let page = Arc::new(page);
        match self.pages.last().filter(|page| !is_set(&page.replaced)) {
            Some(replaced) => replaced.replaced.store(status, Ordering::Relaxed),
            None => {
                if let Some(attempt) = self.current().filter(|attempt| attempt.server.is_some()) {
                    attempt.answer_replaced(status, size);
                }
            }
        }
        self.pages.push(Page { exchange: page.clone(), replaced: AtomicU16::new(0) });
        page
    }

    /// Notes who the client is.
    pub(crate) fn identify(&self, identity: Arc<Identity>) {
        self.identities.push(identity);
    }

    /// Who the client is, as the last middleware that authenticates has found, or its certificate says.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identities.last().or(self.connection.identity.as_ref())
    }

    /// Notes the name that the client has given itself, whether or not it could prove it.
    pub fn claim(&self, user: &str) {
        self.users.push(user.into());
    }

    /// The name that the client has given itself.
    pub fn user(&self) -> Option<&str> {
        self.users.last().map(|user| &**user)
    }

    /// Counts bytes of the request's body.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of the request's body so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes of the response's body.
    pub fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of the response's body so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Notes the response that the client gets: its status, and why it is not from a server.
    pub fn answer(&self, status: u16, reason: Option<Reason>) {
        self.status.store(status, Ordering::Relaxed);
        self.reason.store(reason.map_or(0, |reason| reason as u8 + 1), Ordering::Relaxed);
        self.answered.store(since(self.started), Ordering::Relaxed);
    }

    /// Time from the head to when the response began.
    pub fn answered(&self) -> Option<Duration> {
        duration(&self.answered)
    }

    /// Status of the response; 0 before there is one.
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Why the response is not from a server; `None` when it is, or when there is none yet.
    pub fn reason(&self) -> Option<Reason> {
        Reason::ALL.get(usize::from(self.reason.load(Ordering::Relaxed)).checked_sub(1)?).copied()
    }

    /// Who answered; `None` before there is a response.
    pub fn origin(&self) -> Option<Origin> {
        (self.status() != 0).then(|| self.reason().map_or(Origin::Server, Reason::origin))
    }

    /// What it has come to so far.
    pub fn summary(&self) -> Summary<'_> {
        let current = self.current();
        let reached = || self.route().filter(|_| self.reached.load(Ordering::Relaxed));
        let reached = reached().map(|route| &*route.service).filter(|service| !service.is_empty());
        let server = current.and_then(|attempt| attempt.server.as_deref());
        let asked = current.filter(|_| server.is_some());
        let page = self.pages.last().filter(|page| !is_set(&page.replaced));
        let mut failed: Vec<Failed<'_>> = self.attempts.iter().filter_map(Attempt::failed).collect();
        failed.extend(self.pages.iter().filter_map(Page::failed));
        failed.sort_by_key(|failed| failed.sent);
        failed.truncate(MAX_FAILED);
        Summary {
            route: self.route().map(|route| &**route),
            service: current.map(|attempt| &*attempt.service).or(reached),
            server,
            user: self.user(),
            asked: asked.map(|attempt| attempt.sent),
            origin_status: current.and_then(Attempt::status),
            origin_size: current.and_then(Attempt::size),
            origin_duration: asked.and_then(Attempt::took),
            origin_headers: current.and_then(|attempt| attempt.headers.get()),
            retries: self.retries(),
            failed,
            page: page.map(|page| Box::new(page.summary())),
        }
    }

    /// The attempt whose answer the client gets, as far as is known.
    fn current(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| !is_set(&attempt.replaced))
    }
}

impl Attempt {
    /// Notes the head of the server's answer. `size` is the length of its body, when it is known.
    pub fn answer(&self, status: u16, size: Option<u64>) {
        self.end();
        self.status.store(status, Ordering::Relaxed);
        self.size.store(size.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Keeps the headers of the server's answer.
    pub fn keep_headers(&self, headers: &HeaderMap) {
        // It has one answer.
        let _ = self.headers.set(headers.clone());
    }

    /// Notes that no answer will come.
    pub fn end(&self) {
        self.took.store(since(self.sent), Ordering::Relaxed);
    }

    /// Counts bytes of the body of the server's answer.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Status of the server's answer.
    pub fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }

    /// Length of the body of the server's answer: as announced, else what has come of it. `None` without an answer.
    pub fn size(&self) -> Option<u64> {
        self.status()?;
        let announced = Some(self.size.load(Ordering::Relaxed)).filter(|size| *size != UNKNOWN);
        Some(announced.unwrap_or_else(|| self.received.load(Ordering::Relaxed)))
    }

    /// Time from sending the request to the head of the answer, or to the failure.
    pub fn took(&self) -> Option<Duration> {
        duration(&self.took)
    }

    /// True when the client did not get the answer, because another attempt followed.
    pub fn is_replaced(&self) -> bool {
        is_set(&self.replaced)
    }

    /// Notes that a page replaces the answer: without one of the server, the gateway's own stands for it.
    fn answer_replaced(&self, status: u16, size: Option<u64>) {
        if self.status().is_none() {
            self.status.store(status, Ordering::Relaxed);
            self.size.store(size.unwrap_or(0), Ordering::Relaxed);
        }
    }

    fn failed(&self) -> Option<Failed<'_>> {
        self.is_replaced().then(|| self.as_failed(self.replaced.load(Ordering::Relaxed)))
    }

    fn as_failed(&self, status: u16) -> Failed<'_> {
        Failed {
            service: &self.service,
            server: self.server.as_deref(),
            status: self.status().unwrap_or(status),
            duration: self.took(),
            sent: self.sent,
        }
    }
}

impl Page {
    /// What the request for the page has come to. Where no server has answered it, the gateway's answer counts.
    fn summary(&self) -> Summary<'_> {
        let summary = self.exchange.summary();
        let answered = Some(self.exchange.status()).filter(|status| *status != 0);
        Summary { origin_status: summary.origin_status.or(answered), ..summary }
    }

    fn failed(&self) -> Option<Failed<'_>> {
        match self.replaced.load(Ordering::Relaxed) {
            0 | DROPPED => None,
            status => self.exchange.current().map(|attempt| attempt.as_failed(status)),
        }
    }
}

fn is_set(replaced: &AtomicU16) -> bool {
    replaced.load(Ordering::Relaxed) != 0
}

/// Nanoseconds from `start` until now, at least one.
fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// A number of nanoseconds; `None` for 0.
fn duration(nanoseconds: &AtomicU64) -> Option<Duration> {
    Some(nanoseconds.load(Ordering::Relaxed)).filter(|nanos| *nanos != 0).map(Duration::from_nanos)
}

/// A list to which several can append at once, and from which nothing is taken. Its first entry needs no allocation, as
/// most exchanges have one at most. Holds up to 64.
#[derive(Debug)]
struct Log<T> {
    first: OnceLock<T>,
    more: OnceLock<Box<Log<T>>>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { first: OnceLock::new(), more: OnceLock::new() }
    }
}

impl<T> Log<T> {
    /// Appends an entry. Returns `None` when the list is full.
    fn push(&self, mut entry: T) -> Option<&T> {
        let mut at = self;
        for _ in 0..MAX_ENTRIES {
            match at.first.set(entry) {
                Ok(()) => return at.first.get(),
                Err(back) => entry = back,
            }
            at = at.more.get_or_init(Box::default);
        }
        None
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = Some(self);
        std::iter::from_fn(move || {
            let log = at?;
            at = log.more.get().map(|more| &**more);
            log.first.get()
        })
    }

    fn last(&self) -> Option<&T> {
        let mut log = self;
        while let Some(more) = log.more.get() {
            if more.first.get().is_none() {
                break;
            }
            log = more;
        }
        log.first.get()
    }
}
