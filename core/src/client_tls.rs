//! TLS options for clients.

/// TLS options for a client. `ca`, `cert` and `key` are paths or PEM; empty means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientTls {
    /// Trusted certificates instead of the system's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// The client certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert: String,
    /// Its key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Accepts any certificate. For tests only.
    #[serde(skip_serializing_if = "crate::values::is_default")]
    pub insecure_skip_verify: bool,
    /// Deprecated in Traefik and without effect: accepted and ignored.
    #[serde(skip_serializing_if = "crate::values::is_default")]
    pub ca_optional: bool,
}
