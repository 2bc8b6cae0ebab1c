//! The client's side of an upgraded connection.

use std::io;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidegate_core::{BoxFuture, ByteStream, ClientSide, Upgrade};
use tokio::io::DuplexStream;
use tokio::sync::oneshot;

/// Wraps the upgrade that the HTTP library found in a request.
pub(crate) fn of_library(found: OnUpgrade) -> Box<Upgrade> {
    Box::new(Upgrade::new(Arc::new(HyperUpgrade(Mutex::new(Some(found))))))
}

/// Returns an upgrade, and the sender for its stream once that exists (HTTP/3).
pub(in crate::entrypoint) fn pending() -> (Box<Upgrade>, oneshot::Sender<DuplexStream>) {
    let (give, take) = oneshot::channel();
    (Box::new(Upgrade::new(Arc::new(StreamUpgrade(Mutex::new(Some(take)))))), give)
}

/// An upgrade by the HTTP library.
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

/// An upgrade over an HTTP/3 stream.
struct StreamUpgrade(Mutex<Option<oneshot::Receiver<DuplexStream>>>);

impl ClientSide for StreamUpgrade {
    fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        let coming = self.0.lock().take();
        Box::pin(async move {
            let stream = coming.ok_or(io::ErrorKind::NotConnected)?.await.map_err(io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}
