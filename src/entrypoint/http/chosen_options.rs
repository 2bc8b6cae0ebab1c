//! The TLS options of a connection, and whether a request may use them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_core::{AuthMethod, Identity, Request, TlsInfo};

use crate::router::without_port;
use crate::snapshot::{Route, Snapshot};
use crate::tls::NamedOptions;
use crate::tls::revocation::CertificateCheck;
use crate::tls::subject::{CertificateNames, subject};

/// The TLS options chosen in a handshake.
pub(in crate::entrypoint) struct ChosenOptions {
    pub(in crate::entrypoint) options: Arc<NamedOptions>,
    /// The latest snapshot in which the server name has these options.
    generation: AtomicU64,
}

impl Clone for ChosenOptions {
    fn clone(&self) -> Self {
        Self { options: self.options.clone(), generation: self.generation.load(Ordering::Relaxed).into() }
    }
}

impl ChosenOptions {
    /// Selects options by server name. A client that sends none uses an address of the gateway, most likely `local`.
    pub(in crate::entrypoint) fn new(
        snapshot: &Snapshot,
        entry_point: usize,
        server_name: Option<&str>,
        local: IpAddr,
    ) -> Option<Self> {
        let options = match server_name {
            Some(name) => snapshot.tls_options_of(entry_point, name),
            None => snapshot.tls_options_of(entry_point, &local.to_canonical().to_string()),
        };
        Some(Self { options: options?.clone(), generation: snapshot.generation.into() })
    }

    /// Returns the client's identity from its certificate, if these options verify it.
    pub(in crate::entrypoint) fn identity(&self, tls: &TlsInfo) -> Option<Arc<Identity>> {
        let certificate = tls.client_certificates.first().filter(|_| self.options.verifies_clients)?;
        let subject = subject(certificate)?;
        Some(Arc::new(Identity::new(subject, AuthMethod::Certificate, self.options.name.clone())))
    }

    /// Returns the names in the client's certificate, if these options verify it.
    pub(in crate::entrypoint) fn names(&self, tls: &TlsInfo) -> Option<Box<CertificateNames>> {
        let certificate = tls.client_certificates.first().filter(|_| self.options.verifies_clients)?;
        CertificateNames::of(certificate).map(Box::new)
    }

    /// Returns what checks the client's certificate before each request, if these options check its revocation.
    pub(in crate::entrypoint) fn check(&self, tls: &TlsInfo) -> Option<Box<CertificateCheck>> {
        let is_checked = self.options.checks_revocation && !tls.client_certificates.is_empty();
        is_checked.then(|| Box::new(CertificateCheck::new(self.options.name.clone())))
    }

    /// Returns true if the requested host has other TLS options than the handshake used (RFC 9110 section 15.5.20).
    pub(in crate::entrypoint) fn differ_for_host(
        &self,
        snapshot: &Snapshot,
        entry_point: usize,
        tls: &TlsInfo,
        request: &Request,
    ) -> bool {
        let host = without_port(request.host());
        let is_own = tls.server_name.as_deref() == Some(host);
        if is_own && self.generation.load(Ordering::Relaxed) == snapshot.generation {
            return false;
        }
        let required = match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => snapshot.tls_options_of(entry_point, &host.to_ascii_lowercase()),
            false => snapshot.tls_options_of(entry_point, host),
        };
        let differ = !required.is_some_and(|required| required.is_same(&self.options));
        if is_own && !differ {
            self.generation.store(snapshot.generation, Ordering::Relaxed);
        }
        differ
    }

    /// Returns true if the route requires other TLS options than the handshake used, which only knew the server name.
    pub(in crate::entrypoint) fn differ_for_route(&self, route: &Route) -> bool {
        route.tls_options.as_ref().is_some_and(|required| !required.is_same(&self.options))
    }
}
