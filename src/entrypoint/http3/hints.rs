//! Informational responses (103 Early Hints) of a request, queued for the client.

use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tidegate_core::Interim;

/// Maximum number of queued responses.
const MAX_WAITING: usize = 16;

/// The queue of informational responses.
#[derive(Default)]
pub(super) struct Hints {
    waiting: Mutex<Vec<(StatusCode, HeaderMap)>>,
    waker: AtomicWaker,
}

impl Interim for Hints {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push((status, headers.clone()));
            drop(waiting);
            self.waker.wake();
        }
    }
}

impl Hints {
    /// Takes all queued responses.
    pub(super) fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        std::mem::take(&mut self.waiting.lock())
    }

    /// Ready when the queue is not empty.
    pub(super) fn poll_any(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.waiting.lock().is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}
