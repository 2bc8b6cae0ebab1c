//! What a connection's reading side, its requests and its answers tell each other.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tidegate_core::Interim;
use tidegate_wire::http1::framing::Place;

/// Bytes of an answer that may wait in our buffers for a slow client (HTTP/1).
const MAX_UNSENT: usize = 16 * 1024;
/// Bytes of interim answers that may wait for a slow client.
const MAX_INTERIM: usize = 16 * 1024;

/// Shared by the stream of one connection and what is served on it. All on one thread most of the time, so the
/// atomics are there for types that may move, not for contention.
#[derive(Debug, Default)]
pub(in crate::entrypoint) struct Progress {
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
    place: AtomicU8,
    reads: AtomicU32,
    heads: AtomicU32,
    writes: AtomicU32,
    read_blocked: AtomicBool,
    write_blocked: AtomicBool,
    /// Something was taken to be written and is not yet (HTTP/2).
    gathered: AtomicBool,
    /// What was gathered is to be written now.
    flushing: AtomicBool,
    /// A large header block has come (HTTP/2).
    large: AtomicBool,
    /// Interim answers that are not written yet (HTTP/1).
    interim: Mutex<Vec<u8>>,
    has_interim: AtomicBool,
    /// The head of an answer is on its way, and its body is not over (HTTP/1).
    responding: AtomicBool,
    /// The connection is cut by us, with what is open on it.
    cut: AtomicBool,
    /// Bytes that were read.
    received: AtomicU64,
    /// Milliseconds without progress that the body under way may take, in place of the listener's, and 1 more; 0: the
    /// listener's, 1: any.
    patience: AtomicU64,
}

impl Interim for Progress {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let mut bytes = self.interim.lock();
        if bytes.len() > MAX_INTERIM {
            return;
        }
        bytes.extend_from_slice(b"HTTP/1.1 ");
        bytes.extend_from_slice(status.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
        for (name, value) in headers {
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n\r\n");
        self.has_interim.store(true, Ordering::Relaxed);
    }
}

impl Progress {
    /// Something was read, up to this place; `head`: a request head was completed by it.
    pub(in crate::entrypoint) fn read(&self, place: Place, head: bool) {
        self.place.store(place as u8, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        if head {
            self.heads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the client's next bytes belong to.
    pub(in crate::entrypoint) fn place(&self) -> Place {
        Place::from_number(self.place.load(Ordering::Relaxed))
    }

    /// How often something was read.
    pub(in crate::entrypoint) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Counts bytes that were read.
    pub(in crate::entrypoint) fn add_received(&self, length: usize) {
        // One writer.
        let before = self.received.load(Ordering::Relaxed);
        self.received.store(before.wrapping_add(length as u64), Ordering::Relaxed);
    }

    /// How many bytes were read.
    pub(in crate::entrypoint) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How long the body under way may make no progress (`Some(None)`: any time); `None`: as the listener says.
    pub(in crate::entrypoint) fn set_patience(&self, patience: Option<Option<Duration>>) {
        let number = match patience {
            None => 0,
            Some(None) => 1,
            Some(Some(limit)) => {
                u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1).saturating_add(1)
            }
        };
        if number != self.patience.load(Ordering::Relaxed) {
            self.patience.store(number, Ordering::Relaxed);
        }
    }

    /// What was set last.
    pub(in crate::entrypoint) fn patience(&self) -> Option<Option<Duration>> {
        match self.patience.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(None),
            number => Some(Some(Duration::from_millis(number - 1))),
        }
    }

    /// How many request heads were read.
    pub(in crate::entrypoint) fn heads(&self) -> u32 {
        self.heads.load(Ordering::Relaxed)
    }

    /// How often something was written.
    pub(in crate::entrypoint) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Somebody wants to read, and there is nothing (or there was).
    pub(in crate::entrypoint) fn block_read(&self, blocked: bool) {
        self.read_blocked.store(blocked, Ordering::Relaxed);
    }

    /// True while somebody waits for the client to send.
    pub(in crate::entrypoint) fn is_read_blocked(&self) -> bool {
        self.read_blocked.load(Ordering::Relaxed)
    }

    /// The client takes no more for now (or did).
    pub(in crate::entrypoint) fn block_write(&self, blocked: bool) {
        self.write_blocked.store(blocked, Ordering::Relaxed);
    }

    /// True while something waits to be taken by the client.
    pub(in crate::entrypoint) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    /// Notes whether something waits for [`Self::flush`].
    pub(in crate::entrypoint) fn gather(&self, gathered: bool) {
        self.gathered.store(gathered, Ordering::Relaxed);
    }

    /// True when something waits to be written.
    pub(in crate::entrypoint) fn has_gathered(&self) -> bool {
        self.gathered.load(Ordering::Relaxed)
    }

    /// Whether a flush writes what was gathered, or leaves it for later.
    pub(in crate::entrypoint) fn flush(&self, now: bool) {
        self.flushing.store(now, Ordering::Relaxed);
    }

    /// True when a flush is to write what was gathered.
    pub(in crate::entrypoint) fn is_flushing(&self) -> bool {
        self.flushing.load(Ordering::Relaxed)
    }

    /// A large header block was read.
    pub(in crate::entrypoint) fn note_large(&self) {
        self.large.store(true, Ordering::Relaxed);
    }

    /// True once a large header block was read.
    pub(in crate::entrypoint) fn has_large(&self) -> bool {
        self.large.load(Ordering::Relaxed)
    }

    /// True while interim answers are not written yet.
    pub(in crate::entrypoint) fn has_interim(&self) -> bool {
        self.has_interim.load(Ordering::Relaxed)
    }

    /// Takes the interim answers that are to be written.
    pub(in crate::entrypoint) fn take_interim(&self) -> Vec<u8> {
        std::mem::take(&mut self.interim.lock())
    }

    /// All interim answers are written.
    pub(in crate::entrypoint) fn interim_written(&self) {
        self.has_interim.store(false, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Ready when no interim answer waits to be written. The answer itself must not come before.
    pub(in crate::entrypoint) fn poll_interim(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.has_interim() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// A request begins.
    pub(in crate::entrypoint) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer is over.
    pub(in crate::entrypoint) fn end(&self) {
        self.responding.store(false, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// The head of the answer is there (HTTP/1).
    pub(in crate::entrypoint) fn respond(&self) {
        self.responding.store(true, Ordering::Relaxed);
    }

    /// True from the head of an answer to its end (HTTP/1).
    pub(in crate::entrypoint) fn is_responding(&self) -> bool {
        self.responding.load(Ordering::Relaxed)
    }

    /// The connection is about to be cut.
    pub(in crate::entrypoint) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// True when it was we who cut the connection.
    pub(in crate::entrypoint) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Changes with everything that is read or written.
    pub(in crate::entrypoint) fn moves(&self) -> u32 {
        self.reads().wrapping_add(self.writes())
    }

    /// True while any answer is not complete.
    pub(in crate::entrypoint) fn is_answering(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// The connection speaks another protocol from here on.
    pub(in crate::entrypoint) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// True after an upgrade.
    pub(in crate::entrypoint) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Asks for the connection's end.
    pub(in crate::entrypoint) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// True once the end was asked for.
    pub(in crate::entrypoint) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Counts an answer that waits for the client, or no longer does.
    pub(in crate::entrypoint) fn count_stalled(&self, stalled: bool) {
        if stalled {
            self.stalled.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stalled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// True while an answer waits for the client.
    pub(in crate::entrypoint) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) > 0
    }

    /// Counts bytes that were handed on to be written.
    pub(in crate::entrypoint) fn add_unsent(&self, length: usize) {
        self.unsent.fetch_add(length, Ordering::Relaxed);
    }

    /// Counts bytes that were written, heads included.
    pub(in crate::entrypoint) fn sent(&self, length: usize) {
        if length > 0 {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        let before = self.unsent.load(Ordering::Relaxed);
        self.unsent.store(before.saturating_sub(length), Ordering::Relaxed);
        if before >= MAX_UNSENT {
            self.waker.wake();
        }
    }

    /// Ready while more of an answer may be buffered.
    pub(in crate::entrypoint) fn poll_unsent(&self, cx: &Context<'_>) -> Poll<()> {
        if self.unsent.load(Ordering::Relaxed) < MAX_UNSENT {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        Poll::Pending
    }
}
