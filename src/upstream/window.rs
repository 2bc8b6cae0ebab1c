//! How much is read from a server at once: little, so that slow clients hold little; more while answers flow fast.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Read at once without asking. What waits for a client that takes nothing is about twice as much.
const BASE: usize = 16 * 1024;
/// Read at once at most.
const MAX: usize = 512 * 1024;
/// Reads that must fill a window before it grows. A client that takes nothing has stopped the flow by then: what the
/// system buffers for it is less.
const PATIENCE: u8 = 8;
/// What all connections together may read at once beyond [`BASE`] each. Whoever stalls keeps what it borrowed, so this
/// is also what all stalled clients of the process can hold beyond the base.
const BUDGET: usize = 8 * 1024 * 1024;

/// What is left of [`BUDGET`]. Touched when a window changes, not when something is read.
static FREE: AtomicUsize = AtomicUsize::new(BUDGET);

/// The size of one connection's reads.
///
/// The HTTP library doubles its buffer when a read filled it, and halves it after two reads in a row that filled less
/// than half. A window of `size` lets it stay at `size`: one byte less is read until the next size has been borrowed.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// The next size has been borrowed already, so a read may fill the buffer.
    opening: bool,
    /// Reads in a row that filled the window.
    full: u8,
    /// The last read was small.
    small: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { size: BASE, opening: false, full: 0, small: false }
    }
}

impl Window {
    /// Bytes that the next read may bring.
    pub(super) fn limit(&self) -> usize {
        if self.opening { self.size } else { self.size - 1 }
    }

    /// Takes note of a read of `length` bytes.
    pub(super) fn note(&mut self, length: usize) {
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
        self.opening = self.full >= PATIENCE && self.size < MAX && borrow(self.size);
    }

    fn shrink(&mut self) {
        let before = self.lent();
        if !self.opening {
            self.size /= 2;
        }
        (self.opening, self.small) = (false, false);
        FREE.fetch_add(before - self.lent(), Ordering::Relaxed);
    }

    /// What this window has borrowed.
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

/// Borrows from the budget. The last eighth of it is for small windows, so that a few connections do not take all.
fn borrow(size: usize) -> bool {
    let take = |free: usize| free.checked_sub(size).filter(|rest| *rest >= (size - BASE) * 8);
    FREE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads that fill whatever is allowed.
    fn grown() -> Window {
        let mut window = Window::default();
        for _ in 0..50 {
            window.note(window.limit());
        }
        window
    }

    #[test]
    fn windows_grow_while_reads_fill_them_shrink_after_and_give_all_back() {
        let mut window = grown();
        assert_eq!(window.limit(), MAX - 1);
        for _ in 0..20 {
            window.note(100);
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
