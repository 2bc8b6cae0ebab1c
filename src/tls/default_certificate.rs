//! The certificate that clients see when no other fits: generated once, self-signed.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tidegate_core::BuildError;
use time::OffsetDateTime;

/// Common name of the certificate.
const COMMON_NAME: &str = "TIDEGATE DEFAULT CERT";

/// Makes a new self-signed certificate that is valid from a day before `now` for a year.
pub(super) fn generate(now: OffsetDateTime) -> Result<Arc<CertifiedKey>, BuildError> {
    make(now).map_err(|error| BuildError::new(format!("cannot make a default certificate: {error}")))
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
    fn it_is_named_and_of_this_year() {
        let key = generate(OffsetDateTime::now_utc()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&key.cert[0]).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=TIDEGATE DEFAULT CERT");
        assert!(parsed.validity().is_valid());
    }
}
