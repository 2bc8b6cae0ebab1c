//! What happens at the end of a response.

use std::sync::Arc;

use tidegate_core::{End, Exchange, Guard};

use super::InFlight;
use super::lease::StreamCount;

/// Counts a request, and its stream if the connection is shared, until its response has been read.
pub(super) struct Finish {
    pub(super) _in_flight: InFlight,
    pub(super) _stream: Option<StreamCount>,
    /// The exchange of this attempt.
    pub(super) exchange: Option<Arc<Exchange>>,
}

impl Guard for Finish {
    fn data(&mut self, length: usize) {
        if let Some(attempt) = self.exchange.as_ref().and_then(|exchange| exchange.last_attempt()) {
            attempt.add_received(length);
        }
    }

    fn end(self: Box<Self>, _: End) {}
}
