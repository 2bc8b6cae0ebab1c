//! What is used of a swarm, out of bollard's much larger types. The environment of tasks is not kept.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{self, TaskState};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::docker::client::usable;

/// The state of a swarm.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Swarm {
    pub(super) services: Vec<Service>,
    pub(super) tasks: Vec<Task>,
    /// By id.
    pub(super) networks: HashMap<String, Network>,
    /// The address of each node, by its id.
    pub(super) nodes: HashMap<String, String>,
}

impl Swarm {
    /// Converts what a manager lists.
    pub(super) fn new(
        services: Vec<models::Service>,
        tasks: Vec<Value>,
        networks: Vec<models::Network>,
        nodes: Vec<models::Node>,
    ) -> Self {
        let network = |network: models::Network| {
            let name = network.name.unwrap_or_default();
            Some((network.id?, Network { name, ingress: network.ingress.unwrap_or_default() }))
        };
        let node = |node: models::Node| Some((node.id?, node.status?.addr?));
        Self {
            services: services.into_iter().map(Service::from).collect(),
            tasks: read_tasks(tasks),
            networks: networks.into_iter().filter_map(network).collect(),
            nodes: nodes.into_iter().filter_map(node).filter(|(_, address)| !address.is_empty()).collect(),
        }
    }
}

/// A service of the swarm.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Service {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Whether it has a task on every node.
    pub(super) is_global: bool,
    /// Network ids and addresses in CIDR notation, such as `10.0.1.2/24`.
    pub(super) virtual_ips: Vec<(String, String)>,
}

impl From<models::Service> for Service {
    fn from(service: models::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let virtual_ips = service.endpoint.and_then(|endpoint| endpoint.virtual_ips).unwrap_or_default();
        let virtual_ips = virtual_ips.into_iter();
        Self {
            id: service.id.unwrap_or_default(),
            name: spec.name.unwrap_or_default(),
            labels: spec.labels.unwrap_or_default().into_iter().collect(),
            is_global: spec.mode.is_some_and(|mode| mode.global.is_some()),
            virtual_ips: virtual_ips.filter_map(|one| Some((one.network_id?, one.addr?))).collect(),
        }
    }
}

/// A task: one container of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) service_id: String,
    pub(super) node_id: String,
    pub(super) slot: i64,
    /// `None` for a state that only this engine knows.
    pub(super) state: Option<TaskState>,
    pub(super) desired_state: Option<TaskState>,
    /// Internal and published ports.
    pub(super) ports: Vec<(i64, i64)>,
    pub(super) attachments: Vec<Attachment>,
}

impl Task {
    pub(super) fn is_running(&self) -> bool {
        self.state == Some(TaskState::RUNNING)
    }

    fn new(task: models::Task, attachments: Vec<Attachment>) -> Self {
        let status = task.status.unwrap_or_default();
        let ports = status.port_status.and_then(|status| status.ports).unwrap_or_default();
        let port = |port: models::EndpointPortConfig| {
            (port.target_port.unwrap_or_default(), port.published_port.unwrap_or_default())
        };
        Self {
            id: task.id.unwrap_or_default(),
            service_id: task.service_id.unwrap_or_default(),
            node_id: task.node_id.unwrap_or_default(),
            slot: task.slot.unwrap_or_default(),
            state: status.state,
            desired_state: task.desired_state,
            ports: ports.into_iter().map(port).collect(),
            attachments,
        }
    }
}

/// Decodes each task twice: as bollard's type, and its networks, which that lacks.
fn read_tasks(tasks: Vec<Value>) -> Vec<Task> {
    let read = |task: Value| {
        let attached = Attached::deserialize(&task).ok()?;
        let task = usable::<models::Task>("/tasks", vec![task]).pop()?;
        Some(Task::new(task, attached.networks_attachments))
    };
    tasks.into_iter().filter_map(read).collect()
}

/// The networks of a task.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Attached {
    #[serde(deserialize_with = "or_default")]
    networks_attachments: Vec<Attachment>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Attachment {
    pub(super) network: NetworkRef,
    #[serde(deserialize_with = "or_default")]
    pub(super) addresses: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkRef {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) spec: NetworkSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkSpec {
    pub(super) name: String,
}

/// A network of the swarm.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Network {
    pub(super) name: String,
    /// Whether this is the ingress network of published ports.
    pub(super) ingress: bool,
}

/// Decodes `null` as the default.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
