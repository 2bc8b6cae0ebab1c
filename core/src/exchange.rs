//! Everything known about one request, from its first byte to the last of its response.
//!
//! There is one [`Exchange`] per request. Each component that handles the request records what it knows; the
//! access log, metrics and spans read it. Nothing here waits or locks: values are set once, counted, or
//! appended.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderMap, Version};

use crate::append_list::AppendList;
use crate::attempt::{Attempt, Counters, Failed, ServerInfo, duration, is_set, since};
use crate::audit::{Audit, AuditEvent};
use crate::concealed::Concealed;
use crate::metrics::Counted;
use crate::{Connection, Identity, Origin, Reason, RequestCounters, Spans, Timing, TraceContext};

/// Maximum number of failed attempts in a [`Summary`].
const MAX_FAILED: usize = 16;
/// [`Page::replaced`] of a page that was dropped with the response it replaced.
const DROPPED: u16 = u16::MAX;

/// The part of [`Exchange::stage`] that says how far the request got.
const REACHED: u32 = 0xffff;

/// A place in the chain of a request.
#[derive(Clone, Copy, Debug)]
pub struct Stage(u32);

/// Everything known about one request.
#[derive(Debug)]
pub struct Exchange {
    /// The client's connection: entry point, address, TLS, and when it was accepted.
    pub connection: Arc<Connection>,
    /// The client's protocol version.
    pub version: Version,
    /// When the request head was complete.
    pub started: Instant,
    /// Whether headers of servers' responses are kept for a reader.
    pub keep_headers: bool,
    /// Whether it is recorded how long routing and the response took, for a reader.
    pub keep_times: bool,
    /// How metrics count the request; `None` if they do not.
    pub counted: Option<Counted>,
    route: Option<Arc<RouteInfo>>,
    /// The routes after the first, where routers are nested.
    inner_routes: AppendList<Arc<RouteInfo>>,
    /// Nanoseconds from `started` until the route was found; 0 before, and if it is not kept.
    routed: AtomicU64,
    /// Number of middlewares of the route from the current one to the last, and above it (`<< 16`) from the one that
    /// replaces their response; 0 if none does.
    stage: AtomicU32,
    /// Whether the route's service was reached since a response was last replaced.
    reached: AtomicBool,
    attempts: AppendList<Attempt>,
    retries: AtomicU32,
    pages: AppendList<Page>,
    identities: AppendList<Arc<Identity>>,
    users: AppendList<Box<str>>,
    concealed: AppendList<Arc<Concealed>>,
    received: AtomicU64,
    sent: AtomicU64,
    /// Nanoseconds from `started` until the response began; 0 before, and if it is not kept.
    answered: AtomicU64,
    status: AtomicU16,
    /// A [`Reason`] plus 1, or 0 if a server responded.
    reason: AtomicU8,
    request_id: OnceLock<Box<str>>,
    audit: OnceLock<Box<Audit>>,
    trace: OnceLock<TraceContext>,
    spans: Option<Arc<Spans>>,
    timing: Option<Arc<Timing>>,
}

/// A route, for readers of the exchange.
#[derive(Debug, Default)]
pub struct RouteInfo {
    /// `name@provider` of the router, preceded by its parents, separated by ` -> `.
    pub router: Arc<str>,
    /// `name@provider` of the service; empty if the router has child routers instead.
    pub service: Arc<str>,
    /// The middlewares, in order. In place of a chain are its members.
    pub middlewares: Box<[MiddlewareInfo]>,
    /// The names of the middlewares' spans, in order; empty for one without a span. None without tracing.
    pub middleware_types: Box<[Arc<str>]>,
    /// The rule of the router; empty without tracing.
    pub rule: Arc<str>,
    /// Counts the requests of the router, if metrics have its name.
    pub counters: Option<Arc<RequestCounters>>,
}

/// A middleware of a route, for readers of the exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MiddlewareInfo {
    /// `name@provider`.
    pub name: Arc<str>,
    /// `name@provider` of the chains that it is part of, outermost first.
    pub via: Arc<[Arc<str>]>,
}

/// A page that replaces a response (`errors`).
#[derive(Debug)]
struct Page {
    exchange: Arc<Exchange>,
    /// Status of the response that it replaces.
    of: u16,
    /// As in [`Attempt`].
    replaced: AtomicU16,
}

/// The outcome of an exchange, as shown in the access log.
#[derive(Clone, Debug, Default)]
pub struct Summary<'a> {
    /// The route.
    pub route: Option<&'a RouteInfo>,
    /// `name@provider` of the service that responded or was tried last.
    pub service: Option<&'a str>,
    /// The server that responded or was tried last.
    pub server: Option<&'a ServerInfo>,
    /// The user name that the client claimed.
    pub user: Option<&'a str>,
    /// When the request was sent to the server.
    pub asked: Option<Instant>,
    /// Status of the server's response.
    pub origin_status: Option<u16>,
    /// Length of the server's body in bytes.
    pub origin_size: Option<u64>,
    /// Time from sending the request to the response head, or to the failure.
    pub origin_duration: Option<Duration>,
    /// Headers of the server's response, if they are kept.
    pub origin_headers: Option<&'a HeaderMap>,
    /// Number of retries.
    pub retries: u32,
    /// The attempts whose responses were replaced, oldest first, at most 16.
    pub failed: Vec<Failed<'a>>,
    /// The request for the page that replaced the response.
    pub page: Option<Box<Summary<'a>>>,
}

impl Exchange {
    /// Creates an exchange for a request whose head has just been read.
    pub fn begin(connection: Arc<Connection>, version: Version) -> Self {
        Self {
            connection,
            version,
            started: Instant::now(),
            keep_headers: false,
            keep_times: true,
            counted: None,
            route: None,
            inner_routes: AppendList::default(),
            routed: AtomicU64::new(0),
            stage: AtomicU32::new(0),
            reached: AtomicBool::new(false),
            attempts: AppendList::default(),
            retries: AtomicU32::new(0),
            pages: AppendList::default(),
            identities: AppendList::default(),
            users: AppendList::default(),
            concealed: AppendList::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            status: AtomicU16::new(0),
            reason: AtomicU8::new(0),
            request_id: OnceLock::new(),
            audit: OnceLock::new(),
            trace: OnceLock::new(),
            spans: None,
            timing: None,
        }
    }

    /// Creates an exchange for a separate request of the gateway, such as a mirrored copy.
    #[must_use]
    pub fn aside(&self) -> Arc<Self> {
        let mut aside = Self::begin(self.connection.clone(), self.version);
        aside.keep_times = self.keep_times;
        aside.counted = self.counted.clone();
        aside.spans = self.spans.as_ref().map(|spans| spans.aside());
        Arc::new(aside)
    }

    /// Records the route, before the exchange is shared.
    pub fn set_route(&mut self, route: Arc<RouteInfo>) {
        self.route = Some(route);
        if self.keep_times {
            *self.routed.get_mut() = since(self.started);
        }
    }

    /// Records a child route (`parentRefs`).
    pub fn enter_route(&self, route: Arc<RouteInfo>) {
        self.reached.store(false, Ordering::Relaxed);
        self.inner_routes.push(|| route.clone());
    }

    /// Returns the route, the innermost if routers are nested; `None` if no router matched.
    pub fn route(&self) -> Option<&Arc<RouteInfo>> {
        self.inner_routes.last().or(self.route.as_ref())
    }

    /// Returns the routes, outermost first.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<RouteInfo>> {
        self.route.iter().chain(self.inner_routes.iter())
    }

    /// Returns `name@provider` of the router; empty if none matched.
    pub fn router(&self) -> &str {
        self.route().map_or("", |route| &route.router)
    }

    /// Returns the time from the head until the route was found, if it is kept.
    pub fn routed(&self) -> Option<Duration> {
        duration(&self.routed)
    }

    /// Records how many middlewares of the route are left, including the current one.
    pub(crate) fn pass_on(&self, left: u16) {
        self.stage.store(left.into(), Ordering::Relaxed);
    }

    /// Returns where the request is in its chain, for [`Exchange::replace_at`].
    pub fn stage(&self) -> Stage {
        Stage(self.stage.load(Ordering::Relaxed) & REACHED)
    }

    /// Records that the middleware at this stage replaces the response of those behind it by its own.
    pub fn replace_at(&self, stage: Stage) {
        let reached = self.stage.load(Ordering::Relaxed) & REACHED;
        self.stage.store(reached | stage.0 << REACHED.count_ones(), Ordering::Relaxed);
    }

    /// Returns the middleware of the route that replaced the response, or else the one that the request reached last.
    pub fn middleware(&self) -> Option<&Arc<str>> {
        let middlewares = &self.route()?.middlewares;
        middlewares.get(self.middleware_index()?).map(|middleware| &middleware.name)
    }

    /// Returns the place of [`Exchange::middleware`] in the route.
    pub fn middleware_index(&self) -> Option<usize> {
        let stage = self.stage.load(Ordering::Relaxed);
        let left = match stage >> REACHED.count_ones() {
            0 => stage,
            replaced => replaced,
        };
        self.reached(left).checked_sub(1)
    }

    /// Returns how many middlewares of the route the request reached.
    pub fn middlewares_reached(&self) -> usize {
        self.reached(self.stage.load(Ordering::Relaxed) & REACHED)
    }

    fn reached(&self, left: u32) -> usize {
        let all = self.route().map_or(0, |route| route.middlewares.len());
        match usize::try_from(left).unwrap_or(0) {
            0 => 0,
            left => (all + 1).saturating_sub(left),
        }
    }

    /// Returns true if the request reached the route's service.
    pub fn has_reached_service(&self) -> bool {
        self.reached.load(Ordering::Relaxed) || self.attempts.last().is_some()
    }

    /// Records that the request reached the route's service.
    pub fn reach_service(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// Records that the request is sent to a server of `service`, or that the service has none.
    pub fn attempt(&self, service: &Arc<str>, server: Option<&Arc<ServerInfo>>) -> Option<&Attempt> {
        self.attempt_counted(service, server, (None, None))
    }

    /// Like [`Exchange::attempt`], with the counters of the service and the server.
    pub fn attempt_counted(
        &self,
        service: &Arc<str>,
        server: Option<&Arc<ServerInfo>>,
        counters: Counters<'_>,
    ) -> Option<&Attempt> {
        self.attempts.push(|| Attempt::begin(service.clone(), server.cloned(), counters))
    }

    /// Returns the attempts, oldest first, at most 64.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter()
    }

    /// Returns the latest attempt.
    pub fn last_attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// Returns true if the request was already sent to this server.
    pub fn has_tried(&self, server: u64) -> bool {
        self.attempts.iter().any(|attempt| attempt.server.as_ref().is_some_and(|one| one.id == server))
    }

    /// Records that the response `status` is not sent to the client because another attempt follows.
    pub fn replace(&self, status: u16) {
        if let Some(page) = self.pages.last().filter(|page| !is_set(&page.replaced)) {
            // The response that the page replaced is replaced along with it.
            page.replaced.store(DROPPED, Ordering::Relaxed);
        }
        let reached = self.reached.swap(false, Ordering::Relaxed);
        let current = self.current().or_else(|| {
            // No server was tried.
            let route = self.route().filter(|route| reached && !route.service.is_empty())?;
            self.attempt(&route.service, None)
        });
        if let Some(attempt) = current {
            attempt.replaced.store(status, Ordering::Relaxed);
        }
    }

    /// Records that the response `status` is not sent to the client and the request is retried.
    pub fn retry(&self, status: u16) {
        self.replace(status);
        self.retries.fetch_add(1, Ordering::Relaxed);
        if let Some(counters) = self.last_attempt().and_then(Attempt::counters) {
            counters.count_retry();
        }
    }

    /// Returns the number of retries.
    pub fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Records that a page from `service` replaces the response with this status and length. Returns the
    /// exchange for the page's request.
    pub fn begin_page(&self, service: Arc<str>, status: u16, size: Option<u64>) -> Arc<Self> {
        let mut page = Self::begin(self.connection.clone(), self.version);
        (page.keep_headers, page.keep_times) = (self.keep_headers, self.keep_times);
        page.counted = self.counted.as_ref().map(Counted::as_get);
        page.spans = self.spans.clone();
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
        self.pages.push(|| Page { exchange: page.clone(), of: status, replaced: AtomicU16::new(0) });
        page
    }

    /// Returns the requests for pages that replace responses, oldest first, at most 64.
    pub fn pages(&self) -> impl Iterator<Item = &Self> {
        self.pages.iter().map(|page| &*page.exchange)
    }

    /// Returns the status of the route's response if a page replaces it.
    pub fn behind_page(&self) -> Option<u16> {
        let mut status = None;
        for page in self.pages.iter() {
            // The first page since the last retry replaces it; others replace pages.
            match page.replaced.load(Ordering::Relaxed) {
                DROPPED => status = None,
                _ => status = status.or(Some(page.of)),
            }
        }
        status
    }

    /// Records who the client is.
    pub(crate) fn identify(&self, identity: Arc<Identity>) {
        self.identities.push(|| identity.clone());
    }

    /// Returns who the client is, according to the last middleware that authenticated it, or to its
    /// certificate.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identities.last().or(self.connection.identity.as_ref())
    }

    /// Returns the qualified name of the consumer that sent the request, if it is one.
    pub fn consumer(&self) -> Option<&str> {
        self.identity()?.consumer.as_ref().map(|consumer| &*consumer.name)
    }

    /// Records the user name that the client claims, whether it could prove it or not.
    pub fn claim(&self, user: &str) {
        self.users.push(|| user.into());
    }

    /// Returns the user name that the client claims.
    pub fn user(&self) -> Option<&str> {
        self.users.last().map(|user| &**user)
    }

    /// Records where the request's credentials are, so that no log shows them.
    pub fn conceal(&self, concealed: Arc<Concealed>) {
        self.concealed.push(|| concealed.clone());
    }

    /// Returns where credentials are that must not be shown.
    pub fn concealed(&self) -> impl Iterator<Item = &Arc<Concealed>> {
        self.concealed.iter()
    }

    /// Records an event for the audit log. Only the first call has an effect.
    pub fn note(&self, event: AuditEvent, subject: &str) {
        let _ = self.audit.set(Box::new(Audit { event, subject: subject.to_owned() }));
    }

    /// Returns the event for the audit log, if there is one.
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.get().map(|audit| &**audit)
    }

    /// Sets the identifier of the request (`requestId`). Only the first call has an effect.
    pub fn set_request_id(&self, id: &str) {
        let _ = self.request_id.set(id.into());
    }

    /// Returns the identifier of the request, if it has one.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.get().map(|id| &**id)
    }

    /// Sets the trace that the request belongs to. Only the first call has an effect.
    pub fn set_trace(&self, trace: TraceContext) {
        let _ = self.trace.set(trace);
    }

    /// Returns the trace that the request belongs to, if there is tracing.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.get()
    }

    /// Sets the spans of the request and their trace, before the exchange is shared.
    pub fn set_spans(&mut self, spans: Arc<Spans>) {
        self.set_trace(*spans.trace());
        self.spans = Some(spans);
    }

    /// Returns the spans of the request, if there is tracing.
    pub fn spans(&self) -> Option<&Arc<Spans>> {
        self.spans.as_ref()
    }

    /// Returns the spans if routers, middlewares and services are recorded.
    pub fn detailed_spans(&self) -> Option<&Arc<Spans>> {
        self.spans.as_ref().filter(|spans| spans.is_detailed())
    }

    /// Lets the time of each middleware be recorded, before the exchange is shared.
    pub fn record_timing(&mut self) {
        self.timing = Some(Arc::default());
    }

    /// Returns the times of middlewares, if they are recorded.
    pub fn timing(&self) -> Option<&Arc<Timing>> {
        self.timing.as_ref()
    }

    /// Counts bytes of the request's body.
    pub fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the number of bytes received of the request's body.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counts bytes of the response's body.
    pub fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the number of bytes sent of the response's body.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Records the status of the response, and why it is not from a server.
    pub fn answer(&self, status: u16, reason: Option<Reason>) {
        self.status.store(status, Ordering::Relaxed);
        self.reason.store(reason.map_or(0, |reason| reason as u8 + 1), Ordering::Relaxed);
        if self.keep_times {
            self.answered.store(since(self.started), Ordering::Relaxed);
        }
    }

    /// Returns the time from the head until the response began, if it is kept.
    pub fn answered(&self) -> Option<Duration> {
        duration(&self.answered)
    }

    /// Returns the status of the response; 0 before there is one.
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    /// Returns why the response is not from a server; `None` if it is, or if there is none yet.
    pub fn reason(&self) -> Option<Reason> {
        Reason::ALL.get(usize::from(self.reason.load(Ordering::Relaxed)).checked_sub(1)?).copied()
    }

    /// Returns who responded; `None` before there is a response.
    pub fn origin(&self) -> Option<Origin> {
        (self.status() != 0).then(|| self.reason().map_or(Origin::Server, Reason::origin))
    }

    /// Summarises the exchange so far.
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

    /// Returns the attempt whose response the client gets, as far as is known.
    fn current(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| !is_set(&attempt.replaced))
    }
}

impl Page {
    /// Summarises the request for the page. If no server responded, the gateway's response counts.
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
