//! Limits the memory that all request heads may use together.
//!
//! A head may be as large as `maxHeaderBytes`, 1 MiB by default: a thousand clients that never complete one would hold
//! a gigabyte. So bytes beyond an ordinary size are counted for the whole process. The less is left, the smaller a head
//! may become: large ones are refused first (431), ordinary ones never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum number of header lines of a request, including `Host`.
pub(in crate::entrypoint) const MAX_HEADER_LINES: usize = 1024;
/// Size up to which a head is not counted.
const UNCOUNTED_BYTES: usize = 16 * 1024;
/// Bytes that all heads may hold beyond that.
const MIN_BUDGET: usize = 64 << 20;
/// A head may grow to the remaining budget divided by this.
const MAX_SHARE: usize = 16;

/// The memory of all heads.
#[derive(Debug)]
pub(in crate::entrypoint) struct HeaderBudget {
    held: AtomicUsize,
    max: usize,
}

impl HeaderBudget {
    /// Creates a budget in which a head may have `largest` bytes.
    pub(in crate::entrypoint) fn new(largest: usize) -> Arc<Self> {
        // Twice what one head of that size needs, so that others do not prevent it.
        Self::with_max(MIN_BUDGET.max(largest.saturating_mul(2 * MAX_SHARE)))
    }

    /// Creates a budget of `max` bytes.
    pub(in crate::entrypoint) fn with_max(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }
}

/// The memory of one head, or of those of one connection. Released when dropped.
#[derive(Debug)]
pub(in crate::entrypoint) struct HeaderReservation {
    budget: Arc<HeaderBudget>,
    counted: usize,
}

impl HeaderReservation {
    /// Creates an empty reservation.
    pub(in crate::entrypoint) fn new(budget: Arc<HeaderBudget>) -> Self {
        Self { budget, counted: 0 }
    }

    /// Returns true if a head of this size is counted.
    pub(in crate::entrypoint) fn counts(bytes: usize) -> bool {
        bytes > UNCOUNTED_BYTES
    }

    /// Grows the reservation for a head of `bytes`. Returns false if the budget does not allow it.
    #[must_use]
    pub(in crate::entrypoint) fn grow(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.saturating_sub(UNCOUNTED_BYTES).checked_sub(self.counted) else { return true };
        if more == 0 {
            return true;
        }
        let others = self.budget.held.load(Ordering::Relaxed).saturating_sub(self.counted);
        if self.counted + more > self.budget.max.saturating_sub(others) / MAX_SHARE {
            return false;
        }
        self.budget.held.fetch_add(more, Ordering::Relaxed);
        self.counted += more;
        true
    }

    /// Releases the reservation.
    pub(in crate::entrypoint) fn release(&mut self) {
        if self.counted > 0 {
            self.budget.held.fetch_sub(self.counted, Ordering::Relaxed);
            self.counted = 0;
        }
    }
}

impl Drop for HeaderReservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_heads_are_bounded_together_and_small_ones_accepted() {
        let budget = HeaderBudget::new(1 << 20);
        let mut heads: Vec<HeaderReservation> =
            (0..2000).map(|_| HeaderReservation::new(budget.clone())).collect();
        let mut sizes = vec![0; heads.len()];
        for step in 1..=64 {
            for (head, size) in heads.iter_mut().zip(&mut sizes) {
                if head.grow(step * 16 * 1024) {
                    *size = step * 16 * 1024;
                }
            }
        }
        assert!(budget.held.load(Ordering::Relaxed) <= MIN_BUDGET);
        assert!(sizes.iter().all(|size| *size >= UNCOUNTED_BYTES));
        assert!(HeaderReservation::new(budget.clone()).grow(UNCOUNTED_BYTES));
        assert!(!HeaderReservation::new(budget.clone()).grow(1 << 20));
        heads.clear();
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
        let mut few: Vec<HeaderReservation> =
            (0..16).map(|_| HeaderReservation::new(budget.clone())).collect();
        assert!(few.iter_mut().all(|head| head.grow(1 << 20)), "sixteen of the largest fit");
        few[0].release();
        few[0].release();
        assert!(few[0].grow(1 << 20));
    }

    #[test]
    fn the_budget_grows_with_the_limit_of_one_head() {
        let budget = HeaderBudget::new(64 << 20);
        assert!(HeaderReservation::new(budget).grow(64 << 20));
    }
}
