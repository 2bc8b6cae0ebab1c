//! What an entry point adds to responses about how they came about. Not in Traefik.

use serde::{Deserialize, Serialize};
use tidegate_core::values::{Secret, is_default};

/// `http.proxyStatus`: the header `Proxy-Status` (RFC 9209).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyStatus {
    /// How the gateway calls itself.
    pub name: String,
    /// Includes the addresses of servers (`next-hop`).
    #[serde(skip_serializing_if = "is_default")]
    pub next_hop: bool,
    /// Includes the reasons of the access log (`details`).
    #[serde(skip_serializing_if = "is_default")]
    pub details: bool,
}

impl Default for ProxyStatus {
    fn default() -> Self {
        Self { name: "tidegate".into(), next_hop: false, details: false }
    }
}

/// `http.serverTiming`: the header `Server-Timing` for holders of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServerTiming {
    /// The token.
    pub token: Secret,
    /// The request header that has it.
    pub header: String,
}

impl Default for ServerTiming {
    fn default() -> Self {
        Self { token: Secret::default(), header: "X-Tidegate-Debug".into() }
    }
}
