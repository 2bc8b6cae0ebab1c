//! Returns the connection to its pool at the end of a response.

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{End, Exchange, Guard};

use super::lease::Lease;
use super::pool::Own;
use super::{Endpoint, InFlight};

/// Timeout for sending the rest of a request after its response (50 ms in Go's HTTP library).
const SEND_REST_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the connection to its pool when the response has been read.
pub(super) struct Finish {
    pub(super) in_flight: InFlight,
    pub(super) worker: usize,
    pub(super) lease: Lease,
    /// Whether the connection can be reused.
    pub(super) reuse: bool,
    /// The exchange of this attempt.
    pub(super) exchange: Option<Arc<Exchange>>,
}

impl Guard for Finish {
    fn data(&mut self, length: usize) {
        if let Some(attempt) = self.exchange.as_ref().and_then(|exchange| exchange.last_attempt()) {
            attempt.add_received(length);
        }
    }

    fn end(self: Box<Self>, end: End) {
        let Self { in_flight, worker, lease, reuse, .. } = *self;
        let Lease::Own { mut own, .. } = lease else { return };
        if !reuse || end != End::Complete || own.sender.is_closed() {
            return;
        }
        let endpoint = in_flight.0.clone();
        drop(in_flight);
        if own.sender.is_ready() {
            endpoint.keep(worker, own);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The request is still being sent, or the connection's task is not idle yet.
            runtime.spawn(async move {
                match tokio::time::timeout(SEND_REST_TIMEOUT, own.sender.ready()).await {
                    Ok(Ok(())) => endpoint.keep(worker, own),
                    Ok(Err(_)) => {}
                    // The server has responded but does not read the rest of the request.
                    Err(_) => own.task.abort(),
                }
            });
        }
    }
}

impl Endpoint {
    fn keep(&self, worker: usize, own: Own) {
        if self.idle_limit() > 0 {
            self.pool(worker).lock().put(own, self.transport.idle_timeout());
        }
    }
}
