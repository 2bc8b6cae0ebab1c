//! Builds `tls.options` into a server configuration: versions, cipher suites, groups, protocols, client
//! certificates.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use tidegate_clients::tls::is_signalling;
use tidegate_config::tls::{Curve, TlsOptions, TlsVersion};
use tidegate_core::word::UnknownWord;
use tidegate_core::{BuildError, BuildErrors};

use super::certificates::Certificates;
use super::chooser::Chooser;
use super::client_auth::Authentication;
use super::obtained::Obtained;
use super::ocsp::Stapling;
use super::revocation::{Checks, Sources};
use super::tickets::ClientTickets;
use super::{ReadFile, client_auth};

/// The built options.
pub(super) struct Built {
    pub(super) config: ServerConfig,
    /// A digest of their meaning: options with equal digests are equivalent for clients.
    pub(super) content: [u8; 32],
    /// Whether client certificates are verified against CAs.
    pub(super) verifies_clients: bool,
    /// Whether client certificates are revoked, if that is checked.
    pub(super) checks: Option<Arc<Checks>>,
    /// Warnings about values that are ignored.
    pub(super) warnings: Vec<String>,
}

/// Validates options and builds the server configuration. `ticketer` returns the ticket keys of a client
/// authentication domain.
pub(super) fn server_config(
    options: &TlsOptions,
    (certificates, obtained): (&Arc<Certificates>, &Arc<Obtained>),
    file: &mut ReadFile<'_>,
    sources: &mut Sources,
    ticketer: impl FnOnce(String) -> Arc<dyn ProducesTickets>,
) -> Result<Built, BuildError> {
    let mut warnings = Vec::new();
    let mut errors = BuildErrors::default();
    let versions = errors.check(versions(options, &mut warnings));
    let has_13 = versions.as_ref().is_none_or(|versions| versions.contains(&&TLS13));
    let suites = errors.check(cipher_suites(options, has_13, &mut warnings));
    let groups = errors.check(groups(options, &mut warnings));
    let authentication = errors.check(client_auth::authentication(&options.client_auth, file, sources));
    let parts = errors.made(versions.zip(suites).zip(groups).zip(authentication))?;
    let (((versions, cipher_suites), kx_groups), Authentication { verifier, domain, checks, warnings: told }) =
        parts;
    warnings.extend(told);
    let provider =
        CryptoProvider { cipher_suites, kx_groups, ..rustls::crypto::aws_lc_rs::default_provider() };
    let resolver = Chooser {
        certificates: certificates.clone(),
        obtained: obtained.clone(),
        strict: options.sni_strict,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)
        .map_err(|error| BuildError::new(format!("incompatible versions and cipher suites: {error}")))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Stapling { chooser: resolver, staples: certificates.staples.clone() }));
    let defaults = TlsOptions::default();
    // As in Traefik, an empty list means the default.
    let given = Some(&options.alpn_protocols).filter(|given| !given.is_empty());
    config.alpn_protocols = given
        .unwrap_or(&defaults.alpn_protocols)
        .iter()
        // Accepting the challenge protocol without a challenge would mislead a CA.
        .filter(|protocol| *protocol != "acme-tls/1")
        .map(|protocol| protocol.clone().into_bytes())
        .collect();
    let content = content(options, &versions, &config, &domain);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    let verifies_clients = client_auth::is_verified(&options.client_auth);
    if !options.disable_session_tickets {
        let tickets = ticketer(domain);
        config.ticketer = if verifies_clients {
            Arc::new(ClientTickets { tickets, checks: checks.clone() })
        } else {
            tickets
        };
    }
    Ok(Built { config, content, verifies_clients, checks, warnings })
}

/// Returns the digest of options.
fn content(
    options: &TlsOptions,
    versions: &[&'static SupportedProtocolVersion],
    config: &ServerConfig,
    domain: &str,
) -> [u8; 32] {
    let versions: Vec<_> = versions.iter().map(|version| version.version).collect();
    let provider = config.crypto_provider();
    let suites: Vec<_> = provider.cipher_suites.iter().map(SupportedCipherSuite::suite).collect();
    let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
    let flags = (options.sni_strict, options.disable_session_tickets);
    let said = format!("{:?}", (versions, suites, groups, &config.alpn_protocols, flags, domain));
    Sha256::digest(said).into()
}

fn versions(
    options: &TlsOptions,
    warnings: &mut Vec<String>,
) -> Result<Vec<&'static SupportedProtocolVersion>, BuildError> {
    let unknown = |option: &str, error: UnknownWord| {
        format!("unknown {option} `{}`: expected VersionTLS12 or VersionTLS13", error.written)
    };
    let min = options.min_version.meaning().map_err(|error| BuildError::new(unknown("minVersion", error)))?;
    // TLS 1.0 and 1.1 are not supported (RFC 8996): an older minimum means 1.2.
    let min = min.map_or(TlsVersion::Tls12, |min| min.max(TlsVersion::Tls12));
    let max = options.max_version.meaning().unwrap_or_else(|error| {
        // Ignoring it allows only stronger versions.
        warnings.push(format!("{}; ignored", unknown("maxVersion", error)));
        None
    });
    let max = max.unwrap_or(TlsVersion::Tls13);
    if max < min {
        return Err(BuildError::new(format!(
            "maxVersion {} is below the minimum version (minVersion, or at least VersionTLS12)",
            options.max_version
        )));
    }
    Ok([(TlsVersion::Tls12, &TLS12), (TlsVersion::Tls13, &TLS13)]
        .into_iter()
        .filter(|(v, _)| (min..=max).contains(v))
        .map(|(_, v)| v)
        .collect())
}

/// Returns true for an IANA name of a suite for TLS 1.2 or older, supported or not.
fn is_legacy_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    name.starts_with("TLS_") && name.contains("_WITH_") && name.bytes().all(allowed)
}

/// Go's names of weak suites, which rustls does not support.
const WEAK_SUITES: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

fn cipher_suites(
    options: &TlsOptions,
    has_13: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<SupportedCipherSuite>, BuildError> {
    let is_13 = |suite: &SupportedCipherSuite| suite.version() == &TLS13;
    if options.cipher_suites.is_empty() {
        return Ok(ALL_CIPHER_SUITES.to_vec());
    }
    // As in Traefik, this option does not apply to TLS 1.3 suites.
    let mut suites: Vec<_> = ALL_CIPHER_SUITES.iter().filter(|s| is_13(s)).copied().collect();
    let before = suites.len();
    for name in &options.cipher_suites {
        // Go also has short names of the ChaCha20 suites.
        let wanted = name
            .strip_suffix("CHACHA20_POLY1305")
            .map_or_else(|| name.clone(), |start| format!("{start}CHACHA20_POLY1305_SHA256"));
        match ALL_CIPHER_SUITES.iter().find(|suite| go_name(suite) == wanted) {
            Some(suite) if is_13(suite) => {}
            Some(suite) => suites.push(*suite),
            None if is_signalling(name) => {
                warnings.push(format!("cipherSuites: `{name}` is a signalling value: ignored"));
            }
            None if WEAK_SUITES.contains(&name.as_str()) => {
                warnings.push(format!("cipherSuites: `{name}` is weak and not supported: ignored"));
            }
            // Ignoring it never allows more suites.
            None if is_legacy_name(name) => {
                warnings.push(format!("cipherSuites: `{name}` is unknown or not supported: ignored"));
            }
            None => return Err(BuildError::new(format!("cipherSuites: unknown suite `{name}`"))),
        }
    }
    if suites.len() == before && !has_13 {
        let why = if warnings.is_empty() { String::new() } else { format!(" ({})", warnings.join("; ")) };
        return Err(BuildError::new(format!("cipherSuites: no supported suite{why}")));
    }
    Ok(suites)
}

/// Returns the name of a suite in Go and IANA.
pub(super) fn go_name(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or("").to_owned();
    name.strip_prefix("TLS13_").map(|rest| format!("TLS_{rest}")).unwrap_or(name)
}

fn groups(
    options: &TlsOptions,
    warnings: &mut Vec<String>,
) -> Result<Vec<&'static dyn SupportedKxGroup>, BuildError> {
    if options.curve_preferences.is_empty() {
        return Ok(rustls::crypto::aws_lc_rs::DEFAULT_KX_GROUPS.to_vec());
    }
    let mut groups = Vec::new();
    for name in &options.curve_preferences {
        groups.push(match name.known() {
            Some(Curve::P256) => kx_group::SECP256R1,
            Some(Curve::P384) => kx_group::SECP384R1,
            Some(Curve::X25519) => kx_group::X25519,
            Some(Curve::X25519MlKem768) => kx_group::X25519MLKEM768,
            Some(Curve::P256MlKem768) => kx_group::SECP256R1MLKEM768,
            Some(Curve::P521 | Curve::P384MlKem1024) => {
                warnings.push(format!("curvePreferences: `{name}` is not supported: ignored"));
                continue;
            }
            None => return Err(BuildError::new(format!("curvePreferences: unknown curve `{name}`"))),
        });
    }
    if groups.is_empty() {
        // Use the strongest supported curve, as weaker ones would have been listed.
        warnings.push("curvePreferences: no supported curve: using CurveP384".to_owned());
        groups.push(kx_group::SECP384R1);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: &TlsOptions) -> Result<ServerConfig, BuildError> {
        let ticketer = |_| rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        built(options, ticketer).map(|built| built.config)
    }

    fn built(
        options: &TlsOptions,
        ticketer: impl FnOnce(String) -> Arc<dyn ProducesTickets>,
    ) -> Result<Built, BuildError> {
        let around = (&Arc::default(), &Arc::default());
        server_config(options, around, &mut |_| unreachable!(), &mut Sources::default(), ticketer)
    }

    fn error(options: &TlsOptions) -> String {
        config(options).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_modern() {
        let config = config(&TlsOptions::default()).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        let empty = TlsOptions { alpn_protocols: Vec::new(), ..TlsOptions::default() };
        assert_eq!(super::tests::config(&empty).unwrap().alpn_protocols, config.alpn_protocols);
        assert_eq!(config.max_early_data_size, 0);
        assert!(config.ticketer.enabled());
    }

    #[test]
    fn unknown_versions_and_names_are_rejected() {
        let with = |change: fn(&mut TlsOptions)| {
            let mut options = TlsOptions::default();
            change(&mut options);
            options
        };
        assert!(config(&with(|o| o.min_version = "VersionTLS10".into())).is_ok());
        assert!(error(&with(|o| o.min_version = "TLS12".into())).contains("minVersion `TLS12`"));
        assert!(error(&with(|o| o.max_version = "VersionTLS11".into())).contains("maxVersion"));
        assert!(error(&with(|o| o.cipher_suites = vec!["TLS_NONE".into()])).contains("TLS_NONE"));
        assert!(error(&with(|o| o.curve_preferences = vec!["X448".into()])).contains("X448"));
        let strong = config(&with(|o| o.curve_preferences = vec!["CurveP521".into()])).unwrap();
        let groups: Vec<_> = strong.crypto_provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [rustls::NamedGroup::secp384r1]);
        assert!(config(&with(|o| o.min_version = "versiontls13".into())).is_ok());
        assert!(config(&with(|o| o.max_version = "VersionTLS99".into())).is_ok());
        let narrow = with(|o| {
            o.max_version = "VersionTLS12".into();
            o.cipher_suites = vec!["TLS_RSA_WITH_AES_128_CBC_SHA".into()];
        });
        assert!(error(&narrow).contains("cipherSuites"));
        let fine = with(|o| {
            o.cipher_suites = vec![
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".into(),
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256".into(),
            ];
        });
        let config = config(&fine).unwrap();
        let names: Vec<_> = config.crypto_provider().cipher_suites.iter().map(go_name).collect();
        assert!(names.contains(&"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256".to_owned()), "{names:?}");
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn unsupported_suites_are_ignored() {
        let mozilla = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_FALLBACK_SCSV"];
        let legacy = ["TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"];
        let mut options = TlsOptions {
            cipher_suites: mozilla.iter().chain(&legacy).map(|name| (*name).to_owned()).collect(),
            ..TlsOptions::default()
        };
        let ticketer = |_| rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let built = built(&options, ticketer).map_err(|error| error.to_string()).unwrap();
        assert_eq!(built.config.crypto_provider().cipher_suites.len(), 4);
        assert_eq!(built.warnings.len(), 3, "{:?}", built.warnings);
        assert!(built.warnings[0].contains("`TLS_FALLBACK_SCSV` is a signalling value"));
        // Without a supported suite, the options are invalid.
        options.cipher_suites.remove(0);
        let only_13 = config(&options).unwrap();
        assert_eq!(only_13.crypto_provider().cipher_suites.len(), 3);
        options.max_version = "VersionTLS12".into();
        assert!(error(&options).contains("no supported suite"));
    }

    #[test]
    fn session_tickets_can_be_disabled() {
        let options = TlsOptions { disable_session_tickets: true, ..TlsOptions::default() };
        assert!(!config(&options).unwrap().ticketer.enabled());
    }
}
