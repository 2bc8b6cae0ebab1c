//! Carries a connection that has changed protocol (WebSocket and others) between client and server.

use http::header::{HeaderValue, UPGRADE};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tidegate_core::{Body, Held, Response};

use super::InFlight;

/// Bytes that each direction may hold.
const BUFFER: usize = 16 * 1024;

/// What a client needs to change protocol.
pub(super) struct Upgrade {
    pub(super) protocol: HeaderValue,
    pub(super) client: OnUpgrade,
    /// What is held until the changed connection ends.
    pub(super) held: Held,
}

/// Turns a server's 101 into ours, and starts to carry bytes both ways as soon as both sides have changed protocol:
/// no byte of the client's is read before that. Fails when the server changed to something that was not asked for.
pub(super) fn accept(
    mut response: http::Response<Incoming>,
    wanted: Option<Upgrade>,
    in_flight: InFlight,
) -> Result<Response, String> {
    let Some(upgrade) = wanted else {
        return Err("it changed protocol without being asked".into());
    };
    let chosen = response.headers().get(UPGRADE);
    if !chosen.is_some_and(|chosen| chosen.as_bytes().eq_ignore_ascii_case(upgrade.protocol.as_bytes())) {
        return Err(format!("it changed to protocol {chosen:?} when {:?} was asked for", upgrade.protocol));
    }
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(carry(upgrade.client, server, (in_flight, upgrade.held)));
    let (mut head, _) = response.into_parts();
    // There is no body, so no coding of one.
    let _ = super::fields::clean_response(&mut head.headers);
    head.headers.insert(http::header::CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, upgrade.protocol);
    Ok(http::Response::from_parts(head, Body::empty()))
}

async fn carry(client: OnUpgrade, server: OnUpgrade, kept: (InFlight, Held)) {
    match futures_util::future::try_join(client, server).await {
        Ok((client, server)) => {
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            // How such a connection ends is nobody's error: both sides see it close.
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
        }
        Err(error) => tracing::debug!(server = %kept.0.0.url(), "upgrade: {error}"),
    }
}
