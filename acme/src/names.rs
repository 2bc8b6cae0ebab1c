//! The names of certificates: their canonical form, and for which of them a certificate can be ordered.

use crate::storage::Domain;

/// The names of one certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The names in their canonical form; the first is the common name.
    pub names: Vec<String>,
    /// The object that wants the certificate, for messages.
    pub by: String,
    /// True for the certificate of clients whose name fits no other.
    pub default: bool,
    /// True if the configuration reports names for which no certificate can be ordered.
    pub reported: bool,
}

/// Returns a name in lower case, in ASCII form, without a trailing dot.
pub fn canonical(name: &str) -> String {
    let name = name.trim().trim_end_matches('.').to_lowercase();
    if name.is_ascii() {
        return name;
    }
    let (star, rest) = name.strip_prefix("*.").map_or(("", &*name), |rest| ("*.", rest));
    match url::Host::parse(rest) {
        Ok(url::Host::Domain(ascii)) => format!("{star}{ascii}"),
        _ => name,
    }
}

/// Returns why no certificate can be ordered for a name; `dns` if names are proven by DNS records.
pub fn refuse(name: &str, dns: bool) -> Option<String> {
    if name.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let base = match name.strip_prefix("*.") {
        Some(base) if base.starts_with("*.") => {
            return Some(format!(
                "unable to generate a wildcard certificate in ACME provider for domain {name:?} : ACME does not allow '*.*' wildcard domain"
            ));
        }
        Some(_) if !dns => {
            return Some(format!(
                "unable to generate a wildcard certificate in ACME provider for domain {name:?} : ACME needs a DNSChallenge"
            ));
        }
        Some(base) => base,
        None => name,
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_domain = base.len() <= 253 && base.split('.').all(is_label);
    (!is_domain).then(|| {
        format!("{name:?} is not a domain: expected labels of letters, digits and `-`, with dots between")
    })
}

/// Returns the main name and the others.
pub(crate) fn names_of(domain: &Domain) -> Vec<String> {
    std::iter::once(&domain.main).chain(&domain.sans).filter(|name| !name.is_empty()).cloned().collect()
}

/// Returns names in the form of the storage.
pub(crate) fn domain_of(names: &[String]) -> Domain {
    let (main, sans) =
        names.split_first().map_or((String::new(), &[][..]), |(main, sans)| (main.clone(), sans));
    Domain { main, sans: sans.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_had_are_refused() {
        assert_eq!(refuse("a.test", false), None);
        assert_eq!(refuse("*.a.test", true), None);
        assert_eq!(refuse("10.0.0.1", false), None);
        assert!(refuse("*.a.test", false).unwrap().ends_with("ACME needs a DNSChallenge"));
        assert!(refuse("*.*.a.test", true).unwrap().ends_with("does not allow '*.*' wildcard domain"));
        for name in ["a b.test", "-a.test", "a..test", "x/y", &"a".repeat(64)] {
            assert!(refuse(name, true).is_some_and(|text| text.contains("is not a domain")), "{name}");
        }
        assert_eq!(canonical("BÜCHER.test."), "xn--bcher-kva.test");
        assert_eq!(canonical("*.BÜCHER.test"), "*.xn--bcher-kva.test");
    }
}
