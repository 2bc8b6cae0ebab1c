//! Limits the size of reads from a server: small, so that slow clients hold little memory, and larger while
//! responses flow fast.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Base size of reads. About twice as much is buffered for a stalled client.
const BASE: usize = 16 * 1024;
/// Maximum size of reads.
const MAX: usize = 512 * 1024;
/// Number of full reads before a window grows. A stalled client has stopped the flow by then, as the system
/// buffers less.
const FULL_READS: u8 = 8;
/// Total size of all windows beyond [`BASE`] each. A stalled connection keeps what it borrowed, so this also
/// bounds the memory of all stalled clients beyond the base.
const BUDGET: usize = 8 * 1024 * 1024;

/// The rest of [`BUDGET`]. Accessed when a window changes, not on every read.
static FREE: AtomicUsize = AtomicUsize::new(BUDGET);

/// The size of one connection's reads.
///
/// The HTTP library doubles its buffer after a full read, and halves it after two consecutive reads of less
/// than half. A window of `size` keeps it at `size`: reads are one byte shorter until the next size has been
/// borrowed.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Whether the next size has been borrowed, so that a read may fill the buffer.
    opening: bool,
    /// Number of consecutive full reads.
    full: u8,
    /// Whether the last read was small.
    small: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { size: BASE, opening: false, full: 0, small: false }
    }
}

impl Window {
    /// Returns the maximum size of the next read.
    pub(super) fn limit(&self) -> usize {
        if self.opening { self.size } else { self.size - 1 }
    }

    /// Records a read of `length` bytes.
    pub(super) fn record_read(&mut self, length: usize) {
        if length >= self.limit() {
            self.small = false;
            self.grow();
            return;
        }
        self.full = 0;
        let small = length > 0 && length < self.size / 2;
        if small && self.small && self.lent() > 0 {
            self.shrink();
        } else {
            self.small = small;
        }
    }

    fn grow(&mut self) {
        if self.opening {
            self.size *= 2;
            (self.opening, self.full) = (false, 0);
            return;
        }
        self.full = self.full.saturating_add(1);
        self.opening = self.full >= FULL_READS && self.size < MAX && borrow(self.size);
    }

    fn shrink(&mut self) {
        let before = self.lent();
        if !self.opening {
            self.size /= 2;
        }
        (self.opening, self.small) = (false, false);
        FREE.fetch_add(before - self.lent(), Ordering::Relaxed);
    }

    /// Returns the borrowed size.
    fn lent(&self) -> usize {
        self.size - BASE + if self.opening { self.size } else { 0 }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if self.lent() > 0 {
            FREE.fetch_add(self.lent(), Ordering::Relaxed);
        }
    }
}

/// Borrows from the budget. Its last eighth is reserved for small windows, so that a few connections cannot
/// use all.
fn borrow(size: usize) -> bool {
    let take = |free: usize| free.checked_sub(size).filter(|rest| *rest >= (size - BASE) * 8);
    FREE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a window after full reads.
    fn grown() -> Window {
        let mut window = Window::default();
        for _ in 0..50 {
            window.record_read(window.limit());
        }
        window
    }

    #[test]
    fn windows_grow_with_full_reads_then_shrink_and_return_their_budget() {
        let mut window = grown();
        assert_eq!(window.limit(), MAX - 1);
        for _ in 0..20 {
            window.record_read(100);
        }
        assert_eq!((window.limit(), window.lent()), (BASE - 1, 0));
        drop(window);
        let many: Vec<Window> = (0..10_000).map(|_| grown()).collect();
        assert!(many.iter().map(Window::lent).sum::<usize>() <= BUDGET);
        assert_eq!(many.last().unwrap().limit(), BASE - 1, "nothing was left for the last");
        drop(many);
        assert_eq!(grown().limit(), MAX - 1, "all was given back");
    }
}
