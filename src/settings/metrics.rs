//! Metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::INTERNAL_ENTRY_POINT;

/// `metrics`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Metrics {
    /// Includes requests to internal services.
    pub add_internals: bool,
    /// Metrics for Prometheus; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
}

/// `metrics.prometheus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Prometheus {
    /// Upper bounds of the buckets for durations, in seconds.
    pub buckets: Vec<f64>,
    /// Counts the requests of each entry point.
    pub add_entry_points_labels: bool,
    /// Counts the requests of each router.
    pub add_routers_labels: bool,
    /// Counts the requests of each service.
    pub add_services_labels: bool,
    /// Entry point of `/metrics`.
    pub entry_point: String,
    /// Does not create a router for it.
    pub manual_routing: bool,
    /// Labels of the number of requests, with the request headers that hold their values. At most 1,000
    /// combinations of values are distinguished per entry point, router and service; others are `other`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub header_labels: BTreeMap<String, String>,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            buckets: vec![0.1, 0.3, 1.2, 5.0],
            add_entry_points_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
            entry_point: INTERNAL_ENTRY_POINT.into(),
            manual_routing: false,
            header_labels: BTreeMap::new(),
        }
    }
}
