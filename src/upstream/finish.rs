//! The end of a server's answer: its connection is kept.

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{End, Exchange, Guard};

use super::lease::Lease;
use super::pool::Own;
use super::{Endpoint, InFlight};

/// Time to send the rest of a request that has been answered already (Go's HTTP library: 50 ms).
const MAX_BEHIND_ANSWER: Duration = Duration::from_secs(5);

/// What happens when an answer has been read: its connection is kept.
pub(super) struct Finish {
    pub(super) in_flight: InFlight,
    pub(super) worker: usize,
    pub(super) lease: Lease,
    /// The connection may be used again.
    pub(super) reuse: bool,
    /// The exchange whose latest attempt this is.
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
            // The request is still being sent, or the connection's task has not been back yet.
            runtime.spawn(async move {
                match tokio::time::timeout(MAX_BEHIND_ANSWER, own.sender.ready()).await {
                    Ok(Ok(())) => endpoint.keep(worker, own),
                    Ok(Err(_)) => {}
                    // The server has answered and does not take the rest: nothing else would end this.
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
