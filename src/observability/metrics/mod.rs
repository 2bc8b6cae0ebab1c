//! Metrics: what is counted, and by which names.

mod beyond;
mod caches;
mod collect;
mod exposition;
mod families;
mod meter;
mod metric;
mod process;
pub(crate) mod push;
mod semantic;
mod state;
mod traffic;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use http::HeaderName;
use parking_lot::Mutex;
use tidegate_acme::Acme;
use tidegate_core::RequestCounters;
use tidegate_core::metrics::ResponseCounters;
use tidegate_core::traffic::TrafficCounters;

use semantic::SemanticDurations;

use crate::settings::{self, Datadog, InfluxDb2, OtlpMetrics, Prometheus, Settings, StatsD};

pub(crate) use collect::{Format, scrape};
pub(crate) use meter::{EntryPointMeter, Meter, count_aside};

/// The URL of servers that are not distinguished.
pub(crate) const OTHER_SERVERS: &str = "other";
/// The name of consumers that are not distinguished.
pub(crate) const OTHER_CONSUMERS: &str = "other";
/// Suffix of the names of the gateway's own objects.
const INTERNAL: &str = "@internal";

/// An object whose requests are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CountedObject {
    /// A router, by its name and that of its service.
    Router {
        /// `name@provider`, as it is served.
        router: String,
        /// `name@provider`.
        service: String,
    },
    /// A service with servers, by `name@provider`.
    Service(String),
    /// A server.
    Server {
        /// `name@provider`.
        service: String,
        /// Its URL as configured, or `other` for all servers of the service above the limit.
        url: String,
    },
    /// A consumer, by `name@provider`, or `other` for all above the limit.
    Consumer(String),
}

/// A protocol that is forwarded without being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP: connections.
    Tcp,
    /// UDP: sessions.
    Udp,
}

/// An object whose connections or sessions are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CarryingObject {
    /// Its protocol.
    pub transport: Transport,
    /// What it is.
    pub role: Role,
}

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A router, by its name and that of its service.
    Router {
        /// `name@provider`.
        router: String,
        /// `name@provider`.
        service: String,
    },
    /// A service with servers, by `name@provider`.
    Service(String),
    /// A server of a service.
    Server {
        /// `name@provider`.
        service: String,
        /// `host:port`, as configured.
        server: String,
    },
}

/// The counters of an entry point.
struct EntryPointCounters {
    requests: Arc<RequestCounters>,
    responses: Arc<ResponseCounters>,
}

/// Something with open connections.
pub(crate) trait OpenConnections: Send + Sync {
    /// Returns the number of open connections.
    fn open(&self) -> usize;

    /// Returns how many of them are in a state that has a name of its own.
    fn states(&self) -> ConnectionStates;
}

/// Numbers of connections by state. All others are active.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionStates {
    /// Without a request, and for longer than a moment.
    pub(crate) idle: usize,
    /// With a client that neither completes what it sends nor reads what it requested.
    pub(crate) stalled: usize,
    /// During the TLS handshake.
    pub(crate) handshaking: usize,
}

/// The state of a provider.
pub(crate) struct ProviderState {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Whether it has delivered once, and that is active.
    pub(crate) is_ready: bool,
    /// When it last sent a state, in Unix time.
    pub(crate) updated: Option<i64>,
    /// Number of problems of that state.
    pub(crate) problems: usize,
    /// How long its last state that changed anything took to become active.
    pub(crate) delay: Option<Duration>,
}

/// Knows the states of all providers.
pub(crate) trait Providers: Send + Sync {
    /// Returns them.
    fn states(&self) -> Vec<ProviderState>;
}

/// Objects whose requests are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    entry_points: bool,
    routers: bool,
    services: bool,
    /// Servers of services.
    servers: bool,
    consumers: bool,
}

impl Levels {
    /// Includes servers and consumers, which the settings of a single system do not have.
    fn for_all(self, options: &settings::Metrics) -> Self {
        Self { servers: options.add_servers_labels, consumers: options.add_consumers_labels, ..self }
    }

    fn or(self, other: Self) -> Self {
        Self {
            entry_points: self.entry_points || other.entry_points,
            routers: self.routers || other.routers,
            services: self.services || other.services,
            servers: self.servers || other.servers,
            consumers: self.consumers || other.consumers,
        }
    }
}

/// Converts the options that each system has.
macro_rules! levels_from {
    ($($options:ty),*) => {$(
        impl From<&$options> for Levels {
            fn from(options: &$options) -> Self {
                Self {
                    entry_points: options.add_entry_points_labels,
                    routers: options.add_routers_labels,
                    services: options.add_services_labels,
                    servers: false,
                    consumers: false,
                }
            }
        }
    )*};
}

levels_from!(Prometheus, OtlpMetrics, StatsD, Datadog, InfluxDb2);

/// What Prometheus gets.
struct PrometheusView {
    levels: Levels,
    /// Upper bounds of the buckets, in nanoseconds and as text.
    bounds: Vec<(u64, String)>,
    /// Whether scrapers that understand native histograms get them.
    is_native: bool,
    /// The objects of the last scrape. Those that have been removed since are shown once more.
    shown: Mutex<BTreeMap<CountedObject, Arc<RequestCounters>>>,
}

/// The metrics of a gateway.
pub struct Metrics {
    prometheus: Option<PrometheusView>,
    /// The objects that any reader shows.
    levels: Levels,
    add_internals: bool,
    workers: usize,
    max_servers: usize,
    max_consumers: usize,
    /// The counters of servers, some of which may no longer exist.
    servers: Mutex<Vec<Weak<RequestCounters>>>,
    /// Upper bounds of buckets in nanoseconds: those of all readers.
    bounds: Arc<[u64]>,
    /// The labels whose values are request headers; `None` for a header that cannot exist.
    header_labels: Box<[(String, Option<HeaderName>)]>,
    entry_points: BTreeMap<String, EntryPointCounters>,
    connections: Mutex<BTreeMap<String, Arc<dyn OpenConnections>>>,
    providers: OnceLock<Arc<dyn Providers>>,
    resolvers: OnceLock<Acme>,
    /// Number of lost pushes by system.
    lost: BTreeMap<&'static str, AtomicU64>,
    /// OpenTelemetry's own metrics, for a collector.
    semantic: Option<Arc<SemanticDurations>>,
}

impl Metrics {
    /// Creates the metrics that the settings ask for; `None` if they ask for none.
    pub fn new(settings: &Settings, workers: usize) -> Option<Arc<Self>> {
        let options = settings.metrics.as_ref()?;
        if options.prometheus.is_none() && !options.is_pushed() {
            return None;
        }
        let prometheus = options.prometheus.as_ref();
        // The settings are checked, so there are bounds.
        let shown = prometheus.map(|options| bounds(&options.buckets).unwrap_or_default());
        let explicit = options.otlp.as_ref().and_then(|options| bounds(&options.explicit_boundaries));
        let fine = options.takes_durations().then(fine_bounds).into_iter().flatten();
        let given = shown.iter().chain(&explicit).flatten().copied();
        let is_native = prometheus.is_some_and(|options| options.native_histograms);
        let native = is_native.then(families::native_bounds).into_iter().flatten();
        let mut all: Vec<u64> = given.chain(fine).chain(native).collect();
        all.sort_unstable();
        all.dedup();
        let levels = pushed_levels(options);
        let levels = prometheus.map_or(levels, |options| levels.or(Levels::from(options)));
        let levels = levels.for_all(options);
        let bounds: Arc<[u64]> = all.into();
        let semantic =
            options.otlp.as_ref().map(|_| Arc::new(SemanticDurations::new(workers, bounds.clone())));
        let names = settings.entry_points.iter().filter(|_| levels.entry_points);
        let counters = || EntryPointCounters {
            requests: Arc::new(RequestCounters::new(workers, bounds.clone())),
            responses: Arc::new(ResponseCounters::new(workers)),
        };
        let names = names.filter(|(_, point)| !point.is_udp());
        let entry_points = names.map(|(name, _)| (name.clone(), counters())).collect();
        let label = |(label, header): (&String, &String)| (label.clone(), header.parse().ok());
        let header_labels = prometheus.into_iter().flat_map(|options| &options.header_labels);
        Some(Arc::new(Self {
            entry_points,
            prometheus: prometheus.map(|options| PrometheusView {
                levels: Levels {
                    servers: levels.servers,
                    consumers: levels.consumers,
                    ..Levels::from(options)
                },
                bounds: shown.into_iter().flatten().zip(options.buckets.iter().map(f64::to_string)).collect(),
                is_native: options.native_histograms,
                shown: Mutex::default(),
            }),
            levels,
            add_internals: options.add_internals,
            workers,
            max_servers: options.max_servers,
            max_consumers: options.max_consumers,
            servers: Mutex::default(),
            bounds,
            header_labels: header_labels.map(label).collect(),
            connections: Mutex::default(),
            providers: OnceLock::new(),
            resolvers: OnceLock::new(),
            lost: lost(options),
            semantic,
        }))
    }

    /// Returns true if Prometheus can scrape them.
    pub(crate) fn is_scraped(&self) -> bool {
        self.prometheus.is_some()
    }

    /// Returns true if the requests of this object are counted.
    pub fn counts(&self, object: &CountedObject) -> bool {
        match object {
            CountedObject::Router { router, service } => {
                self.levels.routers && (self.add_internals || !is_internal(router, service))
            }
            CountedObject::Service(_) => self.levels.services,
            CountedObject::Server { .. } => self.levels.servers,
            CountedObject::Consumer(_) => self.levels.consumers,
        }
    }

    /// Returns new counters.
    pub fn counters(&self) -> Arc<RequestCounters> {
        Arc::new(RequestCounters::new(self.workers, self.bounds.clone()))
    }

    /// Returns the maximum number of consumers that are distinguished.
    pub(crate) fn max_consumers(&self) -> usize {
        self.max_consumers
    }

    /// Returns new counters of a server, or `None` if there are too many. `leaving` of them are about to be dropped.
    pub(crate) fn server_counters(&self, leaving: usize) -> Option<Arc<RequestCounters>> {
        let mut servers = self.servers.lock();
        let limit = self.max_servers.saturating_add(leaving);
        if servers.len() >= limit {
            servers.retain(|counters| counters.strong_count() > 0);
        }
        (servers.len() < limit).then(|| {
            let counters = self.counters();
            servers.push(Arc::downgrade(&counters));
            counters
        })
    }

    /// Returns true if the connections of this object are counted.
    pub(crate) fn counts_traffic(&self, object: &CarryingObject) -> bool {
        match object.role {
            Role::Router { .. } => self.levels.routers,
            Role::Service(_) => self.levels.services,
            Role::Server { .. } => self.levels.servers,
        }
    }

    /// Returns new counters of connections or sessions.
    pub(crate) fn traffic(&self) -> Arc<TrafficCounters> {
        Arc::new(TrafficCounters::new(self.workers))
    }

    /// Adds the connections of an entry point.
    pub(crate) fn watch_connections(&self, entry_point: &str, connections: Arc<dyn OpenConnections>) {
        self.connections.lock().insert(entry_point.to_owned(), connections);
    }

    /// Sets where the states of providers are known. Further calls do nothing.
    pub(crate) fn watch_providers(&self, providers: Arc<dyn Providers>) {
        let _ = self.providers.set(providers);
    }

    /// Sets the certificate resolvers. Further calls do nothing.
    pub(crate) fn watch_resolvers(&self, resolvers: Acme) {
        let _ = self.resolvers.set(resolvers);
    }
}

/// Returns the objects that systems get that metrics are pushed to.
fn pushed_levels(options: &settings::Metrics) -> Levels {
    let all = [
        options.stats_d.as_ref().map(Levels::from),
        options.datadog.as_ref().map(Levels::from),
        options.influx_db2.as_ref().map(Levels::from),
        options.otlp.as_ref().map(Levels::from),
    ];
    all.into_iter().flatten().fold(Levels::default(), Levels::or)
}

/// Returns a counter of lost pushes for each system.
fn lost(options: &settings::Metrics) -> BTreeMap<&'static str, AtomicU64> {
    let all = [
        ("statsD", options.stats_d.is_some()),
        ("datadog", options.datadog.is_some()),
        ("influxDB2", options.influx_db2.is_some()),
        ("otlp", options.otlp.is_some()),
    ];
    let enabled = all.into_iter().filter(|(_, is_enabled)| *is_enabled);
    enabled.map(|(name, _)| (name, AtomicU64::new(0))).collect()
}

/// Returns bounds from 60 µs to 64 s that each exceed the previous one by a fifth, for systems that get single durations.
fn fine_bounds() -> impl Iterator<Item = u64> {
    (-56..=24).map(|step| ((f64::from(step) / 4.0).exp2() * 1e9) as u64)
}

/// Returns true if a router or its service is the gateway's own.
fn is_internal(router: &str, service: &str) -> bool {
    router.ends_with(INTERNAL) || service.ends_with(INTERNAL)
}

/// Converts bounds from seconds; `None` unless they are positive and ascend.
pub(crate) fn bounds(seconds: &[f64]) -> Option<Vec<u64>> {
    let mut bounds: Vec<u64> = Vec::new();
    for bound in seconds {
        let bound = std::time::Duration::try_from_secs_f64(*bound).ok()?.as_nanos();
        let bound = u64::try_from(bound).ok()?;
        if bounds.last().is_some_and(|last| *last >= bound) {
            return None;
        }
        bounds.push(bound);
    }
    Some(bounds)
}

/// Returns true for the name of a label in Prometheus' data model.
pub(crate) fn is_label(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|other| other.is_ascii_alphanumeric() || other == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_ascend() {
        assert_eq!(bounds(&[0.1, 1.2]).unwrap(), [100_000_000, 1_200_000_000]);
        for bad in [&[0.3, 0.1][..], &[0.1, 0.1], &[-1.0], &[f64::NAN], &[f64::INFINITY]] {
            assert!(bounds(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn labels_have_letters_digits_and_underscores() {
        assert!(is_label("user_agent2") && is_label("_a"));
        assert!(!is_label("2a") && !is_label("a-b") && !is_label(""));
    }
}
