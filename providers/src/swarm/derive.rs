//! Derives routers and services from Swarm services and their tasks, as in Traefik.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_config::Provided;

use super::Options;
use super::model::{Network, Service, Swarm, Task};
use crate::template::functions::normalize;
use crate::workload::{self, Carrier, Keeper, Labels, Locate, LocateError, Member, Rules, Said, Workload};

const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

impl Swarm {
    /// Returns the configuration in the labels of all services.
    pub(super) fn configuration(
        &self,
        options: &Options,
        rules: &Rules,
        keeper: &mut Keeper,
        earlier: &Provided,
    ) -> Provided {
        let keeps = keeper.is_on();
        let mut tasks: HashMap<&str, Vec<&Task>> = HashMap::new();
        for task in self.tasks.iter().filter(|task| task.is_running()) {
            tasks.entry(task.service_id.as_str()).or_default().push(task);
        }
        let mut parts = Vec::new();
        for service in &self.services {
            let running = tasks.remove(service.id.as_str()).unwrap_or_default();
            let name = service_name(service);
            let reading = ServiceReader { swarm: self, options, rules, service, name, keeps };
            let mut own = Vec::new();
            let mut waits = reading.add(&running, &mut own);
            if own.is_empty() && keeps {
                // It is not exposed, so nothing is kept for it.
                own.push((reading.name, Provided::default()));
                waits = true;
            }
            parts.extend(own.into_iter().map(|(key, part)| (key, &*service.name, part, waits)));
        }
        // Traefik's order, which determines the order of servers.
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        let said = parts.iter().filter(|(.., waits)| !waits);
        let mut state = workload::merge(said.map(|(_, _, part, _)| Said { part, serves: true }), earlier);
        let members = parts.iter().map(|(_, service, part, waits)| Member {
            group: service,
            name: service,
            part,
            waits: *waits,
        });
        keeper.complete(&members.collect::<Vec<_>>(), earlier, &mut state);
        state
    }
}

/// Sort key and configuration.
type Part = (String, Provided);

/// Returns the name of a service: that in Compose, or its own.
fn service_name(service: &Service) -> String {
    let labels = &service.labels;
    match (labels.get(SERVICE), labels.get(PROJECT)) {
        (Some(service), Some(project)) => normalize(&format!("{service}_{project}")),
        _ => normalize(&service.name),
    }
}

/// A service being derived.
struct ServiceReader<'a> {
    swarm: &'a Swarm,
    options: &'a Options,
    rules: &'a Rules,
    service: &'a Service,
    name: String,
    /// Whether routes are kept.
    keeps: bool,
}

impl ServiceReader<'_> {
    /// Adds the configuration of the service: once per task, or once for its virtual IP. Returns true if it has no
    /// tasks and only replaces what is kept.
    fn add(&self, tasks: &[&Task], parts: &mut Vec<Part>) -> bool {
        let service = self.service;
        let owner: Arc<str> = service.name.as_str().into();
        let mut labels = Labels::read(&self.workload(&owner));
        if !self.rules.admit(&service.labels) {
            return false;
        }
        match labels.take_enable(self.options.exposed_by_default) {
            Some(true) => {}
            Some(false) => return false,
            None => {
                parts.push((self.name.clone(), labels.left_out()));
                return false;
            }
        }
        let (network, virtual_address) = match self.own_labels(&mut labels, &owner) {
            Some(found) => found,
            None => {
                // As in Traefik, the service is left out, since it is ambiguous which labels are intended.
                let read = Labels::read(&self.workload(&owner));
                let message = "labels `docker.*` and `swarm.*` exclude each other: keep `swarm.*`";
                parts.push((self.name.clone(), read.refused(&self.workload(&owner), message)));
                return false;
            }
        };
        let network = network.or_else(|| Some(self.options.network.clone())).filter(|name| !name.is_empty());
        let addresses = self.virtual_addresses();
        if virtual_address && !addresses.is_empty() {
            let place =
                TaskLocation { addresses, network: network.as_deref(), published: Vec::new(), serves: true };
            self.build(&service.id, owner, labels, &place, parts);
            return false;
        }
        let before = parts.len();
        for task in tasks {
            let place = self.task(task, network.as_deref());
            if place.addresses.is_empty() && place.published.is_empty() {
                continue;
            }
            let part = match service.is_global {
                true => format!("{}.{}", service.name, task.id),
                false => format!("{}.{}", service.name, task.slot),
            };
            self.build(&task.id, part.into(), labels.clone(), &place, parts);
        }
        let empty = parts.len() == before;
        if empty && (self.options.allow_empty_services || self.keeps) {
            let place =
                TaskLocation { addresses: Vec::new(), network: None, published: Vec::new(), serves: false };
            self.build(&service.id, owner, labels, &place, parts);
        }
        empty && !self.options.allow_empty_services
    }

    fn workload<'w>(&'w self, owner: &'w Arc<str>) -> Workload<'w> {
        Workload {
            name: &self.name,
            title: &self.name,
            owner,
            labels: &self.service.labels,
            carrier: Carrier::Container,
        }
    }

    /// Returns the network and `lbswarm` labels; `None` if old and new labels are mixed.
    fn own_labels(&self, labels: &mut Labels, owner: &Arc<str>) -> Option<(Option<String>, bool)> {
        let mut of = |section: &str| {
            let network = labels.take(&[section, "network"]);
            let virtual_address = labels.take_bool(&[section, "lbswarm"], false);
            (network, virtual_address)
        };
        let (new, old) = (of("swarm"), of("docker"));
        let is_set = |of: &(Option<_>, bool)| of.0.is_some() || of.1;
        if is_set(&new) && is_set(&old) {
            return None;
        }
        if is_set(&old) {
            let origin = self.workload(owner).origin("");
            labels.problem(origin, "labels `docker.*` are deprecated on services: use `swarm.*`".into());
        }
        let (network, virtual_address) = if is_set(&new) { new } else { old };
        Some((network.map(|(_, name)| name), virtual_address))
    }

    fn virtual_addresses(&self) -> Vec<Address> {
        let virtual_ips = self.service.virtual_ips.iter();
        let known = virtual_ips
            .filter_map(|(network, address)| Some(Address::new(self.swarm.networks.get(network)?, address)));
        known.filter(|address| !address.host.is_empty()).collect()
    }

    fn task<'n>(&self, task: &Task, network: Option<&'n str>) -> TaskLocation<'n> {
        let node = self.swarm.nodes.get(&task.node_id);
        let mut addresses = Vec::new();
        for attachment in &task.attachments {
            match self.swarm.networks.get(&attachment.network.id) {
                Some(network) => {
                    let own = attachment.addresses.iter().map(|address| Address::new(network, address));
                    addresses.extend(own.filter(|address| !address.host.is_empty()));
                }
                // The host network of the node.
                None if attachment.network.spec.name == "host" => {
                    addresses.extend(node.map(|address| Address {
                        network: "host".into(),
                        ingress: false,
                        host: address.clone(),
                    }));
                }
                None => {}
            }
        }
        let published = match (self.options.use_bind_port_ip, node) {
            (true, Some(node)) => task
                .ports
                .iter()
                .map(|(inner, published)| (inner.to_string(), node.clone(), published.to_string()))
                .collect(),
            _ => Vec::new(),
        };
        TaskLocation { addresses, network, published, serves: true }
    }

    fn build(
        &self,
        id: &str,
        owner: Arc<str>,
        mut labels: Labels,
        place: &TaskLocation<'_>,
        parts: &mut Vec<Part>,
    ) {
        if let Some(warning) = place.warning() {
            labels.problem(self.workload(&owner).origin(""), warning);
        }
        let provided = workload::build(&self.workload(&owner), labels, self.rules, place);
        parts.push((format!("{}-{id}", self.name), provided));
    }
}

struct Address {
    network: String,
    ingress: bool,
    host: String,
}

impl Address {
    fn new(network: &Network, address: &str) -> Self {
        let host = address.split('/').next().unwrap_or("").to_owned();
        Self { network: network.name.clone(), ingress: network.ingress, host }
    }
}

/// The addresses of a task or of a whole service.
struct TaskLocation<'n> {
    addresses: Vec<Address>,
    network: Option<&'n str>,
    /// Published ports: internal port, node address, published port.
    published: Vec<(String, String, String)>,
    serves: bool,
}

impl TaskLocation<'_> {
    fn chosen(&self) -> Option<&Address> {
        let named = self.addresses.iter().find(|address| Some(address.network.as_str()) == self.network);
        let first = |ingress: bool| {
            let mut of: Vec<&Address> =
                self.addresses.iter().filter(|address| address.ingress == ingress).collect();
            of.sort_by(|a, b| a.network.cmp(&b.network));
            of.into_iter().next()
        };
        named.or_else(|| first(false)).or_else(|| first(true))
    }

    fn warning(&self) -> Option<String> {
        let chosen = self.chosen()?;
        let named = self.network.filter(|name| *name != chosen.network);
        named.map(|name| format!("not attached to the network `{name}`: using `{}`", chosen.network))
    }
}

impl Locate for TaskLocation<'_> {
    fn locate(&self, port: Option<&str>) -> Result<Option<(String, String)>, LocateError> {
        if !self.serves {
            return Ok(None);
        }
        let port = port.ok_or(LocateError::NoServicePort)?;
        if let Some((_, host, outer)) = self.published.iter().find(|(inner, ..)| inner == port) {
            return Ok(Some((host.clone(), outer.clone())));
        }
        let chosen = self.chosen().ok_or(LocateError::NotInSwarm)?;
        Ok(Some((chosen.host.clone(), port.to_owned())))
    }
}
