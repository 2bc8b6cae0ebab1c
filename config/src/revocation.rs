//! Whether client certificates are revoked: by lists (RFC 5280 section 5) and by OCSP (RFC 6960).

use serde::{Deserialize, Serialize};
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};

/// `clientAuth.revocation`. Not in Traefik. If it is present, certificates are also checked on open connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Revocation {
    /// Files with revocation lists: paths or PEM. A file has one list in DER, or any number in PEM.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crl_files: Vec<String>,
    /// URLs of revocation lists, which are fetched in the background.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crl_urls: Vec<String>,
    /// Maximum time between two fetches of a list. Lists are also fetched before their next update is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl_refresh_interval: Option<Duration>,
    /// Checks only the client's own certificate against lists, and not the authorities between it and `caFiles`.
    #[serde(skip_serializing_if = "is_default")]
    pub leaf_only: bool,
    /// Whether certificates are accepted that no list covers; `deny` if empty.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub unknown_status: Word<Decision>,
    /// Whether lists are used whose next update is overdue; `deny` if empty.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub expired_lists: Word<Decision>,
    /// OCSP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<ClientOcsp>,
}

/// `clientAuth.revocation.ocsp`: asks a responder about the client's own certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientOcsp {
    /// When a client is refused; `off` if empty.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub mode: Word<OcspMode>,
    /// The responder, instead of the one that the certificate names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Hosts, with or without a port, that certificates may name as their responder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// Maximum time that a request waits for a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Maximum age of a response before the responder is asked again, if the response is valid for longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
}

/// What happens if nothing can be said about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is refused.
    Deny,
    /// It is accepted.
    Allow,
}

impl Vocabulary for Decision {
    const WORDS: &'static [(&'static str, Self)] = &[("deny", Self::Deny), ("allow", Self::Allow)];
}

/// When OCSP refuses a client. Kong's `revocation_check_mode` has `SKIP`, `IGNORE_CA_ERROR` and `STRICT` for these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OcspMode {
    /// Never: no responder is asked.
    Off,
    /// If its certificate is revoked, or unknown to the responder.
    Soft,
    /// If its certificate is revoked or unknown, or no valid response can be obtained.
    Strict,
}

impl Vocabulary for OcspMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("soft", Self::Soft), ("strict", Self::Strict)];
}
