//! Admits consumers within the limits and quotas of their plans.

mod ledger;
mod log;
mod response;
mod shared;
#[cfg(test)]
mod tests;
mod window;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration as StdDuration, Instant};

use http::Method;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tidegate_core::client_ip::ClientIp;
use tidegate_core::occupancy::{self, Limit, Occupancy, Offenders, Refusals};
use tidegate_core::plan::{Limits, Quota, QuotaBucket, Unit};
use tidegate_core::store::StoreError;
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Clock, Consumer, End, Guard, Identity,
    Middleware, Next, Prediction, Request, Response, boxed,
};

use crate::rate_limit::policies::backend::Backend;
use crate::rate_limit::policies::cost::{Cost, Moment};
use crate::rate_limit::policies::engine::{Engine, Foreseen, NotAdmitted};
use crate::rate_limit::policies::{HeaderForm, PlanLimits};
use crate::rate_limit::{FailureMode, MAX_JITTER, Redis};
pub use ledger::Fsync;
use ledger::{Ledger, LedgerError, Taken, seconds};
use log::Total;
use response::{Refusal, add_fields, percent, usage};
use shared::SharedQuotas;

/// Shares, in percent, at which an event is logged.
const EVENTS: [u64; 3] = [80, 95, 100];
/// Time between two attempts to open the file.
const RETRY: StdDuration = StdDuration::from_millis(200);
/// What is not escaped in the names of buckets.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'@');

/// Not in Traefik. Applies the limits of consumers' plans (`http.plans`), and counts requests against their quotas.
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
    /// Maximum random time that is added to `Retry-After`.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub retry_after_jitter: Duration,
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
        // Mistakes in `redis` are reported once.
        let backend = shared.as_ref().and_then(|_| errors.check(Backend::new(self.redis.as_ref(), context)));
        let made = fsync.zip(cost).zip(shared).zip(backend).map(|(((fsync, cost), shared), backend)| {
            let jitter = self.retry_after_jitter.0.min(MAX_JITTER);
            let form = if self.hide_headers { HeaderForm::None } else { HeaderForm::Ietf };
            let (client, clock) = (ClientIp::default(), context.clock());
            let meter = Meter {
                file: PathBuf::from(&self.file),
                fsync: fsync.unwrap_or(Fsync::Interval),
                cost,
                usage_path: self.usage_path.clone(),
                shows_headers: !self.hide_headers,
                shared,
                ledger: Mutex::new(Opened::Not(None)),
                clock: clock.clone(),
                jitter,
                engine: Engine { client, form, problem: false, jitter, backend, clock },
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
    #[error("Redis: the buckets of limits cannot be read")]
    Buckets,
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
    jitter: StdDuration,
    /// Applies limits.
    engine: Engine,
    offenders: Arc<Offenders>,
}

/// Whose quota a request uses.
struct Account {
    consumer: Arc<Consumer>,
    /// Unit, consumer and key, escaped.
    bucket: String,
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

    /// Returns the limits of an account.
    fn limits(account: &Account) -> Option<&PlanLimits> {
        account.consumer.limits.as_ref().and_then(Limits::get)
    }

    async fn admit(&self, request: Request, next: &Next) -> Response {
        let account = match self.account(request.context.identity.as_deref()) {
            Ok(account) => account,
            Err(refusal) => return refusal.response(self.jitter),
        };
        let owner = account.consumer.clone();
        let Some(limits) = owner.limits.as_ref().and_then(Limits::get::<PlanLimits>) else {
            return self.count(account, request, next).await;
        };
        let asks = self.engine.asks(limits.set(), &request, true);
        match self.engine.admit(limits.set(), asks).await {
            Ok(admitted) => self.engine.finish(admitted, self.count(account, request, next).await),
            Err(NotAdmitted::Refused(mut response)) => {
                self.add_last_fields(&mut response, &account);
                response
            }
            Err(NotAdmitted::Unavailable) => Refusal::Unavailable(Unavailable::Buckets).response(self.jitter),
        }
    }

    /// Counts a request against its quota, and passes it on if that is not used up.
    async fn count(&self, account: Account, request: Request, next: &Next) -> Response {
        let Some(quota) = &account.consumer.quota else { return next.run(request).await };
        let store = match self.store().await {
            Ok(store) => store,
            Err(error) => return Refusal::Unavailable(error.into()).response(self.jitter),
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
                let mut response = Refusal::Exceeded { used, window, now }.response(self.jitter);
                self.add_fields(&mut response, &account, quota, Total { used, window }, now);
                return response;
            }
            Err(error) => {
                tracing::error!("quotas cannot be counted: {error}");
                return Refusal::Unavailable(error).response(self.jitter);
            }
        };
        report(&account.consumer, quota, before, after);
        let mut response = next.run(request).await;
        self.add_fields(&mut response, &account, quota, Total { used: after, window }, now);
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

    fn predict_count(&self, account: &Account, request: Request) -> Prediction {
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
            return Prediction::responds(usage(account, quota, total)).note("shows the usage");
        }
        let (name, unit) = (&account.consumer.plan, quota.unit.name());
        let note = format!("plan `{name}`: {} of {} {unit} are used", total.used, quota.limit);
        if total.used.saturating_add(self.cost_of(&request, quota).max(1)) <= quota.limit {
            return Prediction::passes(request).note(note);
        }
        let refusal = Refusal::Exceeded { used: total.used, window: total.window, now };
        let mut response = refusal.response(StdDuration::ZERO);
        self.add_fields(&mut response, account, quota, total, now);
        Prediction::responds(response).note(note)
    }

    /// Tells the client how much is left.
    fn add_fields(&self, response: &mut Response, account: &Account, quota: &Quota, total: Total, now: i64) {
        if self.shows_headers {
            add_fields(response, account, quota, total, now);
        }
    }

    /// Tells the client how much was left last, for a request that is not counted.
    fn add_last_fields(&self, response: &mut Response, account: &Account) {
        let Some(quota) = &account.consumer.quota else { return };
        let now = seconds(self.clock.wall());
        let last = match (&self.shared, &*self.ledger.lock()) {
            (Some(shared), _) => shared.last(&account.bucket, now),
            (None, Opened::Yes(ledger)) => Some(ledger.peek(&account.bucket, quota, now)),
            (None, Opened::Not(_)) => None,
        };
        if let Some(total) = last {
            self.add_fields(response, account, quota, total, now);
        }
    }

    fn is_usage(&self, request: &Request) -> bool {
        !self.usage_path.is_empty() && request.head.method == Method::GET && request.path() == self.usage_path
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

/// Logs when a share of the quota is reached.
fn report(consumer: &Consumer, quota: &Quota, before: u64, after: u64) {
    let (before, after) = (percent(before, quota), percent(after, quota));
    let reached = EVENTS.iter().rev().find(|share| before < **share && **share <= after);
    if let Some(share) = reached {
        let (plan, unit, consumer) = (&consumer.plan, quota.unit.name(), &consumer.name);
        tracing::warn!(%consumer, %plan, unit, limit = quota.limit, percent = share, "a quota is used to {share} %");
    }
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
            Err(refusal) => {
                return Prediction::responds(refusal.response(StdDuration::ZERO)).note(refusal.description());
            }
        };
        let Some(limits) = Self::limits(&account) else { return self.predict_count(&account, request) };
        let predicted = self.engine.predict(limits.set(), &request);
        let prediction = match predicted.verdict {
            Foreseen::Admitted => self.predict_count(&account, request),
            Foreseen::Refused(mut response) => {
                self.add_last_fields(&mut response, &account);
                Prediction::responds(response)
            }
            Foreseen::Shared => Prediction::depends(request, "asks Redis for the buckets of its limits"),
        };
        predicted.notes.into_iter().fold(prediction, Prediction::note)
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
