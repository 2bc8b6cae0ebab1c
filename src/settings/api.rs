//! The API with its dashboard, and `/ping`.

use serde::{Deserialize, Serialize};

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
