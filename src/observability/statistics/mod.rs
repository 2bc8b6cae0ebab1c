//! Rates, errors and times of the last minutes, by entry point, router, service, server and client.
//!
//! A request adds one entry to a list of its worker when it ends, and never waits. A task of the control plane takes the
//! lists ten times a second and adds up what they contain, so that workers share nothing and compute nothing.
//!
//! Requests are counted only while somebody asks for the numbers, so that others pay nothing.

mod event;
mod series;
mod top;
mod totals;

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use parking_lot::Mutex;
use tidegate_core::Exchange;
use tidegate_core::forwarded::{X_FORWARDED_FOR, parse_entry};
use tokio::sync::Notify;

use super::access_log::Redaction;
use super::enter::enter;
use crate::settings::Settings;
use crate::worker;
use event::{Event, Hit, Outcome};
use series::HORIZON;
pub(crate) use series::{Numbers, STEP};
use totals::Totals;
pub(crate) use totals::{Row, View};

/// How often lists are taken.
const INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of requests in the list of one worker. Half of them wake the task.
const MAX_EVENTS: usize = 8192;
/// How long requests are counted after the numbers were asked for.
const PATIENCE: Duration = Duration::from_secs(HORIZON);

/// The statistics of a gateway.
pub struct Statistics {
    shards: Box<[Shard]>,
    /// Wakes the task at the first entry of a list.
    filled: Notify,
    /// Wakes it early when a list is half full.
    crowded: Notify,
    totals: Mutex<Totals>,
    /// Returns totals without requests.
    empty: Box<dyn Fn(Instant) -> Totals + Send + Sync>,
    /// Whether requests are counted.
    is_counting: AtomicBool,
    watch: Mutex<Watch>,
    keeps_clients: bool,
    add_internals: bool,
}

/// When the numbers were asked for.
struct Watch {
    /// Since when requests have been counted, if they are.
    since: SystemTime,
    /// The last time.
    asked: Instant,
}

/// The list of one worker.
#[derive(Default)]
struct Shard {
    events: Mutex<Vec<Event>>,
    /// Number of requests that were left out.
    lost: AtomicU64,
    is_crowded: AtomicBool,
}

/// A request that is counted when it ends.
pub(crate) struct Counting {
    statistics: Arc<Statistics>,
    entry_point: u16,
    client: Option<IpAddr>,
}

impl Statistics {
    /// Creates the statistics for this number of workers; `None` if the settings do not ask for any.
    pub fn new(settings: &Settings, workers: usize) -> Option<Arc<Self>> {
        let options = &settings.api.as_ref()?.statistics;
        if options.max_objects == 0 {
            return None;
        }
        let redaction = Redaction::new(settings.access_log.as_ref());
        let (names, options): (Vec<String>, _) =
            (settings.entry_points.keys().cloned().collect(), options.clone());
        let keeps_clients = options.max_clients > 0 && redaction.keeps_client();
        let empty = move |now| Totals::new(names.iter(), &options, now);
        let now = Instant::now();
        Some(Arc::new(Self {
            shards: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            filled: Notify::new(),
            crowded: Notify::new(),
            totals: Mutex::new(empty(now)),
            empty: Box::new(empty),
            is_counting: AtomicBool::new(false),
            watch: Mutex::new(Watch { since: SystemTime::now(), asked: now }),
            keeps_clients,
            add_internals: settings.access_log.as_ref().is_some_and(|log| log.add_internals),
        }))
    }

    /// Begins to count a request, if requests are counted now. `entry_point` is its index in the settings.
    pub(crate) fn begin(self: &Arc<Self>, entry_point: usize, headers: &HeaderMap) -> Option<Counting> {
        if !self.is_counting.load(Ordering::Relaxed) {
            return None;
        }
        // Only trusted peers may send it.
        let forwarded = if self.keeps_clients { headers.get(X_FORWARDED_FOR) } else { None };
        let first = forwarded.and_then(|value| value.as_bytes().split(|byte| *byte == b',').next());
        Some(Counting {
            statistics: self.clone(),
            entry_point: u16::try_from(entry_point).unwrap_or(u16::MAX),
            client: first.and_then(|entry| parse_entry(entry.trim_ascii())),
        })
    }

    /// Adds up requests as they end, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut spare = Vec::new();
        loop {
            self.filled.notified().await;
            let _ = tokio::time::timeout(INTERVAL, self.crowded.notified()).await;
            self.collect(&mut spare, Instant::now());
        }
    }

    /// Adds up the requests that have ended by `now`. `spare` is empty, as it is afterwards.
    fn collect(&self, spare: &mut Vec<Event>, now: Instant) {
        for shard in &self.shards {
            mem::swap(&mut *shard.events.lock(), spare);
            shard.is_crowded.store(false, Ordering::Relaxed);
            let mut totals = self.totals.lock();
            for event in spare.drain(..) {
                totals.add(&event, now);
            }
        }
        self.totals.lock().tidy(now);
        let watch = self.watch.lock();
        if now.saturating_duration_since(watch.asked) > PATIENCE {
            self.is_counting.store(false, Ordering::Relaxed);
        }
    }

    /// Returns the numbers of all objects, and of how many requests were left out. Requests are counted from the first
    /// call on, until there has been none for [`PATIENCE`].
    pub(crate) fn view(&self) -> View {
        self.view_at(Instant::now())
    }

    fn view_at(&self, now: Instant) -> View {
        let lost = self.shards.iter().map(|shard| shard.lost.load(Ordering::Relaxed)).sum();
        let mut watch = self.watch.lock();
        watch.asked = now;
        let mut totals = self.totals.lock();
        if !self.is_counting.swap(true, Ordering::Relaxed) {
            watch.since = SystemTime::now();
            *totals = (self.empty)(now);
        }
        totals.view(lost, watch.since, now)
    }

    fn push(&self, event: Event) {
        let shard = &self.shards[worker::index() % self.shards.len()];
        let Some(mut events) = enter(&shard.events).filter(|events| events.len() < MAX_EVENTS) else {
            shard.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        events.push(event);
        let length = events.len();
        drop(events);
        if length == 1 {
            self.filled.notify_one();
        } else if length >= MAX_EVENTS / 2 && !shard.is_crowded.swap(true, Ordering::Relaxed) {
            self.crowded.notify_one();
        }
    }
}

impl Counting {
    /// Counts the request, which has ended.
    pub(crate) fn end(self, exchange: &Exchange) {
        let is_internal = exchange
            .route()
            .is_some_and(|route| route.router.ends_with("@internal") || route.service.ends_with("@internal"));
        if is_internal && !self.statistics.add_internals {
            return;
        }
        let client = self
            .statistics
            .keeps_clients
            .then(|| self.client.unwrap_or_else(|| exchange.connection.peer.ip().to_canonical()));
        self.statistics.push(Event {
            entry_point: self.entry_point,
            client,
            outcome: Outcome { is_error: exchange.status() >= 500, time: exchange.answered() },
            routes: exchange.routes().cloned().collect(),
            attempts: exchange.attempts().map(Hit::new).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tidegate_core::Connection;

    use super::*;
    use crate::settings::{Api, EntryPoint};

    fn statistics(change: impl FnOnce(&mut Api)) -> Option<Arc<Statistics>> {
        let mut api = Api::default();
        change(&mut api);
        let mut settings = Settings { api: Some(api), ..Settings::default() };
        settings.entry_points.insert("web".into(), EntryPoint::default());
        Statistics::new(&settings, 2)
    }

    /// Returns statistics that are being watched.
    fn watched(change: impl FnOnce(&mut Api)) -> Arc<Statistics> {
        let statistics = statistics(change).unwrap();
        statistics.view();
        statistics
    }

    fn record(statistics: &Arc<Statistics>, forwarded: Option<&'static str>, status: u16) {
        let mut headers = HeaderMap::new();
        if let Some(forwarded) = forwarded {
            headers.insert(X_FORWARDED_FOR, http::HeaderValue::from_static(forwarded));
        }
        let connection = Arc::new(Connection::plain(([192, 0, 2, 1], 4000).into()));
        let exchange = Exchange::begin(connection, Version::HTTP_11);
        exchange.attempt(&Arc::from("a@file"), None);
        exchange.answer(status, None);
        if let Some(counting) = statistics.begin(0, &headers) {
            counting.end(&exchange);
        }
    }

    #[test]
    fn requests_are_counted_once_they_are_collected() {
        let statistics = watched(|_| ());
        for status in [200, 404, 503] {
            record(&statistics, None, status);
        }
        record(&statistics, Some("203.0.113.9, 10.0.0.1"), 200);
        assert!(statistics.view().services.is_empty(), "nothing is collected yet");
        statistics.collect(&mut Vec::new(), Instant::now());
        let view = statistics.view();
        let web = &view.entry_points[0];
        assert_eq!((web.name.as_str(), web.numbers.requests[2], web.numbers.errors[2]), ("web", 4, 1));
        assert!(web.numbers.p99.is_some());
        let service = &view.services[0];
        assert_eq!((service.numbers.requests[2], service.numbers.errors[2]), (4, 4), "there was no server");
        assert_eq!(service.numbers.p50, None);
        let mut clients: Vec<&str> = view.clients.iter().map(|row| row.name.as_str()).collect();
        clients.sort_unstable();
        assert_eq!(clients, ["192.0.2.1", "203.0.113.9"]);
        assert_eq!(view.lost, 0);
    }

    #[test]
    fn a_list_that_is_full_loses_requests_and_counts_them() {
        let statistics = watched(|_| ());
        for _ in 0..MAX_EVENTS + 5 {
            record(&statistics, None, 200);
        }
        statistics.collect(&mut Vec::new(), Instant::now());
        let view = statistics.view();
        assert_eq!((view.entry_points[0].numbers.requests[2], view.lost), (MAX_EVENTS as u64, 5));
    }

    #[test]
    fn settings_turn_it_off() {
        assert!(Statistics::new(&Settings::default(), 1).is_none(), "without the API");
        assert!(statistics(|api| api.statistics.max_objects = 0).is_none());
        let without = watched(|api| api.statistics.max_clients = 0);
        record(&without, None, 200);
        without.collect(&mut Vec::new(), Instant::now());
        assert!(without.view().clients.is_empty());
    }

    #[test]
    fn requests_are_counted_only_while_somebody_asks() {
        let statistics = statistics(|_| ()).unwrap();
        let requests = |at| statistics.view_at(at).entry_points[0].numbers.requests[2];
        let collect = |at| statistics.collect(&mut Vec::new(), at);
        let start = Instant::now();
        record(&statistics, None, 200);
        collect(start);
        assert_eq!(requests(start), 0);
        record(&statistics, None, 200);
        collect(start);
        assert_eq!(requests(start), 1);
        let late = start + PATIENCE + Duration::from_secs(1);
        collect(late);
        record(&statistics, None, 200);
        collect(late);
        assert_eq!(requests(late), 0, "it starts from zero");
        record(&statistics, None, 200);
        collect(late);
        assert_eq!(requests(late), 1);
    }
}
