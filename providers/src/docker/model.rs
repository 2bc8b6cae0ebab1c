//! What is used of a container, out of bollard's much larger type. Its environment and command are not kept.

use std::collections::BTreeMap;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, EndpointSettings, Health,
    HealthStatusEnum as HealthStatus, PortBinding,
};

/// The details of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Container {
    pub(super) id: String,
    /// Its name, without the leading slash.
    pub(super) name: String,
    pub(super) created: String,
    /// `None` for a state that only this engine knows.
    pub(super) status: Option<Status>,
    pub(super) started_at: String,
    /// Whether its health check, if any, succeeds.
    pub(super) healthy: bool,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) hostname: String,
    pub(super) stop_signal: String,
    pub(super) network_mode: String,
    /// Published addresses by port, such as `80/tcp`.
    pub(super) ports: BTreeMap<String, Vec<PortBinding>>,
    /// The address in each network, if any.
    pub(super) networks: BTreeMap<String, Option<String>>,
}

impl Container {
    /// Converts a container, of which these fields were removed because they did not fit.
    pub(super) fn new(container: ContainerInspectResponse, removed: &[String]) -> Self {
        let state = container.state.unwrap_or_default();
        let config = container.config.unwrap_or_default();
        let network = container.network_settings.unwrap_or_default();
        // A health that only this engine knows is not `healthy`.
        let unknown = removed.iter().any(|path| "State.Health.Status".starts_with(path.as_str()));
        Self {
            id: container.id.unwrap_or_default(),
            name: container.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            created: container.created.unwrap_or_default(),
            status: state.status,
            started_at: state.started_at.unwrap_or_default(),
            healthy: !unknown && is_healthy(state.health.as_ref()),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            hostname: config.hostname.unwrap_or_default(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            network_mode: container.host_config.and_then(|host| host.network_mode).unwrap_or_default(),
            ports: network
                .ports
                .unwrap_or_default()
                .into_iter()
                .map(|(port, bindings)| (port, bindings.unwrap_or_default()))
                .collect(),
            networks: network
                .networks
                .unwrap_or_default()
                .into_iter()
                .map(|(name, endpoint)| (name, address(endpoint)))
                .collect(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.status == Some(Status::RUNNING)
    }

    pub(super) fn is_created(&self) -> bool {
        self.status == Some(Status::CREATED)
    }
}

fn is_healthy(health: Option<&Health>) -> bool {
    use HealthStatus::{EMPTY, HEALTHY, NONE};
    matches!(health.and_then(|health| health.status), None | Some(EMPTY | NONE | HEALTHY))
}

/// Returns the IPv4 address, or the IPv6 address if there is none.
fn address(endpoint: EndpointSettings) -> Option<String> {
    let addresses = [endpoint.ip_address, endpoint.global_ipv6_address];
    addresses.into_iter().flatten().find(|address| !address.is_empty())
}
