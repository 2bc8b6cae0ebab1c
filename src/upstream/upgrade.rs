//! Copies bytes of upgraded connections (such as WebSocket) between client and server.

use http::header::{HeaderValue, UPGRADE};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tidegate_core::{Body, Response, Upgrade};
use tokio::io::{AsyncRead, AsyncWrite};

use super::InFlight;

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
    mut response: http::Response<Incoming>,
    wanted: Option<Change>,
    in_flight: InFlight,
) -> Result<Response, UpgradeError> {
    let Some(change) = wanted else {
        return Err(UpgradeError::NotAsked);
    };
    let chosen = response.headers().get(UPGRADE);
    if !chosen.is_some_and(|chosen| chosen.as_bytes().eq_ignore_ascii_case(change.protocol.as_bytes())) {
        return Err(UpgradeError::OtherProtocol { chosen: chosen.cloned(), wanted: change.protocol });
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(copy_when_upgraded(change.client, server, in_flight));
    let (mut head, _) = response.into_parts();
    // There is no body, so the transfer coding does not matter.
    let _ = super::fields::clean_response(&mut head.headers);
    head.headers.insert(http::header::CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, change.protocol);
    Ok(Response::from_parts(head, Body::empty()))
}

async fn copy_when_upgraded(client: Box<Upgrade>, server: OnUpgrade, in_flight: InFlight) {
    let failed =
        |error: &dyn std::fmt::Display| tracing::debug!(server = %in_flight.0.url(), "upgrade: {error}");
    match futures_util::future::join(client.side.changed(), server).await {
        (Ok(client), Ok(server)) => copy(client, server).await,
        (_, Err(error)) => failed(&error),
        (Err(error), _) => failed(&error),
    }
}

async fn copy(mut client: impl AsyncRead + AsyncWrite + Unpin, server: Upgraded) {
    let mut server = TokioIo::new(server);
    // Errors are ignored, as both sides see the connection close.
    let _ =
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_SIZE, BUFFER_SIZE).await;
}
