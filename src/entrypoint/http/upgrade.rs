//! The client's side of an upgraded connection.

use std::io;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidegate_core::{BoxFuture, ByteStream, ClientSide, Upgrade};
use tokio::sync::oneshot;

/// Wraps the upgrade that the HTTP library found in a request.
pub(crate) fn of_library(found: OnUpgrade) -> Box<Upgrade> {
    Box::new(Upgrade::new(Arc::new(HyperUpgrade(Mutex::new(Some(found))))))
}

/// Gives the stream of an upgraded connection.
pub(in crate::entrypoint) type GiveStream = oneshot::Sender<Box<dyn ByteStream>>;

/// Returns an upgrade, and the sender for its stream once that exists (HTTP/1 and HTTP/3).
pub(in crate::entrypoint) fn pending() -> (Box<Upgrade>, GiveStream) {
    let (give, take) = oneshot::channel();
    (Box::new(Upgrade::new(Arc::new(StreamUpgrade(Mutex::new(Some(take)))))), give)
}

/// An upgrade by the HTTP library (HTTP/2).
struct HyperUpgrade(Mutex<Option<OnUpgrade>>);

impl ClientSide for HyperUpgrade {
    fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        let found = self.0.lock().take();
        Box::pin(async move {
            let stream = found.ok_or(io::ErrorKind::NotConnected)?.await.map_err(io::Error::other)?;
            Ok(Box::new(TokioIo::new(stream)) as Box<dyn ByteStream>)
        })
    }
}

/// An upgrade whose stream is not there yet.
struct StreamUpgrade(Mutex<Option<oneshot::Receiver<Box<dyn ByteStream>>>>);

impl ClientSide for StreamUpgrade {
    fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        let coming = self.0.lock().take();
        Box::pin(async move { coming.ok_or(io::ErrorKind::NotConnected)?.await.map_err(io::Error::other) })
    }
}
