//! Limits the request rate of each source; requests beyond it get 429.

mod buckets;
pub mod policies;
mod shard;
mod shared;

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration as StdDuration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_core::client_ip::{ClientIp, Source, SourceCriterion};
use tidegate_core::forwarded::is_address_header;
use tidegate_core::occupancy::{self, Occupancy, Offenders, PolicyState, Refusals};
use tidegate_core::store::{Bucket, Turn};
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::Word;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Clock, Member, Middleware, Next, Prediction,
    Reason, Request, Response, boxed, reply,
};

use buckets::{BucketStore, Buckets, Ticket};
use policies::engine::jittered;
use policies::{HeaderForm, Policy};
pub(crate) use shared::FailureMode;
pub use shared::Redis;
use shared::{Shared, StoreUnavailable};

/// Traefik's `rateLimit`: one token bucket per source that holds `burst` tokens and is refilled with
/// `average` per `period`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RateLimit {
    /// Requests per `period`; 0 means no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub average: i64,
    /// The time that `average` applies to.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub period: Duration,
    /// Number of requests that may arrive at once.
    #[serde(skip_serializing_if = "is_default")]
    pub burst: i64,
    /// How sources are distinguished; by the address of the TCP peer if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_criterion: Option<SourceCriterion>,
    /// Shares buckets between gateways through Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// Limits with names, which decide together after the one above. Not in Traefik.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
    /// Which fields tell clients about the policies. Not in Traefik.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub headers: Word<HeaderForm>,
    /// Whether policies refuse requests with `application/problem+json` (RFC 9457). Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub problem: bool,
    /// Maximum random time that is added to `Retry-After`. Not in Traefik.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub retry_after_jitter: Duration,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            average: 0,
            period: Duration::from_secs(1),
            burst: 1,
            source_criterion: None,
            redis: None,
            policies: Vec::new(),
            headers: Word::EMPTY,
            problem: false,
            retry_after_jitter: Duration::default(),
        }
    }
}

impl Build for RateLimit {
    const PER_ROUTER: bool = true;

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.policies.is_empty() {
            if !self.headers.is_empty() || self.problem {
                return Err(BuildError::new("headers and problem need `policies`"));
            }
            return self.build_plain(context).map(|limiter| limiter as Arc<dyn Middleware>);
        }
        let policies = policies::build(self, context);
        if self.average == 0 {
            return policies;
        }
        let (plain, policies) = BuildErrors::both(self.build_plain(context), policies)?;
        let name: Arc<str> = Arc::from(context.name);
        Ok(Arc::new(Both {
            members: [(name.clone(), plain.clone()), (name, policies.clone())],
            plain,
            policies,
        }))
    }
}

impl RateLimit {
    /// Builds Traefik's limit.
    fn build_plain(&self, context: &BuildContext<'_>) -> Result<Arc<Limiter>, BuildError> {
        let source = Source::new(self.source_criterion.as_ref(), Source::Ip(ClientIp::default()))
            .map_err(|error| error.map(|text| format!("getting source extractor: {text}")));
        let limit = match &self.redis {
            _ if self.average < 0 || self.burst < 0 => {
                Err(BuildError::new("average and burst cannot be negative"))
            }
            _ if self.average == 0 => Ok(Limit::None),
            None => Local::new(self, context).map(Limit::Local),
            Some(redis) => Shared::new(self, redis, context).map(|shared| Limit::Shared(Box::new(shared))),
        };
        let (limit, source) = BuildErrors::both(limit, source)?;
        let offenders = offenders(self.source_criterion.as_ref(), context);
        let jitter = self.retry_after_jitter.0.min(MAX_JITTER);
        Ok(Arc::new(Limiter { source, limit, jitter, waiting: AtomicU64::new(0), offenders }))
    }
}

/// Traefik's limit, and then policies.
struct Both {
    members: [Member; 2],
    plain: Arc<Limiter>,
    policies: Arc<dyn Middleware>,
}

impl Middleware for Both {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let next = Next::new(self.members.iter().map(|(_, member)| member.clone()), next.clone());
        boxed(move || async move { next.run(request).await })
    }

    fn members(&self) -> Option<&[Member]> {
        Some(&self.members)
    }

    fn limit(&self) -> Option<&dyn occupancy::Limit> {
        Some(self)
    }
}

impl occupancy::Limit for Both {
    fn kind(&self) -> &'static str {
        "rateLimit"
    }

    fn occupancy(&self) -> Occupancy {
        let policies = self.policies.limit().map(occupancy::Limit::occupancy).unwrap_or_default();
        occupancy::Limit::occupancy(&*self.plain).plus(policies)
    }

    fn refusals(&self) -> Option<Refusals> {
        occupancy::Limit::refusals(&*self.plain)
    }

    fn policies(&self) -> Vec<PolicyState> {
        self.policies.limit().map(occupancy::Limit::policies).unwrap_or_default()
    }
}

/// Maximum of `retryAfterJitter`. Longer times are capped, so that sums cannot overflow.
pub(crate) const MAX_JITTER: StdDuration = StdDuration::from_secs(24 * 3600);
/// Maximum time between two tokens: keeps sums of nanoseconds far below the limit of 64 bits.
const MAX_INTERVAL: StdDuration = StdDuration::from_secs(365 * 24 * 3600);

/// Returns a text, or one that stands for it if it is long.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() > buckets::MAX_KEY_LEN { Cow::Owned(buckets::hashed(text)) } else { Cow::Borrowed(text) }
}

/// Returns the offenders of a limit, which outlive changes of its other options.
pub(crate) fn offenders(criterion: Option<&SourceCriterion>, context: &BuildContext<'_>) -> Arc<Offenders> {
    context.state(&format!("offenders by {criterion:?}"), Offenders::default)
}

/// Counts a request that was refused. The key does not show values of headers, which may be secrets.
pub(crate) fn note_refusal(offenders: &Offenders, source: &Source, request: &Request) {
    let key = source.of(request);
    match source {
        Source::Header(name) if !is_address_header(name) => {
            let digest = buckets::hashed(&key);
            offenders.note(&format!("{name} {}", digest.get(..16).unwrap_or(&digest)));
        }
        _ => offenders.note(&shortened(&key)),
    }
}

struct Limiter {
    source: Source,
    limit: Limit,
    jitter: StdDuration,
    /// Number of requests that are delayed.
    waiting: AtomicU64,
    offenders: Arc<Offenders>,
}

enum Limit {
    None,
    Local(Local),
    Shared(Box<Shared>),
}

/// Derives the parameters of a bucket from the options.
fn bucket(options: &RateLimit) -> Bucket {
    let period =
        if options.period.is_zero() { StdDuration::from_secs(1) } else { StdDuration::from(options.period) };
    let interval = StdDuration::from_secs_f64(period.as_secs_f64() / options.average as f64)
        .clamp(StdDuration::from_nanos(1), MAX_INTERVAL);
    // A full bucket must stay below 2^62 nanoseconds, or adding to it could overflow.
    let room = (1u64 << 62) / u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let burst = u64::try_from(options.burst.max(1)).unwrap_or(1).min(room).min(u64::from(u32::MAX));
    let rate = options.average as f64 / period.as_secs_f64();
    Bucket { interval, burst: u32::try_from(burst).unwrap_or(1).max(1), ahead: max_delay(rate) }
}

/// Buckets in this process.
struct Local {
    limiter: RateLimiter<Ticket, BucketStore, Uptime, NoOpMiddleware<StdDuration>>,
    quota: Quota,
    bucket: Bucket,
    buckets: Arc<Buckets>,
}

/// The clock as governor reads it.
#[derive(Clone)]
struct Uptime(Clock);

impl governor::clock::Clock for Uptime {
    type Instant = StdDuration;

    fn now(&self) -> StdDuration {
        self.0.uptime()
    }
}

impl Local {
    fn new(options: &RateLimit, context: &BuildContext<'_>) -> Result<Self, BuildError> {
        let bucket = bucket(options);
        let burst = NonZeroU32::new(bucket.burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(bucket.interval)
            .ok_or_else(|| BuildError::new("average and period do not form a valid rate"))?
            .allow_burst(burst);
        // A new limit does not refill buckets. Another criterion means other sources.
        let buckets = context.state(&format!("buckets by {:?}", options.source_criterion), Buckets::default);
        Ok(Self::over(buckets, quota, bucket, Uptime(context.clock())))
    }

    /// Returns a limiter over these buckets.
    fn over(buckets: Arc<Buckets>, quota: Quota, bucket: Bucket, clock: Uptime) -> Self {
        let filling = BucketStore::new(buckets.clone(), clock.0.uptime(), &bucket);
        Self { limiter: RateLimiter::new(quota, filling, clock), quota, bucket, buckets }
    }

    /// Decides what [`Self::admit`] would, on a copy of the bucket. Also returns the number of tokens in it.
    fn peek(&self, source: String) -> (Turn, u32) {
        let clock = self.limiter.clock().clone();
        let now = clock.0.uptime();
        let (copy, full_at) = self.buckets.copy_of(Ticket::new(source.clone()).source());
        let until_full = full_at.unwrap_or_default().saturating_sub(now);
        let missing = until_full.as_nanos().div_ceil(self.bucket.interval.as_nanos().max(1));
        let left = self.bucket.burst.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX));
        (Self::over(Arc::new(copy), self.quota, self.bucket, clock).admit(source), left)
    }

    /// Decides whether and when the request is admitted.
    fn admit(&self, source: String) -> Turn {
        let ticket = Ticket::new(source);
        match self.limiter.check_key(&ticket) {
            Ok(()) => Turn::In(ticket.delay().min(self.bucket.ahead)),
            Err(refused) => Turn::Over(refused.wait_time_from(self.limiter.clock().now())),
        }
    }
}

/// Returns Traefik's maximum delay: half the time between two tokens, with the rate rounded down to an
/// integer; 500 ms for slower rates.
fn max_delay(rate: f64) -> StdDuration {
    if rate < 1.0 {
        StdDuration::from_millis(500)
    } else {
        StdDuration::from_nanos(1_000_000_000 / (rate.floor() as u64).saturating_mul(2).max(1))
    }
}

impl Middleware for Limiter {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let limit = match &self.limit {
            Limit::None => return next.run(request),
            Limit::Local(limit) => limit,
            Limit::Shared(limit) => {
                let source = self.source.of(&request);
                return Box::pin(async move {
                    match limit.admit(source).await {
                        Ok(Turn::In(delay)) => self.after(delay, request, next).await,
                        Ok(Turn::Over(wait)) => self.refuse(wait, &request),
                        Err(StoreUnavailable) => reply::error(
                            StatusCode::INTERNAL_SERVER_ERROR,
                            "Could not insert/update bucket",
                            Reason::LimitUnavailable,
                        ),
                    }
                });
            }
        };
        match limit.admit(self.source.of(&request)) {
            Turn::In(delay) if delay.is_zero() => next.run(request),
            Turn::In(delay) => Box::pin(self.after(delay, request, next)),
            Turn::Over(wait) => crate::ready(self.refuse(wait, &request)),
        }
    }

    fn limit(&self) -> Option<&dyn occupancy::Limit> {
        Some(self)
    }

    fn predict(&self, request: Request) -> Prediction {
        let limit = match &self.limit {
            Limit::None => return Prediction::passes(request).note("no limit (`average` is 0)"),
            Limit::Shared(_) => {
                return Prediction::depends(request, "asks Redis for the bucket of this source");
            }
            Limit::Local(limit) => limit,
        };
        let (turn, left) = limit.peek(self.source.of(&request));
        let note = format!("{left} of {} tokens of this source are left", limit.bucket.burst);
        match turn {
            Turn::In(delay) if delay.is_zero() => Prediction::passes(request).note(note),
            Turn::In(delay) => {
                Prediction::passes(request).note(note).note(format!("waits {}", Duration(delay)))
            }
            Turn::Over(wait) => Prediction::responds(refusal(wait)).note(note),
        }
    }
}

impl occupancy::Limit for Limiter {
    fn kind(&self) -> &'static str {
        "rateLimit"
    }

    fn occupancy(&self) -> Occupancy {
        let sources = match &self.limit {
            Limit::Local(limit) => Some(limit.buckets.len() as u64),
            // Redis has those of shared limits.
            Limit::None | Limit::Shared(_) => None,
        };
        let waiting = Some(self.waiting.load(Ordering::Relaxed));
        Occupancy { sources, in_flight: None, waiting }
    }

    fn refusals(&self) -> Option<Refusals> {
        (!matches!(self.limit, Limit::None)).then(|| self.offenders.counted())
    }
}

impl Limiter {
    async fn after(&self, delay: StdDuration, request: Request, next: &Next) -> Response {
        if !delay.is_zero() {
            let _waiting = Waiting::new(&self.waiting);
            tokio::time::sleep(delay).await;
        }
        next.run(request).await
    }

    fn refuse(&self, wait: StdDuration, request: &Request) -> Response {
        note_refusal(&self.offenders, &self.source, request);
        refusal(jittered(wait, self.jitter))
    }
}

/// A request that is delayed, counted until dropped.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refusal(delay: StdDuration) -> Response {
    let mut response = reply::status_text(StatusCode::TOO_MANY_REQUESTS, Reason::RateLimited);
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    let headers = response.headers_mut();
    headers.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
    if let Ok(value) = HeaderValue::try_from(Duration(delay).to_string()) {
        headers.insert("x-retry-in", value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Service, World, build_in, get, text, with_body};
    use tidegate_core::{Body, ManualClock};

    fn limited(average: i64, period: u64, burst: i64) -> RateLimit {
        RateLimit { average, period: Duration::from_secs(period), burst, ..RateLimit::default() }
    }

    /// Buckets with a manual clock.
    fn local(options: &RateLimit) -> (Local, Arc<ManualClock>) {
        let (world, clock) = World::stopped();
        (Local::new(options, &BuildContext::new("m@file", &world)).unwrap(), clock)
    }

    fn ask(middleware: &Arc<dyn Middleware>, request: Request) -> Response {
        testing::block_on(testing::run(middleware, request, &Service(|_| Response::new(Body::full("hello")))))
    }

    #[test]
    fn requests_beyond_the_burst_are_refused_with_retry_after() {
        let (world, clock) = World::stopped();
        let middleware = build_in(&world, limited(1, 10, 2)).unwrap();
        assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
        assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
        let refused = ask(&middleware, get("http://h.test/"));
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "10");
        assert_eq!(refused.headers()["x-retry-in"], "10s");
        assert_eq!(text(refused), "Too Many Requests");
        clock.advance(StdDuration::from_millis(9_400));
        assert_eq!(ask(&middleware, get("http://h.test/")).headers()["x-retry-in"], "600ms");
        clock.advance(StdDuration::from_millis(600));
        assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
    }

    #[test]
    fn refused_sources_are_counted_without_values_of_headers() {
        let (world, _) = World::stopped();
        let by_address = build_in(&world, limited(1, 60, 1)).unwrap();
        let by_header = RateLimit {
            source_criterion: Some(SourceCriterion {
                request_header_name: "X-Token".into(),
                ..SourceCriterion::default()
            }),
            ..limited(1, 60, 1)
        };
        let with_token = || with_body(http::Request::get("http://h.test/").header("X-Token", "hunter2"), "");
        for _ in 0..3 {
            ask(&by_address, get("http://h.test/"));
        }
        let refused = by_address.limit().unwrap().refusals().unwrap();
        assert_eq!((refused.refused, refused.offenders.len()), (2, 1));
        assert_eq!((refused.offenders[0].key.as_str(), refused.offenders[0].refused), ("127.0.0.1", 2));
        let by_header = build_in(&world, by_header).unwrap();
        for _ in 0..2 {
            ask(&by_header, with_token());
        }
        let key = by_header.limit().unwrap().refusals().unwrap().offenders[0].key.clone();
        assert!(key.starts_with("x-token ") && !key.contains("hunter2"), "{key}");
        // Other options keep what was counted.
        let changed = build_in(&world, limited(2, 60, 1)).unwrap();
        assert_eq!(changed.limit().unwrap().refusals().unwrap().refused, 2);
    }

    #[test]
    fn no_delay_exceeds_half_the_time_between_two_tokens() {
        let (limit, clock) = local(&limited(2, 1, 1));
        assert_eq!(limit.admit("a".into()), Turn::In(StdDuration::ZERO));
        assert_eq!(limit.admit("a".into()), Turn::Over(StdDuration::from_millis(500)));
        assert_eq!(limit.admit("b".into()), Turn::In(StdDuration::ZERO), "sources have separate buckets");
        clock.advance(StdDuration::from_millis(249));
        assert_eq!(limit.admit("a".into()), Turn::Over(StdDuration::from_millis(251)));
        clock.advance(StdDuration::from_millis(1));
        assert_eq!(limit.admit("a".into()), Turn::In(StdDuration::from_millis(250)));
    }

    #[test]
    fn sources_and_delayed_requests_are_counted() {
        let (world, clock) = World::stopped();
        let middleware = build_in(&world, limited(1, 1, 1)).unwrap();
        let held = || middleware.limit().unwrap().occupancy();
        assert_eq!((held().sources, held().waiting), (Some(0), Some(0)));
        assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
        clock.advance(StdDuration::from_millis(501));
        testing::block_on(async {
            let service = Service(|_| Response::new(Body::empty()));
            let mut early = Box::pin(testing::run(&middleware, get("http://h.test/"), &service));
            assert!(futures_util::poll!(&mut early).is_pending());
            assert_eq!(held(), Occupancy { sources: Some(1), in_flight: None, waiting: Some(1) });
            drop(early);
            assert_eq!(held().waiting, Some(0), "a cancelled request does not wait");
        });
    }

    #[test]
    fn a_slightly_early_request_is_delayed() {
        // Tokens arrive every 200 ms; the maximum delay is 100 ms.
        let (world, clock) = World::stopped();
        let middleware = build_in(&world, limited(5, 1, 1)).unwrap();
        let started = std::time::Instant::now();
        assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
        clock.advance(StdDuration::from_millis(99));
        assert_eq!(ask(&middleware, get("http://h.test/")).status(), 429);
        clock.advance(StdDuration::from_millis(1));
        assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
        let waited = started.elapsed();
        assert!(waited >= StdDuration::from_millis(100), "{waited:?}");
    }

    #[test]
    fn sources_are_counted_by_the_criterion() {
        let by_header = RateLimit {
            source_criterion: Some(SourceCriterion {
                request_header_name: "X-User".into(),
                ..SourceCriterion::default()
            }),
            ..limited(1, 60, 1)
        };
        let middleware = testing::build(by_header);
        let from = |user: &str| with_body(http::Request::get("http://h.test/").header("X-User", user), "");
        assert_eq!(ask(&middleware, from("a")).status(), 200);
        assert_eq!(ask(&middleware, from("b")).status(), 200);
        assert_eq!(ask(&middleware, from("a")).status(), 429);
    }

    #[test]
    fn a_new_burst_does_not_refill_buckets() {
        let (world, _) = World::stopped();
        let limit = |burst| build_in(&world, limited(1, 10, burst)).unwrap();
        let statuses = |middleware: &Arc<dyn Middleware>, times: usize| -> Vec<u16> {
            (0..times).map(|_| ask(middleware, get("http://h.test/")).status().as_u16()).collect()
        };
        assert_eq!(statuses(&limit(2), 3), [200, 200, 429]);
        assert_eq!(statuses(&limit(3), 2), [200, 429], "one more");
        assert_eq!(statuses(&limit(1), 1), [429]);
    }

    #[test]
    fn no_average_means_no_limit() {
        let middleware = testing::build(limited(0, 1, 1));
        for _ in 0..100 {
            assert_eq!(ask(&middleware, get("http://h.test/")).status(), 200);
        }
    }

    #[test]
    fn delays_are_as_long_as_in_traefik() {
        assert_eq!(max_delay(0.1), StdDuration::from_millis(500));
        assert_eq!(max_delay(1.0), StdDuration::from_millis(500));
        assert_eq!(max_delay(1.9), StdDuration::from_millis(500));
        assert_eq!(max_delay(100.0), StdDuration::from_millis(5));
        assert_eq!(max_delay(1e18), StdDuration::ZERO);
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        for (average, period, burst) in [
            (1, u64::MAX / 2, i64::MAX),
            (i64::MAX, 1, i64::MAX),
            (1, 1, i64::MAX),
            (i64::MAX, u64::MAX / 2, 1),
        ] {
            let (limit, _) = local(&limited(average, period, burst));
            for _ in 0..5 {
                let _ = limit.admit("a".into());
            }
        }
    }

    #[test]
    fn options_read_and_print_as_in_the_api() {
        let options: RateLimit = serde_json::from_str(r#"{"average":10}"#).unwrap();
        assert_eq!(serde_json::to_string(&options).unwrap(), r#"{"average":10,"period":"1s","burst":1}"#);
    }
}
