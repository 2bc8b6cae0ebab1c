//! Recent requests, kept in memory for the question why one was handled the way it was.
//!
//! Each worker has its own rings: one for ordinary requests, and one for those that failed or were slow, so that a
//! flood of good ones does not displace them. A request is recorded when its exchange ends, without formatting, and
//! never waits: if a reader holds the ring, the request is counted as missed.

mod copies;
pub(crate) mod json;
pub(crate) mod live;
mod record;
pub(crate) mod select;

use std::cell::Cell;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tidegate_core::{End, Exchange};

use super::access_log::{Aborted, Redaction};
use super::enter::enter;
use crate::settings::Settings;
use crate::worker;
use copies::Copies;
use record::{Arrival, MAX_TEXT};
pub(crate) use record::{Record, Text, Try};

/// Number of records that a reader copies at a time, so that it holds the ring for a few microseconds.
const CHUNK: usize = 32;

thread_local! {
    /// A displaced record, whose memory the next one of this thread takes over.
    static SPARE: Cell<Option<Box<Record>>> = const { Cell::new(None) };
}

/// The recent requests of a gateway.
pub struct Requests {
    shards: Box<[Shard]>,
    slow: Duration,
    redaction: Redaction,
    add_internals: bool,
    entry_points: Box<[String]>,
    copies: Copies,
    /// The same moment on both clocks.
    epoch: (Instant, SystemTime),
}

/// The requests of one worker.
struct Shard {
    /// Number of requests so far.
    count: AtomicU64,
    rings: Mutex<Rings>,
    missed: AtomicU64,
}

struct Rings {
    ordinary: Ring,
    notable: Ring,
}

/// The newest records, up to a fixed number.
struct Ring {
    #[expect(clippy::vec_box, reason = "records move between open requests and the ring")]
    records: Vec<Box<Record>>,
    capacity: usize,
    /// Place of the oldest record once the ring is full.
    oldest: usize,
}

/// A request that is recorded when it ends.
pub(crate) struct Recording {
    requests: Arc<Requests>,
    record: Box<Record>,
}

impl Requests {
    /// Creates the rings that the settings ask for, for this number of workers; `None` if they ask for none.
    pub fn new(settings: &Settings, workers: usize) -> Option<Arc<Self>> {
        let options = &settings.api.as_ref()?.requests;
        let per_record = size_of::<Record>() + size_of::<Box<Record>>() + MAX_TEXT;
        let affordable = options.max_memory / per_record;
        let size = options.size.min(affordable);
        if size == 0 {
            return None;
        }
        // Half of them for requests that failed or were slow.
        let capacity = size.div_ceil(2 * workers.max(1));
        let shard = || Shard {
            count: AtomicU64::new(0),
            rings: Mutex::new(Rings { ordinary: Ring::new(capacity), notable: Ring::new(capacity) }),
            missed: AtomicU64::new(0),
        };
        Some(Arc::new(Self {
            shards: (0..workers.max(1)).map(|_| shard()).collect(),
            slow: options.slow.0,
            redaction: Redaction::new(settings.access_log.as_ref()),
            add_internals: settings.access_log.as_ref().is_some_and(|log| log.add_internals),
            entry_points: settings.entry_points.keys().cloned().collect(),
            copies: Copies::new(workers.max(1)),
            epoch: (Instant::now(), SystemTime::now()),
        }))
    }

    /// Begins to record a request before middlewares change it. `entry_point` is its index in the settings.
    /// `is_forwarded` is whether it may have the header `X-Forwarded-For`.
    pub(crate) fn begin(
        self: &Arc<Self>,
        entry_point: usize,
        exchange: &Exchange,
        head: &http::request::Parts,
        is_forwarded: bool,
    ) -> Recording {
        let arrival = Arrival { exchange, entry_point, head, is_forwarded };
        let mut record = SPARE.take().unwrap_or_else(|| Box::new(Record::empty()));
        record.begin(&arrival, &self.redaction);
        Recording { requests: self.clone(), record }
    }

    /// Returns copies of all records, the last to end first.
    pub(crate) fn all(&self) -> Vec<Record> {
        let mut all: Vec<Record> = self.shards.iter().flat_map(Shard::copy).collect();
        all.sort_unstable_by_key(|record| std::cmp::Reverse(record.ended()));
        all
    }

    /// Returns the newest request with this identifier: the record's own, the request's (`requestId`), or that of its
    /// trace.
    pub(crate) fn find(&self, id: &str) -> Option<Record> {
        let own = u64::from_str_radix(id, 16).ok();
        let is_wanted = |record: &&Record| {
            own == Some(record.id)
                || record.text(Text::RequestId) == id && !id.is_empty()
                || record.trace.is_some_and(|trace| trace.trace_id_hex() == id)
        };
        let all = self.all();
        all.iter().find(|record| own == Some(record.id)).or_else(|| all.iter().find(is_wanted)).cloned()
    }

    /// Returns how many requests were not recorded because a reader held the ring.
    pub(crate) fn missed(&self) -> u64 {
        self.shards.iter().map(|shard| shard.missed.load(Ordering::Relaxed)).sum()
    }

    /// Returns the name of an entry point.
    pub(crate) fn entry_point(&self, index: u16) -> &str {
        self.entry_points.get(usize::from(index)).map_or("", String::as_str)
    }

    /// Converts an instant to the time of day.
    pub(crate) fn time_of(&self, at: Instant) -> SystemTime {
        let (instant, time) = self.epoch;
        time + at.saturating_duration_since(instant)
    }
}

impl Recording {
    /// Records the request, which ended at `now`.
    pub(crate) fn end(self, exchange: &Exchange, end: End, now: Instant) {
        let Self { requests, mut record } = self;
        let is_internal = exchange
            .route()
            .is_some_and(|route| route.router.ends_with("@internal") || route.service.ends_with("@internal"));
        if is_internal && !requests.add_internals {
            return SPARE.set(Some(record));
        }
        let index = worker::index() % requests.shards.len();
        let shard = &requests.shards[index];
        let id =
            (shard.count.fetch_add(1, Ordering::Relaxed) + 1) * requests.shards.len() as u64 + index as u64;
        record.complete((id, now), exchange, Aborted::by(end), &requests.redaction);
        requests.copies.offer(index, &record);
        let Some(mut rings) = enter(&shard.rings) else {
            shard.missed.fetch_add(1, Ordering::Relaxed);
            return SPARE.set(Some(record));
        };
        let is_notable = record.is_notable(requests.slow);
        let ring = if is_notable { &mut rings.notable } else { &mut rings.ordinary };
        let displaced = ring.push(record);
        drop(rings);
        SPARE.set(displaced);
    }
}

impl Shard {
    /// Copies all records, a few at a time.
    fn copy(&self) -> Vec<Record> {
        let mut copies: Vec<Record> = Vec::new();
        for is_notable in [false, true] {
            let mut from = 0;
            loop {
                let rings = self.rings.lock();
                let ring = if is_notable { &rings.notable } else { &rings.ordinary };
                let chunk = ring.records.get(from..).unwrap_or_default();
                if chunk.is_empty() {
                    break;
                }
                copies.extend(chunk.iter().take(CHUNK).map(|record| Record::clone(record)));
                from += CHUNK;
            }
        }
        copies
    }
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self { records: Vec::with_capacity(capacity), capacity, oldest: 0 }
    }

    /// Adds a record, and returns the oldest one if the ring is full.
    fn push(&mut self, record: Box<Record>) -> Option<Box<Record>> {
        if self.records.len() < self.capacity {
            self.records.push(record);
            return None;
        }
        let place = self.oldest;
        self.oldest = (place + 1) % self.capacity;
        Some(std::mem::replace(&mut self.records[place], record))
    }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tidegate_core::concealed::Concealed;
    use tidegate_core::{Connection, Reason};

    use super::*;
    use crate::settings::{AccessLog, Api, EntryPoint};

    pub(super) fn settings(change: impl FnOnce(&mut Api)) -> Settings {
        let mut api = Api::default();
        change(&mut api);
        let mut settings = Settings { api: Some(api), ..Settings::default() };
        settings.entry_points.insert("web".into(), EntryPoint::default());
        settings
    }

    pub(super) fn record(requests: &Arc<Requests>, target: &str, status: u16) {
        let builder = http::Request::builder().uri(target).header("host", "h.test");
        let builder = builder.header("cookie", "secret").header("authorization", "secret").header("x-a", "1");
        let head = builder.body(()).unwrap().into_parts().0;
        let peer = ([192, 0, 2, 1], 4000).into();
        let exchange = Exchange::begin(Arc::new(Connection::plain(peer)), Version::HTTP_11);
        exchange.set_request_id(&format!("request{target}"));
        let recording = requests.begin(0, &exchange, &head, false);
        exchange.answer(status, (status == 404).then_some(Reason::NoRouter));
        recording.end(&exchange, End::Complete, Instant::now());
    }

    #[test]
    fn failures_outlive_ordinary_requests() {
        let requests = Requests::new(&settings(|api| api.requests.size = 8), 1).unwrap();
        record(&requests, "/failed", 502);
        for number in 0..100 {
            record(&requests, &format!("/{number}"), 200);
        }
        let targets: Vec<String> =
            requests.all().iter().map(|record| record.text(Text::Target).into_owned()).collect();
        assert_eq!(targets, ["/99", "/98", "/97", "/96", "/failed"]);
        assert_eq!(requests.missed(), 0);
    }

    #[test]
    fn memory_limits_the_number_of_records() {
        let few = Requests::new(&settings(|api| api.requests.max_memory = 20_000), 1).unwrap();
        for number in 0..100 {
            record(&few, &format!("/{number}"), 200);
        }
        let kept = few.all().len();
        assert!((1..20).contains(&kept), "{kept}");
        assert!(Requests::new(&settings(|api| api.requests.size = 0), 1).is_none());
        assert!(Requests::new(&Settings::default(), 1).is_none(), "without the API");
    }

    #[test]
    fn records_are_found_by_either_identifier() {
        let requests = Requests::new(&settings(|_| ()), 2).unwrap();
        record(&requests, "/a", 200);
        record(&requests, "/b", 404);
        let found = requests.find("request/a").unwrap();
        assert_eq!(requests.find(&format!("{:x}", found.id)).unwrap().text(Text::Target), "/a");
        assert!(requests.find("nothing").is_none() && requests.find("").is_none());
    }

    #[test]
    fn records_follow_the_rules_of_the_access_log() {
        let mut settings = settings(|_| ());
        let shown = |settings: &Settings| {
            let requests = Requests::new(settings, 1).unwrap();
            record(&requests, "/p?token=secret", 200);
            let record = requests.all().remove(0);
            (
                record.text(Text::Target).into_owned(),
                record.text(Text::Headers).into_owned(),
                record.peer.is_some(),
            )
        };
        assert_eq!(shown(&settings), ("/p?token=secret".into(), String::new(), true));
        let mut log = AccessLog::default();
        log.fields.headers.default_mode = "keep".into();
        log.fields.headers.names.insert("x-a".into(), "redact".into());
        log.fields.query_parameters.default_mode = "drop".into();
        log.fields.names.insert("ClientAddr".into(), "drop".into());
        settings.access_log = Some(log);
        assert_eq!(shown(&settings), ("/p".into(), "x-a: REDACTED\n".into(), false));
    }

    #[test]
    fn credentials_are_masked_whatever_bytes_are_around_them() {
        let mut settings = settings(|_| ());
        let mut log = AccessLog::default();
        log.fields.headers.default_mode = "keep".into();
        settings.access_log = Some(log);
        // With 13 bytes left, a character of the value is cut.
        for left in [14, 13] {
            let requests = Requests::new(&settings, 1).unwrap();
            let path = "x".repeat(MAX_TEXT / 2 - "/?key=".len() - left);
            let target = format!("/{path}?key=s%65cret{}", "é".repeat(40));
            let builder = http::Request::builder().uri(target).header("x-key", &b"secret\xff\xfe"[..]);
            let builder = builder.header("a", &b"\xff\xff\xff"[..]).header("z", "kept");
            let head = builder.body(()).unwrap().into_parts().0;
            let peer = ([192, 0, 2, 1], 4000).into();
            let exchange = Exchange::begin(Arc::new(Connection::plain(peer)), Version::HTTP_11);
            let recording = requests.begin(0, &exchange, &head, false);
            let headers = vec![http::HeaderName::from_static("x-key")];
            exchange.conceal(Arc::new(Concealed { headers, parameter: Some("key".into()) }));
            exchange.answer(200, None);
            recording.end(&exchange, End::Complete, Instant::now());
            let record = requests.all().remove(0);
            let (target, headers) = (record.text(Text::Target), record.text(Text::Headers));
            assert!(target.ends_with(&format!("?key={}", "*".repeat(left))), "{target}");
            assert!(headers.contains("x-key: ********\n") && headers.contains("z: kept\n"), "{headers}");
        }
    }

    #[test]
    fn long_texts_are_truncated() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        record(&requests, &format!("/{}", "x".repeat(9000)), 200);
        let record = requests.all().remove(0);
        assert!(record.text(Text::Target).len() <= MAX_TEXT);
        assert_eq!(record.text(Text::Host), "h.test");
    }
}
