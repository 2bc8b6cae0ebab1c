//! Chooses the network, address and port of a container.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::model::Container;
use crate::workload::{Locate, LocateError};

/// The options and environment that the choice depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// The network in the provider's options.
    pub(super) network: String,
    /// Whether to use the published address of a port.
    pub(super) use_bind_port_ip: bool,
    /// The networks of the gateway's own container.
    pub(super) own_networks: BTreeSet<String>,
    /// The address of the host, as seen from containers.
    pub(super) host_address: String,
}

/// A container with the data needed to determine its address.
pub(super) struct ContainerLocation<'a> {
    pub(super) container: &'a Container,
    /// The container whose network it shares (`container:X`).
    pub(super) shared: Option<&'a Container>,
    /// The network in its label, or in that of the container whose network it shares.
    pub(super) network: Option<&'a str>,
    pub(super) surroundings: &'a Surroundings,
    /// False while it must not get requests: its services stay, without a server.
    pub(super) serves: bool,
}

impl Locate for ContainerLocation<'_> {
    fn locate(&self, port: Option<&str>) -> Result<Option<(String, String)>, LocateError> {
        if !self.serves {
            return Ok(None);
        }
        let inner_port = port.map(str::to_owned).or_else(|| self.lowest_port());
        if self.surroundings.use_bind_port_ip
            && let Some(bound) = inner_port.as_deref().and_then(|port| self.bound(port))
        {
            return Ok(Some(bound));
        }
        let address = self.address()?;
        let port = inner_port.ok_or(LocateError::NoPort)?;
        Ok(Some((address, port)))
    }
}

impl ContainerLocation<'_> {
    /// Returns a warning about the choice of the network, if any.
    pub(super) fn warning(&self) -> Option<String> {
        if !self.serves || self.is_host() {
            return None;
        }
        let networks = &self.networked().networks;
        let chosen = self.chosen(networks);
        if chosen.is_empty() {
            // It has no address at all, which is reported elsewhere.
            return None;
        }
        let named = self.named();
        if let Some(named) = named {
            return (!networks.contains_key(named))
                .then(|| format!("not attached to the network `{named}`: using `{chosen}`"));
        }
        let several = networks.values().flatten().count() > 1;
        let shared = networks.keys().filter(|name| self.surroundings.own_networks.contains(*name)).count();
        (several && shared != 1).then(|| {
            format!(
                "attached to several networks: using `{chosen}` (choose one with the label `traefik.docker.network`)"
            )
        })
    }

    fn networked(&self) -> &Container {
        self.shared.unwrap_or(self.container)
    }

    fn named(&self) -> Option<&str> {
        let option = Some(self.surroundings.network.as_str()).filter(|name| !name.is_empty());
        self.network.filter(|name| !name.is_empty()).or(option)
    }

    fn is_host(&self) -> bool {
        self.networked().network_mode == "host"
    }

    /// Returns the name of the chosen network.
    fn chosen<'n>(&self, networks: &'n BTreeMap<String, Option<String>>) -> &'n str {
        let usable =
            || networks.iter().filter(|(_, address)| address.is_some()).map(|(name, _)| name.as_str());
        let named = self.named().and_then(|named| usable().find(|name| *name == named));
        let shared = || usable().find(|name| self.surroundings.own_networks.contains(*name));
        named.or_else(shared).or_else(|| usable().next()).unwrap_or("")
    }

    fn address(&self) -> Result<String, LocateError> {
        let container = self.networked();
        let networks = &container.networks;
        let address = |name: &str| networks.get(name)?.clone();
        if let Some(address) = self.named().and_then(address) {
            return Ok(address);
        }
        let mode = &container.network_mode;
        if mode == "host" {
            return Ok(self.surroundings.host_address.clone());
        }
        if mode.starts_with("container:") {
            return Err(LocateError::SharedNetworkMissing);
        }
        address(self.chosen(networks)).ok_or(LocateError::NoAddress)
    }

    fn lowest_port(&self) -> Option<String> {
        let own = &self.container.ports;
        let ports = if own.is_empty() { &self.networked().ports } else { own };
        let numbers = ports.keys().filter_map(|port| port.split('/').next()?.parse::<u16>().ok());
        numbers.min().map(|port| port.to_string())
    }

    /// Returns the published address and port, if an address is specified.
    fn bound(&self, port: &str) -> Option<(String, String)> {
        let ports = &self.networked().ports;
        let published = |protocol: &&str| ports.get(&format!("{port}/{protocol}"))?.first();
        let binding = ["tcp", "udp"].iter().find_map(published)?;
        let address: IpAddr = binding.host_ip.as_ref()?.parse().ok()?;
        (!address.is_unspecified()).then(|| {
            (binding.host_ip.clone().unwrap_or_default(), binding.host_port.clone().unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(networks: &[(&str, &str)], ports: &[&str], mode: &str) -> Container {
        let mut container = Container { network_mode: mode.into(), ..Container::default() };
        for (name, ip) in networks {
            let address = Some((*ip).to_owned()).filter(|address| !address.is_empty());
            container.networks.insert((*name).into(), address);
        }
        for port in ports {
            container.ports.insert((*port).into(), Vec::new());
        }
        container
    }

    fn place<'a>(container: &'a Container, surroundings: &'a Surroundings) -> ContainerLocation<'a> {
        ContainerLocation { container, shared: None, network: None, surroundings, serves: true }
    }

    fn found(place: &ContainerLocation<'_>, port: Option<&str>) -> String {
        match place.locate(port) {
            Ok(Some((host, port))) => format!("{host} {port}"),
            Ok(None) => "nowhere".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn networks_are_chosen_by_label_option_shared_network_and_name() {
        let both = container(&[("b", "10.0.0.2"), ("a", "10.0.0.1"), ("c", "10.0.0.3")], &["80/tcp"], "a");
        let mut surroundings = Surroundings::default();
        assert_eq!(found(&place(&both, &surroundings), None), "10.0.0.1 80");
        assert!(place(&both, &surroundings).warning().is_some(), "several, and none named");
        surroundings.own_networks.insert("b".into());
        assert_eq!(found(&place(&both, &surroundings), None), "10.0.0.2 80");
        assert_eq!(place(&both, &surroundings).warning(), None);
        surroundings.network = "c".into();
        assert_eq!(found(&place(&both, &surroundings), None), "10.0.0.3 80");
        let labelled = ContainerLocation { network: Some("a"), ..place(&both, &surroundings) };
        assert_eq!(found(&labelled, Some("8")), "10.0.0.1 8");
        let unknown = ContainerLocation { network: Some("x"), ..place(&both, &surroundings) };
        assert_eq!(found(&unknown, None), "10.0.0.2 80");
        assert!(unknown.warning().is_some_and(|warning| warning.contains("`x`")));
    }

    #[test]
    fn addresses_depend_on_ports_and_network_mode() {
        let surroundings = Surroundings { host_address: "127.0.0.1".into(), ..Surroundings::default() };
        let many = container(&[("a", "1.1.1.1")], &["443/tcp", "8080/tcp", "80/tcp"], "a");
        assert_eq!(found(&place(&many, &surroundings), None), "1.1.1.1 80");
        let none = container(&[("a", "1.1.1.1")], &[], "a");
        assert!(found(&place(&none, &surroundings), None).contains("port is missing"));
        let host = container(&[("host", "")], &[], "host");
        assert_eq!(found(&place(&host, &surroundings), Some("9")), "127.0.0.1 9");
        let joined = container(&[], &["90/tcp"], "container:other");
        assert!(found(&place(&joined, &surroundings), None).contains("shares"));
        let shared = ContainerLocation { shared: Some(&many), ..place(&joined, &surroundings) };
        assert_eq!(found(&shared, None), "1.1.1.1 90");
        let elsewhere = Surroundings { network: "x".into(), ..Surroundings::default() };
        let nowhere = container(&[("b", "")], &["80/tcp"], "b");
        assert_eq!(place(&nowhere, &elsewhere).warning(), None, "no network is used");
        let stopped = ContainerLocation { serves: false, ..place(&many, &surroundings) };
        assert_eq!(found(&stopped, None), "nowhere");
    }

    #[test]
    fn published_addresses_are_used_if_enabled() {
        use bollard::models::PortBinding;
        let mut published = container(&[("a", "1.1.1.1")], &[], "a");
        let mut bind = |ip: &str| {
            let binding = PortBinding { host_ip: Some(ip.into()), host_port: Some("8888".into()) };
            published.ports.insert("80/tcp".into(), vec![binding]);
            published.clone()
        };
        let surroundings = Surroundings { use_bind_port_ip: true, ..Surroundings::default() };
        assert_eq!(found(&place(&bind("1.2.3.4"), &surroundings), None), "1.2.3.4 8888");
        assert_eq!(found(&place(&bind("0.0.0.0"), &surroundings), None), "1.1.1.1 80");
    }
}
