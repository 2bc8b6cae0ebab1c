//! Collects the state of what the gateway holds: connections, limits, stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_clients::peer_state::{Observed, System, observed};
use tidegate_core::occupancy::{Occupancy, PolicyState};

use super::metric::{Metric, Type, Value, Writer};
use super::{ConnectionStates, Metrics};
use crate::snapshot::{ActiveLimit, Snapshot};

/// Writes the open connections of each entry point by state.
pub(super) fn connections(out: &mut dyn Writer, metrics: &Metrics) {
    let help = "Number of open connections, by entry point and state.";
    out.metric(Metric::gauge("tidegate_open_connections", help));
    for (entry_point, connections) in metrics.connections.lock().iter() {
        let ConnectionStates { idle, stalled, handshaking } = connections.states();
        // Connections change between the two calls.
        let active = connections.open().saturating_sub(idle + stalled + handshaking);
        let states = [("active", active), ("handshaking", handshaking), ("idle", idle), ("stalled", stalled)];
        for (state, number) in states {
            out.series(&[("entrypoint", entry_point), ("state", state)], Value::Count(number as u64));
        }
    }
}

/// A metric of limits: its name, its help, and its value.
type LimitMetric = (&'static str, &'static str, fn(&Occupancy) -> Option<u64>);

const LIMITS: [LimitMetric; 3] = [
    ("tidegate_limit_sources", "Number of sources that a limit tracks.", |held| held.sources),
    ("tidegate_limit_in_flight", "Number of requests or connections that count against a limit.", |held| {
        held.in_flight
    }),
    ("tidegate_limit_waiting", "Number of requests that a limit delays.", |held| held.waiting),
];

/// What a limit belongs to: a middleware with its router, or a plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Owner<'s> {
    middleware: &'s str,
    router: &'s str,
    plan: &'s str,
}

impl<'s> Owner<'s> {
    fn of(limit: &'s ActiveLimit, by_router: bool) -> Self {
        let router = if by_router { limit.router.as_str() } else { "" };
        Self { middleware: &limit.middleware, router, plan: &limit.plan }
    }

    /// Returns these labels and its own.
    fn labels(self, others: &[(&'static str, &'s str)]) -> Vec<(&'static str, &'s str)> {
        let own = [("middleware", self.middleware), ("plan", self.plan), ("router", self.router)];
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        let mut labels: Vec<_> = own.chain(others.iter().copied()).collect();
        labels.sort_unstable();
        labels
    }
}

/// Writes what limits hold: those of each router, or else the sum of all routers.
pub(super) fn limits(out: &mut dyn Writer, snapshot: &Snapshot, by_router: bool) {
    let mut held: BTreeMap<(Owner<'_>, &'static str), Occupancy> = BTreeMap::new();
    for limit in &snapshot.limits {
        let Some((kind, occupancy)) = limit.occupancy() else { continue };
        let sum = held.entry((Owner::of(limit, by_router), kind)).or_default();
        *sum = sum.plus(occupancy);
    }
    for (name, help, value) in LIMITS {
        let mut rows = held.iter().filter_map(|(labels, held)| Some((labels, value(held)?))).peekable();
        if rows.peek().is_none() {
            continue;
        }
        out.metric(Metric::gauge(name, help));
        for ((owner, kind), number) in rows {
            out.series(&owner.labels(&[("type", kind)]), Value::Count(number));
        }
    }
}

/// A way to read one number of a policy: the value of the label `outcome`, and the number.
type PolicyCount = (&'static str, fn(&PolicyState) -> u64);

const OUTCOMES: [PolicyCount; 6] = [
    ("admitted", |counted| counted.admitted),
    ("exempt", |counted| counted.exempted),
    ("queued", |counted| counted.queued),
    ("refused", |counted| counted.refused),
    ("shadow", |counted| counted.shadowed),
    ("tarpit", |counted| counted.tarpitted),
];

/// Writes what named policies have counted: those of each router, or else the sum of all routers.
pub(super) fn policies(out: &mut dyn Writer, snapshot: &Snapshot, by_router: bool) {
    let mut counted: BTreeMap<(Owner<'_>, Arc<str>), [u64; OUTCOMES.len()]> = BTreeMap::new();
    for limit in &snapshot.limits {
        for policy in limit.policies() {
            let sums = counted.entry((Owner::of(limit, by_router), policy.name.clone())).or_default();
            sums.iter_mut().zip(OUTCOMES).for_each(|(sum, (_, count))| *sum += count(&policy));
        }
    }
    if counted.is_empty() {
        return;
    }
    let help = "Number of requests that a policy of a rate limit or plan has decided on, by outcome.";
    let name = "tidegate_rate_limit_requests_total";
    out.metric(Metric { kind: Type::Counter, ..Metric::gauge(name, help) });
    for ((owner, policy), sums) in &counted {
        for ((outcome, _), sum) in OUTCOMES.iter().zip(sums) {
            out.series(&owner.labels(&[("outcome", outcome), ("policy", policy)]), Value::Count(*sum));
        }
    }
}

/// A metric of endpoints: what follows the system in its name, its type and help, and its value.
type StoreMetric = (&'static str, Type, &'static str, fn(&Observed) -> Option<u64>);

const STORES: [StoreMetric; 4] = [
    (
        "up",
        Type::Gauge,
        "Whether the last attempt to reach an endpoint succeeded (1) or failed (0).",
        |seen| seen.is_up.map(u64::from),
    ),
    ("failures_total", Type::Counter, "Number of failed attempts to reach an endpoint.", |seen| {
        Some(seen.failures)
    }),
    (
        "last_failure_timestamp_seconds",
        Type::Gauge,
        "When an attempt to reach an endpoint last failed, in Unix time.",
        |seen| seen.failed,
    ),
    (
        "last_success_timestamp_seconds",
        Type::Gauge,
        "When an endpoint last answered, in Unix time.",
        |seen| seen.succeeded,
    ),
];

/// Writes the state of each endpoint of Consul and Redis.
pub(super) fn stores(out: &mut dyn Writer) {
    for (system, prefix) in [(System::Consul, "tidegate_consul"), (System::Redis, "tidegate_redis")] {
        let seen = observed(system);
        for (what, kind, help, value) in STORES {
            let mut rows = seen.iter().filter_map(|seen| Some((&seen.endpoint, value(seen)?))).peekable();
            if rows.peek().is_none() {
                continue;
            }
            let name = format!("{prefix}_{what}");
            out.metric(Metric { kind, ..Metric::gauge(&name, help) });
            for (endpoint, number) in rows {
                out.series(&[("endpoint", endpoint)], Value::Count(number));
            }
        }
    }
}
