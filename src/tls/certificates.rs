//! Finds certificates by exact server name or by a wildcard for one label.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tidegate_core::BuildError;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, Validity};

use super::ocsp::Staples;
use super::{ReadFile, pem_or_file};

/// A certificate with its key and names.
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) names: Vec<String>,
    /// The validity period.
    validity: Validity,
}

/// Certificates by name. The first one for a name wins.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// Wildcard certificates by the suffix after `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    pub(super) default: Option<Arc<CertifiedKey>>,
    /// OCSP staples of the certificates.
    pub(super) staples: Arc<Staples>,
    /// Whether the default was generated, so that any other certificate is preferred.
    pub(super) is_generated: bool,
}

/// Reads a certificate chain and its key. Both are paths or inline PEM.
pub(super) fn load(cert: &str, key: &str, file: &mut ReadFile<'_>) -> Result<Loaded, BuildError> {
    let chain = parse_chain(&pem_or_file(cert, file)?)?;
    let private = PrivateKeyDer::from_pem_slice(&pem_or_file(key, file)?)
        .map_err(|error| BuildError::new(format!("keyFile has no private key in PEM: {error}")))?;
    let (names, validity) = read(&chain[0])?;
    let key = CertifiedKey::from_der(chain, private, &super::crypto())
        .map_err(|error| BuildError::new(format!("certificate and key cannot be used together: {error}")))?;
    Ok(Loaded { key: Arc::new(key), names, validity })
}

/// Parses the certificates in a PEM text. Returns an error if there are none.
pub(super) fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| BuildError::new(format!("certificate is not valid PEM: {error}")))?;
    if chain.is_empty() {
        return Err(BuildError::new("there is no certificate: expected PEM with `BEGIN CERTIFICATE`"));
    }
    Ok(chain)
}

impl Loaded {
    /// Returns an error if it is expired or not valid yet. Such a certificate is only served if there is no
    /// other.
    pub(super) fn untimely(&self, now: OffsetDateTime) -> Option<String> {
        let now = ASN1Time::new(now);
        if self.validity.is_valid_at(now) {
            return None;
        }
        let (from, to) = (self.validity.not_before, self.validity.not_after);
        Some(if to < now {
            format!("the certificate expired on {to}: clients reject it")
        } else {
            format!("the certificate is not valid before {from}: clients reject it")
        })
    }
}

impl Certificates {
    /// Adds a certificate under these names.
    pub(super) fn add(&mut self, names: &[String], key: &Arc<CertifiedKey>) {
        for name in names {
            let (map, name) = match name.strip_prefix("*.") {
                Some(base) => (&mut self.wildcard, base),
                None => (&mut self.exact, name.as_str()),
            };
            map.entry(name.to_owned()).or_insert_with(|| key.clone());
        }
    }

    /// Returns the certificate for a name in lower case.
    pub(super) fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.exact(name).or_else(|| self.wildcard(name))
    }

    /// Returns the certificate with exactly this name.
    pub(super) fn exact(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.exact.get(name)
    }

    /// Returns the certificate with a wildcard that covers this name.
    pub(super) fn wildcard(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.wildcard.get(name.split_once('.')?.1)
    }
}

/// Returns the certificates with issuers in their chain, without duplicates.
pub(super) fn with_issuers<'a>(keys: impl Iterator<Item = &'a Arc<CertifiedKey>>) -> Vec<Arc<CertifiedKey>> {
    let mut seen = HashSet::new();
    let keys = keys.filter(|key| key.cert.len() > 1);
    keys.filter(|key| seen.insert(key.cert.first().cloned())).cloned().collect()
}

/// Formats an IP address.
fn address(bytes: &[u8]) -> Option<String> {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    };
    address.map(|address| address.to_string())
}

/// Returns the DNS names, addresses and common name of a certificate in lower case, and its validity period.
fn read(certificate: &CertificateDer<'_>) -> Result<(Vec<String>, Validity), BuildError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| BuildError::new(format!("certificate cannot be read: {error}")))?;
    let mut names: Vec<String> = parsed
        .subject()
        .iter_common_name()
        .filter_map(|cn| cn.as_str().ok())
        .map(str::to_lowercase)
        .collect();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_lowercase()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        }));
    }
    names.sort();
    names.dedup();
    Ok((names, parsed.validity().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_for(names: &[&str]) -> Loaded {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        load(&made.cert.pem(), &made.signing_key.serialize_pem(), &mut |_| unreachable!())
            .map_err(|e| e.to_string())
            .unwrap()
    }

    #[test]
    fn exact_names_win_and_wildcards_cover_one_label() {
        let (wide, narrow) = (load_for(&["*.a.test"]), load_for(&["x.a.test", "B.test"]));
        let mut certificates = Certificates::default();
        certificates.add(&wide.names, &wide.key);
        certificates.add(&narrow.names, &narrow.key);
        let is = |name: &str, expected: &Loaded| {
            certificates.find(name).is_some_and(|found| Arc::ptr_eq(found, &expected.key))
        };
        assert!(is("x.a.test", &narrow) && is("x.a.test.", &narrow) && is("b.test", &narrow));
        assert!(is("y.a.test", &wide));
        assert!(certificates.find("z.y.a.test").is_none() && certificates.find("a.test").is_none());
    }

    #[test]
    fn expired_and_future_certificates_are_reported() {
        let loaded = load_for(&["a.test"]);
        let at = |time: ASN1Time, days: i64| {
            OffsetDateTime::from_unix_timestamp(time.timestamp() + days * 86_400).unwrap()
        };
        let (from, to) = (loaded.validity.not_before, loaded.validity.not_after);
        assert_eq!(loaded.untimely(at(from, 1)), None);
        assert!(loaded.untimely(at(from, -1)).unwrap().contains("not valid before"));
        assert!(loaded.untimely(at(to, 1)).unwrap().contains("expired"));
    }

    #[test]
    fn invalid_certificates_are_reported() {
        let error = load("-----BEGIN NOTHING-----", "-----BEGIN", &mut |_| unreachable!()).err().unwrap();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}
