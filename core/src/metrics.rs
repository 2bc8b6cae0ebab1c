//! Counters of requests, for metrics.
//!
//! There is one [`RequestCounters`] per entry point, router and service. Each worker has its own cells, so counting
//! takes no lock and shares no cache line; a reader adds them up.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::Method;
use parking_lot::Mutex;

use crate::Reason;
use crate::exemplars::{Exemplar, Exemplars};
pub use crate::request_kind::{Protocol, RequestKind};

/// Maximum number of combinations of header values that are counted separately.
const MAX_LABELLED: usize = 1000;
/// The value of each header label once there are too many combinations.
const OTHER: &str = "other";

/// How a request is counted.
#[derive(Clone, Debug)]
pub struct Counted {
    /// What it asks for.
    pub kind: RequestKind,
    /// The values of the configured headers.
    pub labels: Box<[Box<str>]>,
}

impl Counted {
    /// Returns how a request of the gateway with the same headers is counted: with GET, and without an upgrade.
    #[must_use]
    pub fn as_get(&self) -> Self {
        let protocol = match self.kind.protocol {
            Protocol::WebSocket => Protocol::Http,
            other => other,
        };
        Self { kind: RequestKind::new(&Method::GET, protocol), labels: self.labels.clone() }
    }
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// What it asked for.
    pub kind: RequestKind,
    /// The status: of HTTP, or of gRPC.
    pub code: u16,
    /// From its head to the end of its response.
    pub duration: Duration,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the body of its response.
    pub sent: u64,
    /// TLS version and cipher suite, over TLS.
    pub tls: Option<(&'static str, &'static str)>,
    /// The values of the configured headers.
    pub labels: &'a [Box<str>],
}

/// Counts the requests of one entry point, router or service.
#[derive(Debug)]
pub struct RequestCounters {
    /// Upper bounds of the duration's buckets in nanoseconds, ascending.
    bounds: Arc<[u64]>,
    workers: Box<[Cells]>,
    labelled: Mutex<HashMap<Labels, u64>>,
    retries: AtomicU64,
    exemplars: Exemplars<(u16, RequestKind)>,
}

/// Code, kind, and values of headers.
type Labels = (u16, RequestKind, Box<[Box<str>]>);

/// The counters of one worker.
#[derive(Debug, Default)]
struct Cells {
    requests: List<Series>,
    tls: List<TlsSeries>,
}

#[derive(Debug)]
struct Series {
    code: u16,
    kind: RequestKind,
    nanoseconds: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// One per bound, and one for what is longer.
    buckets: Box<[AtomicU64]>,
}

#[derive(Debug)]
struct TlsSeries {
    version: &'static str,
    cipher: &'static str,
    requests: AtomicU64,
}

/// The sum of all workers for one code and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sum of the durations in nanoseconds.
    pub nanoseconds: u64,
    /// Bytes of request bodies.
    pub received: u64,
    /// Bytes of response bodies.
    pub sent: u64,
    /// Number of requests per bucket, not cumulative; the last is for durations above all bounds.
    pub buckets: Vec<u64>,
}

impl Totals {
    /// Returns the number of requests.
    pub fn requests(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl RequestCounters {
    /// Creates counters for this many workers, with buckets for durations up to each of `bounds`, in nanoseconds and
    /// ascending.
    pub fn new(workers: usize, bounds: Arc<[u64]>) -> Self {
        let workers = (0..workers.max(1)).map(|_| Cells::default()).collect();
        Self {
            bounds,
            workers,
            labelled: Mutex::default(),
            retries: AtomicU64::new(0),
            exemplars: Exemplars::default(),
        }
    }

    /// Counts a request that ended on this worker. Other threads use any index.
    pub fn count(&self, worker: usize, sample: &Sample<'_>) {
        let Some(cells) = self.workers.get(worker).or_else(|| self.workers.first()) else { return };
        let Sample { code, kind, .. } = *sample;
        let series = cells.requests.find_or_add(
            |series| series.code == code && series.kind == kind,
            || Series::new(code, kind, self.bounds.len()),
        );
        let nanoseconds = u64::try_from(sample.duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| *bound < nanoseconds);
        add(&series.buckets[bucket], 1);
        add(&series.nanoseconds, nanoseconds);
        add(&series.received, sample.received);
        add(&series.sent, sample.sent);
        if let Some((version, cipher)) = sample.tls {
            let tls = cells.tls.find_or_add(
                |tls| tls.version == version && tls.cipher == cipher,
                || TlsSeries { version, cipher, requests: AtomicU64::new(0) },
            );
            add(&tls.requests, 1);
        }
        if !sample.labels.is_empty() {
            self.count_labelled(sample);
        }
    }

    /// Counts a retry of a request.
    pub fn count_retry(&self) {
        add(&self.retries, 1);
    }

    /// Keeps a request that was counted on this worker as the exemplar of its bucket.
    pub fn keep_exemplar(&self, worker: usize, sample: &Sample<'_>, trace_id: u128, at: SystemTime) {
        let nanoseconds = u64::try_from(sample.duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| *bound < nanoseconds);
        let exemplar = Exemplar { trace_id, duration: sample.duration, at };
        let (workers, buckets) = (self.workers.len(), self.bounds.len() + 1);
        self.exemplars.keep((worker, workers), (sample.code, sample.kind), (bucket, buckets), exemplar);
    }

    /// Returns the newest exemplar of each bucket, by code and kind.
    pub fn exemplars(&self) -> BTreeMap<(u16, RequestKind), Vec<Option<Exemplar>>> {
        self.exemplars.newest()
    }

    /// Returns the number of retries.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    fn count_labelled(&self, sample: &Sample<'_>) {
        let mut labelled = self.labelled.lock();
        let mut key: Labels = (sample.code, sample.kind, sample.labels.into());
        if labelled.len() >= MAX_LABELLED && !labelled.contains_key(&key) {
            key.2 = sample.labels.iter().map(|_| Box::from(OTHER)).collect();
        }
        *labelled.entry(key).or_default() += 1;
    }

    /// Returns the totals by code and kind.
    pub fn totals(&self) -> BTreeMap<(u16, RequestKind), Totals> {
        let mut totals: BTreeMap<(u16, RequestKind), Totals> = BTreeMap::new();
        for series in self.workers.iter().flat_map(|cells| cells.requests.iter()) {
            let total = totals.entry((series.code, series.kind)).or_default();
            total.buckets.resize(series.buckets.len(), 0);
            for (sum, bucket) in total.buckets.iter_mut().zip(&series.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            total.nanoseconds += series.nanoseconds.load(Ordering::Relaxed);
            total.received += series.received.load(Ordering::Relaxed);
            total.sent += series.sent.load(Ordering::Relaxed);
        }
        // Another worker may have added a series that it has not counted in yet.
        totals.retain(|_, total| total.requests() > 0);
        totals
    }

    /// Returns the number of requests by TLS version and cipher suite.
    pub fn tls_totals(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let mut totals = BTreeMap::new();
        for tls in self.workers.iter().flat_map(|cells| cells.tls.iter()) {
            *totals.entry((tls.version, tls.cipher)).or_default() += tls.requests.load(Ordering::Relaxed);
        }
        totals
    }

    /// Returns the number of requests by code, kind, and values of the configured headers.
    pub fn labelled_totals(&self) -> BTreeMap<Labels, u64> {
        self.labelled.lock().iter().map(|(labels, count)| (labels.clone(), *count)).collect()
    }
}

impl Series {
    fn new(code: u16, kind: RequestKind, bounds: usize) -> Self {
        Self {
            code,
            kind,
            nanoseconds: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            buckets: (0..=bounds).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    if amount > 0 {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// A slot per [`Reason`], and the first for responses of servers.
const SLOTS: usize = Reason::ALL.len() + 1;

/// Counts the responses of an entry point by where they come from.
#[derive(Debug)]
pub struct ResponseCounters(Box<[Slots]>);

/// The counters of one worker, in cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
struct Slots([AtomicU64; SLOTS]);

impl ResponseCounters {
    /// Creates counters for this many workers.
    pub fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Slots(std::array::from_fn(|_| AtomicU64::new(0)))).collect())
    }

    /// Counts a response on this worker: why it is not from a server, or `None` if it is. Other threads use any index.
    pub fn count(&self, worker: usize, reason: Option<Reason>) {
        let Some(slots) = self.0.get(worker).or_else(|| self.0.first()) else { return };
        add(&slots.0[reason.map_or(0, |reason| reason as usize + 1)], 1);
    }

    /// Returns the number of responses by reason, without those that never occurred.
    pub fn totals(&self) -> impl Iterator<Item = (Option<Reason>, u64)> {
        let reasons = std::iter::once(None).chain(Reason::ALL.iter().copied().map(Some));
        let total = |slot: usize| self.0.iter().map(|slots| slots.0[slot].load(Ordering::Relaxed)).sum();
        reasons.enumerate().map(move |(slot, reason)| (reason, total(slot))).filter(|(_, total)| *total > 0)
    }
}

/// An append-only list that can be searched while others append to it. Most have one or two entries.
#[derive(Debug)]
struct List<T>(OnceLock<Box<ListNode<T>>>);

#[derive(Debug)]
struct ListNode<T> {
    value: T,
    next: List<T>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> List<T> {
    fn find_or_add(&self, is_wanted: impl Fn(&T) -> bool, make: impl Fn() -> T) -> &T {
        let mut at = self;
        loop {
            let node = at.0.get_or_init(|| Box::new(ListNode { value: make(), next: Self::default() }));
            if is_wanted(&node.value) {
                return &node.value;
            }
            at = &node.next;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = self;
        std::iter::from_fn(move || {
            let node = at.0.get()?;
            at = &node.next;
            Some(&node.value)
        })
    }
}

impl<T> Drop for List<T> {
    fn drop(&mut self) {
        // Dropping one node after the other, instead of each inside the one before.
        let mut rest = self.0.take();
        while let Some(mut node) = rest {
            rest = node.next.0.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn counters(workers: usize) -> RequestCounters {
        RequestCounters::new(workers, [1_000_000, 5_000_000].into())
    }

    fn sample(method: &Method, code: u16, duration: Duration) -> Sample<'static> {
        let kind = RequestKind::new(method, Protocol::Http);
        Sample { kind, code, duration, received: 3, sent: 10, tls: None, labels: &[] }
    }

    #[test]
    fn workers_are_added_up_by_code_and_kind() {
        let counters = counters(2);
        counters.count(0, &sample(&Method::GET, 200, MILLISECOND));
        counters.count(1, &sample(&Method::GET, 200, MILLISECOND * 2));
        counters.count(9, &sample(&Method::GET, 200, MILLISECOND * 9));
        counters.count(1, &sample(&Method::POST, 404, Duration::ZERO));
        let totals: Vec<_> = counters.totals().into_iter().collect();
        let [((200, get), all), ((404, post), one)] = &totals[..] else { panic!("{totals:?}") };
        assert_eq!((get.method(), post.method()), ("GET", "POST"));
        assert_eq!((all.requests(), &all.buckets[..]), (3, &[1, 1, 1][..]));
        assert_eq!((all.nanoseconds, all.received, all.sent), (12_000_000, 9, 30));
        assert_eq!((one.requests(), one.nanoseconds), (1, 0));
    }

    #[test]
    fn methods_of_strangers_share_one_series() {
        let counters = counters(1);
        for method in ["PROPFIND", "x", "get"] {
            counters.count(0, &sample(&method.parse().unwrap(), 200, MILLISECOND));
        }
        let totals = counters.totals();
        assert_eq!(totals.keys().map(|(_, kind)| kind.method()).collect::<Vec<_>>(), ["EXTENSION_METHOD"]);
    }

    #[test]
    fn each_bucket_has_its_newest_exemplar() {
        let counters = counters(2);
        assert!(counters.exemplars().is_empty());
        let early = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let late = early + Duration::from_secs(1);
        for (worker, milliseconds, trace_id, at) in
            [(0, 1, 1, early), (1, 1, 2, late), (1, 9, 3, early), (9, 9, 4, late)]
        {
            let sample = sample(&Method::GET, 200, MILLISECOND * milliseconds);
            counters.keep_exemplar(worker, &sample, trace_id, at);
        }
        let exemplars: Vec<_> = counters.exemplars().into_values().collect();
        let [buckets] = &exemplars[..] else { panic!("{exemplars:?}") };
        let traces: Vec<_> = buckets.iter().map(|slot| slot.map(|exemplar| exemplar.trace_id)).collect();
        assert_eq!(traces, [Some(2), None, Some(4)]);
    }

    #[test]
    fn values_of_headers_are_limited() {
        let counters = counters(1);
        for number in 0..MAX_LABELLED + 5 {
            let labels = [Box::from(format!("v{number}"))];
            counters.count(0, &Sample { labels: &labels, ..sample(&Method::GET, 200, MILLISECOND) });
        }
        let totals = counters.labelled_totals();
        assert_eq!(totals.len(), MAX_LABELLED + 1);
        assert_eq!(
            totals.iter().find(|((_, _, labels), _)| *labels[0] == *OTHER).map(|(_, count)| *count),
            Some(5)
        );
    }

    #[test]
    fn concurrent_threads_lose_nothing() {
        let counters = counters(1);
        std::thread::scope(|scope| {
            for thread in 0..4_u16 {
                let counters = &counters;
                scope.spawn(move || {
                    for code in 0..1000 {
                        let tls = Some(("1.3", "TLS_AES_128_GCM_SHA256"));
                        let one = sample(&Method::GET, 200 + (code + thread) % 7, MILLISECOND);
                        counters.count(0, &Sample { tls, ..one });
                    }
                });
            }
        });
        assert_eq!(counters.totals().len(), 7);
        assert_eq!(counters.totals().values().map(Totals::requests).sum::<u64>(), 4000);
        assert_eq!(counters.tls_totals().into_values().collect::<Vec<_>>(), [4000]);
    }
}
