//! What becomes of a connection when its response has been read.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Http1;
use crate::upstream::Endpoint;

/// Timeout for sending the rest of a request after its response (50 ms in Go's HTTP library).
const SEND_REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a connection goes when its response has been read.
pub(in crate::upstream) struct Release {
    pub(in crate::upstream) endpoint: Arc<Endpoint>,
    pub(in crate::upstream) worker: usize,
    /// The connection can be used again.
    pub(in crate::upstream) reuse: bool,
}

impl Release {
    /// Returns a connection to its pool, once the rest of the request is sent.
    pub(super) fn release(self, mut connection: Box<Http1>) {
        if !self.reuse {
            return;
        }
        if connection.is_sending() {
            finish_upload(connection, self);
        } else if connection.park() {
            self.endpoint.keep(self.worker, connection);
        }
    }
}

/// Sends the rest of a request whose response is complete, and keeps the connection afterwards. A server that does not
/// read it is not waited for.
fn finish_upload(mut connection: Box<Http1>, release: Release) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let rest = poll_fn(|cx| match connection.poll_send(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.is_ok()),
            Poll::Pending => connection.poll_unasked(cx).map(|()| false),
        });
        if let Ok(true) = tokio::time::timeout(SEND_REST_TIMEOUT, rest).await {
            release.release(connection);
        }
    });
}
