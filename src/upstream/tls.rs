//! TLS towards servers: roots, our certificates, versions and suites, and what a server's certificate must carry.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tidegate_core::BuildError;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::identities::Identities;

/// Options of TLS, files read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    /// PEM of roots to trust instead of the system's.
    pub(crate) roots: Vec<Vec<u8>>,
    /// PEM of our certificate chains and keys.
    pub(crate) identities: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) insecure: bool,
    pub(crate) cipher_suites: Vec<String>,
    pub(crate) min_version: String,
    pub(crate) max_version: String,
    pub(crate) peer_cert_uri: String,
    pub(crate) http2: bool,
}

/// The two configurations of a transport: one that offers HTTP/2, one that does not (for upgrades).
pub(super) struct Configs {
    pub(super) any: Arc<ClientConfig>,
    pub(super) http1: Arc<ClientConfig>,
}

impl TlsOptions {
    /// Checks everything that needs no roots.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        self.provider()?;
        self.versions()?;
        for (chain, key) in &self.identities {
            certificates(chain)?;
            private_key(key)?;
        }
        Ok(())
    }

    /// Builds both configurations.
    pub(super) fn build(&self) -> Result<Configs, BuildError> {
        let provider = Arc::new(self.provider()?);
        let versions = self.versions()?;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|e| BuildError::new(format!("TLS versions and cipher suites do not fit: {e}")))?;
        let verifier = self.verifier(&provider)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let unusable = |e| BuildError::new(format!("client certificate: {e}"));
        let mut config = match self.identities.as_slice() {
            [] => builder.with_no_client_auth(),
            [(chain, key)] => {
                builder.with_client_auth_cert(certificates(chain)?, private_key(key)?).map_err(unusable)?
            }
            several => {
                let mut identities = Vec::new();
                for (chain, key) in several {
                    let key = CertifiedKey::from_der(certificates(chain)?, private_key(key)?, &provider);
                    identities.push(Arc::new(key.map_err(unusable)?));
                }
                builder.with_client_cert_resolver(Arc::new(Identities(identities)))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        if self.http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        Ok(Configs { any: Arc::new(config), http1 })
    }

    /// Builds a configuration that offers no protocol by ALPN, for servers that do not speak HTTP.
    pub(crate) fn without_protocols(&self) -> Result<Arc<ClientConfig>, BuildError> {
        let mut config = Arc::unwrap_or_clone(self.build()?.http1);
        config.alpn_protocols.clear();
        Ok(Arc::new(config))
    }

    fn provider(&self) -> Result<CryptoProvider, BuildError> {
        let mut provider = aws_lc_rs::default_provider();
        if self.cipher_suites.is_empty() {
            return Ok(provider);
        }
        let mut wanted = Vec::new();
        let suites = self.cipher_suites.iter().filter(|name| !crate::tls::is_signalling(name));
        for name in suites {
            let canonical = go_suite(name);
            let suite = provider
                .cipher_suites
                .iter()
                .find(|suite| format!("{:?}", suite.suite()) == canonical)
                .ok_or_else(|| BuildError::new(format!("cipherSuites: `{name}` is not supported")))?;
            wanted.push(*suite);
        }
        // As in Go, the list governs TLS 1.2 only.
        wanted.extend(provider.cipher_suites.iter().filter(|s| s.tls13().is_some()).copied());
        provider.cipher_suites = wanted;
        Ok(provider)
    }

    fn versions(&self) -> Result<Vec<&'static rustls::SupportedProtocolVersion>, BuildError> {
        let number = |option: &str, text: &str, unset: u8| match text {
            "" => Ok(unset),
            "VersionTLS10" => Ok(10),
            "VersionTLS11" => Ok(11),
            "VersionTLS12" => Ok(12),
            "VersionTLS13" => Ok(13),
            other => Err(BuildError::new(format!(
                "{option}: `{other}` is none of VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13"
            ))),
        };
        let min = number("minVersion", &self.min_version, 12)?;
        let max = number("maxVersion", &self.max_version, 13)?;
        let versions: Vec<_> = [(12, &rustls::version::TLS12), (13, &rustls::version::TLS13)]
            .into_iter()
            .filter(|(version, _)| (min..=max).contains(version))
            .map(|(_, version)| version)
            .collect();
        if versions.is_empty() {
            return Err(BuildError::new(format!(
                "minVersion `{}` and maxVersion `{}` leave neither TLS 1.2 nor TLS 1.3",
                self.min_version, self.max_version
            )));
        }
        Ok(versions)
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, BuildError> {
        let chain: Option<Arc<WebPkiServerVerifier>> = if self.insecure {
            None
        } else {
            let roots = if self.roots.is_empty() { system_roots()? } else { Arc::new(self.own_roots()?) };
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|e| BuildError::new(format!("rootCAs: {e}")))?;
            if self.peer_cert_uri.is_empty() && self.roots.is_empty() {
                return Ok(verifier);
            }
            Some(verifier)
        };
        let mut pinned = Vec::new();
        for pem in &self.roots {
            pinned.extend(certificates(pem)?);
        }
        // As in Traefik: with a URI, `insecureSkipVerify` gives up the name, but not who has signed the certificate.
        let nameless = match (self.insecure, self.peer_cert_uri.is_empty(), self.roots.is_empty()) {
            (true, false, true) => Some(system_roots()?),
            (true, false, false) => Some(Arc::new(self.own_roots()?)),
            _ => None,
        };
        let (provider, uri) = (provider.clone(), self.peer_cert_uri.clone());
        Ok(Arc::new(Verifier { chain, nameless, pinned, provider, uri }))
    }

    fn own_roots(&self) -> Result<RootCertStore, BuildError> {
        let mut store = RootCertStore::empty();
        for pem in &self.roots {
            for certificate in certificates(pem)? {
                store.add(certificate).map_err(|e| BuildError::new(format!("rootCAs: {e}")))?;
            }
        }
        Ok(store)
    }
}

/// The system's roots, read once.
fn system_roots() -> Result<Arc<RootCertStore>, BuildError> {
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
    if roots.is_empty() {
        return Err(BuildError::new("this system has no trusted root certificates: set `rootCAs`"));
    }
    Ok(roots.clone())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| BuildError::new(format!("certificate is no PEM: {e}")))?;
    if found.is_empty() {
        return Err(BuildError::new("no certificate in PEM form found"));
    }
    Ok(found)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, BuildError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| BuildError::new(format!("private key: {e}")))
}

/// rustls' name of a suite by Go's: TLS 1.3 suites have a prefix of their own, two have a shorter spelling.
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

/// Verifies the chain unless told not to, and then the URI that the certificate must carry.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Roots that must have signed the certificate, whatever its name.
    nameless: Option<Arc<RootCertStore>>,
    /// The given roots. A server that shows one of them needs no chain: servers sign their own certificates.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    uri: String,
}

impl Verifier {
    /// Verifies a certificate that is itself a given root: its name and its time.
    fn verify_pinned(
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
        rustls::client::verify_server_name(&parsed, name)?;
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        match () {
            () if now < validity.not_before.timestamp() => {
                Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYet))
            }
            () if now > validity.not_after.timestamp() => {
                Err(rustls::Error::InvalidCertificate(CertificateError::Expired))
            }
            () => Ok(()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(chain) = &self.chain {
            if self.pinned.contains(certificate) {
                Self::verify_pinned(certificate, name, now)?;
            } else {
                chain.verify_server_cert(certificate, intermediates, name, ocsp, now)?;
            }
        }
        if let Some(roots) = &self.nameless {
            let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &parsed,
                roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if self.uri.is_empty() || has_uri(certificate, &self.uri) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General(format!("the server's certificate does not carry the URI `{}`", self.uri)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn has_uri(certificate: &CertificateDer<'_>, uri: &str) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(found) if *found == uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots() -> Vec<Vec<u8>> {
        vec![rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem().into_bytes()]
    }

    #[test]
    fn options_build_or_say_what_is_wrong() {
        let good = TlsOptions {
            roots: roots(),
            http2: true,
            min_version: "VersionTLS12".into(),
            cipher_suites: vec![
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".into(),
                "TLS_AES_128_GCM_SHA256".into(),
            ],
            ..TlsOptions::default()
        };
        let configs = good.build().unwrap();
        assert_eq!(configs.any.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(configs.http1.alpn_protocols, [b"http/1.1".to_vec()]);
        for (bad, part) in [
            (TlsOptions { min_version: "1.2".into(), ..good.clone() }, "minVersion"),
            (TlsOptions { max_version: "VersionTLS11".into(), ..good.clone() }, "leave neither"),
            (TlsOptions { cipher_suites: vec!["RC4".into()], ..good.clone() }, "`RC4`"),
            (TlsOptions { roots: vec![b"junk".to_vec()], ..good.clone() }, "no certificate"),
            (TlsOptions { identities: vec![(roots().remove(0), b"junk".to_vec())], ..good }, "private key"),
        ] {
            let error = bad.build().map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_uri_in_the_certificate_is_found() {
        let mut params = rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI("spiffe://td/web".try_into().unwrap()));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert!(has_uri(certificate.der(), "spiffe://td/web"));
        assert!(!has_uri(certificate.der(), "spiffe://td/other"));
        assert!(!has_uri(certificate.der(), "spiffe://other/web"));
    }
}
