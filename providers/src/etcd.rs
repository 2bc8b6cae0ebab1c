//! Configuration in the keys of etcd (Traefik's `providers.etcd`).
//!
//! etcd is spoken to through its own JSON gateway, so that no gRPC is needed. One stream tells of each change from the
//! revision on that was read; a cheap question now and then makes sure that the stream is not dead. While no server
//! answers, the last known configuration stays.

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
    /// Servers; the next one is asked when one fails.
    pub endpoints: Vec<String>,
    /// The key below which everything stands; with `traefik`, keys below `tidegate` are read too.
    pub root_key: String,
    /// Login.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Its password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// TLS towards the servers.
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
