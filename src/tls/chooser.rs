//! Chooses the certificate for a client: configured certificates before those of resolvers, exact names
//! before wildcards.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificates::Certificates;
use super::obtained::Obtained;

/// Chooses certificates for handshakes.
#[derive(Debug)]
pub(super) struct Chooser {
    pub(super) certificates: Arc<Certificates>,
    /// Certificates of resolvers.
    pub(super) obtained: Arc<Obtained>,
    /// Whether to reject names without a certificate (`sniStrict`).
    pub(super) strict: bool,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls returns the name in lower case.
        choose(&self.certificates, &self.obtained, self.strict, hello.server_name()).map(|(key, _)| key)
    }
}

/// Where a certificate is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// The configuration has it for the name.
    Configured,
    /// A certificate resolver has obtained it for the name.
    Resolver,
    /// The default of the configuration.
    Default,
    /// Generated at the start, since there is no default.
    Generated,
}

impl CertificateSource {
    /// Returns the name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Resolver => "resolver",
            Self::Default => "default",
            Self::Generated => "generated",
        }
    }
}

/// Chooses the certificate for a server name in lower case; `None` if the name is rejected.
pub(super) fn choose(
    certificates: &Certificates,
    obtained: &Obtained,
    strict: bool,
    server_name: Option<&str>,
) -> Option<(Arc<CertifiedKey>, CertificateSource)> {
    let obtained = obtained.served();
    let obtained = &obtained.certificates;
    let configured = |key| (key, CertificateSource::Configured);
    let resolved = |key| (key, CertificateSource::Resolver);
    let found = server_name.and_then(|name| {
        let name = name.strip_suffix('.').unwrap_or(name);
        (certificates.exact(name).map(configured))
            .or_else(|| obtained.exact(name).map(resolved))
            .or_else(|| certificates.wildcard(name).map(configured))
            .or_else(|| obtained.wildcard(name).map(resolved))
    });
    let (key, source) = match (found, &obtained.default, &certificates.default) {
        (Some(found), _, _) => found,
        (None, _, _) if strict => return None,
        (None, Some(default), _) if certificates.is_generated => resolved(default),
        (None, _, Some(default)) if certificates.is_generated => (default, CertificateSource::Generated),
        (None, _, Some(default)) => (default, CertificateSource::Default),
        (None, _, None) => return None,
    };
    Some((key.clone(), source))
}

/// Always returns the same certificate.
#[derive(Debug)]
pub(super) struct Only(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
