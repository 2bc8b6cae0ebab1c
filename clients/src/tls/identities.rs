//! Chooses the client certificate that is presented to a server.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Several client certificates. Presents the first one issued by a CA that the server names, or none; the
/// first one if it names no CA, as in Go.
#[derive(Debug)]
pub(super) struct Identities(pub(super) Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identities {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| {
            key.key.choose_scheme(schemes).is_some()
                && (authorities.is_empty() || issuers(key).any(|issuer| authorities.contains(&issuer)))
        };
        self.0.iter().find(fits).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Returns the issuers of the certificates in a chain.
fn issuers(key: &CertifiedKey) -> impl Iterator<Item = &[u8]> {
    key.cert.iter().filter_map(|certificate| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(parsed.tbs_certificate.issuer.as_raw())
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;

    /// Returns the subject of a CA, and a certificate issued by it.
    fn issued(authority: &str) -> (Vec<u8>, Arc<CertifiedKey>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, authority);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let (_, parsed) = X509Certificate::from_der(root.der()).unwrap();
        let subject = parsed.subject().as_raw().to_vec();
        let own = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["us".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&own, &Issuer::from_params(&params, &key)).unwrap();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
        let key = CertifiedKey::from_der(
            vec![leaf.der().clone()],
            der,
            &rustls::crypto::aws_lc_rs::default_provider(),
        )
        .unwrap();
        (subject, Arc::new(key))
    }

    #[test]
    fn the_first_certificate_that_the_server_accepts_is_presented() {
        let ((one, first), (other, second)) = (issued("one"), issued("other"));
        let identities = Identities(vec![first.clone(), second.clone()]);
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let shown = |authorities: &[&[u8]]| identities.resolve(authorities, &schemes);
        let is =
            |shown: Option<Arc<CertifiedKey>>, key: &Arc<CertifiedKey>| Arc::ptr_eq(&shown.unwrap(), key);
        assert!(is(shown(&[&one]), &first) && is(shown(&[&other]), &second));
        assert!(is(shown(&[&other, &one]), &first) && is(shown(&[]), &first));
        let (stranger, _) = issued("stranger");
        assert!(shown(&[&stranger]).is_none());
        assert!(identities.resolve(&[], &[SignatureScheme::ED25519]).is_none());
        assert!(identities.has_certs() && !Identities(Vec::new()).has_certs());
    }
}
