//! Certificates as in Traefik's API: names, validity and fingerprints of those in the TLS store.

use std::cmp::Ordering;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::public_key::PublicKey;

use super::json::{Object, add};
use crate::acme::Row;
use crate::tls::TlsStore;

/// Remaining validity below which a certificate has a warning.
const EXPIRY_WARNING: time::Duration = time::Duration::days(30);

/// One certificate.
pub(super) struct Certificate {
    /// SHA-256 fingerprint in hexadecimal, used as its name.
    pub(super) fingerprint: String,
    /// `enabled`, `warning` (expires soon) or `expired`.
    pub(super) status: &'static str,
    common_name: String,
    sans: Vec<String>,
    issuer: Entity,
    not_after: OffsetDateTime,
    json: Value,
}

/// The shown parts of a subject or issuer.
struct Entity {
    organization: String,
    common_name: String,
    country: String,
}

/// Returns the certificates of a store, sorted by common name.
pub(super) fn all(store: &TlsStore) -> Vec<Certificate> {
    let now = OffsetDateTime::now_utc();
    let mut all: Vec<Certificate> = store.leaves().iter().filter_map(|der| read(der, now)).collect();
    all.sort_by(|a, b| a.order("", b));
    all
}

/// Lists certificates that resolvers have or need. Not in Traefik.
pub(super) fn of_resolvers(rows: &[Row]) -> Value {
    let time = |at: Option<OffsetDateTime>| at.and_then(|at| at.truncate_to_second().format(&Rfc3339).ok());
    let shown = rows.iter().map(|row| {
        json!({
            "names": row.names,
            "resolver": row.resolver,
            "issuer": row.issuer,
            "notAfter": time(row.not_after),
            "next": time(row.next),
            "error": row.error,
        })
    });
    shown.collect()
}

impl Certificate {
    /// Returns the JSON object.
    pub(super) fn json(&self) -> Value {
        self.json.clone()
    }

    /// Returns true if a name of the subject or issuer contains this lower-case text.
    pub(super) fn contains(&self, text: &str) -> bool {
        let names = [&self.common_name, &self.issuer.organization, &self.issuer.common_name];
        names.into_iter().chain(&self.sans).any(|name| name.to_lowercase().contains(text))
    }

    /// Compares two certificates for a list sorted by `key`.
    pub(super) fn order(&self, key: &str, other: &Self) -> Ordering {
        let first = match key {
            "issuer" => self.issuer.name().cmp(other.issuer.name()),
            "validUntil" => self.not_after.cmp(&other.not_after),
            "status" => self.status.cmp(other.status),
            _ => Ordering::Equal,
        };
        first
            .then_with(|| self.common_name.cmp(&other.common_name))
            .then_with(|| self.fingerprint.cmp(&other.fingerprint))
    }
}

impl Entity {
    fn of(name: &X509Name<'_>) -> Self {
        let text = |value: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            value.and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned()
        };
        Self {
            organization: text(name.iter_organization().next()),
            common_name: text(name.iter_common_name().last()),
            country: text(name.iter_country().next()),
        }
    }

    fn name(&self) -> &str {
        if self.organization.is_empty() { &self.common_name } else { &self.organization }
    }
}

fn read(der: &[u8], now: OffsetDateTime) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let (subject, issuer) = (Entity::of(parsed.subject()), Entity::of(parsed.issuer()));
    let (not_before, not_after) =
        (parsed.validity().not_before.to_datetime(), parsed.validity().not_after.to_datetime());
    let status = match not_after - now {
        left if left.is_negative() => "expired",
        left if left < EXPIRY_WARNING => "warning",
        _ => "enabled",
    };
    let fingerprint = hex(&Sha256::digest(der));
    let sans = alternative_names(&parsed);
    let mut object = Object::new();
    add(&mut object, "name", fingerprint.as_str());
    add(&mut object, "sans", sans.as_slice());
    add(&mut object, "notAfter", not_after.format(&Rfc3339).ok()?);
    add(&mut object, "notBefore", not_before.format(&Rfc3339).ok()?);
    add(&mut object, "serialNumber", parsed.serial.to_string());
    add(&mut object, "commonName", subject.common_name.as_str());
    for (key, value) in [
        ("issuerOrg", &issuer.organization),
        ("issuerCN", &issuer.common_name),
        ("issuerCountry", &issuer.country),
        ("organization", &subject.organization),
        ("country", &subject.country),
    ] {
        if !value.is_empty() {
            add(&mut object, key, value.as_str());
        }
    }
    add(&mut object, "version", format!("v{}", parsed.version().0 + 1));
    let (key_type, key_size) = key(&parsed);
    add(&mut object, "keyType", key_type);
    if key_size > 0 {
        add(&mut object, "keySize", key_size);
    }
    add(&mut object, "signatureAlgorithm", signature(&parsed));
    add(&mut object, "certFingerprint", fingerprint.as_str());
    add(&mut object, "publicKeyFingerprint", hex(&Sha256::digest(parsed.public_key().raw)));
    add(&mut object, "status", status);
    let json = object.into();
    Some(Certificate { fingerprint, status, common_name: subject.common_name, sans, issuer, not_after, json })
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let mut names: Vec<String> = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|v4| std::net::IpAddr::from(v4).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|v6| std::net::IpAddr::from(v6).to_string()),
            },
            _ => None,
        })
        .collect();
    names.sort();
    names
}

/// Returns the type of the key and its size in bits; 0 for types with a fixed size.
fn key(certificate: &X509Certificate<'_>) -> (&'static str, usize) {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => ("RSA", key.key_size()),
        // An uncompressed point: one byte and two coordinates.
        Ok(PublicKey::EC(point)) => (
            "ECDSA",
            match point.data().len() / 2 * 8 {
                528 => 521,
                size => size,
            },
        ),
        _ => ("Unknown", 0),
    }
}

/// Returns Go's name of the algorithm, or its object identifier.
fn signature(certificate: &X509Certificate<'_>) -> String {
    let oid = certificate.signature_algorithm.algorithm.to_id_string();
    match oid.as_str() {
        "1.2.840.113549.1.1.5" => "SHA1-RSA",
        "1.2.840.113549.1.1.11" => "SHA256-RSA",
        "1.2.840.113549.1.1.12" => "SHA384-RSA",
        "1.2.840.113549.1.1.13" => "SHA512-RSA",
        "1.2.840.10045.4.1" => "ECDSA-SHA1",
        "1.2.840.10045.4.3.2" => "ECDSA-SHA256",
        "1.2.840.10045.4.3.3" => "ECDSA-SHA384",
        "1.2.840.10045.4.3.4" => "ECDSA-SHA512",
        "1.3.101.112" => "Ed25519",
        other => other,
    }
    .to_owned()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_described() {
        let made = rcgen::generate_simple_self_signed(vec![
            "b.test".to_owned(),
            "a.test".to_owned(),
            "10.0.0.1".to_owned(),
        ])
        .unwrap();
        let der = made.cert.der();
        let end = OffsetDateTime::from_unix_timestamp(
            X509Certificate::from_der(der).unwrap().1.validity().not_after.timestamp(),
        )
        .unwrap();
        for (left, status) in [(-1, "expired"), (29, "warning"), (31, "enabled")] {
            assert_eq!(read(der, end - time::Duration::days(left)).unwrap().status, status);
        }
        let shown = read(der, end).unwrap();
        let value = shown.json();
        assert_eq!(value["sans"], json!(["10.0.0.1", "a.test", "b.test"]));
        assert_eq!((value["keyType"].as_str(), value["keySize"].as_u64()), (Some("ECDSA"), Some(256)));
        assert_eq!(
            (value["version"].as_str(), value["signatureAlgorithm"].as_str()),
            (Some("v3"), Some("ECDSA-SHA256"))
        );
        assert_eq!((value["name"].as_str(), shown.fingerprint.len()), (Some(shown.fingerprint.as_str()), 64));
        assert!(shown.contains("b.te") && !shown.contains("zzz"));
        assert!(read(b"no certificate", end).is_none());
    }
}
