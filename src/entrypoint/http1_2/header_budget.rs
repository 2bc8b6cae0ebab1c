//! What request heads may hold in memory together, so that many large ones cannot fill it.
//!
//! One head may be as large as `maxHeaderBytes`, which is 1 MiB by default: a thousand clients that send one each and
//! never end it would hold a gigabyte. So what heads hold beyond an ordinary size is counted for the whole process,
//! and the less is left, the smaller a head may become: the large ones are refused first (431), ordinary ones never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most header lines of a request, `Host` included.
pub(in crate::entrypoint) const MAX_HEADER_LINES: usize = 1024;
/// A head of this size is never refused for the sake of others, and not counted.
const ORDINARY: usize = 16 * 1024;
/// What all heads may hold beyond that, in bytes.
const ALL: usize = 64 << 20;
/// A head may grow to this part of what is left.
const PART: usize = 16;

/// What heads hold together.
#[derive(Debug)]
pub(in crate::entrypoint) struct HeaderBudget {
    held: AtomicUsize,
    most: usize,
}

impl HeaderBudget {
    /// A budget in which one head may be `largest`.
    pub(in crate::entrypoint) fn new(largest: usize) -> Arc<Self> {
        // Twice what one head of that size asks for, so that others do not come in its way.
        Self::of(ALL.max(largest.saturating_mul(2 * PART)))
    }

    /// A budget of so many bytes.
    pub(in crate::entrypoint) fn of(most: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), most })
    }
}

/// What one head, or those of one connection, hold. Given back when dropped.
#[derive(Debug)]
pub(in crate::entrypoint) struct HeaderReservation {
    budget: Arc<HeaderBudget>,
    counted: usize,
}

impl HeaderReservation {
    /// Nothing yet.
    pub(in crate::entrypoint) fn new(budget: Arc<HeaderBudget>) -> Self {
        Self { budget, counted: 0 }
    }

    /// True when a head of so many bytes is counted at all.
    pub(in crate::entrypoint) fn counts(bytes: usize) -> bool {
        bytes > ORDINARY
    }

    /// The head holds so many bytes now. False: that is more than there is room for.
    #[must_use]
    pub(in crate::entrypoint) fn grow(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.saturating_sub(ORDINARY).checked_sub(self.counted) else { return true };
        if more == 0 {
            return true;
        }
        let others = self.budget.held.load(Ordering::Relaxed).saturating_sub(self.counted);
        if self.counted + more > self.budget.most.saturating_sub(others) / PART {
            return false;
        }
        self.budget.held.fetch_add(more, Ordering::Relaxed);
        self.counted += more;
        true
    }

    /// The head is gone.
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
    fn many_large_heads_stay_bounded_and_small_ones_pass() {
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
        assert!(budget.held.load(Ordering::Relaxed) <= ALL);
        assert!(sizes.iter().all(|size| *size >= ORDINARY));
        assert!(HeaderReservation::new(budget.clone()).grow(ORDINARY));
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
    fn a_larger_limit_has_a_larger_budget() {
        let budget = HeaderBudget::new(64 << 20);
        assert!(HeaderReservation::new(budget).grow(64 << 20));
    }
}
