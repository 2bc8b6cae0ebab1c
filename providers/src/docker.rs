//! Containers of a Docker host.

use serde::{Deserialize, Serialize};

/// Traefik's `providers.docker`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// Where Docker listens.
    pub endpoint: String,
    /// Serve containers that do not say `enable`.
    pub exposed_by_default: bool,
    /// Template of the rule of routers that have none.
    pub default_rule: String,
    /// The network whose addresses are used.
    pub network: String,
    /// Which containers are served, by their labels.
    pub constraints: String,
    /// Follow changes.
    pub watch: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: "unix:///var/run/docker.sock".into(),
            exposed_by_default: true,
            default_rule: "Host(`{{ normalize .Name }}`)".into(),
            network: String::new(),
            constraints: String::new(),
            watch: true,
        }
    }
}
