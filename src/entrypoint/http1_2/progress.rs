//! State shared by the reading side of a connection, its requests and its responses.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tidegate_core::{Interim, Reason};
use tidegate_wire::http1::framing::Place;

/// Maximum number of bytes of a response that are buffered for a slow client (HTTP/1).
const MAX_UNSENT: usize = 16 * 1024;
/// Maximum number of bytes of informational responses that are buffered for a slow client.
const MAX_INTERIM: usize = 16 * 1024;

/// Shared by the stream of a connection and its requests. They are usually on one thread: the atomics make the type
/// `Sync` and see no contention.
#[derive(Debug, Default)]
pub(in crate::entrypoint) struct Progress {
    /// Requests without a complete response.
    open: AtomicU32,
    /// The connection has switched to another protocol.
    upgraded: AtomicBool,
    /// The connection should close after its open requests.
    leaving: AtomicBool,
    /// Responses that wait for the client to read (HTTP/2).
    stalled: AtomicU32,
    /// Bytes of responses that are not written yet (HTTP/1).
    unsent: AtomicUsize,
    waker: AtomicWaker,
    place: AtomicU8,
    reads: AtomicU32,
    heads: AtomicU32,
    writes: AtomicU32,
    read_blocked: AtomicBool,
    write_blocked: AtomicBool,
    /// Output is buffered (HTTP/2).
    gathered: AtomicBool,
    /// Buffered output should be written now.
    flushing: AtomicBool,
    /// A large header block was received (HTTP/2).
    large: AtomicBool,
    /// Informational responses that are not written yet (HTTP/1).
    interim: Mutex<Vec<u8>>,
    has_interim: AtomicBool,
    /// The head of a response is sent, and its body has not ended (HTTP/1).
    responding: AtomicBool,
    /// The gateway closes the connection, with its open requests.
    cut: AtomicBool,
    /// Bytes read.
    received: AtomicU64,
    /// Why the stream refused a head, as its place in [`Reason::ALL`] plus 1; 0 if it did not (HTTP/1).
    refused: AtomicU8,
    /// How long the current body may stall, in milliseconds plus 1; 0 for the listener's limit, 1 for none.
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
    /// Records that a head is refused before there is a request.
    pub(in crate::entrypoint) fn refuse(&self, reason: Reason) {
        self.refused.store(reason as u8 + 1, Ordering::Relaxed);
    }

    /// Takes the reason for which a head was refused.
    pub(in crate::entrypoint) fn take_refused(&self) -> Option<Reason> {
        let place = usize::from(self.refused.swap(0, Ordering::Relaxed)).checked_sub(1)?;
        Reason::ALL.get(place).copied()
    }

    /// Records a read that ended at `place`; `head` if it completed a request head.
    pub(in crate::entrypoint) fn read(&self, place: Place, head: bool) {
        self.place.store(place as u8, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        if head {
            self.heads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns what the client's next bytes belong to.
    pub(in crate::entrypoint) fn place(&self) -> Place {
        Place::from_number(self.place.load(Ordering::Relaxed))
    }

    /// Returns the number of reads.
    pub(in crate::entrypoint) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Counts bytes that were read.
    pub(in crate::entrypoint) fn add_received(&self, length: usize) {
        // There is only one writer.
        let before = self.received.load(Ordering::Relaxed);
        self.received.store(before.wrapping_add(length as u64), Ordering::Relaxed);
    }

    /// Returns the number of bytes read.
    pub(in crate::entrypoint) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Sets how long the current body may stall: `Some(None)` for no limit, `None` for the listener's.
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

    /// Returns the value of [`Self::set_patience`].
    pub(in crate::entrypoint) fn patience(&self) -> Option<Option<Duration>> {
        match self.patience.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(None),
            number => Some(Some(Duration::from_millis(number - 1))),
        }
    }

    /// Returns the number of request heads read.
    pub(in crate::entrypoint) fn heads(&self) -> u32 {
        self.heads.load(Ordering::Relaxed)
    }

    /// Returns the number of writes.
    pub(in crate::entrypoint) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Records whether a read waits for the client.
    pub(in crate::entrypoint) fn block_read(&self, blocked: bool) {
        self.read_blocked.store(blocked, Ordering::Relaxed);
    }

    /// Returns true while a read waits for the client.
    pub(in crate::entrypoint) fn is_read_blocked(&self) -> bool {
        self.read_blocked.load(Ordering::Relaxed)
    }

    /// Records whether a write waits for the client.
    pub(in crate::entrypoint) fn block_write(&self, blocked: bool) {
        self.write_blocked.store(blocked, Ordering::Relaxed);
    }

    /// Returns true while a write waits for the client.
    pub(in crate::entrypoint) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    /// Records whether output is buffered until [`Self::flush`].
    pub(in crate::entrypoint) fn gather(&self, gathered: bool) {
        self.gathered.store(gathered, Ordering::Relaxed);
    }

    /// Returns true if output is buffered.
    pub(in crate::entrypoint) fn has_gathered(&self) -> bool {
        self.gathered.load(Ordering::Relaxed)
    }

    /// Sets whether a flush writes the buffered output, or leaves it for later.
    pub(in crate::entrypoint) fn flush(&self, now: bool) {
        self.flushing.store(now, Ordering::Relaxed);
    }

    /// Returns true if a flush should write the buffered output.
    pub(in crate::entrypoint) fn is_flushing(&self) -> bool {
        self.flushing.load(Ordering::Relaxed)
    }

    /// Records that a large header block was read.
    pub(in crate::entrypoint) fn note_large(&self) {
        self.large.store(true, Ordering::Relaxed);
    }

    /// Returns true if a large header block was read.
    pub(in crate::entrypoint) fn has_large(&self) -> bool {
        self.large.load(Ordering::Relaxed)
    }

    /// Returns true while informational responses are not written yet.
    pub(in crate::entrypoint) fn has_interim(&self) -> bool {
        self.has_interim.load(Ordering::Relaxed)
    }

    /// Takes the informational responses to write.
    pub(in crate::entrypoint) fn take_interim(&self) -> Vec<u8> {
        std::mem::take(&mut self.interim.lock())
    }

    /// Records that all informational responses are written.
    pub(in crate::entrypoint) fn interim_written(&self) {
        self.has_interim.store(false, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Ready when all informational responses are written, so that the final response may follow.
    pub(in crate::entrypoint) fn poll_interim(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.has_interim() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Counts a request.
    pub(in crate::entrypoint) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the end of its response.
    pub(in crate::entrypoint) fn end(&self) {
        self.responding.store(false, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records the head of a response (HTTP/1).
    pub(in crate::entrypoint) fn respond(&self) {
        self.responding.store(true, Ordering::Relaxed);
    }

    /// Returns true from the head of a response to its end (HTTP/1).
    pub(in crate::entrypoint) fn is_responding(&self) -> bool {
        self.responding.load(Ordering::Relaxed)
    }

    /// Records that the gateway closes the connection.
    pub(in crate::entrypoint) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Returns true if the gateway closed the connection.
    pub(in crate::entrypoint) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Returns a counter that changes with each read and write.
    pub(in crate::entrypoint) fn moves(&self) -> u32 {
        self.reads().wrapping_add(self.writes())
    }

    /// Returns true while any response is incomplete.
    pub(in crate::entrypoint) fn is_awaiting_response(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Records that the connection switches to another protocol.
    pub(in crate::entrypoint) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Returns true after an upgrade.
    pub(in crate::entrypoint) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Requests a graceful shutdown of the connection.
    pub(in crate::entrypoint) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Returns true once a graceful shutdown is requested.
    pub(in crate::entrypoint) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Counts a response that waits for the client, or no longer does.
    pub(in crate::entrypoint) fn count_stalled(&self, stalled: bool) {
        if stalled {
            self.stalled.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stalled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Returns true while a response waits for the client.
    pub(in crate::entrypoint) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) > 0
    }

    /// Counts bytes passed on to be written.
    pub(in crate::entrypoint) fn add_unsent(&self, length: usize) {
        self.unsent.fetch_add(length, Ordering::Relaxed);
    }

    /// Counts bytes written, including heads.
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

    /// Ready while more of a response may be buffered.
    pub(in crate::entrypoint) fn poll_unsent(&self, cx: &Context<'_>) -> Poll<()> {
        if self.unsent.load(Ordering::Relaxed) < MAX_UNSENT {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        Poll::Pending
    }
}
