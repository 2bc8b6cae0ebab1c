//! The containers of an engine, and the configuration in their labels.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerSummary;
use futures_util::{StreamExt, TryStreamExt, stream};
use tidegate_config::Provided;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Options;
use super::client::{Client, EngineError};
use super::events::Stopping;
use super::model::Container;
use super::network::{ContainerLocation, Surroundings};
use crate::template::functions::normalize;
use crate::workload::{self, Carrier, Keeper, Labels, Member, PREFIXES, Rules, Said, Workload};

/// Maximum number of concurrent inspections.
const MAX_CONCURRENT: usize = 8;
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

/// The known containers of an engine.
#[derive(Default)]
pub(super) struct Containers {
    known: BTreeMap<String, (ContainerSummary, Container)>,
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
            *summary = ContainerSummary::default();
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Container> {
        self.known.get(id).map(|(_, container)| container)
    }

    /// Lists the containers, and inspects new and changed ones. On failure, nothing changes.
    pub(super) async fn refresh(&mut self, client: &Client) -> Result<(), EngineError> {
        let listed = client.list().await?;
        let listed = listed.into_iter().filter_map(|summary| Some((summary.id.clone()?, summary)));
        let mut fresh = BTreeMap::new();
        let mut changed = Vec::new();
        for (id, summary) in listed.filter(|(id, _)| !id.is_empty()) {
            match self.known.get(&id) {
                Some((known, container)) if is_unchanged(known, &summary) => {
                    fresh.insert(id, (summary, container.clone()));
                }
                _ => changed.push((id, summary)),
            }
        }
        let inspections = stream::iter(changed).map(|(id, summary)| async move {
            let container = match client.inspect(&id).await {
                Ok(container) => container,
                // An invalid container does not affect the others; other errors do.
                Err(error @ (EngineError::UnexpectedAnswer { .. } | EngineError::Unusable(_))) => {
                    tracing::warn!("container {}: {error}", display_name(&id, &summary));
                    None
                }
                Err(error) => return Err(error),
            };
            Ok(container.map(|container| (id, (summary, container))))
        });
        let inspected: Vec<_> = inspections.buffer_unordered(MAX_CONCURRENT).try_collect().await?;
        fresh.extend(inspected.into_iter().flatten());
        self.known = fresh;
        let containers = self.known.values().map(|(_, container)| container);
        self.stopping.keep_running(containers.filter(|container| container.is_running()));
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
            container.is_created() && is_young(container) && is_exposed(container, options, rules)
        })
    }

    /// Returns the configuration.
    pub(super) fn configuration(
        &self,
        options: &Options,
        rules: &Rules,
        keeper: &mut Keeper,
        host_address: &str,
        earlier: &Provided,
    ) -> Provided {
        let by_name: HashMap<&str, &Container> = self
            .known
            .values()
            .flat_map(|(_, container)| [(container.id.as_str(), container), (&container.name, container)])
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
            let keeps = keeper.is_on();
            let reading =
                Reading { options, rules, surroundings: &surroundings, by_name: &by_name, stopping, keeps };
            if let Some((name, part, standing)) = reading.container(container) {
                parts.push((format!("{name}-{}", container.id), container, part, standing));
            }
        }
        // Sorted by name, so that the configuration is deterministic.
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        let said = parts.iter().filter(|(.., standing)| *standing != Standing::Waits);
        let said = said.map(|(_, _, part, standing)| Said { part, serves: *standing == Standing::Serves });
        let mut state = workload::merge(said, earlier);
        if keeper.is_on() {
            let groups: Vec<String> = parts.iter().map(|(_, container, ..)| group(container)).collect();
            let members: Vec<_> = std::iter::zip(&parts, &groups)
                .map(|((_, container, part, standing), group)| Member {
                    group,
                    name: &container.name,
                    part,
                    waits: *standing == Standing::Waits,
                })
                .collect();
            keeper.complete(&members, earlier, &mut state);
        }
        state
    }

    /// Returns the networks of the gateway's own container, if any. Its host name is its id unless changed.
    fn own_networks(&self) -> BTreeSet<String> {
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let own = own.trim();
        if own.is_empty() || !std::path::Path::new("/.dockerenv").exists() {
            return BTreeSet::new();
        }
        let container = self.known.values().map(|(_, container)| container).find(|container| {
            (own.len() >= 12 && container.id.starts_with(own)) || container.hostname == own
        });
        container.map(|container| container.networks.keys().cloned().collect()).unwrap_or_default()
    }
}

/// Returns true if the list entry of a container has not changed, except for the time in `Up 3 minutes
/// (healthy)`.
fn is_unchanged(known: &ContainerSummary, listed: &ContainerSummary) -> bool {
    fn health(summary: &ContainerSummary) -> Option<&str> {
        Some(summary.status.as_ref()?.split_once('(')?.1)
    }
    known.id == listed.id
        && known.names == listed.names
        && known.state == listed.state
        && known.network_settings == listed.network_settings
        && health(known) == health(listed)
}

fn display_name<'s>(id: &'s str, summary: &'s ContainerSummary) -> &'s str {
    let name = summary.names.as_ref().and_then(|names| names.first());
    name.map_or(id, |name| name.trim_start_matches('/'))
}

/// Whether a container gets requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It gets requests.
    Serves,
    /// It gets none; other definitions take precedence.
    Idle,
    /// It is not part of the configuration, but replaces what is kept for its group.
    Waits,
}

struct Reading<'a> {
    options: &'a Options,
    rules: &'a Rules,
    surroundings: &'a Surroundings,
    by_name: &'a HashMap<&'a str, &'a Container>,
    stopping: &'a Stopping,
    /// Whether routes are kept.
    keeps: bool,
}

impl Reading<'_> {
    /// Returns the name of the service, its configuration, and whether it gets requests; `None` if it does not
    /// matter.
    fn container(&self, container: &Container) -> Option<(String, Provided, Standing)> {
        let owner: Arc<str> = container.name.as_str().into();
        let name = service_name(container);
        let workload = Workload {
            name: &name,
            title: &name,
            owner: &owner,
            labels: &container.labels,
            carrier: Carrier::Container,
        };
        let mut labels = Labels::read(&workload);
        let running = container.is_running();
        let hidden = || (self.keeps && running).then(|| (name.clone(), Provided::default(), Standing::Waits));
        if !self.rules.admit(workload.labels) {
            return hidden();
        }
        match labels.take_enable(self.options.exposed_by_default) {
            Some(true) => {}
            Some(false) => return hidden(),
            None => return Some((name.clone(), labels.left_out(), Standing::Serves)),
        }
        let allow_non_running = labels.take_bool(&["docker", "allownonrunning"], false);
        let _ = labels.take(&["docker", "lbswarm"]);
        let network = labels.take(&["docker", "network"]).map(|(_, network)| network);
        let waits = !container.healthy && !self.options.allow_empty_services;
        if (!running && !allow_non_running) || (waits && !(self.keeps && running)) {
            return None;
        }
        let shared = container.network_mode.strip_prefix("container:");
        let shared = shared.and_then(|id| self.by_name.get(id).copied());
        // As in Traefik, the label of the container that owns the network takes precedence.
        let shared_network = shared.and_then(|shared| {
            PREFIXES.iter().find_map(|prefix| shared.labels.get(&format!("{prefix}.docker.network")))
        });
        // This container is unreachable while that one restarts.
        let reachable = shared.is_none_or(|shared| shared.is_running() && !self.stopping.covers(shared));
        let place = ContainerLocation {
            container,
            shared,
            network: shared_network.or(network.as_ref()).map(String::as_str),
            surroundings: self.surroundings,
            serves: running && container.healthy && reachable && !self.stopping.covers(container),
        };
        if let Some(warning) = place.warning() {
            labels.problem(workload.origin(""), warning);
        }
        let provided = workload::build(&workload, labels, self.rules, &place);
        let standing = match place.serves {
            _ if waits => Standing::Waits,
            true => Standing::Serves,
            false => Standing::Idle,
        };
        Some((name, provided, standing))
    }
}

/// Returns true if a container is exposed.
fn is_exposed(container: &Container, options: &Options, rules: &Rules) -> bool {
    let name = service_name(container);
    let owner: Arc<str> = container.name.as_str().into();
    let labels = &container.labels;
    let workload = Workload { name: &name, title: &name, owner: &owner, labels, carrier: Carrier::Container };
    rules.admit(labels) && Labels::read(&workload).take_enable(options.exposed_by_default) == Some(true)
}

/// Returns what a container has in common with its replacement: its service in Compose, or its name.
fn group(container: &Container) -> String {
    let labels = &container.labels;
    match (labels.get(SERVICE), labels.get(PROJECT)) {
        (Some(service), Some(project)) => format!("{service}@{project}"),
        _ => container.name.clone(),
    }
}

/// Returns the name of a container's service: that in Compose, or the name of the container.
fn service_name(container: &Container) -> String {
    let labels = &container.labels;
    match (labels.get(SERVICE), labels.get(PROJECT)) {
        (Some(service), Some(project)) => normalize(&format!("{service}_{project}")),
        _ => normalize(&container.name),
    }
}
