//! Collects the connections and sessions of TCP and UDP routers, services and servers.

use tidegate_core::traffic::{DURATION_BOUNDS, Traffic};

use super::metric::{Durations, Metric, Type, Value, Writer};
use super::{Levels, Role, Transport};
use crate::snapshot::Snapshot;

/// What follows the level in the name of a metric, its type and help, and its value.
type TrafficMetric = (&'static str, Type, &'static str, fn(&Traffic) -> Value<'_>);

const TCP: &[TrafficMetric] = &[
    ("connections_total", Type::Counter, "Number of connections.", |total| Value::Count(total.opened)),
    ("open_connections", Type::Gauge, "Number of open connections.", |total| Value::Count(total.open)),
    ("received_bytes_total", Type::Counter, "Bytes from clients.", |total| {
        Value::Count(total.received.bytes)
    }),
    ("sent_bytes_total", Type::Counter, "Bytes to clients.", |total| Value::Count(total.sent.bytes)),
    (
        "connection_duration_seconds",
        Type::Histogram,
        "Time from the connection to a server to its end.",
        durations,
    ),
];

const UDP: &[TrafficMetric] = &[
    ("sessions_total", Type::Counter, "Number of sessions.", |total| Value::Count(total.opened)),
    ("open_sessions", Type::Gauge, "Number of open sessions.", |total| Value::Count(total.open)),
    (
        "received_datagrams_total",
        Type::Counter,
        "Number of datagrams from clients, passed on to servers.",
        |total| Value::Count(total.received.datagrams),
    ),
    (
        "received_bytes_total",
        Type::Counter,
        "Bytes of datagrams from clients, passed on to servers.",
        |total| Value::Count(total.received.bytes),
    ),
    ("sent_datagrams_total", Type::Counter, "Number of datagrams to clients.", |total| {
        Value::Count(total.sent.datagrams)
    }),
    ("sent_bytes_total", Type::Counter, "Bytes of datagrams to clients.", |total| {
        Value::Count(total.sent.bytes)
    }),
    (
        "session_duration_seconds",
        Type::Histogram,
        "Time from the first datagram of a session to its end, including the time without datagrams that ends it.",
        durations,
    ),
];

fn durations(total: &Traffic) -> Value<'_> {
    Value::Durations(Durations {
        bounds: &DURATION_BOUNDS,
        counts: &total.durations,
        nanoseconds: total.nanoseconds,
        are_bounds_fixed: true,
        exemplars: &[],
    })
}

/// Objects of one level, with their labels.
type Objects<'a> = Vec<(Vec<(&'static str, &'a str)>, Traffic)>;

/// Writes what the routers, services and servers of both protocols carry.
pub(super) fn write(out: &mut dyn Writer, snapshot: &Snapshot, levels: Levels) {
    for (transport, protocol, metrics) in [(Transport::Tcp, "tcp", TCP), (Transport::Udp, "udp", UDP)] {
        let [mut routers, mut services, mut servers] = [const { Objects::new() }; 3];
        for (object, counters) in snapshot.traffic.iter().filter(|(object, _)| object.transport == transport)
        {
            let (level, labels) = match &object.role {
                Role::Router { router, service } => {
                    (&mut routers, vec![("router", router.as_str()), ("service", service.as_str())])
                }
                Role::Service(name) => (&mut services, vec![("service", name.as_str())]),
                Role::Server { service, server } => {
                    (&mut servers, vec![("server", server.as_str()), ("service", service.as_str())])
                }
            };
            level.push((labels, counters.total()));
        }
        let all = [
            (levels.routers, "router", routers),
            (levels.services, "service", services),
            (levels.servers, "server", servers),
        ];
        for (_, level, objects) in all.iter().filter(|(is_shown, _, all)| *is_shown && !all.is_empty()) {
            for (what, kind, help, value) in metrics {
                let name = format!("tidegate_{protocol}_{level}_{what}");
                out.metric(Metric { name: &name, kind: *kind, help, pushed: None });
                for (labels, total) in objects {
                    out.series(labels, value(total));
                }
            }
        }
    }
}
