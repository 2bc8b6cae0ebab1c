//! What the requests of one client connection share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidegate_core::Connection;

use crate::entrypoint::http::chosen_options::ChosenOptions;
use crate::entrypoint::http::forwarded::Peer;
use crate::entrypoint::http::protocol::Protocol;
use crate::entrypoint::http1_2::progress::Progress;
use crate::entrypoint::listener::Listener;

/// What the requests of one client connection share.
pub(in crate::entrypoint) struct ClientConnection {
    pub(in crate::entrypoint) listener: Arc<Listener>,
    pub(in crate::entrypoint) connection: Arc<Connection>,
    pub(in crate::entrypoint) progress: Arc<Progress>,
    pub(in crate::entrypoint) peer: Peer,
    /// The TLS options of the handshake.
    pub(in crate::entrypoint) tls_options: Option<ChosenOptions>,
    pub(in crate::entrypoint) requests: AtomicU64,
    pub(in crate::entrypoint) protocol: Protocol,
}
