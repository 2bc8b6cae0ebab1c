//! Collects all metrics, with Traefik's names and labels.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_clients::otlp;
use tidegate_core::RequestCounters;
use tidegate_core::metrics::{RequestKind, Totals};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::exposition::Exposition;
use super::families::Families;
use super::metric::{Durations, Metric, Pushed, Type, Value, Writer};
use super::{CountedObject, Levels, Metrics, beyond, caches, process, state, traffic};
use crate::snapshot::Snapshot;

/// The format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Messages of Prometheus' data model for Protocol Buffers.
    Protobuf,
}

/// Counters by object.
pub(super) type Objects = BTreeMap<CountedObject, Arc<RequestCounters>>;

/// Objects of one kind: the part of a metric's name that stands for it, and its objects with their labels.
struct Level<'a> {
    /// Who has such a metric, too: `traefik`, or `tidegate` for our own.
    owner: &'static str,
    name: &'static str,
    objects: Vec<(Labels<'a>, Arc<RequestCounters>)>,
}

/// What a reader gets.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// Objects whose requests are shown.
    pub(super) levels: Levels,
    /// Labels whose values are request headers.
    pub(super) header_labels: &'a [(String, Option<http::HeaderName>)],
    /// Whether histograms have exemplars.
    pub(super) exemplars: bool,
    /// Whether OpenTelemetry's own metrics are shown.
    pub(super) semantic: bool,
}

/// A list of labels with their values.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Returns all metrics for Prometheus; empty if it is not enabled.
pub(crate) fn scrape(metrics: &Metrics, snapshot: &Snapshot, format: Format) -> Vec<u8> {
    let Some(options) = &metrics.prometheus else { return Vec::new() };
    let exemplars = format != Format::Text;
    let view =
        View { levels: options.levels, header_labels: &metrics.header_labels, exemplars, semantic: false };
    let shown = shown(&mut options.shown.lock(), snapshot);
    let write = |out: &mut dyn Writer| {
        process::write(out);
        collect(metrics, snapshot, &view, &shown, out);
    };
    if format == Format::Protobuf {
        let mut out = Families::new(&options.bounds, options.is_native);
        write(&mut out);
        return out.finish();
    }
    let mut out = Exposition::new(format == Format::OpenMetrics, &options.bounds);
    write(&mut out);
    out.finish().into_bytes()
}

/// Writes all metrics, except those of the process. `shown` are the objects from [`shown`].
pub(super) fn collect(
    metrics: &Metrics,
    snapshot: &Snapshot,
    view: &View<'_>,
    shown: &Objects,
    out: &mut dyn Writer,
) {
    configuration(out, snapshot);
    beyond::problems(out, snapshot);
    beyond::providers(out, metrics);
    for level in levels(metrics, view, shown) {
        level.write(out, metrics, view);
    }
    if view.levels.entry_points {
        beyond::responses(out, metrics);
    }
    connections(out, metrics);
    state::connections(out, metrics);
    state::limits(out, snapshot, view.levels.routers);
    state::policies(out, snapshot, view.levels.routers);
    state::stores(out);
    caches::write(out, snapshot);
    if view.levels.services {
        retries(out, shown);
        servers(out, snapshot);
        held(out, snapshot);
    }
    traffic::write(out, snapshot, view.levels);
    certificates(out, snapshot);
    beyond::resolvers(out, metrics);
    beyond::revocation_lists(out, snapshot);
    lost_pushes(out, metrics);
    dropped(out);
    if let Some(semantic) = metrics.semantic.as_ref().filter(|_| view.semantic) {
        semantic.write(out, snapshot);
    }
}

/// Returns the objects to show: those of the snapshot, and those that have been removed since this reader's `last`
/// ones.
pub(super) fn shown(last: &mut Objects, snapshot: &Snapshot) -> Objects {
    let mut shown = std::mem::replace(last, snapshot.counters.clone());
    shown.extend(snapshot.counters.iter().map(|(object, counters)| (object.clone(), counters.clone())));
    shown
}

fn levels<'a>(metrics: &'a Metrics, view: &View<'_>, shown: &'a Objects) -> Vec<Level<'a>> {
    let points = metrics.entry_points.iter();
    let points =
        points.map(|(name, counters)| (vec![("entrypoint", name.as_str())], counters.requests.clone()));
    let (mut routers, mut services, mut servers, mut consumers) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (object, counters) in shown {
        match object {
            CountedObject::Router { router, service } => {
                let labels = vec![("router", router.as_str()), ("service", service.as_str())];
                routers.push((labels, counters.clone()));
            }
            CountedObject::Service(name) => {
                services.push((vec![("service", name.as_str())], counters.clone()));
            }
            CountedObject::Server { service, url } => {
                servers.push((vec![("service", service.as_str()), ("url", url)], counters.clone()));
            }
            CountedObject::Consumer(name) => {
                consumers.push((vec![("consumer", name.as_str())], counters.clone()));
            }
        }
    }
    let (theirs, ours) = ("traefik", "tidegate");
    [
        (view.levels.entry_points, Level { owner: theirs, name: "entrypoint", objects: points.collect() }),
        (view.levels.routers, Level { owner: theirs, name: "router", objects: routers }),
        (view.levels.services, Level { owner: theirs, name: "service", objects: services }),
        (view.levels.servers, Level { owner: ours, name: "server", objects: servers }),
        (view.levels.consumers, Level { owner: ours, name: "consumer", objects: consumers }),
    ]
    .into_iter()
    .filter_map(|(is_shown, level)| is_shown.then_some(level))
    .collect()
}

/// One code and kind of one object.
type Row<'a> = (&'a Labels<'a>, (&'a (u16, RequestKind), &'a Totals));

impl Level<'_> {
    fn write(&self, out: &mut dyn Writer, metrics: &Metrics, view: &View<'_>) {
        let totals: Vec<_> = self.objects.iter().map(|(_, counters)| counters.totals()).collect();
        if totals.iter().all(BTreeMap::is_empty) {
            return;
        }
        let each = || {
            let objects = self.objects.iter().zip(&totals);
            objects.flat_map(|((labels, _), totals)| totals.iter().map(move |series| (labels, series)))
        };
        let help =
            "Time from the head of a request to the end of its response, by code, method and protocol.";
        self.start(
            out,
            Type::Histogram,
            "request_duration_seconds",
            "request.duration",
            "request.duration",
            help,
        );
        for ((labels, counters), totals) in self.objects.iter().zip(&totals) {
            let exemplars = if view.exemplars { counters.exemplars() } else { BTreeMap::new() };
            for (series @ (code, kind), total) in totals {
                let durations = Durations {
                    bounds: &metrics.bounds,
                    counts: &total.buckets,
                    nanoseconds: total.nanoseconds,
                    are_bounds_fixed: false,
                    exemplars: exemplars.get(series).map_or(&[], |exemplars| exemplars),
                };
                with_kind(labels, *code, *kind, &[], |labels| {
                    out.series(labels, Value::Durations(durations));
                });
            }
        }
        let name = "requests.bytes.total";
        let help = "Bytes of request bodies, by code, method and protocol.";
        self.start(out, Type::Counter, "requests_bytes_total", name, name, help);
        rows(out, each(), |total| Value::Count(total.received));
        self.requests(out, view, each());
        self.requests_over_tls(out);
        let name = "responses.bytes.total";
        let help = "Bytes of response bodies, by code, method and protocol.";
        self.start(out, Type::Counter, "responses_bytes_total", name, name, help);
        rows(out, each(), |total| Value::Count(total.sent));
    }

    /// Starts a metric of this level.
    fn start(&self, out: &mut dyn Writer, kind: Type, what: &str, statsd: &str, influx: &str, help: &str) {
        let name = format!("{}_{}_{what}", self.owner, self.name);
        let (statsd, influx) = (format!("{}.{statsd}", self.name), format!("{}.{influx}", self.name));
        let pushed = Some(Pushed { statsd: &statsd, influx: &influx });
        out.metric(Metric { name: &name, kind, help, pushed });
    }

    fn requests<'a>(&self, out: &mut dyn Writer, view: &View<'_>, each: impl Iterator<Item = Row<'a>>) {
        let help = "Number of requests, by code, method and protocol.";
        self.start(out, Type::Counter, "requests_total", "request.total", "requests.total", help);
        if view.header_labels.is_empty() {
            rows(out, each, |total| Value::Count(total.requests()));
            return;
        }
        for (labels, counters) in &self.objects {
            for ((code, kind, values), count) in counters.labelled_totals() {
                let headers = view.header_labels.iter().zip(&values);
                let headers: Vec<_> = headers.map(|((label, _), value)| (label.as_str(), &**value)).collect();
                with_kind(labels, code, kind, &headers, |labels| out.series(labels, Value::Count(count)));
            }
        }
    }

    fn requests_over_tls(&self, out: &mut dyn Writer) {
        let totals: Vec<_> = self.objects.iter().map(|(_, counters)| counters.tls_totals()).collect();
        if totals.iter().all(BTreeMap::is_empty) {
            return;
        }
        let help = "Number of requests over TLS, by version and cipher suite.";
        self.start(out, Type::Counter, "requests_tls_total", "request.tls.total", "requests.tls.total", help);
        for ((labels, _), totals) in self.objects.iter().zip(&totals) {
            for ((version, cipher), count) in totals {
                let mut labels = labels.clone();
                labels.extend([("tls_cipher", *cipher), ("tls_version", *version)]);
                out.series(&labels, Value::Count(*count));
            }
        }
    }
}

fn rows<'a>(
    out: &mut dyn Writer,
    each: impl Iterator<Item = Row<'a>>,
    value: impl Fn(&'a Totals) -> Value<'a>,
) {
    for (labels, ((code, kind), total)) in each {
        with_kind(labels, *code, *kind, &[], |labels| out.series(labels, value(total)));
    }
}

/// Calls `write` with the labels of a series, sorted by name.
fn with_kind(
    labels: &[(&str, &str)],
    code: u16,
    kind: RequestKind,
    more: &[(&str, &str)],
    write: impl FnOnce(&[(&str, &str)]),
) {
    let code = code.to_string();
    let own = [("code", code.as_str()), ("method", kind.method()), ("protocol", kind.protocol.as_str())];
    let mut all = [&own, labels, more].concat();
    all.sort_unstable_by_key(|(name, _)| *name);
    write(&all);
}

fn configuration(out: &mut dyn Writer, snapshot: &Snapshot) {
    let name = "traefik_config_last_reload_success";
    let metric = Metric::gauge(name, "When the configuration was last replaced, in Unix time.");
    out.metric(metric.pushed("config.reload.lastSuccessTimestamp"));
    out.series(&[], Value::Number(snapshot.compiled.unix_timestamp() as f64));
    let metric = Metric::counter("traefik_config_reloads_total", "Number of configurations since the start.");
    out.metric(metric.pushed("config.reload.total"));
    out.series(&[], Value::Count(snapshot.generation));
}

fn connections(out: &mut dyn Writer, metrics: &Metrics) {
    let name = "traefik_open_connections";
    let metric = Metric::gauge(name, "Number of open connections, by entry point and protocol.");
    out.metric(metric.pushed("open.connections"));
    for (entry_point, connections) in metrics.connections.lock().iter() {
        let labels = [("entrypoint", entry_point.as_str()), ("protocol", "TCP")];
        out.series(&labels, Value::Count(connections.open() as u64));
    }
}

fn retries(out: &mut dyn Writer, shown: &Objects) {
    let name = "traefik_service_retries_total";
    let metric = Metric::counter(name, "Number of requests that were retried, by service.");
    out.metric(metric.pushed("service.retries.total"));
    for (object, counters) in shown {
        if let CountedObject::Service(service) = object {
            out.series(&[("service", service)], Value::Count(counters.retries()));
        }
    }
}

/// Writes the state of the servers of services with a health check.
fn servers(out: &mut dyn Writer, snapshot: &Snapshot) {
    let name = "traefik_service_server_up";
    let metric = Metric::gauge(name, "Whether a server is up (1) or down (0), by service and URL.");
    out.metric(metric.pushed("service.server.up"));
    let checked = snapshot.report.config.http.services.iter().filter(|(_, options)| {
        options.load_balancer.as_ref().is_some_and(|balancer| balancer.health_check.is_some())
    });
    for (service, _) in checked {
        let servers = snapshot.services.get(service).map(|built| built.server_status()).unwrap_or_default();
        for (url, status) in servers {
            out.series(&[("service", service), ("url", &url)], Value::Count(u64::from(status == "UP")));
        }
    }
}

/// Writes how many requests wait for a server of services that let them (`hold`).
fn held(out: &mut dyn Writer, snapshot: &Snapshot) {
    let options = snapshot.report.config.http.services.iter().filter(|(_, options)| {
        options.load_balancer.as_ref().is_some_and(|balancer| balancer.hold.is_some())
    });
    let mut held =
        options.filter_map(|(name, _)| Some((name, snapshot.services.get(name)?.held()))).peekable();
    if held.peek().is_some() {
        let help = "Number of requests that wait for a server, by service.";
        out.metric(Metric::gauge("tidegate_service_held_requests", help));
    }
    for (service, count) in held {
        out.series(&[("service", service)], Value::Count(count as u64));
    }
}

fn lost_pushes(out: &mut dyn Writer, metrics: &Metrics) {
    let name = "tidegate_metrics_lost_pushes_total";
    if !metrics.lost.is_empty() {
        out.metric(Metric::counter(name, "Number of pushes that a system did not accept, by system."));
    }
    for (system, lost) in &metrics.lost {
        out.series(&[("system", system)], Value::Count(lost.load(Ordering::Relaxed)));
    }
}

/// Writes the number of spans and log records that collectors did not get.
fn dropped(out: &mut dyn Writer) {
    let dropped = otlp::dropped();
    if !dropped.is_empty() {
        let help = "Number of spans and log records that a collector did not get, by signal.";
        out.metric(Metric::counter("tidegate_otlp_dropped_items_total", help));
    }
    for (signal, count) in dropped {
        out.series(&[("signal", signal.name())], Value::Count(count));
    }
}

fn certificates(out: &mut dyn Writer, snapshot: &Snapshot) {
    let name = "traefik_tls_certs_not_after";
    let metric = Metric::gauge(name, "When a certificate expires, in Unix time.");
    out.metric(metric.pushed("tls.certs.notAfterTimestamp"));
    for der in snapshot.tls.leaves() {
        let Ok((_, certificate)) = X509Certificate::from_der(&der) else { continue };
        let common_name = certificate.subject().iter_common_name().last();
        let common_name = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let mut names: Vec<&str> = names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        let (serial, sans) = (certificate.serial.to_string(), names.join(","));
        let labels = [("cn", common_name), ("sans", &*sans), ("serial", &*serial)];
        out.series(&labels, Value::Number(certificate.validity().not_after.timestamp() as f64));
    }
}
