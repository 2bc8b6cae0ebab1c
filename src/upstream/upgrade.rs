//! Carries a connection that has changed protocol (WebSocket and others) between client and server.

use http::header::{HeaderValue, UPGRADE};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tidegate_core::{Body, Response, Upgrade};
use tokio::io::{AsyncRead, AsyncWrite};

use super::InFlight;

/// Bytes that each direction may hold.
const BUFFER: usize = 16 * 1024;

/// A change of protocol that the server is asked for.
pub(super) struct Change {
    pub(super) protocol: HeaderValue,
    pub(super) client: Box<Upgrade>,
}

/// Why a server's 101 is not passed on.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpgradeError {
    /// The request did not ask for another protocol.
    #[error("it changed protocol without being asked")]
    NotAsked,
    /// The request asked for another one.
    #[error("it changed to protocol {chosen:?} when {wanted:?} was asked for")]
    OtherProtocol {
        /// What the server says.
        chosen: Option<HeaderValue>,
        /// What was asked for.
        wanted: HeaderValue,
    },
}

/// Turns a server's 101 into ours, and starts to carry bytes both ways as soon as both sides have changed protocol:
/// no byte of the client's is read before that. Fails when the server changed to something that was not asked for.
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
    tokio::spawn(carry(change.client, server, in_flight));
    let (mut head, _) = response.into_parts();
    // There is no body, so no coding of one.
    let _ = super::fields::clean_response(&mut head.headers);
    head.headers.insert(http::header::CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, change.protocol);
    Ok(Response::from_parts(head, Body::empty()))
}

async fn carry(client: Box<Upgrade>, server: OnUpgrade, in_flight: InFlight) {
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
    // How such a connection ends is nobody's error: both sides see it close.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
}
