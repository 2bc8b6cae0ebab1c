//! Verifies the certificates of servers.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Verifies the chain, if there are roots, and then the URI in the certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) chain: Option<Arc<WebPkiServerVerifier>>,
    /// Roots to verify the chain without the name.
    pub(super) nameless: Option<Arc<RootCertStore>>,
    /// The configured roots. A server may present one of them without a chain, as with self-signed
    /// certificates.
    pub(super) pinned: Vec<CertificateDer<'static>>,
    pub(super) provider: Arc<CryptoProvider>,
    /// Empty for none.
    pub(super) uri: String,
}

impl Verifier {
    /// Verifies the name and validity period of a certificate that is a configured root.
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
        Err(rustls::Error::General(format!("the server's certificate does not have the URI `{}`", self.uri)))
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
