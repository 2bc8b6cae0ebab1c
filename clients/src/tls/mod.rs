//! TLS client configuration: roots, client certificates, versions, cipher suites, and server identity.

mod error;
mod identities;
mod verifier;

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tidegate_core::tls_version::TlsVersion;

pub use error::{Part, TlsError};
use identities::Identities;
use verifier::Verifier;

/// TLS options with the content of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM of roots to trust instead of the system's.
    pub roots: Vec<Vec<u8>>,
    /// Trusts the system's roots in addition to `roots`.
    pub system_roots: bool,
    /// PEM of client certificate chains and keys.
    pub identities: Vec<(Vec<u8>, Vec<u8>)>,
    /// Accept any certificate.
    pub insecure: bool,
    /// Go's names of TLS 1.2 cipher suites; empty for all.
    pub cipher_suites: Vec<String>,
    /// Minimum version; `None` for TLS 1.2.
    pub min_version: Option<TlsVersion>,
    /// Maximum version; `None` for TLS 1.3.
    pub max_version: Option<TlsVersion>,
    /// A URI that the server's certificate must have; empty for none.
    pub peer_cert_uri: String,
}

impl TlsOptions {
    /// Reads options with one file of roots and one identity, each given as a path or inline PEM. Empty means
    /// none.
    pub fn read(ca: &str, cert: &str, key: &str) -> Result<Self, TlsError> {
        let identities = match (cert, key) {
            ("", "") => Vec::new(),
            ("", _) => return Err(TlsError::HalfIdentity(Part::Certificate)),
            (_, "") => return Err(TlsError::HalfIdentity(Part::Key)),
            (cert, key) => vec![(pem(Part::Certificate, cert)?, pem(Part::Key, key)?)],
        };
        let roots = if ca.is_empty() { Vec::new() } else { vec![pem(Part::Roots, ca)?] };
        Ok(Self { roots, identities, ..Self::default() })
    }

    /// Validates the options, without reading the system's roots.
    pub fn check(&self) -> Result<(), TlsError> {
        self.provider()?;
        self.versions()?;
        for (chain, key) in &self.identities {
            certificates(Part::Certificate, chain)?;
            private_key(key)?;
        }
        Ok(())
    }

    /// Builds a configuration without ALPN protocols.
    pub fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(self.provider()?);
        let versions = self.versions()?;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(TlsError::Protocol)?;
        let verifier = self.verifier(&provider)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let identity = |(chain, key): &(Vec<u8>, Vec<u8>)| {
            Ok((certificates(Part::Certificate, chain)?, private_key(key)?))
        };
        Ok(match self.identities.as_slice() {
            [] => builder.with_no_client_auth(),
            [one] => {
                let (chain, key) = identity(one)?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Identity)?
            }
            several => {
                let mut identities = Vec::new();
                for one in several {
                    let (chain, key) = identity(one)?;
                    let key = CertifiedKey::from_der(chain, key, &provider);
                    identities.push(Arc::new(key.map_err(TlsError::Identity)?));
                }
                builder.with_client_cert_resolver(Arc::new(Identities(identities)))
            }
        })
    }

    fn provider(&self) -> Result<CryptoProvider, TlsError> {
        let mut provider = aws_lc_rs::default_provider();
        if self.cipher_suites.is_empty() {
            return Ok(provider);
        }
        let mut wanted = Vec::new();
        for name in self.cipher_suites.iter().filter(|name| !is_signalling(name)) {
            let canonical = go_suite(name);
            let suite = provider
                .cipher_suites
                .iter()
                .find(|suite| format!("{:?}", suite.suite()) == canonical)
                .ok_or_else(|| TlsError::CipherSuite(name.clone()))?;
            wanted.push(*suite);
        }
        // As in Go, the list applies only to TLS 1.2.
        wanted.extend(provider.cipher_suites.iter().filter(|s| s.tls13().is_some()).copied());
        provider.cipher_suites = wanted;
        Ok(provider)
    }

    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
        let min = self.min_version.unwrap_or(TlsVersion::Tls12);
        let max = self.max_version.unwrap_or(TlsVersion::Tls13);
        let supported =
            [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)];
        let versions: Vec<_> = supported
            .into_iter()
            .filter(|(version, _)| (min..=max).contains(version))
            .map(|(_, version)| version)
            .collect();
        if versions.is_empty() {
            return Err(TlsError::NoVersion { min, max });
        }
        Ok(versions)
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        // As in Traefik, with a URI `insecureSkipVerify` only disables verification of the name, not of the
        // chain.
        let roots = match self.insecure && self.peer_cert_uri.is_empty() {
            true => None,
            false => Some(self.trusted()?),
        };
        let (chain, nameless) = match roots {
            Some(roots) if !self.insecure => {
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .map_err(TlsError::Verifier)?;
                if self.peer_cert_uri.is_empty() && self.roots.is_empty() {
                    return Ok(verifier);
                }
                (Some(verifier), None)
            }
            nameless => (None, nameless),
        };
        let mut pinned = Vec::new();
        for pem in &self.roots {
            pinned.extend(certificates(Part::Roots, pem)?);
        }
        let (provider, uri) = (provider.clone(), self.peer_cert_uri.clone());
        Ok(Arc::new(Verifier { chain, nameless, pinned, provider, uri }))
    }

    fn trusted(&self) -> Result<Arc<RootCertStore>, TlsError> {
        if self.roots.is_empty() {
            return system_roots();
        }
        let mut store = match self.system_roots {
            true => RootCertStore::clone(&*system_roots()?),
            false => RootCertStore::empty(),
        };
        for pem in &self.roots {
            // As in Go, certificates in bundles that cannot be roots are skipped.
            let (mut added, mut refused) = (0, None);
            for certificate in certificates(Part::Roots, pem)? {
                match store.add(certificate) {
                    Ok(()) => added += 1,
                    Err(error) => refused = Some(error),
                }
            }
            if let (0, Some(error)) = (added, refused) {
                return Err(TlsError::Root(error));
            }
        }
        Ok(Arc::new(store))
    }
}

/// Returns the system's roots, which are read once.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut store = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::debug!("system certificates: {error}");
        }
        store.add_parsable_certificates(loaded.certs);
        Arc::new(store)
    });
    if roots.is_empty() { Err(TlsError::NoSystemRoots) } else { Ok(roots.clone()) }
}

/// Reads a PEM file, unless the text is inline PEM.
fn pem(part: Part, text: &str) -> Result<Vec<u8>, TlsError> {
    if is_pem(text) {
        return Ok(text.as_bytes().to_vec());
    }
    std::fs::read(text).map_err(|source| TlsError::File { part, path: text.to_owned(), source })
}

/// Returns true for inline PEM, which options accept instead of a path.
pub fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN")
}

fn certificates(part: Part, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::CertificatePem { part, source })?;
    if found.is_empty() { Err(TlsError::NoCertificate(part)) } else { Ok(found) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(TlsError::Key)
}

/// Signalling values in the list of cipher suites of a ClientHello (RFC 7507, RFC 5746).
const SIGNALLING: [&str; 2] = ["TLS_FALLBACK_SCSV", "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"];

/// Returns true for a signalling cipher suite value.
pub fn is_signalling(name: &str) -> bool {
    SIGNALLING.contains(&name)
}

/// Returns Go's name of a suite: rustls adds a prefix to TLS 1.3 suites, and Go shortens two names.
fn go_suite(name: &str) -> String {
    match name {
        "TLS_AES_128_GCM_SHA256" | "TLS_AES_256_GCM_SHA384" | "TLS_CHACHA20_POLY1305_SHA256" => {
            name.replacen("TLS_", "TLS13_", 1)
        }
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => {
            format!("{name}_SHA256")
        }
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem()
    }

    #[test]
    fn invalid_options_name_their_part() {
        let good = TlsOptions {
            roots: vec![root().into_bytes()],
            min_version: Some(TlsVersion::Tls12),
            cipher_suites: vec![
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".into(),
                "TLS_AES_128_GCM_SHA256".into(),
                "TLS_FALLBACK_SCSV".into(),
            ],
            ..TlsOptions::default()
        };
        assert!(good.check().is_ok());
        assert!(good.client_config().unwrap().alpn_protocols.is_empty());
        let half = (root().into_bytes(), b"junk".to_vec());
        for (bad, part, text) in [
            (
                TlsOptions { max_version: Some(TlsVersion::Tls11), ..good.clone() },
                Part::Protocol,
                "maxVersion `VersionTLS11` leave neither",
            ),
            (TlsOptions { cipher_suites: vec!["RC4".into()], ..good.clone() }, Part::Protocol, "`RC4`"),
            (TlsOptions { roots: vec![b"junk".to_vec()], ..good.clone() }, Part::Roots, "no PEM certificate"),
            (TlsOptions { identities: vec![half], ..good }, Part::Key, "private key"),
        ] {
            let error = bad.client_config().unwrap_err();
            assert!(error.part() == part && error.to_string().contains(text), "{error:?}");
        }
    }

    #[test]
    fn certificates_that_cannot_be_roots_are_skipped_beside_valid_ones() {
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let both = TlsOptions { roots: vec![format!("{junk}{}", root()).into()], ..TlsOptions::default() };
        assert_eq!(both.trusted().unwrap().len(), 1);
        let alone = TlsOptions { roots: vec![junk.into()], ..TlsOptions::default() };
        assert!(matches!(alone.trusted(), Err(TlsError::Root(_))));
    }

    #[test]
    fn files_and_pem_are_read() {
        let pem = root();
        let options = TlsOptions::read(&pem, "", "").unwrap();
        assert_eq!(options.roots, [pem.as_bytes()]);
        let part = |ca, cert, key| TlsOptions::read(ca, cert, key).unwrap_err().part();
        assert_eq!(part("/nowhere/ca.pem", "", ""), Part::Roots);
        assert_eq!(part("", &pem, ""), Part::Key);
        assert_eq!(part("", "", &pem), Part::Certificate);
        assert_eq!(part("", &pem, "/nowhere/key.pem"), Part::Key);
    }
}
