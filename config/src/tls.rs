//! Certificates, stores and TLS options.

use serde::{Deserialize, Serialize};
pub use tidegate_core::tls_version::TlsVersion;
use tidegate_core::values::is_default;
use tidegate_core::word::{Vocabulary, Word};

use crate::Map;
use crate::revocation::Revocation;

/// The `tls` part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// Options by name; `default` applies where none are named.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub options: Map<TlsOptions>,
    /// Stores; only `default` is used.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub stores: Map<Store>,
}

/// A certificate and its key, as paths or PEM.
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
    /// The stores that contain it; `default` if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
}

/// A store of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Store {
    /// Used for clients whose server name matches no certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_certificate: Option<CertificateFiles>,
    /// The default certificate from a resolver.
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

/// How to negotiate TLS with clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TlsOptions {
    /// Minimum version.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub min_version: Word<TlsVersion>,
    /// Maximum version.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub max_version: Word<TlsVersion>,
    /// Cipher suites for TLS 1.2, by their names in Go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Key exchange groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve_preferences: Vec<Word<Curve>>,
    /// Client certificates.
    #[serde(skip_serializing_if = "is_default")]
    pub client_auth: ClientAuth,
    /// Refuses server names that match no certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub sni_strict: bool,
    /// ALPN protocols to offer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn_protocols: Vec<String>,
    /// Disables resumption with session tickets.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_session_tickets: bool,
    /// Deprecated in Traefik and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_server_cipher_suites: Option<bool>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            min_version: Word::EMPTY,
            max_version: Word::EMPTY,
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

/// Client certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientAuth {
    /// Authorities to trust: paths or PEM.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_files: Vec<String>,
    /// Which certificates clients need; if empty, `RequireAndVerifyClientCert` with `ca_files` and
    /// `NoClientCert` without.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub client_auth_type: Word<ClientAuthType>,
    /// Whether verified certificates are revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Box<Revocation>>,
}

/// Which certificates clients need, by Go's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthType {
    /// None.
    NoClientCert,
    /// An optional certificate that is not verified.
    RequestClientCert,
    /// A certificate that is not verified.
    RequireAnyClientCert,
    /// An optional certificate.
    VerifyClientCertIfGiven,
    /// A certificate.
    RequireAndVerifyClientCert,
}

impl Vocabulary for ClientAuthType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("NoClientCert", Self::NoClientCert),
        ("RequestClientCert", Self::RequestClientCert),
        ("RequireAnyClientCert", Self::RequireAnyClientCert),
        ("VerifyClientCertIfGiven", Self::VerifyClientCertIfGiven),
        ("RequireAndVerifyClientCert", Self::RequireAndVerifyClientCert),
    ];
}

/// A key exchange group, by Go's name or its standard one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// `CurveP256` or `secp256r1`.
    P256,
    /// `CurveP384` or `secp384r1`.
    P384,
    /// `CurveP521` or `secp521r1`, which is not supported.
    P521,
    /// `X25519` or `x25519`.
    X25519,
    /// `X25519MLKEM768`.
    X25519MlKem768,
    /// `SecP256r1MLKEM768`.
    P256MlKem768,
    /// `SecP384r1MLKEM1024`, which is not supported.
    P384MlKem1024,
}

impl Vocabulary for Curve {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("CurveP256", Self::P256),
        ("secp256r1", Self::P256),
        ("CurveP384", Self::P384),
        ("secp384r1", Self::P384),
        ("CurveP521", Self::P521),
        ("secp521r1", Self::P521),
        ("X25519", Self::X25519),
        ("x25519", Self::X25519),
        ("X25519MLKEM768", Self::X25519MlKem768),
        ("SecP256r1MLKEM768", Self::P256MlKem768),
        ("SecP384r1MLKEM1024", Self::P384MlKem1024),
    ];
}
