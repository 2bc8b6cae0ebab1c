//! Obtained certificates: chain and key, names, validity, and the identifier for renewal information.

use std::sync::Arc;

use instant_acme::CertificateIdentifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::Error;

/// A certificate and its key, ready to be served.
#[derive(Debug)]
pub struct Certificate {
    /// The chain and the key.
    pub key: Arc<CertifiedKey>,
    /// The names it is served for, in lower case: alternative names and common name.
    pub names: Vec<String>,
}

impl Certificate {
    /// Reads a chain and its key in PEM, and checks that they belong together.
    pub(crate) fn read(chain: &str, key: &str) -> Result<Self, Error> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| Error::local(format!("certificate is not valid PEM: {error}")))?;
        let leaf = chain.first().ok_or_else(|| Error::local("no PEM certificate found"))?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| Error::local(format!("certificate cannot be read: {error}")))?;
        let mut names = common_names(&parsed);
        names.extend(alternative_names(&parsed));
        names.sort();
        names.dedup();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| Error::local(format!("no PEM private key found: {error}")))?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|error| Error::local(format!("certificate and key cannot be used together: {error}")))?;
        Ok(Self { key: Arc::new(key), names })
    }
}

/// The properties of a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Its names, in lower case and sorted.
    pub(crate) names: Vec<String>,
    /// Its issuer.
    pub(crate) issuer: String,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    /// Its identifier in renewal information (RFC 9773 section 4.1).
    pub(crate) id: Option<CertificateIdentifier<'static>>,
}

impl Facts {
    /// Reads the first certificate of a chain in PEM.
    pub(crate) fn read(chain: &str) -> Result<Self, Error> {
        let bad =
            |error: &dyn std::fmt::Display| Error::local(format!("certificate cannot be read: {error}"));
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| bad(&error))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| bad(&error))?;
        let mut names = alternative_names(&parsed);
        if names.is_empty() {
            names = common_names(&parsed);
        }
        names.sort();
        names.dedup();
        let issuer = parsed.issuer();
        let common = issuer.iter_common_name().next().and_then(|name| name.as_str().ok());
        Ok(Self {
            names,
            issuer: common.map_or_else(|| issuer.to_string(), str::to_owned),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            id: CertificateIdentifier::try_from(&der).ok(),
        })
    }

    /// Returns true if the certificate is valid for a name.
    pub(crate) fn covers(&self, name: &str) -> bool {
        covers(&self.names, name)
    }

    /// Returns its lifetime.
    pub(crate) fn lifetime(&self) -> time::Duration {
        self.not_after - self.not_before
    }
}

/// Returns true if one of `names` is `name`, or a wildcard that matches its first label.
pub(crate) fn covers(names: &[String], name: &str) -> bool {
    names.iter().any(|own| {
        own == name
            || own.strip_prefix("*.").is_some_and(|base| {
                name.split_once('.')
                    .is_some_and(|(label, rest)| rest == base && !label.is_empty() && label != "*")
            })
    })
}

/// Returns true while a certificate (DER) is valid.
pub(super) fn is_valid(der: &[u8], now: OffsetDateTime) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, parsed)| {
        let validity = parsed.validity();
        validity.not_before.to_datetime() <= now && now < validity.not_after.to_datetime()
    })
}

/// Returns the common names of the issuers in a chain (PEM), one for each certificate.
pub(super) fn issuers(chain: &str) -> Vec<String> {
    CertificateDer::pem_slice_iter(chain.as_bytes())
        .filter_map(Result::ok)
        .filter_map(|der| {
            let (_, parsed) = X509Certificate::from_der(&der).ok()?;
            let name = parsed.issuer().iter_common_name().next()?.as_str().ok()?;
            Some(name.to_owned())
        })
        .collect()
}

fn common_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    names.map(str::to_lowercase).collect()
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|v4| std::net::IpAddr::from(v4).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|v6| std::net::IpAddr::from(v6).to_string()),
        },
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cover_themselves_and_wildcards_one_label() {
        let names = ["a.test".to_owned(), "*.w.test".to_owned()];
        for (name, expected) in [
            ("a.test", true),
            ("x.w.test", true),
            ("*.w.test", true),
            ("w.test", false),
            ("x.y.w.test", false),
            (".w.test", false),
            ("b.test", false),
        ] {
            assert_eq!(covers(&names, name), expected, "{name}");
        }
    }

    #[test]
    fn a_certificate_is_served_for_all_its_names_with_its_own_key_only() {
        let mut params =
            rcgen::CertificateParams::new(["B.test".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "A.test");
        let (own, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let chain = params.self_signed(&own).unwrap().pem();
        let read = Certificate::read(&chain, &own.serialize_pem()).unwrap();
        assert_eq!(read.names, ["192.0.2.1", "a.test", "b.test"]);
        let error = Certificate::read(&chain, &other.serialize_pem()).unwrap_err();
        assert!(error.to_string().contains("together"), "{error}");
        assert!(Certificate::read("", &own.serialize_pem()).is_err());
    }

    #[test]
    fn facts_are_read_from_the_first_certificate() {
        let made = rcgen::generate_simple_self_signed(["B.test".to_owned(), "a.test".to_owned()]).unwrap();
        let facts = Facts::read(&made.cert.pem()).unwrap();
        assert_eq!(facts.names, ["a.test", "b.test"]);
        assert!(facts.lifetime() > time::Duration::days(365) && facts.covers("a.test"));
        assert!(Facts::read("nothing").is_err());
    }
}
