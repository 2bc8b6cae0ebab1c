//! Applies decisions to requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, StatusCode};
use quick_cache::sync::Cache;
use tidegate_core::building::Task;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::forwarded::address_text;
use tidegate_core::{
    BoxFuture, Clock, Middleware, Next, Prediction, Reason, Request, Response, boxed, reply,
};

use super::appsec::{Appsec, Opinion};
use super::captcha;
use super::client::Client;
use super::decisions::Remediation;
use super::lapi::Lapi;
use super::places::Places;
use super::stream::{Listed, Stream};
use super::template::Template;

/// Maximum number of addresses whose decisions are cached in live mode.
const MAX_CACHED: usize = 100_000;
/// Maximum number of questions at once.
const MAX_ASKING: usize = 1024;
/// How long no question is asked after one that failed.
const COOL_DOWN: Duration = Duration::from_secs(1);

/// Values of the page for banned clients.
pub(super) const NAMES: &[&str] = &["RemediationReason", "ClientIP", "TraceID"];

/// Where decisions come from.
pub(super) enum Source {
    /// A question per address.
    Live(Live),
    /// A list.
    Stream { stream: Arc<Stream>, lapi: Lapi, waits_for_start: bool, _task: Task },
    /// Only AppSec decides.
    None,
}

/// Asks about each address.
pub(super) struct Live {
    pub(super) lapi: Lapi,
    /// Decisions with the uptime at which they are asked for again. `None` if nothing is cached.
    pub(super) cache: Option<Cache<IpAddr, Cached>>,
    /// Maximum time for which a decision is cached.
    pub(super) longest: Duration,
    pub(super) asking: Places,
    /// Uptime in milliseconds until which no question is asked.
    pub(super) paused: AtomicU64,
}

#[derive(Clone, Copy)]
pub(super) struct Cached {
    remediation: Option<Remediation>,
    end: Duration,
}

/// What is known about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Decided(Option<Remediation>),
    /// The source fails, and requests are refused then.
    Unavailable,
}

/// Creates the cache of live mode.
pub(super) fn cache() -> Cache<IpAddr, Cached> {
    Cache::new(MAX_CACHED)
}

impl Live {
    fn cached(&self, address: IpAddr, clock: &Clock) -> Option<Option<Remediation>> {
        let cached = self.cache.as_ref()?.get(&address)?;
        (cached.end > clock.uptime()).then_some(cached.remediation)
    }

    /// Asks; `None` if there is no answer.
    async fn ask(&self, address: IpAddr, clock: &Clock) -> Option<Option<Remediation>> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if millis(clock.uptime()) < self.paused.load(Ordering::Relaxed) {
            return None;
        }
        let _place = self.asking.take(MAX_ASKING)?;
        match self.lapi.ask(address).await {
            Ok(found) => {
                if let Some(cache) = &self.cache {
                    let duration = found.map_or(self.longest, |(_, duration)| duration.min(self.longest));
                    let remediation = found.map(|(remediation, _)| remediation);
                    cache.insert(address, Cached { remediation, end: clock.uptime() + duration });
                }
                Some(found.map(|(remediation, _)| remediation))
            }
            Err(error) => {
                tracing::warn!(lapi = self.lapi.base, %error, "asking CrowdSec about an address failed");
                self.paused.store(millis(clock.uptime() + COOL_DOWN), Ordering::Relaxed);
                None
            }
        }
    }
}

/// Refuses clients and requests that CrowdSec refuses.
pub(super) struct Bouncer {
    pub(super) client: Client,
    pub(super) trusted: IpRanges,
    pub(super) clock: Clock,
    pub(super) source: Source,
    /// Number of consecutive failures that are tolerated; any number if `None`.
    pub(super) max_failures: Option<u64>,
    pub(super) appsec: Option<Appsec>,
    pub(super) captcha: Option<captcha::Shared>,
    pub(super) status: StatusCode,
    pub(super) ban_page: Option<Template>,
    pub(super) remediation_header: Option<HeaderName>,
    pub(super) trace_header: Option<HeaderName>,
}

impl Middleware for Bouncer {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let Some(address) = self.client.address(&request) else {
            return crate::ready(reply::status_text(self.status, Reason::AddressDenied));
        };
        if self.trusted.contains(address) {
            return next.run(request);
        }
        let known = self.known(address);
        if known == Some(Known::Decided(None)) && self.appsec.is_none() {
            return next.run(request);
        }
        boxed(move || self.decide(request, next, address, known))
    }

    fn predict(&self, request: Request) -> Prediction {
        let Some(address) = self.client.address(&request) else {
            return Prediction::rehearsed(self, request).note("the client's address is unreadable");
        };
        let shown = address_text(address);
        if self.trusted.contains(address) {
            return Prediction::passes(request).note(format!("the address `{shown}` is trusted"));
        }
        match (self.known(address), &self.appsec) {
            (None, _) => {
                let lapi = self.lapi().map_or("", |lapi| &lapi.base);
                Prediction::depends(request, format!("asks {lapi} about `{shown}`"))
            }
            (Some(Known::Decided(Some(Remediation::Captcha))), _) if self.captcha.is_some() => {
                Prediction::depends(request, format!("the address `{shown}` must solve a captcha"))
            }
            (Some(Known::Decided(Some(_))), _) => {
                Prediction::rehearsed(self, request).note(format!("the address `{shown}` is banned"))
            }
            (Some(Known::Unavailable), _) => {
                Prediction::rehearsed(self, request).note("CrowdSec's decisions are unavailable")
            }
            (Some(Known::Decided(None)), Some(appsec)) => {
                Prediction::depends(request, format!("asks {} about the request", appsec.url))
            }
            (Some(Known::Decided(None)), None) => {
                Prediction::passes(request).note(format!("no decision about the address `{shown}`"))
            }
        }
    }
}

impl Bouncer {
    fn lapi(&self) -> Option<&Lapi> {
        match &self.source {
            Source::Live(live) => Some(&live.lapi),
            Source::Stream { lapi, .. } => Some(lapi),
            Source::None => None,
        }
    }

    /// Returns what is known without asking or waiting.
    fn known(&self, address: IpAddr) -> Option<Known> {
        match &self.source {
            Source::None => Some(Known::Decided(None)),
            Source::Live(live) => live.cached(address, &self.clock).map(Known::Decided),
            Source::Stream { stream, waits_for_start, .. } => match stream.find(address, &self.clock) {
                Listed::Known(found) => Some(Known::Decided(found)),
                Listed::Starting if *waits_for_start => None,
                Listed::Starting => Some(Known::Decided(None)),
                // What was banned stays banned.
                Listed::Failing(_, Some(found)) => Some(Known::Decided(Some(found))),
                Listed::Failing(failures, None) => Some(self.after_failures(failures)),
            },
        }
    }

    fn without_answer(&self) -> Known {
        if self.max_failures.is_none() { Known::Decided(None) } else { Known::Unavailable }
    }

    fn after_failures(&self, failures: u64) -> Known {
        match self.max_failures {
            Some(tolerated) if failures > tolerated => Known::Unavailable,
            _ => Known::Decided(None),
        }
    }

    /// Finds out what is not known yet.
    async fn find_out(&self, address: IpAddr) -> Known {
        match &self.source {
            Source::None => Known::Decided(None),
            Source::Live(live) => match live.ask(address, &self.clock).await {
                Some(found) => Known::Decided(found),
                None => self.without_answer(),
            },
            Source::Stream { stream, lapi, .. } => {
                stream.started(lapi.timeout).await;
                // Still starting: its answer takes too long.
                self.known(address).unwrap_or_else(|| self.without_answer())
            }
        }
    }

    async fn decide(
        &self,
        mut request: Request,
        next: &Next,
        address: IpAddr,
        known: Option<Known>,
    ) -> Response {
        let known = match known {
            Some(known) => known,
            None => self.find_out(address).await,
        };
        match known {
            Known::Decided(None) => {}
            Known::Decided(Some(remediation)) => {
                if !self.is_solved(remediation, &request, address) {
                    return self.remedy(remediation, request, address, Reason::AddressBanned, "LAPI").await;
                }
            }
            Known::Unavailable => return self.unavailable(),
        }
        if let Some(appsec) = &self.appsec {
            match appsec.ask(&mut request, address).await {
                Opinion::Allowed => {}
                Opinion::Refused(remediation) if self.is_solved(remediation, &request, address) => {}
                Opinion::Refused(remediation) => {
                    return self.remedy(remediation, request, address, Reason::AppsecBlocked, "APPSEC").await;
                }
                Opinion::Unavailable => return self.unavailable(),
            }
        }
        next.run(request).await
    }

    /// Returns true if the client has solved the captcha that a remediation asks for.
    fn is_solved(&self, remediation: Remediation, request: &Request, address: IpAddr) -> bool {
        let headers = &request.head.headers;
        let captcha = self.captcha.as_ref().filter(|_| remediation == Remediation::Captcha);
        captcha.is_some_and(|captcha| captcha.is_solved(headers, address, &self.clock))
    }

    async fn remedy(
        &self,
        remediation: Remediation,
        request: Request,
        address: IpAddr,
        reason: Reason,
        because: &str,
    ) -> Response {
        match &self.captcha {
            Some(captcha) if remediation == Remediation::Captcha && request.head.method != Method::HEAD => {
                let (response, shown) = captcha.respond(request, address, &self.clock).await;
                self.marked(response, shown)
            }
            _ => self.marked(self.ban(&request, address, reason, because), "ban"),
        }
    }

    fn ban(&self, request: &Request, address: IpAddr, reason: Reason, because: &str) -> Response {
        let Some(page) = self.ban_page.as_ref().filter(|_| request.head.method != Method::HEAD) else {
            let mut response = reply::status_text(self.status, reason);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return response;
        };
        let trace = self.trace_header.as_ref().and_then(|name| request.head.headers.get(name));
        let trace = trace.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let client = address_text(address);
        let body = page.render(&[("RemediationReason", because), ("ClientIP", &client), ("TraceID", trace)]);
        let mut response = reply::bare(self.status, body, reason);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn unavailable(&self) -> Response {
        let mut response = reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::DecisionUnavailable);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        self.marked(response, "ban")
    }

    fn marked(&self, mut response: Response, remediation: &'static str) -> Response {
        if let Some(name) = &self.remediation_header {
            response.headers_mut().insert(name, HeaderValue::from_static(remediation));
        }
        response
    }
}
