//! The containers of an engine, and the configuration in their labels.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tidegate_config::Provided;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Options;
use super::client::{Client, EngineError};
use super::events::Stopping;
use super::model::{Container, Summary};
use super::network::{ContainerLocation, Surroundings};
use crate::template::functions::normalize;
use crate::workload::{self, Carrier, Labels, PREFIXES, Rules, Said, Workload};

/// Maximum number of concurrent inspections.
const MAX_CONCURRENT: usize = 8;
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

/// The known containers of an engine.
#[derive(Default)]
pub(super) struct Containers {
    known: BTreeMap<String, (Summary, Container)>,
    pub(super) stopping: Stopping,
}

impl Containers {
    /// Makes the next [`Containers::refresh`] inspect all containers.
    pub(super) fn forget_all(&mut self) {
        self.known.clear();
    }

    /// Makes the next [`Containers::refresh`] inspect this container.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some((summary, _)) = self.known.get_mut(id) {
            *summary = Summary::default();
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Container> {
        self.known.get(id).map(|(_, container)| container)
    }

    /// Lists the containers, and inspects new and changed ones. On failure, nothing changes.
    pub(super) async fn refresh(&mut self, client: &Client) -> Result<(), EngineError> {
        let mut listed = client.list().await?;
        let mut fresh = BTreeMap::new();
        listed.retain(|summary| match self.known.get(&summary.id) {
            Some((known, container)) if is_unchanged(known, summary) => {
                fresh.insert(summary.id.clone(), (summary.clone(), container.clone()));
                false
            }
            _ => true,
        });
        let inspections = stream::iter(listed.into_iter().filter(|summary| !summary.id.is_empty())).map(
            |summary| async move {
                let container = match client.inspect(&summary.id).await {
                    Ok(container) => container,
                    // An invalid container does not affect the others; other errors do.
                    Err(error @ EngineError::UnexpectedAnswer { .. }) => {
                        tracing::warn!("container {}: {error}", display_name(&summary));
                        None
                    }
                    Err(error) => return Err(error),
                };
                Ok(container.map(|container| (summary.id.clone(), (summary, container))))
            },
        );
        let inspected: Vec<_> = inspections.buffer_unordered(MAX_CONCURRENT).try_collect().await?;
        fresh.extend(inspected.into_iter().flatten());
        self.known = fresh;
        let running = self
            .known
            .values()
            .map(|(_, container)| container)
            .filter(|container| container.state.status == "running");
        self.stopping.keep_running(running);
        Ok(())
    }

    /// Returns true if exposed containers were created so recently (`within`) that they are probably about to
    /// start.
    pub(super) fn are_starting(&self, options: &Options, rules: &Rules, within: Duration) -> bool {
        let now = OffsetDateTime::now_utc();
        let is_young = |container: &Container| {
            OffsetDateTime::parse(&container.created, &Rfc3339)
                .is_ok_and(|created| (now - created).unsigned_abs() < within)
        };
        self.known.values().any(|(_, container)| {
            container.state.status == "created"
                && is_young(container)
                && is_exposed(container, options, rules)
        })
    }

    /// Returns the configuration.
    pub(super) fn configuration(
        &self,
        options: &Options,
        rules: &Rules,
        host_address: &str,
        earlier: &Provided,
    ) -> Provided {
        let by_name: HashMap<&str, &Container> = self
            .known
            .values()
            .flat_map(|(_, container)| {
                [(container.id.as_str(), container), (container.name.trim_start_matches('/'), container)]
            })
            .collect();
        let surroundings = Surroundings {
            network: options.network.clone(),
            use_bind_port_ip: options.use_bind_port_ip,
            own_networks: self.own_networks(),
            host_address: host_address.to_owned(),
        };
        let mut parts = Vec::new();
        for (_, container) in self.known.values() {
            let stopping = &self.stopping;
            let reading =
                Reading { options, rules, surroundings: &surroundings, by_name: &by_name, stopping };
            if let Some((name, part, serves)) = reading.container(container) {
                parts.push((format!("{name}-{}", container.id), part, serves));
            }
        }
        // Sorted by name, so that the configuration is deterministic.
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        workload::merge(parts.iter().map(|(_, part, serves)| Said { part, serves: *serves }), earlier)
    }

    /// Returns the networks of the gateway's own container, if any. Its host name is its id unless changed.
    fn own_networks(&self) -> BTreeSet<String> {
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let own = own.trim();
        if own.is_empty() || !std::path::Path::new("/.dockerenv").exists() {
            return BTreeSet::new();
        }
        let container = self.known.values().map(|(_, container)| container).find(|container| {
            (own.len() >= 12 && container.id.starts_with(own)) || container.config.hostname == own
        });
        container
            .map(|container| container.network_settings.networks.keys().cloned().collect())
            .unwrap_or_default()
    }
}

/// Returns true if the list entry of a container has not changed, except for the time in `Up 3 minutes
/// (healthy)`.
fn is_unchanged(known: &Summary, listed: &Summary) -> bool {
    let health = |summary: &Summary| summary.status.split_once('(').map(|(_, health)| health.to_owned());
    known.id == listed.id
        && known.names == listed.names
        && known.state == listed.state
        && known.network_settings == listed.network_settings
        && health(known) == health(listed)
}

fn display_name(summary: &Summary) -> &str {
    summary.names.first().map_or(summary.id.as_str(), |name| name.trim_start_matches('/'))
}

struct Reading<'a> {
    options: &'a Options,
    rules: &'a Rules,
    surroundings: &'a Surroundings,
    by_name: &'a HashMap<&'a str, &'a Container>,
    stopping: &'a Stopping,
}

impl Reading<'_> {
    /// Returns the name of the service, its configuration, and whether it gets requests; `None` if it is not
    /// exposed.
    fn container(&self, container: &Container) -> Option<(String, Provided, bool)> {
        let owner: Arc<str> = container.name.trim_start_matches('/').into();
        let name = service_name(container);
        let workload = Workload {
            name: &name,
            title: &name,
            owner: &owner,
            labels: &container.config.labels,
            carrier: Carrier::Container,
        };
        let mut labels = Labels::read(&workload);
        if !self.rules.admit(workload.labels) {
            return None;
        }
        match labels.take_enable(self.options.exposed_by_default) {
            Some(true) => {}
            Some(false) => return None,
            None => return Some((name.clone(), labels.left_out(), true)),
        }
        let running = container.state.status == "running";
        let allow_non_running = labels.take_bool(&["docker", "allownonrunning"], false);
        let _ = labels.take(&["docker", "lbswarm"]);
        let network = labels.take(&["docker", "network"]).map(|(_, network)| network);
        let healthy = matches!(container.state.health.status.as_str(), "" | "none" | "healthy");
        if (!running && !allow_non_running) || (!healthy && !self.options.allow_empty_services) {
            return None;
        }
        let shared = container.host_config.network_mode.strip_prefix("container:");
        let shared = shared.and_then(|id| self.by_name.get(id).copied());
        // As in Traefik, the label of the container that owns the network takes precedence.
        let shared_network = shared.and_then(|shared| {
            PREFIXES.iter().find_map(|prefix| shared.config.labels.get(&format!("{prefix}.docker.network")))
        });
        // This container is unreachable while that one restarts.
        let reachable =
            shared.is_none_or(|shared| shared.state.status == "running" && !self.stopping.covers(shared));
        let place = ContainerLocation {
            container,
            shared,
            network: shared_network.or(network.as_ref()).map(String::as_str),
            surroundings: self.surroundings,
            serves: running && healthy && reachable && !self.stopping.covers(container),
        };
        if let Some(warning) = place.warning() {
            labels.problem(workload.origin(""), warning);
        }
        let provided = workload::build(&workload, labels, self.rules, &place);
        Some((name, provided, place.serves))
    }
}

/// Returns true if a container is exposed.
fn is_exposed(container: &Container, options: &Options, rules: &Rules) -> bool {
    let name = service_name(container);
    let owner: Arc<str> = container.name.trim_start_matches('/').into();
    let labels = &container.config.labels;
    let workload = Workload { name: &name, title: &name, owner: &owner, labels, carrier: Carrier::Container };
    rules.admit(labels) && Labels::read(&workload).take_enable(options.exposed_by_default) == Some(true)
}

/// Returns the name of a container's service: that in Compose, or the name of the container.
fn service_name(container: &Container) -> String {
    let labels = &container.config.labels;
    match (labels.get(SERVICE), labels.get(PROJECT)) {
        (Some(service), Some(project)) => normalize(&format!("{service}_{project}")),
        _ => normalize(&container.name),
    }
}
