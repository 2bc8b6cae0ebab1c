//! Metrics: what is counted, and by which names.

mod exposition;
mod meter;
mod process;
mod scrape;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;
use parking_lot::Mutex;
use tidegate_core::RequestCounters;

use crate::settings::{Prometheus, Settings};

pub(crate) use meter::{EntryPointMeter, Meter, count_aside};
pub(crate) use scrape::{Format, scrape};

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
}

/// Something with open connections.
pub(crate) trait OpenConnections: Send + Sync {
    /// Returns the number of open connections.
    fn open(&self) -> usize;
}

/// The metrics of a gateway.
pub struct Metrics {
    options: Prometheus,
    add_internals: bool,
    workers: usize,
    /// Upper bounds of buckets in nanoseconds.
    bounds: Arc<[u64]>,
    /// The labels whose values are request headers; `None` for a header that cannot exist.
    header_labels: Box<[(String, Option<HeaderName>)]>,
    entry_points: BTreeMap<String, Arc<RequestCounters>>,
    connections: Mutex<BTreeMap<String, Arc<dyn OpenConnections>>>,
    /// The objects of the last scrape. Those that have been removed since are shown once more.
    shown: Mutex<BTreeMap<CountedObject, Arc<RequestCounters>>>,
}

impl Metrics {
    /// Creates the metrics that the settings ask for; `None` if they ask for none.
    pub fn new(settings: &Settings, workers: usize) -> Option<Arc<Self>> {
        let options = settings.prometheus()?;
        // The settings are checked, so there are bounds.
        let bounds: Arc<[u64]> = bounds(&options.buckets).unwrap_or_default().into();
        let names = settings.entry_points.iter().filter(|_| options.add_entry_points_labels);
        let entry_points = names
            .filter(|(_, point)| !point.is_udp())
            .map(|(name, _)| (name.clone(), Arc::new(RequestCounters::new(workers, bounds.clone()))));
        let label = |(label, header): (&String, &String)| (label.clone(), header.parse().ok());
        Some(Arc::new(Self {
            entry_points: entry_points.collect(),
            options: options.clone(),
            add_internals: settings.metrics.as_ref().is_some_and(|metrics| metrics.add_internals),
            workers,
            bounds,
            header_labels: options.header_labels.iter().map(label).collect(),
            connections: Mutex::default(),
            shown: Mutex::default(),
        }))
    }

    /// Returns true if the requests of this object are counted.
    pub fn counts(&self, object: &CountedObject) -> bool {
        match object {
            CountedObject::Router { router, service } => {
                self.options.add_routers_labels && (self.add_internals || !is_internal(router, service))
            }
            CountedObject::Service(_) => self.options.add_services_labels,
        }
    }

    /// Returns new counters.
    pub fn counters(&self) -> Arc<RequestCounters> {
        Arc::new(RequestCounters::new(self.workers, self.bounds.clone()))
    }

    /// Adds the connections of an entry point.
    pub(crate) fn watch_connections(&self, entry_point: &str, connections: Arc<dyn OpenConnections>) {
        self.connections.lock().insert(entry_point.to_owned(), connections);
    }
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
