//! Collects what caches of responses hold and have done.

use tidegate_core::caches::{CacheStatistics, DiskStatistics, TierStatistics};

use super::metric::{Metric, Type, Value, Writer};
use crate::snapshot::Snapshot;

/// A metric of the tiers of a cache: its name, its type and help, and its value.
type TierMetric = (&'static str, Type, &'static str, fn(&TierStatistics) -> u64);

const TIERS: [TierMetric; 4] = [
    ("tidegate_cache_objects", Type::Gauge, "Number of stored responses, by cache and tier.", |tier| {
        tier.objects
    }),
    ("tidegate_cache_bytes", Type::Gauge, "Size of stored responses in bytes, by cache and tier.", |tier| {
        tier.bytes
    }),
    (
        "tidegate_cache_max_bytes",
        Type::Gauge,
        "Maximum size of stored responses in bytes, by cache and tier.",
        |tier| tier.max_bytes,
    ),
    (
        "tidegate_cache_evictions_total",
        Type::Counter,
        "Number of responses removed because others needed their place, by cache and tier.",
        |tier| tier.evictions,
    ),
];

/// A metric of disks of caches.
type DiskMetric = (&'static str, Type, &'static str, fn(&DiskStatistics) -> u64);

const DISKS: [DiskMetric; 4] = [
    (
        "tidegate_cache_disk_ready",
        Type::Gauge,
        "Whether a cache's folder is open and everything in it is found (1) or not (0).",
        |disk| u64::from(disk.is_ready),
    ),
    (
        "tidegate_cache_disk_failures_total",
        Type::Counter,
        "Number of failed writes to a cache's disk.",
        |disk| disk.failures,
    ),
    (
        "tidegate_cache_disk_lost_total",
        Type::Counter,
        "Number of responses that a cache's disk did not take.",
        |disk| disk.lost,
    ),
    (
        "tidegate_cache_disk_corrupt_total",
        Type::Counter,
        "Number of damaged files removed from a cache's disk.",
        |disk| disk.corrupt,
    ),
];

/// Writes the state of each cache.
pub(super) fn write(out: &mut dyn Writer, snapshot: &Snapshot) {
    let all: Vec<(&str, CacheStatistics)> = snapshot
        .caches
        .iter()
        .filter_map(|(name, middleware)| Some((name.as_str(), middleware.cache()?.statistics())))
        .collect();
    if all.is_empty() {
        return;
    }
    let counter = |name, help| Metric { kind: Type::Counter, ..Metric::gauge(name, help) };
    let help = "Number of requests to a cache, by outcome.";
    out.metric(counter("tidegate_cache_requests_total", help));
    for (name, cache) in &all {
        for (outcome, number) in &cache.requests.by_outcome {
            out.series(&[("middleware", name), ("outcome", outcome)], Value::Count(*number));
        }
    }
    let help = "Number of requests to a cache that have waited for the response to another one.";
    out.metric(counter("tidegate_cache_collapsed_total", help));
    for (name, cache) in &all {
        out.series(&[("middleware", name)], Value::Count(cache.requests.collapsed));
    }
    out.metric(counter("tidegate_cache_stored_total", "Number of responses that a cache has stored."));
    for (name, cache) in &all {
        out.series(&[("middleware", name)], Value::Count(cache.stored));
    }
    for (metric, kind, help, value) in TIERS {
        out.metric(Metric { kind, ..Metric::gauge(metric, help) });
        for (name, cache) in &all {
            if let Some(disk) = &cache.disk {
                out.series(&[("middleware", name), ("tier", "disk")], Value::Count(value(&disk.tier)));
            }
            out.series(&[("middleware", name), ("tier", "memory")], Value::Count(value(&cache.memory)));
        }
    }
    if all.iter().all(|(_, cache)| cache.disk.is_none()) {
        return;
    }
    for (metric, kind, help, value) in DISKS {
        out.metric(Metric { kind, ..Metric::gauge(metric, help) });
        for (name, disk) in all.iter().filter_map(|(name, cache)| Some((name, cache.disk.as_ref()?))) {
            out.series(&[("middleware", name)], Value::Count(value(disk)));
        }
    }
}
