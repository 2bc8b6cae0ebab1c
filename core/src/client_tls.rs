//! TLS towards servers, as options say it.

/// How to talk TLS to a server. Each of `ca`, `cert` and `key` is a path or PEM itself; empty means none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientTls {
    /// Certificates to trust instead of the system's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// Our certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert: String,
    /// Its key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Accept any certificate. For tests only.
    #[serde(skip_serializing_if = "crate::values::is_default")]
    pub insecure_skip_verify: bool,
    /// Deprecated in Traefik and without effect there; read and ignored.
    #[serde(skip_serializing_if = "crate::values::is_default")]
    pub ca_optional: bool,
}
