//! Formats the subjects of certificates.

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
}
