//! The parts of the engine's responses that are used. All fields are optional.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A container in the list.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Summary {
    pub(super) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) names: Vec<String>,
    pub(super) state: String,
    /// `Up 3 minutes (healthy)`.
    pub(super) status: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) network_settings: Networks,
}

/// The details of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) created: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) state: State,
    #[serde(deserialize_with = "or_default")]
    pub(super) config: Config,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_config: HostConfig,
    #[serde(deserialize_with = "or_default")]
    pub(super) network_settings: Networks,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    pub(super) status: String,
    pub(super) started_at: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) health: Health,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Health {
    /// Empty or `none` without a health check; `starting`, `healthy`, `unhealthy`.
    pub(super) status: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    #[serde(deserialize_with = "or_default")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) hostname: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) stop_signal: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    #[serde(deserialize_with = "or_default")]
    pub(super) network_mode: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Networks {
    /// Published addresses by port, such as `80/tcp`.
    #[serde(deserialize_with = "or_default")]
    pub(super) ports: BTreeMap<String, Option<Vec<Binding>>>,
    #[serde(deserialize_with = "or_default")]
    pub(super) networks: BTreeMap<String, Network>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Binding {
    #[serde(deserialize_with = "or_default")]
    pub(super) host_ip: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) host_port: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Network {
    #[serde(rename = "IPAddress", deserialize_with = "or_default")]
    pub(super) ipv4: String,
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "or_default")]
    pub(super) ipv6: String,
}

impl Network {
    /// Returns its IPv4 address, or the IPv6 address if there is none.
    pub(super) fn address(&self) -> Option<&str> {
        [&self.ipv4, &self.ipv6].into_iter().map(String::as_str).find(|address| !address.is_empty())
    }
}

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Event {
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    pub(crate) action: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) actor: Actor,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Actor {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "Attributes", deserialize_with = "or_default")]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// Decodes `null` as the default, as in Go.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
