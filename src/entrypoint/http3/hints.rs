//! Interim answers (103 Early Hints) of one request, on their way from the server to the client.

use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tidegate_core::Interim;

/// Most of them that wait for a client that takes none.
const MOST: usize = 16;

/// Those that were not sent yet.
#[derive(Default)]
pub(super) struct Hints {
    waiting: Mutex<Vec<(StatusCode, HeaderMap)>>,
    waker: AtomicWaker,
}

impl Interim for Hints {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MOST {
            waiting.push((status, headers.clone()));
            drop(waiting);
            self.waker.wake();
        }
    }
}

impl Hints {
    /// Takes what is to be sent; empty when there is nothing.
    pub(super) fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        std::mem::take(&mut self.waiting.lock())
    }

    /// Ready when there is something to take.
    pub(super) fn poll_any(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.waiting.lock().is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }
}
