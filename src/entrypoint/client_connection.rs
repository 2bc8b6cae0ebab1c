//! A client connection as its requests see it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidegate_core::Connection;

use super::chosen_options::ChosenOptions;
use super::forwarded::Peer;
use super::listener::Listener;
use super::progress::Progress;
use super::protocol::Protocol;

/// A client connection as its requests see it.
pub(super) struct ClientConnection {
    pub(super) listener: Arc<Listener>,
    pub(super) connection: Arc<Connection>,
    pub(super) progress: Arc<Progress>,
    pub(super) peer: Peer,
    /// The TLS options that the handshake was made with.
    pub(super) tls_options: Option<ChosenOptions>,
    pub(super) requests: AtomicU64,
    pub(super) protocol: Protocol,
}
