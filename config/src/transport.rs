//! How to connect to servers.

use serde::{Deserialize, Serialize};
use tidegate_core::tls_version::TlsVersion;
use tidegate_core::values::{Timeout, is_default};
use tidegate_core::word::Word;

use crate::tls::CertificateFiles;

/// Traefik's `http.serversTransports.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServersTransport {
    /// Name for SNI and verification, instead of the server's host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// Accepts any certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_skip_verify: bool,
    /// Trusted certificates instead of the system's: paths or PEM.
    #[serde(rename = "rootCAs", skip_serializing_if = "Vec::is_empty")]
    pub root_cas: Vec<String>,
    /// Client certificates, for servers that require them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// Cipher suites, by their names in Go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Minimum version: `VersionTLS12` or `VersionTLS13`.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub min_version: Word<TlsVersion>,
    /// Maximum version.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub max_version: Word<TlsVersion>,
    /// Idle connections kept per server; 0 for the default, negative for none.
    #[serde(skip_serializing_if = "is_default")]
    pub max_idle_conns_per_host: i64,
    /// Timeouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarding_timeouts: Option<ForwardingTimeouts>,
    /// Disables HTTP/2.
    #[serde(rename = "disableHTTP2", skip_serializing_if = "is_default")]
    pub disable_http2: bool,
    /// URI that the server's certificate must contain.
    #[serde(rename = "peerCertURI", skip_serializing_if = "String::is_empty")]
    pub peer_cert_uri: String,
    /// SPIFFE identities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Spiffe>,
}

/// Timeouts for connections to servers; zero and negative values disable them, except as noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ForwardingTimeouts {
    /// For connecting. A negative value expires at once, as in Go.
    pub dial_timeout: Timeout,
    /// From the end of the request to the head of the response.
    pub response_header_timeout: Timeout,
    /// For an idle connection.
    pub idle_conn_timeout: Timeout,
    /// Silence on an HTTP/2 connection before it is pinged.
    pub read_idle_timeout: Timeout,
    /// For the response to that ping; 0 for 15 s, as in Go.
    pub ping_timeout: Timeout,
}

impl Default for ForwardingTimeouts {
    fn default() -> Self {
        Self {
            dial_timeout: Timeout::from_secs(30),
            response_header_timeout: Timeout::default(),
            idle_conn_timeout: Timeout::from_secs(90),
            read_idle_timeout: Timeout::default(),
            ping_timeout: Timeout::from_secs(15),
        }
    }
}

/// Accepted SPIFFE identities of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Spiffe {
    /// Exact identities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// A trust domain, all of whose identities are accepted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trust_domain: String,
}
