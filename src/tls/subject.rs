//! The subjects and names of certificates.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::extensions::GeneralName;

/// Formats the subject of a certificate like Go, last part first (RFC 2253): `CN=bob,O=Example`.
pub(crate) fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject();
    let part = |rdn: &x509_parser::x509::RelativeDistinguishedName<'_>| {
        let attributes = rdn.iter().map(|attribute| {
            let oid = attribute.attr_type();
            let registry = x509_parser::objects::oid_registry();
            let kind = x509_parser::objects::oid2abbrev(oid, registry)
                .map_or_else(|_| oid.to_id_string(), str::to_owned);
            let value = attribute.as_str().unwrap_or("");
            let escape = |c: char| match c {
                ',' | '+' | '"' | '\\' | '<' | '>' | ';' => format!("\\{c}"),
                c => c.to_string(),
            };
            format!("{kind}={}", value.chars().map(escape).collect::<String>())
        });
        attributes.collect::<Vec<_>>().join("+")
    };
    let parts: Vec<String> = name.iter_rdn().map(part).collect();
    Some(parts.into_iter().rev().collect::<Vec<_>>().join(","))
}

/// The names that a consumer can be recognised by.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct CertificateNames {
    /// SHA-256 of the certificate.
    pub(crate) fingerprint: [u8; 32],
    /// Its alternative names: host names, e-mail addresses, URIs and addresses.
    pub(crate) alternative: Vec<String>,
    /// The first common name of its subject.
    pub(crate) common_name: Option<String>,
}

impl CertificateNames {
    /// Returns the names of a certificate in DER.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, der).as_ref());
        let extension = certificate.subject_alternative_name().ok().flatten();
        let names = extension.iter().flat_map(|extension| &extension.value.general_names);
        let text = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some((*name).to_owned())
            }
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        };
        let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        Some(Self {
            fingerprint,
            alternative: names.filter_map(text).collect(),
            common_name: common_name.map(str::to_owned),
        })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_formatted_as_in_go() {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Ex, Inc");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "bob");
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(subject(certificate.der()).as_deref(), Some("CN=bob,O=Ex\\, Inc"));
        assert_eq!(subject(b"no certificate"), None);
    }

    #[test]
    fn names_are_of_all_kinds() {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "bob");
        parameters.subject_alt_names = vec![
            rcgen::SanType::DnsName("bob.example".try_into().unwrap()),
            rcgen::SanType::Rfc822Name("bob@example.com".try_into().unwrap()),
            rcgen::SanType::URI("spiffe://example/bob".try_into().unwrap()),
            rcgen::SanType::IpAddress([192, 0, 2, 1].into()),
            rcgen::SanType::IpAddress("2001:db8::1".parse().unwrap()),
        ];
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let names = CertificateNames::of(certificate.der()).unwrap();
        assert_eq!(names.common_name.as_deref(), Some("bob"));
        assert_eq!(
            names.alternative,
            ["bob.example", "bob@example.com", "spiffe://example/bob", "192.0.2.1", "2001:db8::1"]
        );
        assert_eq!(names.fingerprint.as_slice(), digest(&SHA256, certificate.der()).as_ref());
        assert_eq!(CertificateNames::of(b"no certificate"), None);
    }
}
