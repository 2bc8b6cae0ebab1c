//! Writes all metrics, with Traefik's names and labels.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::RequestCounters;
use tidegate_core::metrics::{RequestKind, Totals};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::exposition::{Exposition, Type};
use super::{CountedObject, Metrics, process};
use crate::snapshot::Snapshot;

/// The format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// Objects of one kind: the part of a metric's name that stands for it, and its objects with their labels.
struct Level<'a> {
    name: &'static str,
    objects: Vec<(Labels<'a>, Arc<RequestCounters>)>,
}

/// A list of labels with their values.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Returns all metrics as text.
pub(crate) fn scrape(metrics: &Metrics, snapshot: &Snapshot, format: Format) -> String {
    let mut out = Exposition::new(format == Format::OpenMetrics);
    process::write(&mut out);
    configuration(&mut out, snapshot);
    let shown = shown(metrics, snapshot);
    for level in levels(metrics, &shown) {
        level.write(&mut out, metrics);
    }
    connections(&mut out, metrics);
    if metrics.options.add_services_labels {
        retries(&mut out, &shown);
        servers(&mut out, snapshot);
    }
    certificates(&mut out, snapshot);
    out.finish()
}

/// Returns the objects to show: those of the snapshot, and those that have been removed since the last scrape.
fn shown(metrics: &Metrics, snapshot: &Snapshot) -> BTreeMap<CountedObject, Arc<RequestCounters>> {
    let mut last = metrics.shown.lock();
    let mut shown = std::mem::replace(&mut *last, snapshot.counters.clone());
    shown.extend(snapshot.counters.iter().map(|(object, counters)| (object.clone(), counters.clone())));
    shown
}

fn levels<'a>(
    metrics: &'a Metrics,
    shown: &'a BTreeMap<CountedObject, Arc<RequestCounters>>,
) -> [Level<'a>; 3] {
    let points = metrics.entry_points.iter();
    let points = points.map(|(name, counters)| (vec![("entrypoint", name.as_str())], counters.clone()));
    let (mut routers, mut services) = (Vec::new(), Vec::new());
    for (object, counters) in shown {
        match object {
            CountedObject::Router { router, service } => {
                let labels = vec![("router", router.as_str()), ("service", service.as_str())];
                routers.push((labels, counters.clone()));
            }
            CountedObject::Service(name) => {
                services.push((vec![("service", name.as_str())], counters.clone()));
            }
        }
    }
    [
        Level { name: "entrypoint", objects: points.collect() },
        Level { name: "router", objects: routers },
        Level { name: "service", objects: services },
    ]
}

impl Level<'_> {
    fn write(&self, out: &mut Exposition, metrics: &Metrics) {
        let totals: Vec<_> = self.objects.iter().map(|(_, counters)| counters.totals()).collect();
        if totals.iter().all(BTreeMap::is_empty) {
            return;
        }
        let each = || {
            let objects = self.objects.iter().zip(&totals);
            objects.flat_map(|((labels, _), totals)| totals.iter().map(move |series| (labels, series)))
        };
        self.durations(out, metrics, each());
        let name =
            self.start(out, "requests_bytes_total", "Bytes of request bodies, by code, method and protocol.");
        for (labels, ((code, kind), total)) in each() {
            with_kind(labels, *code, *kind, &[], |labels| out.sample(&name, labels, total.received));
        }
        self.requests(out, metrics, each());
        self.requests_over_tls(out);
        let name = self.start(
            out,
            "responses_bytes_total",
            "Bytes of response bodies, by code, method and protocol.",
        );
        for (labels, ((code, kind), total)) in each() {
            with_kind(labels, *code, *kind, &[], |labels| out.sample(&name, labels, total.sent));
        }
    }

    /// Starts a counter of this level and returns its name.
    fn start(&self, out: &mut Exposition, what: &str, help: &str) -> String {
        let name = format!("traefik_{}_{what}", self.name);
        out.metric(&name, Type::Counter, help);
        name
    }

    fn durations<'a>(
        &self,
        out: &mut Exposition,
        metrics: &Metrics,
        each: impl Iterator<Item = (&'a Labels<'a>, (&'a (u16, RequestKind), &'a Totals))>,
    ) {
        let name = format!("traefik_{}_request_duration_seconds", self.name);
        let help =
            "Time from the head of a request to the end of its response, by code, method and protocol.";
        out.metric(&name, Type::Histogram, help);
        let bounds: Vec<String> = metrics.options.buckets.iter().map(f64::to_string).collect();
        let bounds: Vec<&str> = bounds.iter().map(String::as_str).chain(["+Inf"]).collect();
        for (labels, ((code, kind), total)) in each {
            let mut sum = 0;
            for (bound, count) in bounds.iter().zip(&total.buckets) {
                sum += count;
                with_kind(labels, *code, *kind, &[("le", bound)], |labels| {
                    out.sample(&format!("{name}_bucket"), labels, sum);
                });
            }
            with_kind(labels, *code, *kind, &[], |labels| {
                out.sample(&format!("{name}_sum"), labels, total.nanoseconds as f64 / 1e9);
                out.sample(&format!("{name}_count"), labels, sum);
            });
        }
    }

    fn requests<'a>(
        &self,
        out: &mut Exposition,
        metrics: &Metrics,
        each: impl Iterator<Item = (&'a Labels<'a>, (&'a (u16, RequestKind), &'a Totals))>,
    ) {
        let name = self.start(out, "requests_total", "Number of requests, by code, method and protocol.");
        if metrics.header_labels.is_empty() {
            for (labels, ((code, kind), total)) in each {
                with_kind(labels, *code, *kind, &[], |labels| out.sample(&name, labels, total.requests()));
            }
            return;
        }
        for (labels, counters) in &self.objects {
            for ((code, kind, values), count) in counters.labelled_totals() {
                let headers = metrics.header_labels.iter().zip(&values);
                let headers: Vec<_> = headers.map(|((label, _), value)| (label.as_str(), &**value)).collect();
                with_kind(labels, code, kind, &headers, |labels| out.sample(&name, labels, count));
            }
        }
    }

    fn requests_over_tls(&self, out: &mut Exposition) {
        let totals: Vec<_> = self.objects.iter().map(|(_, counters)| counters.tls_totals()).collect();
        if totals.iter().all(BTreeMap::is_empty) {
            return;
        }
        let help = "Number of requests over TLS, by version and cipher suite.";
        let name = self.start(out, "requests_tls_total", help);
        for ((labels, _), totals) in self.objects.iter().zip(&totals) {
            for ((version, cipher), count) in totals {
                let mut labels = labels.clone();
                labels.extend([("tls_cipher", *cipher), ("tls_version", *version)]);
                out.sample(&name, &labels, count);
            }
        }
    }
}

/// Calls `write` with the labels of a series: sorted by name, `le` last, as Prometheus' own libraries do.
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
    all.sort_unstable_by_key(|(name, _)| (*name == "le", *name));
    write(&all);
}

fn configuration(out: &mut Exposition, snapshot: &Snapshot) {
    let name = "traefik_config_last_reload_success";
    out.metric(name, Type::Gauge, "When the configuration was last replaced, in Unix time.");
    out.sample(name, &[], snapshot.compiled.unix_timestamp());
    let name = "traefik_config_reloads_total";
    out.metric(name, Type::Counter, "Number of configurations since the start.");
    out.sample(name, &[], snapshot.generation);
    let name = "tidegate_config_problems";
    out.metric(name, Type::Gauge, "Number of problems of the configuration.");
    out.sample(name, &[], snapshot.report.problems.len());
}

fn connections(out: &mut Exposition, metrics: &Metrics) {
    let name = "traefik_open_connections";
    out.metric(name, Type::Gauge, "Number of open connections, by entry point and protocol.");
    for (entry_point, connections) in metrics.connections.lock().iter() {
        out.sample(name, &[("entrypoint", entry_point), ("protocol", "TCP")], connections.open());
    }
}

fn retries(out: &mut Exposition, shown: &BTreeMap<CountedObject, Arc<RequestCounters>>) {
    let name = "traefik_service_retries_total";
    out.metric(name, Type::Counter, "Number of requests that were retried, by service.");
    for (object, counters) in shown {
        if let CountedObject::Service(service) = object {
            out.sample(name, &[("service", service)], counters.retries());
        }
    }
}

/// Writes the state of the servers of services with a health check.
fn servers(out: &mut Exposition, snapshot: &Snapshot) {
    let name = "traefik_service_server_up";
    out.metric(name, Type::Gauge, "Whether a server is up (1) or down (0), by service and URL.");
    let checked = snapshot.report.config.http.services.iter().filter(|(_, options)| {
        options.load_balancer.as_ref().is_some_and(|balancer| balancer.health_check.is_some())
    });
    for (service, _) in checked {
        let servers = snapshot.services.get(service).map(|built| built.server_status()).unwrap_or_default();
        for (url, status) in servers {
            out.sample(name, &[("service", service), ("url", &url)], u8::from(status == "UP"));
        }
    }
}

fn certificates(out: &mut Exposition, snapshot: &Snapshot) {
    let name = "traefik_tls_certs_not_after";
    out.metric(name, Type::Gauge, "When a certificate expires, in Unix time.");
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
        out.sample(name, &labels, certificate.validity().not_after.timestamp());
    }
}
