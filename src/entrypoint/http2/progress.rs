//! State shared by the reading side of a connection, its requests and its responses.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use tidegate_core::body::MinDataRate;

use crate::entrypoint::clock::{Limits, Wait};

/// What the next bytes of a client belong to (HTTP/2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Place {
    /// The next frame.
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
    /// Returns what the connection waits for, and a counter that changes with progress. `drains` if the listener does.
    pub(super) fn wait(&self, limits: &Limits, drains: bool) -> (Wait, u32) {
        let number = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        if self.write_blocked.load(Ordering::Relaxed) {
            return (Wait::Write(limits.write), number(&self.writes));
        }
        let place = self.place.load(Ordering::Relaxed);
        match self.heads() {
            _ if !self.read_blocked.load(Ordering::Relaxed) => (Wait::Nothing, 0),
            // The time of a block runs from its start, whatever else is received.
            heads if place == Place::Head as u8 => (Wait::Head, heads),
            _ if place == Place::Frame as u8 => {
                let min_rate = MinDataRate { stall: limits.body, rate: 0 };
                (Wait::Body { min_rate, received: 0 }, number(&self.reads))
            }
            // Streams blocked by flow control have no timers of their own.
            _ if number(&self.stalled) > 0 => (Wait::Write(limits.write), number(&self.reads)),
            _ if number(&self.open) > 0 || place == Place::Closed as u8 => (Wait::Nothing, 0),
            _ if self.is_leaving() => (Wait::Close, 0),
            0 => (Wait::First { drains }, u32::from(drains)),
            heads => (Wait::Next, heads),
        }
    }

    /// Records a read that ended at `place`; `head` if it completed a request head.
    pub(in crate::entrypoint) fn read(&self, place: Place, head: bool) {
        self.place.store(place as u8, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        if head {
            self.heads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of request heads read.
    pub(in crate::entrypoint) fn heads(&self) -> u32 {
        self.heads.load(Ordering::Relaxed)
    }

    /// Records whether a read waits for the client.
    pub(in crate::entrypoint) fn block_read(&self, blocked: bool) {
        self.read_blocked.store(blocked, Ordering::Relaxed);
    }

    /// Records whether a write waits for the client.
    pub(in crate::entrypoint) fn block_write(&self, blocked: bool) {
        self.write_blocked.store(blocked, Ordering::Relaxed);
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

    /// Counts a write, if it wrote anything.
    pub(in crate::entrypoint) fn sent(&self, length: usize) {
        if length > 0 {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}
