//! The self-signed certificate that is served when no other matches.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tidegate_core::BuildError;
use time::OffsetDateTime;

/// Common name of the certificate.
const COMMON_NAME: &str = "TIDEGATE DEFAULT CERT";

/// A self-signed certificate, or why there is none. All snapshots of a process share it.
#[derive(Clone)]
pub struct DefaultCertificate(Result<Arc<CertifiedKey>, BuildError>);

impl DefaultCertificate {
    /// Generates a certificate that is valid for a year, from a day before `now`.
    pub fn generate(now: OffsetDateTime) -> Self {
        let message = |error| BuildError::new(format!("cannot generate a default certificate: {error}"));
        Self(make(now).map_err(message))
    }

    /// Returns the certificate.
    pub(super) fn get(&self) -> Result<&Arc<CertifiedKey>, &BuildError> {
        self.0.as_ref()
    }
}

fn make(now: OffsetDateTime) -> Result<Arc<CertifiedKey>, Box<dyn std::error::Error>> {
    let label = || format!("{:032x}", fastrand::u128(..));
    let mut params =
        rcgen::CertificateParams::new(vec![format!("{}.{}.tidegate.default", label(), label())])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, COMMON_NAME);
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(365);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Arc::new(CertifiedKey::from_der(vec![certificate.der().clone()], der, &super::crypto())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_certificate_has_a_name_and_is_valid_now() {
        let generated = DefaultCertificate::generate(OffsetDateTime::now_utc());
        let key = generated.get().unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&key.cert[0]).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=TIDEGATE DEFAULT CERT");
        assert!(parsed.validity().is_valid());
    }
}
