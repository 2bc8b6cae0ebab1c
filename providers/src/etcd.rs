//! Configuration in the keys of etcd (Traefik's `providers.etcd`).
//!
//! The client uses etcd's JSON gateway, so that no gRPC is needed. One stream reports each change after the
//! revision that was read; a cheap periodic query verifies that the stream is alive. While no server
//! responds, the last known configuration stays in force.

mod client;
mod follow;

use serde::{Deserialize, Serialize};
use tidegate_clients::connect::Tls;
use tidegate_core::values::Secret;

use crate::Describe;

pub use follow::{Etcd, build};

/// Options of `providers.etcd`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// Servers; if one fails, the next one is used.
    pub endpoints: Vec<String>,
    /// The root key; with `traefik`, keys below `tidegate` are read too.
    pub root_key: String,
    /// User name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// TLS options for the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:2379".into()],
            root_key: "traefik".into(),
            username: String::new(),
            password: Secret::default(),
            tls: None,
        }
    }
}

impl Describe for Options {
    fn place(&self) -> String {
        self.endpoints.join(",")
    }
}
