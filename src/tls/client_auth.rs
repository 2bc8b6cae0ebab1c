//! Client certificates: the five modes of Traefik's `clientAuthType`.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tidegate_config::tls::{ClientAuth, ClientAuthType};
use tidegate_core::BuildError;
use tidegate_core::word::UnknownWord;

use super::certificates::parse_chain;
use super::revocation::{Checks, Sources, Trusted};
use super::{ReadFile, label, pem_or_file};

/// Returns true if clients must present a certificate.
pub(super) fn is_required(options: &ClientAuth) -> bool {
    use ClientAuthType::{RequireAndVerifyClientCert, RequireAnyClientCert};
    matches!(kind(options), Ok(RequireAnyClientCert | RequireAndVerifyClientCert))
}

/// Returns true if client certificates are verified against CAs.
pub(super) fn is_verified(options: &ClientAuth) -> bool {
    use ClientAuthType::{RequireAndVerifyClientCert, VerifyClientCertIfGiven};
    matches!(kind(options), Ok(VerifyClientCertIfGiven | RequireAndVerifyClientCert))
}

/// Returns the mode of client authentication.
fn kind(options: &ClientAuth) -> Result<ClientAuthType, UnknownWord> {
    Ok(match options.client_auth_type.meaning()? {
        Some(kind) => kind,
        None if options.ca_files.is_empty() => ClientAuthType::NoClientCert,
        None => ClientAuthType::RequireAndVerifyClientCert,
    })
}

/// How clients are authenticated.
pub(super) struct Authentication {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// The name of its domain. Options with the same domain accept the same clients, so sessions can be resumed across
    /// them.
    pub(super) domain: String,
    /// Whether certificates are revoked, if that is checked.
    pub(super) checks: Option<Arc<Checks>>,
    /// Warnings about revocation lists.
    pub(super) warnings: Vec<String>,
}

/// Builds the verifier of client certificates.
pub(super) fn authentication(
    options: &ClientAuth,
    file: &mut ReadFile<'_>,
    sources: &mut Sources,
) -> Result<Authentication, BuildError> {
    let kind =
        kind(options).map_err(|error| BuildError::new(format!("clientAuth.clientAuthType: {error}")))?;
    let unverified = |mandatory| Arc::new(Unverified { mandatory });
    let verifier: Arc<dyn ClientCertVerifier> = match kind {
        ClientAuthType::VerifyClientCertIfGiven => return verified(options, file, true, sources),
        ClientAuthType::RequireAndVerifyClientCert => return verified(options, file, false, sources),
        ClientAuthType::NoClientCert => WebPkiClientVerifier::no_client_auth(),
        ClientAuthType::RequestClientCert => unverified(false),
        ClientAuthType::RequireAnyClientCert => unverified(true),
    };
    if options.revocation.is_some() {
        return Err(BuildError::new(
            "clientAuth.revocation: expected clientAuthType VerifyClientCertIfGiven or RequireAndVerifyClientCert",
        ));
    }
    Ok(Authentication { verifier, domain: format!("{kind:?}"), checks: None, warnings: Vec::new() })
}

fn verified(
    options: &ClientAuth,
    file: &mut ReadFile<'_>,
    optional: bool,
    sources: &mut Sources,
) -> Result<Authentication, BuildError> {
    if options.ca_files.is_empty() {
        return Err(BuildError::new("clientAuth.caFiles is empty: expected the CAs to trust"));
    }
    let mut roots = RootCertStore::empty();
    let mut authorities = Vec::new();
    // Uses the certificates instead of their paths, as the content of a file may change.
    let mut domain = Sha256::new();
    for path in &options.ca_files {
        let broken =
            |error: BuildError| BuildError::new(format!("clientAuth.caFiles: {}: {error}", label(path)));
        for certificate in parse_chain(&pem_or_file(path, file)?).map_err(broken)? {
            domain.update(Sha256::digest(&certificate));
            authorities.push(certificate.clone());
            roots.add(certificate).map_err(|error| {
                BuildError::new(format!("clientAuth.caFiles: invalid CA certificate: {error}"))
            })?;
        }
    }
    let (roots, domain) = (Arc::new(roots), format!("{optional} {:x?}", domain.finalize()));
    if let Some(revocation) = &options.revocation {
        let domain = format!("{domain} {revocation:?}");
        let trusted = Trusted { roots, authorities, optional };
        let (checks, warnings) = Checks::build(revocation, trusted, file, sources)?;
        let checks = Arc::new(checks);
        return Ok(Authentication { verifier: checks.clone(), domain, checks: Some(checks), warnings });
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots, super::crypto());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    let verifier = builder.build().map_err(|error| BuildError::new(format!("clientAuth: {error}")))?;
    Ok(Authentication { verifier, domain, checks: None, warnings: Vec::new() })
}

/// Requests a certificate and checks that the client has its key, but accepts any issuer.
#[derive(Debug)]
struct Unverified {
    mandatory: bool,
}

impl ClientCertVerifier for Unverified {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = super::crypto().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = super::crypto().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::crypto().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, ca: &[&str]) -> Result<Arc<dyn ClientCertVerifier>, BuildError> {
        with_domain(kind, ca).map(|made| made.verifier)
    }

    fn with_domain(kind: &str, ca: &[&str]) -> Result<Authentication, BuildError> {
        let options = ClientAuth {
            ca_files: ca.iter().map(|s| (*s).to_owned()).collect(),
            client_auth_type: kind.into(),
            revocation: None,
        };
        let mut no_files = |path: &str| Err(BuildError::new(format!("{path}: no such file")));
        authentication(&options, &mut no_files, &mut Sources::default())
    }

    #[test]
    fn each_type_requests_or_requires_certificates() {
        let ca = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap().cert.pem();
        assert!(!of("", &[]).unwrap().offer_client_auth());
        let required = of("", &[&ca]).unwrap();
        assert!(required.offer_client_auth() && required.client_auth_mandatory());
        assert!(!of("VerifyClientCertIfGiven", &[&ca]).unwrap().client_auth_mandatory());
        assert!(of("RequireAnyClientCert", &[]).unwrap().client_auth_mandatory());
        assert!(of("RequireAndVerifyClientCert", &[]).is_err());
        assert!(of("", &["gone.pem"]).is_err());
        assert!(of("Sometimes", &[]).err().unwrap().to_string().contains("Sometimes"));
    }

    #[test]
    fn options_that_accept_the_same_clients_share_a_domain() {
        let ca = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.pem();
        let (one, other) = (ca("one"), ca("other"));
        let domain = |kind: &str, ca: &[&str]| with_domain(kind, ca).unwrap().domain;
        let kind = "RequireAndVerifyClientCert";
        assert_eq!(domain(kind, &[&one]), domain("", &[&one]));
        assert_ne!(domain(kind, &[&one]), domain(kind, &[&other]));
        assert_ne!(domain(kind, &[&one]), domain(kind, &[&one, &other]));
        assert_ne!(domain(kind, &[&one]), domain("VerifyClientCertIfGiven", &[&one]));
        assert_ne!(domain("RequestClientCert", &[]), domain("RequireAnyClientCert", &[]));
    }
}
