//! What a connection's reading side, its requests and its answers tell each other.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Bytes of an answer that may wait in our buffers for a slow client (HTTP/1).
const MAX_UNSENT: usize = 64 * 1024;

/// Shared by the stream of one connection and what is served on it. All on one thread most of the time, so the
/// atomics are there for types that may move, not for contention.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Requests whose answer is not complete.
    open: AtomicU32,
    /// The connection speaks another protocol now.
    upgraded: AtomicBool,
    /// The connection should end as soon as its open requests have.
    leaving: AtomicBool,
    /// Answers that wait for the client to take more (HTTP/2).
    stalled: AtomicU32,
    /// Bytes of answers that were not written yet (HTTP/1).
    unsent: AtomicUsize,
    waker: AtomicWaker,
}

impl Progress {
    /// A request begins.
    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer is over.
    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// True while any answer is not complete.
    pub(super) fn is_answering(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// The connection speaks another protocol from here on.
    pub(super) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// True after an upgrade.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Asks for the connection's end. True the first time.
    pub(super) fn leave(&self) -> bool {
        !self.leaving.swap(true, Ordering::Relaxed)
    }

    /// True once the end was asked for.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Counts an answer that waits for the client, or no longer does.
    pub(super) fn count_stalled(&self, stalled: bool) {
        if stalled {
            self.stalled.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stalled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// True while an answer waits for the client.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) > 0
    }

    /// Counts bytes that were handed on to be written.
    pub(super) fn add_unsent(&self, length: usize) {
        self.unsent.fetch_add(length, Ordering::Relaxed);
    }

    /// Counts bytes that were written, heads included.
    pub(super) fn sent(&self, length: usize) {
        let before = self.unsent.load(Ordering::Relaxed);
        self.unsent.store(before.saturating_sub(length), Ordering::Relaxed);
        if before >= MAX_UNSENT {
            self.waker.wake();
        }
    }

    /// Ready while more of an answer may be buffered.
    pub(super) fn poll_unsent(&self, cx: &Context<'_>) -> Poll<()> {
        if self.unsent.load(Ordering::Relaxed) < MAX_UNSENT {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        Poll::Pending
    }
}
