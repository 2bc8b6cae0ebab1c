//! What a connection's reading side, its requests and its answers tell each other.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use super::head_scan::Verdict;

/// Shared by the stream of one connection and what is served on it. All on one thread most of the time, so the
/// atomics are there for types that may move, not for contention.
#[derive(Debug, Default)]
pub(super) struct Progress {
    verdict: AtomicU8,
    /// A request's body is still to be read (HTTP/1).
    receiving: AtomicBool,
    /// Requests whose answer is not complete.
    open: AtomicU32,
    /// The connection speaks another protocol now.
    upgraded: AtomicBool,
    /// The connection should end as soon as its open requests have.
    leaving: AtomicBool,
}

impl Progress {
    /// A head was read and handed on; its request has yet to be seen.
    pub(super) fn head_read(&self, verdict: Verdict) {
        self.verdict.store(verdict as u8, Ordering::Relaxed);
        self.receiving.store(true, Ordering::Relaxed);
    }

    /// What was found about the head that was read last.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::from_number(self.verdict.load(Ordering::Relaxed))
    }

    /// The whole request has been read: what comes next is another head.
    pub(super) fn request_read(&self) {
        self.receiving.store(false, Ordering::Relaxed);
    }

    /// True while a request's body is still to be read.
    pub(super) fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::Relaxed)
    }

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
}
