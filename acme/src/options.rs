//! Options of a certificate resolver: its authority, its storage, and how names are proven.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_clients::connect::Tls;
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::word::{Vocabulary, Word};

/// Traefik's default authority.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Default lifetime of a certificate in hours (90 days).
pub const DEFAULT_HOURS: u32 = 2160;

/// `certificatesResolvers.<name>.acme`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Acme {
    /// Contact of the account.
    pub email: String,
    /// The authority's directory.
    pub ca_server: String,
    /// Common name of the issuer of the preferred chain.
    pub preferred_chain: String,
    /// Profile of the certificates, like `shortlived`.
    pub profile: String,
    /// E-mail addresses in the certificate request.
    pub email_addresses: Vec<String>,
    /// Omits the common name from the certificate request.
    #[serde(rename = "disableCommonName")]
    pub disable_common_name: bool,
    /// Storage of account and certificates: a file, or Consul (`consul://host:port/prefix`), shared between
    /// gateways. The latter is not in Traefik.
    pub storage: String,
    /// How to connect to a storage in Consul. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub consul: AcmeConsul,
    /// Type of certificate keys.
    pub key_type: Word<KeyType>,
    /// External account binding (RFC 8555 section 7.3.4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab: Option<Eab>,
    /// Lifetime of certificates in hours, which determines their renewal if the authority has no renewal
    /// information.
    pub certificates_duration: u32,
    /// Timeout for a request to the authority.
    pub client_timeout: Duration,
    /// Timeout for the response head of the authority.
    pub client_response_header_timeout: Duration,
    /// Timeout in seconds for a certificate after all validations.
    pub certificate_timeout: Duration,
    /// Trusted authorities for the connection: paths or PEM.
    #[serde(rename = "caCertificates", skip_serializing_if = "Vec::is_empty")]
    pub ca_certificates: Vec<String>,
    /// Trusts the system's authorities in addition to `caCertificates`.
    pub ca_system_cert_pool: bool,
    /// Expected name in the certificate of the authority's server.
    pub ca_server_name: String,
    /// Validation by DNS records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_challenge: Option<DnsChallenge>,
    /// Validation over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_challenge: Option<HttpChallenge>,
    /// Validation in TLS handshakes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_challenge: Option<TlsChallenge>,
    /// Certificates on demand, at the first handshake. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<OnDemand>,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            email: String::new(),
            ca_server: LETS_ENCRYPT.into(),
            preferred_chain: String::new(),
            profile: String::new(),
            email_addresses: Vec::new(),
            disable_common_name: false,
            storage: "acme.json".into(),
            consul: AcmeConsul::default(),
            key_type: KeyType::Rsa4096.into(),
            eab: None,
            certificates_duration: DEFAULT_HOURS,
            client_timeout: Duration::from_secs(120),
            client_response_header_timeout: Duration::from_secs(30),
            certificate_timeout: Duration::from_secs(30),
            ca_certificates: Vec::new(),
            ca_system_cert_pool: false,
            ca_server_name: String::new(),
            dns_challenge: None,
            http_challenge: None,
            tls_challenge: None,
            on_demand: None,
        }
    }
}

/// The type of a certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `EC256`: ECDSA on P-256.
    Ec256,
    /// `EC384`: ECDSA on P-384.
    Ec384,
    /// `RSA2048`.
    Rsa2048,
    /// `RSA4096`.
    Rsa4096,
    /// `RSA8192`.
    Rsa8192,
}

impl Vocabulary for KeyType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("EC256", Self::Ec256),
        ("EC384", Self::Ec384),
        ("RSA2048", Self::Rsa2048),
        ("RSA4096", Self::Rsa4096),
        ("RSA8192", Self::Rsa8192),
    ];
    const IGNORES_CASE: bool = true;
}

/// `consul`: how to connect to a storage in Consul.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AcmeConsul {
    /// ACL token; `CONSUL_HTTP_TOKEN` if empty.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub token: Secret,
    /// TLS to the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Datacenter; the agent's own if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    /// File with a copy of the certificates, for starting while Consul is unavailable; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cache: String,
}

/// The scheme of a storage in Consul.
const CONSUL: &str = "consul://";
/// Default prefix of keys.
const CONSUL_PREFIX: &str = "tidegate/acme";

impl Acme {
    /// Returns address (empty for that of the environment) and prefix of a storage in Consul; `None` if it is
    /// a file.
    pub fn consul_place(&self) -> Option<(&str, &str)> {
        let rest = self.storage.strip_prefix(CONSUL)?;
        let (address, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        Some((address, if prefix.is_empty() { CONSUL_PREFIX } else { prefix }))
    }

    /// What is wrong with the storage: the option, and what.
    fn wrong_storage(&self) -> Option<(&'static str, String)> {
        if self.storage.is_empty() {
            return Some(("storage", "is required: what holds account and certificates".to_owned()));
        }
        let Some((address, _)) = self.consul_place() else {
            if self.consul != AcmeConsul::default() {
                let message = format!("needs a storage like `{CONSUL}127.0.0.1:8500/{CONSUL_PREFIX}`");
                return Some(("consul", message));
            }
            let scheme = self.storage.split_once("://").map(|(scheme, _)| scheme);
            return scheme.map(|scheme| {
                let message = format!("`{scheme}://` is not supported: expected a file or `{CONSUL}`");
                ("storage", message)
            });
        };
        if address.contains('@') || address.contains('?') {
            let message = "expected `consul://host:port/prefix`; the token belongs to `consul.token`";
            return Some(("storage", message.to_owned()));
        }
        None
    }
}

/// `eab`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Eab {
    /// Key identifier.
    pub kid: String,
    /// The key, in base64url.
    pub hmac_encoded: String,
}

impl std::fmt::Debug for Eab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eab").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// `httpChallenge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpChallenge {
    /// The entry point that the authority connects to on port 80.
    pub entry_point: String,
    /// Delay before the authority is notified.
    #[serde(skip_serializing_if = "is_default")]
    pub delay: Duration,
}

/// `tlsChallenge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TlsChallenge {
    /// Delay before the authority is notified.
    #[serde(skip_serializing_if = "is_default")]
    pub delay: Duration,
}

/// `dnsChallenge`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DnsChallenge {
    /// Provider of the zone, by its name in lego.
    pub provider: String,
    /// Name servers for zone look-ups instead of the system's: `host[:port]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<String>,
    /// How to check that records have propagated.
    #[serde(skip_serializing_if = "is_default")]
    pub propagation: Propagation,
    /// Deprecated in Traefik: `propagation.delayBeforeChecks`.
    #[serde(skip_serializing_if = "is_default")]
    pub delay_before_check: Duration,
    /// Deprecated in Traefik: `propagation.disableChecks`.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_propagation_check: bool,
    /// Variables of the provider, by name; missing ones are taken from the environment. Not in Traefik.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, String>,
}

impl std::fmt::Debug for DnsChallenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsChallenge").field("provider", &self.provider).finish_non_exhaustive()
    }
}

impl DnsChallenge {
    /// Returns the delay between setting records and checking them.
    pub fn delay(&self) -> std::time::Duration {
        self.propagation.delay_before_checks.0.max(self.delay_before_check.0)
    }

    /// Returns true if records are checked before the authority is notified.
    pub fn checks(&self) -> bool {
        !self.propagation.disable_checks && !self.disable_propagation_check
    }
}

/// `dnsChallenge.propagation`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Propagation {
    /// Disables all checks.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_checks: bool,
    /// Does not check the zone's own name servers.
    #[serde(rename = "disableANSChecks", skip_serializing_if = "is_default")]
    pub disable_ans_checks: bool,
    /// Requires that all of `resolvers` see the records.
    #[serde(rename = "requireAllRNS", skip_serializing_if = "is_default")]
    pub require_all_rns: bool,
    /// Delay before the first check.
    #[serde(skip_serializing_if = "is_default")]
    pub delay_before_checks: Duration,
}

/// `onDemand`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OnDemand {
    /// Requested with `?domain=<name>`; status 200 allows the name.
    pub ask: String,
    /// Maximum number of new names per hour.
    pub limit: u32,
}

impl Default for OnDemand {
    fn default() -> Self {
        Self { ask: String::new(), limit: 20 }
    }
}

impl Acme {
    /// Returns what keeps a resolver from working: options below `acme`, and what is wrong with them.
    /// `is_entry_point` says whether there is an entry point of a name.
    pub fn mistakes(&self, is_entry_point: impl Fn(&str) -> bool) -> Vec<(Vec<&'static str>, String)> {
        let mut wrong: Vec<(Vec<&'static str>, String)> = Vec::new();
        if let Some((option, message)) = self.wrong_storage() {
            wrong.push((vec![option], message));
        }
        if !self.email.is_empty() && !self.email.contains('@') {
            wrong.push((vec!["email"], format!("`{}` is not an e-mail address", self.email)));
        }
        if !self.ca_server.starts_with("https://") && !self.ca_server.starts_with("http://") {
            let message = format!("`{}` is no URL: expected one like `{LETS_ENCRYPT}`", self.ca_server);
            wrong.push((vec!["caServer"], message));
        }
        if self.certificates_duration == 0 {
            wrong.push((vec!["certificatesDuration"], "expected a number of hours above 0".to_owned()));
        }
        if self.eab.as_ref().is_some_and(|eab| eab.kid.is_empty() || eab.hmac_encoded.is_empty()) {
            wrong.push((vec!["eab"], "`kid` and `hmacEncoded` go together".to_owned()));
        }
        wrong.extend(self.wrong_challenge(is_entry_point));
        if let Some(demand) = &self.on_demand {
            if url::Url::parse(&demand.ask).map_or(true, |ask| !ask.has_host()) {
                let message =
                    format!("`{}` is no URL: somebody must say which names are allowed", demand.ask);
                wrong.push((vec!["onDemand", "ask"], message));
            }
            if demand.limit == 0 {
                wrong.push((vec!["onDemand", "limit"], "expected a number of names above 0".to_owned()));
            }
        }
        wrong
    }

    fn wrong_challenge(&self, is_entry_point: impl Fn(&str) -> bool) -> Option<(Vec<&'static str>, String)> {
        if let Some(dns) = &self.dns_challenge {
            return crate::check_dns(dns).err().map(|error| (vec!["dnsChallenge"], error.to_string()));
        }
        if let Some(http) = &self.http_challenge {
            let name = http.entry_point.as_str();
            if is_entry_point(name) {
                return None;
            }
            let message = match name {
                "" => "is required: the entry point that is reached at port 80".to_owned(),
                other => format!("there is no entry point `{other}`"),
            };
            return Some((vec!["httpChallenge", "entryPoint"], message));
        }
        self.tls_challenge.is_none().then(|| {
            let message = "no way to prove names: expected `httpChallenge`, `tlsChallenge` or `dnsChallenge`";
            (Vec::new(), message.to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_files_or_in_consul() {
        let acme = |storage: &str| Acme { storage: storage.to_owned(), ..Acme::default() };
        for (storage, place) in [
            ("/data/acme.json", None),
            ("consul://h:8500/a/b/", Some(("h:8500", "a/b"))),
            ("consul://h", Some(("h", "tidegate/acme"))),
            ("consul:///own", Some(("", "own"))),
            ("consul://[::1]:8500", Some(("[::1]:8500", "tidegate/acme"))),
        ] {
            assert_eq!(acme(storage).consul_place(), place, "{storage}");
            assert_eq!(acme(storage).wrong_storage(), None, "{storage}");
        }
        for (storage, option) in [("", "storage"), ("etcd://h", "storage"), ("consul://t@h", "storage")] {
            assert_eq!(acme(storage).wrong_storage().map(|(at, _)| at), Some(option), "{storage}");
        }
        let mut file = acme("acme.json");
        file.consul.cache = "c.json".into();
        assert_eq!(file.wrong_storage().map(|(at, _)| at), Some("consul"));
    }
}
