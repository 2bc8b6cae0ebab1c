//! Certificates, stores and TLS options.

use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;

use crate::Map;

/// The `tls` part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// Options by name; `default` applies where nothing is named.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub options: Map<TlsOptions>,
    /// Stores; only `default` is used.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub stores: Map<Store>,
}

/// A certificate and its key: paths, or PEM itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate chain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_file: String,
    /// The key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_file: String,
}

/// A certificate of `tls.certificates`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Certificate {
    /// The certificate chain: a path, or PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_file: String,
    /// The key: a path, or PEM.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_file: String,
    /// The stores that hold it; empty for `default`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
}

/// A store of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Store {
    /// Shown to clients whose server name fits no certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_certificate: Option<CertificateFiles>,
    /// The same, obtained by a resolver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_generated_cert: Option<GeneratedCert>,
}

/// A default certificate that a resolver obtains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GeneratedCert {
    /// Name of the resolver.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolver: String,
    /// Its names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
}

/// The names of one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Domain {
    /// The first name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub main: String,
    /// Further names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sans: Vec<String>,
}

/// How TLS is spoken with clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TlsOptions {
    /// Oldest version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub min_version: String,
    /// Newest version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub max_version: String,
    /// Cipher suites by Go's names, for TLS 1.2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Key exchange groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve_preferences: Vec<String>,
    /// Certificates of clients.
    #[serde(skip_serializing_if = "is_default")]
    pub client_auth: ClientAuth,
    /// Refuse server names that fit no certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub sni_strict: bool,
    /// Protocols to offer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn_protocols: Vec<String>,
    /// Never resume by ticket.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_session_tickets: bool,
    /// Deprecated in Traefik, without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_server_cipher_suites: Option<bool>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            min_version: String::new(),
            max_version: String::new(),
            cipher_suites: Vec::new(),
            curve_preferences: Vec::new(),
            client_auth: ClientAuth::default(),
            sni_strict: false,
            alpn_protocols: vec!["h2".into(), "http/1.1".into(), "acme-tls/1".into()],
            disable_session_tickets: false,
            prefer_server_cipher_suites: None,
        }
    }
}

/// Certificates of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientAuth {
    /// Authorities to trust: paths or PEM.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_files: Vec<String>,
    /// `NoClientCert`, `RequestClientCert`, `RequireAnyClientCert`, `VerifyClientCertIfGiven` or
    /// `RequireAndVerifyClientCert`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_auth_type: String,
}
