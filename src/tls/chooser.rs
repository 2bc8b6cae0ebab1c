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
        let obtained = self.obtained.served();
        let obtained = &obtained.certificates;
        let found = hello.server_name().and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            self.certificates
                .exact(name)
                .or_else(|| obtained.exact(name))
                .or_else(|| self.certificates.wildcard(name))
                .or_else(|| obtained.wildcard(name))
        });
        match found {
            Some(certificate) => Some(certificate.clone()),
            None if self.strict => None,
            None if self.certificates.is_generated && obtained.default.is_some() => obtained.default.clone(),
            None => self.certificates.default.clone(),
        }
    }
}

/// Always returns the same certificate.
#[derive(Debug)]
pub(super) struct Only(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
