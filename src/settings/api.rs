//! The API with its dashboard, and `/ping`.

use serde::{Deserialize, Serialize};
use tidegate_core::values::{Duration, is_default};

/// `api`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Api {
    /// Serves it on the entry point `traefik` without a router.
    pub insecure: bool,
    /// Includes the dashboard.
    pub dashboard: bool,
    /// Includes debug endpoints.
    pub debug: bool,
    /// For compatibility only.
    pub disable_dashboard_ad: bool,
    /// Title of the dashboard.
    pub dashboard_name: String,
    /// Base path of API and dashboard.
    pub base_path: String,
    /// Middlewares (`name@provider`) that guard API, dashboard and debug endpoints, whichever router leads to them.
    /// Not in Traefik.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
    /// Recent requests, which the API shows. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub requests: RecentRequests,
    /// Rates, errors and times, which the API shows. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub statistics: Statistics,
}

impl Api {
    /// Returns the base path without a trailing slash; empty with `insecure`, whose routers have none.
    pub fn base(&self) -> &str {
        if self.insecure { "" } else { self.base_path.trim_end_matches('/') }
    }
}

/// `api.statistics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Statistics {
    /// Maximum number of routers, of services and of servers that are distinguished; 0 for no statistics.
    pub max_objects: usize,
    /// Maximum number of client addresses that are distinguished; 0 for none.
    pub max_clients: usize,
}

impl Default for Statistics {
    fn default() -> Self {
        Self { max_objects: 1000, max_clients: 100 }
    }
}

/// `api.requests`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RecentRequests {
    /// Maximum number of requests that are kept; 0 for none.
    pub size: usize,
    /// Maximum memory for them, in bytes.
    pub max_memory: usize,
    /// Requests that wait this long for their response are kept longer, like those that failed.
    pub slow: Duration,
}

impl Default for RecentRequests {
    fn default() -> Self {
        Self { size: 4096, max_memory: 8 << 20, slow: Duration::from_secs(1) }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            insecure: false,
            dashboard: true,
            debug: false,
            disable_dashboard_ad: false,
            dashboard_name: String::new(),
            base_path: "/".into(),
            middlewares: Vec::new(),
            requests: RecentRequests::default(),
            statistics: Statistics::default(),
        }
    }
}

/// `ping`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Ping {
    /// Entry point.
    pub entry_point: String,
    /// Does not create routers for it.
    pub manual_routing: bool,
    /// Status during shutdown.
    pub terminating_status_code: u16,
}

impl Default for Ping {
    fn default() -> Self {
        Self { entry_point: "traefik".into(), manual_routing: false, terminating_status_code: 503 }
    }
}
