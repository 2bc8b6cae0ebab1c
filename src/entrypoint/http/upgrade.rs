//! The client's side of a connection that changes protocol.

use std::io;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tidegate_core::{BoxFuture, ByteStream, ClientSide, Upgrade};
use tokio::io::DuplexStream;
use tokio::sync::oneshot;

/// The upgrade that the HTTP library has found in a request.
pub(crate) fn of_library(found: OnUpgrade) -> Box<Upgrade> {
    Box::new(Upgrade::new(Arc::new(Library(Mutex::new(Some(found))))))
}

/// An upgrade whose stream is given to the sender once it is there (HTTP/3).
pub(in crate::entrypoint) fn pending() -> (Box<Upgrade>, oneshot::Sender<DuplexStream>) {
    let (give, take) = oneshot::channel();
    (Box::new(Upgrade::new(Arc::new(Stream(Mutex::new(Some(take)))))), give)
}

/// A connection of the HTTP library.
struct Library(Mutex<Option<OnUpgrade>>);

impl ClientSide for Library {
    fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        let found = self.0.lock().take();
        Box::pin(async move {
            let stream = found.ok_or(io::ErrorKind::NotConnected)?.await.map_err(io::Error::other)?;
            Ok(Box::new(TokioIo::new(stream)) as Box<dyn ByteStream>)
        })
    }
}

/// A stream of ours.
struct Stream(Mutex<Option<oneshot::Receiver<DuplexStream>>>);

impl ClientSide for Stream {
    fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        let coming = self.0.lock().take();
        Box::pin(async move {
            let stream = coming.ok_or(io::ErrorKind::NotConnected)?.await.map_err(io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}
