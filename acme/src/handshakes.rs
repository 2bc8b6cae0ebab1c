//! What resolvers need from the gateway: it serves certificates and challenges, and lists the wanted names.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tidegate_core::BoxFuture;
use tokio::sync::watch;

use super::certificate::Certificate;
use super::names::Wanted;
use super::on_demand::OnDemand;

/// The ALPN protocol of a handshake in which a certificate authority verifies a name (RFC 8737 section 6.2).
pub const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// The gateway's TLS handshakes, which serve what resolvers obtain.
pub trait Handshakes: Send + Sync {
    /// Replaces all certificates of resolvers. The first for a name wins. `default` is for clients whose name fits no
    /// certificate.
    fn publish(&self, certificates: &[&Certificate], default: Option<&Certificate>);
    /// Uses this configuration in handshakes for a name that ask for [`ACME_PROTOCOL`].
    fn show(&self, server_name: &str, challenge: Arc<ServerConfig>);
    /// Stops using the configuration for a name.
    fn hide(&self, server_name: &str);
    /// Sets where unknown challenges are looked up.
    fn look_at(&self, elsewhere: Arc<dyn Elsewhere>);
    /// Makes handshakes for names without a certificate wait for one.
    fn set_on_demand(&self, on_demand: Arc<OnDemand>);
}

/// Challenges that another gateway may have presented.
pub trait Elsewhere: Send + Sync {
    /// Looks challenges up. When this returns, those found are presented here, too.
    fn look(&self) -> BoxFuture<'_, ()>;
}

/// The configuration as resolvers see it.
pub trait Configuration: Send + Sync {
    /// Returns the certificates that the current configuration asks a resolver for, the ones with most names first, and
    /// its generation; `None` if the generation is still `known`.
    fn wanted(&self, resolver: &str, known: Option<u64>) -> Option<(u64, Vec<Wanted>)>;
    /// Returns the configured certificate for a name; `None` for the default.
    fn configured(&self, name: &str) -> Option<CertificateDer<'static>>;
    /// Returns a watch that changes with each new configuration, and is closed when the gateway stops.
    fn generation(&self) -> watch::Receiver<u64>;
}
