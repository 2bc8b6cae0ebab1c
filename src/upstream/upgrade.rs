//! Carries a connection that has changed protocol (WebSocket and others) between client and server.

use std::sync::Arc;

use http::Extensions;
use http::header::{HeaderValue, UPGRADE};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidegate_core::{Body, Held, Response};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::oneshot;

use super::InFlight;

/// Bytes that each direction may hold.
const BUFFER: usize = 16 * 1024;

/// What a client needs to change protocol.
pub(super) struct Upgrade {
    pub(super) protocol: HeaderValue,
    pub(super) client: ClientSide,
    /// What is held until the changed connection ends.
    pub(super) held: Held,
}

/// The client's side of a connection that is to change protocol, before it has. It stands among the extensions of a
/// request where the HTTP library's own does not.
#[derive(Clone)]
pub(crate) enum ClientSide {
    /// A connection of the HTTP library.
    Library(OnUpgrade),
    /// A stream of ours, once it is there.
    Own(Arc<Mutex<Option<oneshot::Receiver<DuplexStream>>>>),
}

impl ClientSide {
    /// A side that is there when a stream is given to the sender.
    pub(crate) fn pending() -> (Self, oneshot::Sender<DuplexStream>) {
        let (give, take) = oneshot::channel();
        (Self::Own(Arc::new(Mutex::new(Some(take)))), give)
    }

    /// Takes the side of a request that may change protocol.
    pub(super) fn take(extensions: &mut Extensions) -> Option<Self> {
        extensions.remove::<OnUpgrade>().map(Self::Library).or_else(|| extensions.remove())
    }

    /// Puts it back.
    pub(super) fn put(self, extensions: &mut Extensions) {
        match self {
            Self::Library(upgrade) => drop(extensions.insert(upgrade)),
            own @ Self::Own(_) => drop(extensions.insert(own)),
        }
    }

    /// True when a request has one.
    pub(super) fn is_in(extensions: &Extensions) -> bool {
        extensions.get::<OnUpgrade>().is_some() || extensions.get::<Self>().is_some()
    }
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

async fn carry(client: ClientSide, server: OnUpgrade, kept: (InFlight, Held)) {
    let failed =
        |error: &dyn std::fmt::Display| tracing::debug!(server = %kept.0.0.url(), "upgrade: {error}");
    match client {
        ClientSide::Library(client) => match futures_util::future::try_join(client, server).await {
            Ok((client, server)) => copy(TokioIo::new(client), server).await,
            Err(error) => failed(&error),
        },
        ClientSide::Own(side) => {
            let Some(client) = side.lock().take() else { return };
            let (client, server) = futures_util::future::join(client, server).await;
            match (client, server) {
                (Ok(client), Ok(server)) => copy(client, server).await,
                (_, Err(error)) => failed(&error),
                (Err(error), _) => failed(&error),
            }
        }
    }
}

async fn copy(mut client: impl AsyncRead + AsyncWrite + Unpin, server: Upgraded) {
    let mut server = TokioIo::new(server);
    // How such a connection ends is nobody's error: both sides see it close.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
}
