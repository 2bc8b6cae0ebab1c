//! Metrics.

use std::collections::BTreeMap;
use std::time;

use serde::{Deserialize, Serialize};
use tidegate_clients::otlp::{Grpc, Http, Otlp};
use tidegate_core::values::{Duration, Secret, is_default};

use super::INTERNAL_ENTRY_POINT;

/// `metrics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Metrics {
    /// Includes requests to internal services.
    pub add_internals: bool,
    /// Counts the requests, TCP connections and UDP sessions of each server, for all systems. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub add_servers_labels: bool,
    /// Maximum number of servers that are distinguished; the others of a service are `other`. Not in Traefik.
    pub max_servers: usize,
    /// Counts the requests of each consumer, for all systems. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub add_consumers_labels: bool,
    /// Maximum number of consumers that are distinguished; the others are `other`. Not in Traefik.
    pub max_consumers: usize,
    /// Metrics for Prometheus; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
    /// Metrics pushed to StatsD; disabled if absent.
    #[serde(rename = "statsD", skip_serializing_if = "Option::is_none")]
    pub stats_d: Option<StatsD>,
    /// Metrics pushed to a Datadog agent; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datadog: Option<Datadog>,
    /// Metrics pushed to InfluxDB 2; disabled if absent.
    #[serde(rename = "influxDB2", skip_serializing_if = "Option::is_none")]
    pub influx_db2: Option<InfluxDb2>,
    /// Metrics pushed to an OpenTelemetry collector; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpMetrics>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            add_internals: false,
            add_servers_labels: false,
            max_servers: 1000,
            add_consumers_labels: false,
            max_consumers: 1000,
            prometheus: None,
            stats_d: None,
            datadog: None,
            influx_db2: None,
            otlp: None,
        }
    }
}

impl Metrics {
    /// Returns true if metrics are pushed to a system.
    pub fn is_pushed(&self) -> bool {
        self.takes_durations() || self.otlp.is_some()
    }

    /// Returns true if metrics are pushed to a system that gets single durations instead of buckets.
    pub(crate) fn takes_durations(&self) -> bool {
        self.stats_d.is_some() || self.datadog.is_some() || self.influx_db2.is_some()
    }
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
    /// Counts durations in finer buckets, and sends native histograms to scrapers that ask for Protocol Buffers.
    pub native_histograms: bool,
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
            native_histograms: false,
            entry_point: INTERNAL_ENTRY_POINT.into(),
            manual_routing: false,
            header_labels: BTreeMap::new(),
        }
    }
}

/// Default time between two pushes.
pub(super) const PUSH_INTERVAL: Duration = Duration(time::Duration::from_secs(10));

/// `metrics.statsD`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StatsD {
    /// `host:port`, or the URL of a socket: `unix://`, `unixgram://`, `unixstream://`.
    pub address: String,
    /// What the names begin with.
    pub prefix: String,
    /// Time between two pushes.
    pub push_interval: Duration,
    /// Counts the requests of each entry point.
    pub add_entry_points_labels: bool,
    /// Counts the requests of each router.
    pub add_routers_labels: bool,
    /// Counts the requests of each service.
    pub add_services_labels: bool,
}

impl Default for StatsD {
    fn default() -> Self {
        Self {
            address: "localhost:8125".into(),
            prefix: "traefik".into(),
            push_interval: PUSH_INTERVAL,
            add_entry_points_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
        }
    }
}

/// `metrics.datadog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Datadog {
    /// `host:port`, or the URL of a socket: `unix://`, `unixgram://`, `unixstream://`. If empty, the environment
    /// variables `DD_AGENT_HOST` and `DD_DOGSTATSD_PORT`, or `localhost:8125`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// What the names begin with.
    pub prefix: String,
    /// Time between two pushes.
    pub push_interval: Duration,
    /// Counts the requests of each entry point.
    pub add_entry_points_labels: bool,
    /// Counts the requests of each router.
    pub add_routers_labels: bool,
    /// Counts the requests of each service.
    pub add_services_labels: bool,
}

impl Default for Datadog {
    fn default() -> Self {
        Self {
            address: String::new(),
            prefix: "traefik".into(),
            push_interval: PUSH_INTERVAL,
            add_entry_points_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
        }
    }
}

/// `metrics.influxDB2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct InfluxDb2 {
    /// URL of the server.
    pub address: String,
    /// The token, or a file that contains it.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub token: Secret,
    /// The organization.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub org: String,
    /// The bucket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bucket: String,
    /// Tags of all series.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub additional_labels: BTreeMap<String, String>,
    /// Time between two pushes.
    pub push_interval: Duration,
    /// Counts the requests of each entry point.
    pub add_entry_points_labels: bool,
    /// Counts the requests of each router.
    pub add_routers_labels: bool,
    /// Counts the requests of each service.
    pub add_services_labels: bool,
}

impl Default for InfluxDb2 {
    fn default() -> Self {
        Self {
            address: "http://localhost:8086".into(),
            token: Secret::default(),
            org: String::new(),
            bucket: String::new(),
            additional_labels: BTreeMap::new(),
            push_interval: PUSH_INTERVAL,
            add_entry_points_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
        }
    }
}

/// `metrics.otlp`: over HTTP to the default endpoint if neither connection is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OtlpMetrics {
    /// Over gRPC; takes precedence over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
    /// Over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Upper bounds of the buckets for durations, in seconds.
    pub explicit_boundaries: Vec<f64>,
    /// Time between two pushes.
    pub push_interval: Duration,
    /// The name of the service in the resource.
    pub service_name: String,
    /// Further attributes of the resource.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_attributes: BTreeMap<String, String>,
    /// Counts the requests of each entry point.
    pub add_entry_points_labels: bool,
    /// Counts the requests of each router.
    pub add_routers_labels: bool,
    /// Counts the requests of each service.
    pub add_services_labels: bool,
}

/// Default upper bounds of the buckets of `metrics.otlp`.
pub(super) const EXPLICIT_BOUNDARIES: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

impl Default for OtlpMetrics {
    fn default() -> Self {
        Self {
            grpc: None,
            http: None,
            explicit_boundaries: EXPLICIT_BOUNDARIES.to_vec(),
            push_interval: PUSH_INTERVAL,
            service_name: "traefik".into(),
            resource_attributes: BTreeMap::new(),
            add_entry_points_labels: true,
            add_routers_labels: false,
            add_services_labels: true,
        }
    }
}

impl OtlpMetrics {
    /// Returns how the collector is reached.
    pub(crate) fn connection(&self) -> Otlp {
        Otlp { grpc: self.grpc.clone(), http: self.http.clone() }
    }
}
