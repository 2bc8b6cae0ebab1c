//! Admits consumers within the quotas of their plans.

mod ledger;
mod log;
mod shared;
#[cfg(test)]
mod tests;
mod window;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration as StdDuration, Instant};

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tidegate_core::occupancy::{self, Limit, Occupancy, Offenders, Refusals};
use tidegate_core::plan::{Quota, QuotaBucket, Unit};
use tidegate_core::store::StoreError;
use tidegate_core::values::is_default;
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Clock, Consumer, End, Guard, Identity,
    Middleware, Next, Prediction, Reason, Request, Response, boxed, reply,
};

use crate::rate_limit::policies::cost::{Cost, Moment};
use crate::rate_limit::{FailureMode, Redis};
pub use ledger::Fsync;
use ledger::{Ledger, LedgerError, Taken, seconds};
use log::Total;
use shared::SharedQuotas;
use window::Window;

/// The share of a quota that is used, when that is at least 80 %.
const QUOTA_USED: HeaderName = HeaderName::from_static("x-quota-used");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Shares, in percent, at which an event is logged.
const EVENTS: [u64; 3] = [80, 95, 100];
/// Time between two attempts to open the file.
const RETRY: StdDuration = StdDuration::from_millis(200);
/// What is not escaped in the names of buckets.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'@');

/// Not in Traefik. Counts the requests of consumers against the quotas of their plans (`http.plans`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Plan {
    /// The file that keeps what was used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Instead of `file`: counts in Redis, together with other gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// When it reaches the disk.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub fsync: Word<Fsync>,
    /// What requests cost, for quotas with `unit: cost`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cost: String,
    /// The path at which consumers see their own usage; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub usage_path: String,
    /// Whether clients do not get `RateLimit-Policy`, `RateLimit` and `X-Quota-Used`.
    #[serde(skip_serializing_if = "is_default")]
    pub hide_headers: bool,
}

impl Vocabulary for Fsync {
    const WORDS: &'static [(&'static str, Self)] =
        &[("interval", Self::Interval), ("always", Self::Always), ("never", Self::Never)];
}

impl Build for Plan {
    const PER_ROUTER: bool = true;

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let mut errors = BuildErrors::default();
        let shared = self.redis.as_ref().map(|redis| shared(redis, context)).transpose();
        let shared = errors.check(shared);
        if self.redis.is_some() && !(self.file.is_empty() && self.fsync.is_empty()) {
            errors.add("redis: not together with `file` and `fsync`".to_owned());
        }
        if self.redis.is_none() && !self.file.starts_with('/') {
            errors.add(format!("file: `{}`: expected an absolute path", self.file));
        }
        if !self.usage_path.is_empty() && !self.usage_path.starts_with('/') {
            errors.add(format!("usagePath: `{}`: expected a path that starts with `/`", self.usage_path));
        }
        let fsync = self.fsync.meaning().map_err(|error| BuildError::new(format!("fsync: {error}")));
        let fsync = errors.check(fsync);
        let cost = if self.cost.is_empty() { "1" } else { self.cost.as_str() };
        let cost = Cost::parse(cost, Moment::Before);
        let cost = errors.check(cost.map_err(|error| error.map(|text| format!("cost: {text}"))));
        let made = fsync.zip(cost).zip(shared).map(|((fsync, cost), shared)| {
            let meter = Meter {
                file: PathBuf::from(&self.file),
                fsync: fsync.unwrap_or(Fsync::Interval),
                cost,
                usage_path: self.usage_path.clone(),
                shows_headers: !self.hide_headers,
                shared,
                ledger: Mutex::new(Opened::Not(None)),
                clock: context.clock(),
                offenders: context.state("offenders", Offenders::default),
            };
            Arc::new(meter) as Arc<dyn Middleware>
        });
        errors.made(made)
    }
}

fn shared(redis: &Redis, context: &BuildContext<'_>) -> Result<Arc<SharedQuotas>, BuildError> {
    let (deadline, on_failure) = redis.behaviour()?;
    if on_failure != FailureMode::Deny {
        return Err(BuildError::new("redis.onFailure: quotas are exact, so expected `deny`"));
    }
    Ok(Arc::new(SharedQuotas::new(context.store(&redis.store_options(context)?)?, deadline)))
}

/// Where quotas are counted.
#[derive(Clone)]
enum Store {
    File(Arc<Ledger>),
    Redis(Arc<SharedQuotas>),
}

impl Store {
    async fn take(&self, bucket: &str, cost: u64, quota: &Quota, now: i64) -> Result<Taken, Unavailable> {
        Ok(match self {
            Self::File(ledger) => ledger.take(bucket, cost, quota, now).await?,
            Self::Redis(shared) => shared.take(bucket, cost, quota, now).await?,
        })
    }
}

/// Why nothing can be counted.
#[derive(Debug, thiserror::Error)]
enum Unavailable {
    #[error(transparent)]
    File(#[from] LedgerError),
    #[error("Redis: {0}")]
    Redis(#[from] StoreError),
}

/// The ledger, which is opened by the first request.
enum Opened {
    /// It is not, and this is when opening it failed.
    Not(Option<Instant>),
    Yes(Arc<Ledger>),
}

struct Meter {
    file: PathBuf,
    fsync: Fsync,
    cost: Cost,
    usage_path: String,
    shows_headers: bool,
    shared: Option<Arc<SharedQuotas>>,
    ledger: Mutex<Opened>,
    clock: Clock,
    offenders: Arc<Offenders>,
}

/// Whose quota a request uses.
struct Account {
    consumer: Arc<Consumer>,
    /// Unit, consumer and key, escaped.
    bucket: String,
}

/// Why a request is not counted.
enum Refusal {
    Anonymous,
    NoPlan,
    Unavailable(Unavailable),
    Exceeded { used: u64, window: Window, now: i64 },
}

impl Refusal {
    fn response(&self) -> Response {
        match self {
            Self::Anonymous => {
                let mut response = reply::status_text(StatusCode::UNAUTHORIZED, Reason::Unauthenticated);
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            Self::NoPlan => reply::status_text(StatusCode::FORBIDDEN, Reason::Forbidden),
            Self::Unavailable(_) => {
                reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::LimitUnavailable)
            }
            Self::Exceeded { window, now, .. } => {
                let mut response = reply::status_text(StatusCode::TOO_MANY_REQUESTS, Reason::QuotaExceeded);
                let wait = u64::try_from(window.end - now).unwrap_or(0).max(1);
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
                response
            }
        }
    }

    fn description(&self) -> String {
        match self {
            Self::Anonymous => "the client has no identity".to_owned(),
            Self::NoPlan => "the client is not a consumer, or has no plan".to_owned(),
            Self::Unavailable(error) => error.to_string(),
            Self::Exceeded { used, .. } => format!("the quota is used up ({used} used)"),
        }
    }
}

impl Meter {
    /// Returns whose quota a request uses.
    fn account(&self, identity: Option<&Identity>) -> Result<Account, Refusal> {
        let identity = identity.ok_or(Refusal::Anonymous)?;
        let consumer = identity.consumer.as_ref().filter(|consumer| !consumer.plan.is_empty());
        let consumer: &Arc<Consumer> = consumer.ok_or(Refusal::NoPlan)?;
        let bucket =
            consumer.quota.as_ref().map_or_else(String::new, |quota| bucket(quota, consumer, identity));
        Ok(Account { consumer: consumer.clone(), bucket })
    }

    /// Returns where quotas are counted.
    async fn store(&self) -> Result<Store, LedgerError> {
        match &self.shared {
            Some(shared) => Ok(Store::Redis(shared.clone())),
            None => self.ledger().await.map(Store::File),
        }
    }

    /// Returns the ledger, which is opened if necessary.
    async fn ledger(&self) -> Result<Arc<Ledger>, LedgerError> {
        let recently = |failed: &Instant| failed.elapsed() < RETRY;
        match &*self.ledger.lock() {
            Opened::Yes(ledger) => return Ok(ledger.clone()),
            Opened::Not(failed) if failed.as_ref().is_some_and(recently) => {
                let error = std::io::Error::other("it could not be opened a moment ago");
                return Err(LedgerError::File(self.file.clone(), Arc::new(error)));
            }
            Opened::Not(_) => {}
        }
        let (file, fsync) = (self.file.clone(), self.fsync);
        let opened = tokio::task::spawn_blocking(move || Ledger::open(&file, fsync)).await;
        let opened = opened.unwrap_or_else(|error| {
            Err(LedgerError::File(self.file.clone(), Arc::new(std::io::Error::other(error))))
        });
        match &opened {
            Ok(ledger) => *self.ledger.lock() = Opened::Yes(ledger.clone()),
            Err(error) => {
                tracing::error!("quotas cannot be counted: {error}");
                *self.ledger.lock() = Opened::Not(Some(Instant::now()));
            }
        }
        opened
    }

    fn cost_of(&self, request: &Request, quota: &Quota) -> u64 {
        match quota.unit {
            Unit::Requests => 1,
            Unit::Bytes => 0,
            Unit::Cost => self.cost.of_request(request),
        }
    }

    async fn admit(&self, request: Request, next: &Next) -> Response {
        let account = match self.account(request.context.identity.as_deref()) {
            Ok(account) => account,
            Err(refusal) => return refusal.response(),
        };
        let Some(quota) = &account.consumer.quota else { return next.run(request).await };
        let store = match self.store().await {
            Ok(store) => store,
            Err(error) => return Refusal::Unavailable(error.into()).response(),
        };
        let now = seconds(self.clock.wall());
        // A request for the usage is free.
        let is_usage = self.is_usage(&request);
        let cost = if is_usage { 0 } else { self.cost_of(&request, quota) };
        let taken = store.take(&account.bucket, cost, quota, now).await;
        if is_usage
            && let Ok(Taken::Within { after: used, window, .. } | Taken::Over { used, window }) = taken
        {
            return usage(&account, quota, Total { window, used });
        }
        let (before, after, window) = match taken {
            Ok(Taken::Within { before, after, window }) => (before, after, window),
            Ok(Taken::Over { used, window }) => {
                self.note_refusal(&account, request.context.identity.as_deref());
                let mut response = Refusal::Exceeded { used, window, now }.response();
                self.add_fields(&mut response, &account, quota, used, window, now);
                return response;
            }
            Err(error) => {
                tracing::error!("quotas cannot be counted: {error}");
                return Refusal::Unavailable(error).response();
            }
        };
        report(&account.consumer, quota, before, after);
        let mut response = next.run(request).await;
        self.add_fields(&mut response, &account, quota, after, window, now);
        if quota.unit != Unit::Bytes {
            return response;
        }
        let charge = Charge { account, store, clock: self.clock.clone(), bytes: 0 };
        response.map(|body| body.with_guard(Box::new(charge)))
    }

    /// Counts a request beyond the quota of its consumer, or of its key if each has its own.
    fn note_refusal(&self, account: &Account, identity: Option<&Identity>) {
        let consumer = &account.consumer;
        let is_per_key = consumer.quota.as_ref().is_some_and(|quota| quota.bucket == QuotaBucket::Key);
        match identity.filter(|_| is_per_key) {
            Some(Identity { method, subject, .. }) => {
                let subject = crate::rate_limit::shortened(subject);
                self.offenders.note(&format!("{} {method}={subject}", consumer.name));
            }
            None => self.offenders.note(&consumer.name),
        }
    }

    fn is_usage(&self, request: &Request) -> bool {
        !self.usage_path.is_empty() && request.head.method == Method::GET && request.path() == self.usage_path
    }

    /// Tells the client how much is left.
    fn add_fields(
        &self,
        response: &mut Response,
        account: &Account,
        quota: &Quota,
        used: u64,
        window: Window,
        now: i64,
    ) {
        if !self.shows_headers {
            return;
        }
        let headers = response.headers_mut();
        let name = utf8_percent_encode(short(&account.consumer.plan), ESCAPED);
        let (length, rest) = (window.end - window.start, (window.end - now).max(0));
        let unit = if quota.unit == Unit::Bytes { ";qu=\"content-bytes\"" } else { "" };
        let left = quota.limit.saturating_sub(used);
        let policy = format!("\"quota-{name}\";q={};w={length}{unit}", quota.limit);
        for (field, value) in
            [(RATELIMIT_POLICY, policy), (RATELIMIT, format!("\"quota-{name}\";r={left};t={rest}"))]
        {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.append(field, value);
            }
        }
        let percent = percent(used, quota);
        if percent >= EVENTS[0] {
            headers.insert(QUOTA_USED, HeaderValue::from(percent));
        }
    }
}

/// Returns the bucket of a request.
fn bucket(quota: &Quota, consumer: &Consumer, identity: &Identity) -> String {
    let name = utf8_percent_encode(&consumer.name, ESCAPED);
    match quota.bucket {
        QuotaBucket::Consumer => format!("{}:{name}:", quota.unit.name()),
        QuotaBucket::Key => {
            // Subjects of tokens may be long.
            let key = crate::rate_limit::shortened(&identity.subject);
            format!("{}:{name}:{}={}", quota.unit.name(), identity.method, utf8_percent_encode(&key, ESCAPED))
        }
    }
}

fn percent(used: u64, quota: &Quota) -> u64 {
    u64::try_from(u128::from(used) * 100 / u128::from(quota.limit.max(1))).unwrap_or(u64::MAX)
}

/// Returns the name of a plan without its provider.
fn short(plan: &str) -> &str {
    plan.rsplit_once('@').map_or(plan, |(name, _)| name)
}

/// Logs when a share of the quota is reached.
fn report(consumer: &Consumer, quota: &Quota, before: u64, after: u64) {
    let (before, after) = (percent(before, quota), percent(after, quota));
    let reached = EVENTS.iter().rev().find(|share| before < **share && **share <= after);
    if let Some(share) = reached {
        let (plan, unit, consumer) = (&consumer.plan, quota.unit.name(), &consumer.name);
        tracing::warn!(%consumer, %plan, unit, limit = quota.limit, percent = share, "a quota is used to {share} %");
    }
}

/// Returns the response to a consumer that asks for its usage.
fn usage(account: &Account, quota: &Quota, total: Total) -> Response {
    let shown = serde_json::json!({
        "plan": short(&account.consumer.plan),
        "unit": quota.unit.name(),
        "limit": quota.limit,
        "used": total.used,
        "start": time_text(total.window.start),
        "end": time_text(total.window.end),
    });
    let mut response = reply::bare(StatusCode::OK, shown.to_string(), Reason::OwnService);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn time_text(seconds: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    let text = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_default()
}

impl Middleware for Meter {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        boxed(move || self.admit(request, next))
    }

    fn limit(&self) -> Option<&dyn Limit> {
        Some(self)
    }

    fn predict(&self, request: Request) -> Prediction {
        let account = match self.account(request.context.identity.as_deref()) {
            Ok(account) => account,
            Err(refusal) => return Prediction::responds(refusal.response()).note(refusal.description()),
        };
        let Some(quota) = &account.consumer.quota else {
            return Prediction::passes(request)
                .note(format!("plan `{}` has no quota", account.consumer.plan));
        };
        if self.shared.is_some() {
            return Prediction::depends(
                request,
                format!("asks Redis what plan `{}` has left", account.consumer.plan),
            );
        }
        let ledger = match &*self.ledger.lock() {
            Opened::Yes(ledger) => ledger.clone(),
            Opened::Not(_) => return Prediction::depends(request, "the first request reads what was used"),
        };
        let now = seconds(self.clock.wall());
        let total = ledger.peek(&account.bucket, quota, now);
        if self.is_usage(&request) {
            return Prediction::responds(usage(&account, quota, total)).note("shows the usage");
        }
        let (name, unit) = (&account.consumer.plan, quota.unit.name());
        let note = format!("plan `{name}`: {} of {} {unit} are used", total.used, quota.limit);
        if total.used.saturating_add(self.cost_of(&request, quota).max(1)) <= quota.limit {
            return Prediction::passes(request).note(note);
        }
        let refusal = Refusal::Exceeded { used: total.used, window: total.window, now };
        let mut response = refusal.response();
        self.add_fields(&mut response, &account, quota, total.used, total.window, now);
        Prediction::responds(response).note(note)
    }
}

impl Limit for Meter {
    fn kind(&self) -> &'static str {
        "plan"
    }

    fn occupancy(&self) -> Occupancy {
        let sources = match &*self.ledger.lock() {
            Opened::Yes(ledger) => Some(ledger.all().len() as u64),
            Opened::Not(_) => None,
        };
        Occupancy { sources, ..Occupancy::default() }
    }

    fn refusals(&self) -> Option<Refusals> {
        Some(self.offenders.counted())
    }

    fn usage(&self) -> Vec<occupancy::Usage> {
        let (store, all): (Arc<str>, _) = match (&self.shared, &*self.ledger.lock()) {
            (Some(shared), _) => ("redis".into(), shared.all()),
            (None, Opened::Yes(ledger)) => (ledger.path().to_string_lossy().into(), ledger.all()),
            (None, Opened::Not(_)) => return Vec::new(),
        };
        let text = |escaped: &str| -> String {
            let text: Cow<'_, str> = percent_decode_str(escaped).decode_utf8_lossy();
            text.into_owned()
        };
        let row = |(bucket, total): (String, Total)| {
            let mut parts = bucket.splitn(3, ':');
            let unit = [Unit::Requests, Unit::Bytes, Unit::Cost].into_iter().map(Unit::name);
            let (name, consumer, key) = (parts.next()?, parts.next()?, parts.next()?);
            Some(occupancy::Usage {
                store: store.clone(),
                consumer: text(consumer),
                key: text(key),
                unit: unit.into_iter().find(|unit| *unit == name)?,
                used: total.used,
                start: total.window.start,
                end: total.window.end,
            })
        };
        all.into_iter().filter_map(row).collect()
    }
}

/// Counts the bytes of a response, and charges them when it ends.
struct Charge {
    account: Account,
    store: Store,
    clock: Clock,
    bytes: u64,
}

impl Guard for Charge {
    fn data(&mut self, length: usize) {
        self.bytes = self.bytes.saturating_add(length as u64);
    }

    fn end(self: Box<Self>, _: End) {
        let Self { account, store, clock, bytes } = *self;
        let Some(quota) = account.consumer.quota.clone().filter(|_| bytes > 0) else { return };
        let now = seconds(clock.wall());
        match store {
            Store::File(ledger) => {
                let (before, after) = ledger.charge(&account.bucket, bytes, &quota, now);
                report(&account.consumer, &quota, before, after);
            }
            Store::Redis(shared) => {
                let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
                // Nothing waits for it. The store logs failures.
                runtime.spawn(async move {
                    if let Ok((before, after)) = shared.charge(&account.bucket, bytes, &quota, now).await {
                        report(&account.consumer, &quota, before, after);
                    }
                });
            }
        }
    }
}
