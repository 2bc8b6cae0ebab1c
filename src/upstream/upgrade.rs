//! Copies bytes of upgraded connections (such as WebSocket) between client and server.

use http::header::{HeaderValue, UPGRADE};
use tidegate_core::{Body, Response, Upgrade};
use tidegate_wire::http1::response::ResponseHead;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::InFlight;
use super::connect::Stream;
use super::http1::Http1;

/// Buffer size per direction.
const BUFFER_SIZE: usize = 16 * 1024;

/// A requested upgrade.
pub(super) struct Change {
    pub(super) protocol: HeaderValue,
    pub(super) client: Box<Upgrade>,
}

/// Why the 101 of a server is rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// The request did not ask for another protocol.
    #[error("unexpected protocol upgrade")]
    NotAsked,
    /// The server chose another protocol.
    #[error("unexpected protocol {chosen:?}: expected {wanted:?}")]
    OtherProtocol {
        /// The protocol chosen by the server.
        chosen: Option<HeaderValue>,
        /// The requested protocol.
        wanted: HeaderValue,
    },
}

/// Converts the 101 of a server, and starts copying in both directions once both sides have upgraded: no data
/// of the client is read before. Returns an error if the server chose a protocol that was not requested.
pub(super) fn accept(
    head: ResponseHead,
    connection: Box<Http1>,
    wanted: Option<Change>,
    in_flight: InFlight,
) -> Result<Response, UpgradeError> {
    let Some(change) = wanted else {
        return Err(UpgradeError::NotAsked);
    };
    let mut parts = head.parts;
    let chosen = parts.headers.get(UPGRADE);
    if !chosen.is_some_and(|chosen| chosen.as_bytes().eq_ignore_ascii_case(change.protocol.as_bytes())) {
        return Err(UpgradeError::OtherProtocol { chosen: chosen.cloned(), wanted: change.protocol });
    }
    tokio::spawn(copy_when_upgraded(change.client, connection, in_flight));
    // There is no body, so the transfer coding does not matter.
    let _ = super::fields::clean_response(&mut parts.headers);
    parts.headers.insert(http::header::CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.insert(UPGRADE, change.protocol);
    Ok(Response::from_parts(parts, Body::empty()))
}

async fn copy_when_upgraded(client: Box<Upgrade>, connection: Box<Http1>, in_flight: InFlight) {
    match client.side.changed().await {
        Ok(client) => {
            let (server, first) = connection.into_tunnel();
            copy(client, server, &first).await;
        }
        Err(error) => tracing::debug!(server = %in_flight.0.url(), "upgrade: {error}"),
    }
}

/// `first`: what the server has sent already.
async fn copy(mut client: impl AsyncRead + AsyncWrite + Unpin, mut server: Stream, first: &[u8]) {
    // Errors are ignored, as both sides see the connection close.
    if client.write_all(first).await.is_ok() {
        let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_SIZE, BUFFER_SIZE)
            .await;
    }
}
