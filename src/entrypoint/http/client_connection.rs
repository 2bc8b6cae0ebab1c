//! What the requests of one client connection share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidegate_core::consumers::ConsumerBroken;
use tidegate_core::{Connection, Consumers, Context, Identity};

use crate::entrypoint::http::chosen_options::ChosenOptions;
use crate::entrypoint::http::forwarded::Peer;
use crate::entrypoint::http::protocol::Protocol;
use crate::entrypoint::http2::progress::Progress;
use crate::entrypoint::listener::Listener;
use crate::snapshot::Snapshot;
use crate::tls::revocation::{CertificateCheck, Refusal};
use crate::tls::subject::CertificateNames;

/// What the requests of one client connection share.
pub(in crate::entrypoint) struct ClientConnection {
    pub(in crate::entrypoint) listener: Arc<Listener>,
    pub(in crate::entrypoint) connection: Arc<Connection>,
    pub(in crate::entrypoint) progress: Arc<Progress>,
    pub(in crate::entrypoint) peer: Peer,
    /// The TLS options of the handshake.
    pub(in crate::entrypoint) tls_options: Option<ChosenOptions>,
    /// What its verified certificate says about the client.
    pub(in crate::entrypoint) certificate: Option<Box<CertificateNames>>,
    /// Checks whether it is revoked.
    pub(in crate::entrypoint) check: Option<Box<CertificateCheck>>,
    pub(in crate::entrypoint) requests: AtomicU64,
    pub(in crate::entrypoint) protocol: Protocol,
}

impl ClientConnection {
    /// Returns an error if the client's certificate no longer counts.
    pub(in crate::entrypoint) async fn check_certificate(
        &self,
        check: &CertificateCheck,
        snapshot: &Snapshot,
    ) -> Result<(), Refusal> {
        let chain = self.connection.tls.as_ref().map_or(&[][..], |tls| &tls.client_certificates);
        check.verdict(chain, snapshot).await
    }

    /// Identifies the consumer whose certificate this is, for one request: the directory changes while connections last.
    ///
    /// # Errors
    ///
    /// If the consumer is broken, or the certificate is that of several.
    pub(in crate::entrypoint) fn identify(
        &self,
        consumers: &Consumers,
        context: &mut Context,
    ) -> Result<(), ConsumerBroken> {
        let Some(names) = self.certificate.as_ref().filter(|_| consumers.has_certificates()) else {
            return Ok(());
        };
        let alternative = names.alternative.iter().map(String::as_str);
        let consumer =
            consumers.by_certificate(&names.fingerprint, alternative, names.common_name.as_deref())?;
        if let Some((consumer, identity)) = consumer.zip(self.connection.identity.as_deref()) {
            context.identify(Identity::clone(identity).of_consumer(Some(consumer)));
        }
        Ok(())
    }
}
