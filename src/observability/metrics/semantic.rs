//! OpenTelemetry's `http.server.request.duration` and `http.client.request.duration`, with the attributes that Traefik
//! sends, except for the host that the client names.
//!
//! They are counted only for a collector (`metrics.otlp`), in counters of their own: entry points, routers and services
//! do not distinguish versions and schemes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use http::Version;
use parking_lot::Mutex;
use tidegate_core::attempt::ServerInfo;
use tidegate_core::metrics::{Protocol, RequestKind, Sample, Totals};
use tidegate_core::{Exchange, RequestCounters};

use crate::snapshot::Snapshot;

use super::metric::{Durations, Metric, Type, Value, Writer};

/// The number of versions in [`VERSIONS`].
const VERSION_COUNT: usize = 4;
/// `network.protocol.version` and `network.protocol.name`; the latter as Traefik sends it.
const VERSIONS: [(&str, &str); VERSION_COUNT] =
    [("1.0", "http/1.0"), ("1.1", "http/1.1"), ("2", "http/2.0"), ("3", "http/3.0")];
/// A method outside of the standard, for Prometheus.
const EXTENSION_METHOD: &str = "EXTENSION_METHOD";
/// The same in the semantic conventions.
const OTHER_METHOD: &str = "_OTHER";

/// How a client asks: the index of the version, and whether over TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Wire {
    version: usize,
    over_tls: bool,
}

impl Wire {
    fn of(exchange: &Exchange) -> Self {
        let version = match exchange.version {
            Version::HTTP_2 => 2,
            Version::HTTP_3 => 3,
            Version::HTTP_11 => 1,
            _ => 0,
        };
        Self { version, over_tls: exchange.connection.tls.is_some() }
    }

    fn index(self) -> usize {
        self.version * 2 + usize::from(self.over_tls)
    }

    fn all() -> impl Iterator<Item = Self> {
        (0..VERSION_COUNT).flat_map(|version| [false, true].map(|over_tls| Self { version, over_tls }))
    }
}

/// The durations of both metrics.
pub(super) struct SemanticDurations {
    bounds: Arc<[u64]>,
    /// Requests of clients, by [`Wire::index`].
    server: Box<[RequestCounters]>,
    /// Attempts at servers, by worker.
    client: Box<[Mutex<Attempts>]>,
}

/// The durations of attempts by the identifier of the server, and how clients ask.
type Attempts = HashMap<(u64, Wire), ServerDurations>;

/// The durations of attempts at one server.
struct ServerDurations {
    server: Arc<ServerInfo>,
    counters: RequestCounters,
}

impl SemanticDurations {
    /// Creates counters for this many workers, with these bounds in nanoseconds.
    pub(super) fn new(workers: usize, bounds: Arc<[u64]>) -> Self {
        Self {
            server: Wire::all().map(|_| RequestCounters::new(workers, bounds.clone())).collect(),
            client: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            bounds,
        }
    }

    /// Counts a request that has ended on this worker, and its attempts.
    pub(super) fn count(&self, worker: usize, exchange: &Exchange, sample: &Sample<'_>) {
        let wire = Wire::of(exchange);
        let mut kind = sample.kind;
        kind.protocol = Protocol::Http;
        let status = exchange.status();
        let whole = Sample { kind, code: status, tls: None, labels: &[], ..*sample };
        self.server[wire.index()].count(worker, &whole);
        let Some(client) = self.client.get(worker).or_else(|| self.client.first()) else { return };
        for attempt in exchange.attempts() {
            let (Some(server), Some(duration)) = (&attempt.server, attempt.took()) else { continue };
            let code = attempt.status().or_else(|| attempt.replaced()).unwrap_or(status);
            let mut client = client.lock();
            let durations = client.entry((server.id, wire)).or_insert_with(|| ServerDurations {
                server: server.clone(),
                counters: RequestCounters::new(1, self.bounds.clone()),
            });
            durations.counters.count(0, &Sample { code, duration, ..whole });
        }
    }

    /// Writes both metrics. Servers that the configuration no longer has are dropped.
    pub(super) fn write(&self, out: &mut dyn Writer, snapshot: &Snapshot) {
        let mut server = BTreeMap::new();
        for (wire, counters) in Wire::all().zip(&self.server) {
            for ((code, kind), totals) in counters.totals() {
                server.insert((String::new(), wire, code, kind), totals);
            }
        }
        let help = "Duration of HTTP server requests.";
        self.write_one(out, "http.server.request.duration", help, &server);
        let known = snapshot.services.values().flat_map(|service| service.server_status().into_keys());
        let known: HashSet<String> = known.collect();
        let mut client: BTreeMap<Key, Totals> = BTreeMap::new();
        for worker in &self.client {
            let mut worker = worker.lock();
            worker.retain(|_, durations| known.contains(&*durations.server.url));
            for ((_, wire), durations) in &*worker {
                for ((code, kind), totals) in durations.counters.totals() {
                    let address = durations.server.address.to_string();
                    add(client.entry((address, *wire, code, kind)).or_default(), &totals);
                }
            }
        }
        let help = "Duration of HTTP client requests.";
        self.write_one(out, "http.client.request.duration", help, &client);
    }

    fn write_one(&self, out: &mut dyn Writer, name: &str, help: &str, series: &BTreeMap<Key, Totals>) {
        if series.is_empty() {
            return;
        }
        out.metric(Metric { kind: Type::Histogram, ..Metric::gauge(name, help) });
        for ((address, wire, code, kind), totals) in series {
            let code = code.to_string();
            let (version, protocol) = VERSIONS[wire.version];
            let method = if kind.method() == EXTENSION_METHOD { OTHER_METHOD } else { kind.method() };
            let mut labels = vec![
                ("error.type", code.as_str()),
                ("http.request.method", method),
                ("http.response.status_code", code.as_str()),
                ("network.protocol.name", protocol),
                ("network.protocol.version", version),
            ];
            if code.as_str() < "400" {
                labels.remove(0);
            }
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            if !address.is_empty() {
                // As in Traefik, the address has the port.
                let host = if port.is_empty() { host } else { address };
                labels.push(("server.address", host));
            }
            if port.parse::<u16>().is_ok() {
                labels.push(("server.port", port));
            }
            labels.push(("url.scheme", if wire.over_tls { "https" } else { "http" }));
            let durations = Durations {
                bounds: &self.bounds,
                counts: &totals.buckets,
                nanoseconds: totals.nanoseconds,
                are_bounds_fixed: false,
                exemplars: &[],
            };
            out.series(&labels, Value::Durations(durations));
        }
    }
}

/// Address of the server, how the client asks, status, and method.
type Key = (String, Wire, u16, RequestKind);

fn add(sum: &mut Totals, more: &Totals) {
    sum.nanoseconds += more.nanoseconds;
    sum.buckets.resize(more.buckets.len(), 0);
    for (sum, more) in sum.buckets.iter_mut().zip(&more.buckets) {
        *sum += more;
    }
}
