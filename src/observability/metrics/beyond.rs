//! Collects the metrics that Traefik does not have.

use std::collections::BTreeMap;

use tidegate_acme::Acme;
use tidegate_config::Kind;
use tidegate_core::{Origin, Reason};

use super::Metrics;
use super::metric::{Metric, Value, Writer};
use crate::snapshot::Snapshot;

/// Writes who responded, and why if it was not a server.
pub(super) fn responses(out: &mut dyn Writer, metrics: &Metrics) {
    let name = "tidegate_entrypoint_responses_total";
    let help = "Number of responses, by who responded, and by why it was not a server.";
    out.metric(Metric::counter(name, help));
    for (entry_point, counters) in &metrics.entry_points {
        for (reason, total) in counters.responses.totals() {
            let origin = reason.map_or(Origin::Server, Reason::origin);
            let reason = reason.map_or("", Reason::name);
            let labels =
                [("entrypoint", entry_point.as_str()), ("origin", origin.name()), ("reason", reason)];
            out.series(&labels, Value::Count(total));
        }
    }
}

/// Writes the number of problems by kind of object, and of those that concern no object.
pub(super) fn problems(out: &mut dyn Writer, snapshot: &Snapshot) {
    let mut numbers = BTreeMap::from([(None, 0)]);
    for problem in &snapshot.report.problems {
        *numbers.entry(problem.object.as_ref().map(|object| object.kind)).or_default() += 1;
    }
    let help = "Number of problems of the configuration, by kind of object.";
    out.metric(Metric::gauge("tidegate_config_problems", help));
    for (kind, number) in numbers {
        let kind = kind.map(|kind: Kind| kind.to_string()).unwrap_or_default();
        out.series(&[("kind", &kind)], Value::Count(number));
    }
}

/// Writes the state of each provider.
pub(super) fn providers(out: &mut dyn Writer, metrics: &Metrics) {
    let Some(providers) = metrics.providers.get() else { return };
    let states = providers.states();
    let help = "When a provider last sent its state, in Unix time.";
    out.metric(Metric::gauge("tidegate_provider_last_update_timestamp_seconds", help));
    for state in &states {
        if let Some(updated) = state.updated {
            out.series(&[("provider", &state.name)], Value::Number(updated as f64));
        }
    }
    let help = "Whether a provider has delivered since the start (1) or not (0).";
    out.metric(Metric::gauge("tidegate_provider_ready", help));
    for state in &states {
        out.series(&[("provider", &state.name)], Value::Count(u64::from(state.is_ready)));
    }
    let help = "Time until the last state of a provider that changed anything was active, in seconds.";
    out.metric(Metric::gauge("tidegate_provider_activation_delay_seconds", help));
    for state in &states {
        if let Some(delay) = state.delay {
            out.series(&[("provider", &state.name)], Value::Number(delay.as_secs_f64()));
        }
    }
    let help = "Number of problems that a provider found in its last state.";
    out.metric(Metric::gauge("tidegate_provider_problems", help));
    for state in &states {
        out.series(&[("provider", &state.name)], Value::Count(state.problems as u64));
    }
}

/// Writes the state of each certificate resolver.
pub(super) fn resolvers(out: &mut dyn Writer, metrics: &Metrics) {
    let numbers = metrics.resolvers.get().map(Acme::numbers).unwrap_or_default();
    if numbers.is_empty() {
        return;
    }
    let help = "Number of certificates of a resolver: held, missing, or no longer used.";
    out.metric(Metric::gauge("tidegate_acme_certificates", help));
    for (resolver, numbers) in &numbers {
        let states = [("held", numbers.held), ("missing", numbers.missing), ("unused", numbers.unused)];
        for (state, number) in states {
            out.series(&[("resolver", resolver), ("state", state)], Value::Count(number));
        }
    }
    let help = "Number of orders that failed, and of failures to reach the authority, by resolver.";
    out.metric(Metric::counter("tidegate_acme_failures_total", help));
    for (resolver, numbers) in &numbers {
        out.series(&[("resolver", resolver)], Value::Count(numbers.failures));
    }
    let help = "When an order, or reaching the authority, last failed, in Unix time.";
    out.metric(Metric::gauge("tidegate_acme_last_failure_timestamp_seconds", help));
    for (resolver, numbers) in &numbers {
        if let Some(last) = numbers.last_failure {
            out.series(&[("resolver", resolver)], Value::Number(last.unix_timestamp() as f64));
        }
    }
}

/// Writes the state of the lists of revoked client certificates.
pub(super) fn revocation_lists(out: &mut dyn Writer, snapshot: &Snapshot) {
    let lists: Vec<_> = snapshot.tls.revocation_lists().collect();
    if lists.is_empty() {
        return;
    }
    let help = "When the next version of a revocation list is due, in Unix time.";
    out.metric(Metric::gauge("tidegate_revocation_list_next_update_timestamp_seconds", help));
    for list in &lists {
        if let Some(next_update) = list.next_update {
            out.series(&[("source", &list.place)], Value::Number(next_update as f64));
        }
    }
    let help = "Number of failures to fetch a revocation list since the last success.";
    out.metric(Metric::gauge("tidegate_revocation_list_failures", help));
    for list in &lists {
        out.series(&[("source", &list.place)], Value::Count(list.failures.into()));
    }
}
