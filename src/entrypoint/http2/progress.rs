//! State shared by the reading side of a connection, its requests and its responses.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

/// What the next bytes of a client belong to (HTTP/2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::entrypoint) enum Place {
    /// The next frame.
    #[default]
    Start,
    /// A header block.
    Head,
    /// Another frame.
    Frame,
    /// Nothing any more.
    Closed,
}

/// Shared by the stream of a connection and its requests. They are usually on one thread: the atomics make the type
/// `Sync` and see no contention.
#[derive(Debug, Default)]
pub(in crate::entrypoint) struct Progress {
    /// Requests without a complete response.
    open: AtomicU32,
    /// The connection should close after its open requests.
    leaving: AtomicBool,
    /// Responses that wait for the client to read (HTTP/2).
    stalled: AtomicU32,
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
    /// The gateway closes the connection, with its open requests.
    cut: AtomicBool,
}

impl Progress {
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
        [Place::Start, Place::Head, Place::Frame, Place::Closed]
            .into_iter()
            .find(|place| *place as u8 == self.place.load(Ordering::Relaxed))
            .unwrap_or_default()
    }

    /// Returns the number of reads.
    pub(in crate::entrypoint) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
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

    /// Counts a request.
    pub(in crate::entrypoint) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the end of its response.
    pub(in crate::entrypoint) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
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

    /// Counts a write, if it wrote anything.
    pub(in crate::entrypoint) fn sent(&self, length: usize) {
        if length > 0 {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}
