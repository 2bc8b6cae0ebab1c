//! What is removed before the store has found everything that is on disk: it must not be found afterwards.

use std::collections::HashSet;

use foldhash::quality::RandomState;

/// Ids of the catalog that are remembered. If there are more, nothing older is found at all.
const MAX_IDS: usize = 65_536;

/// Removals during the recovery of a store.
#[derive(Default)]
pub(super) struct EarlyRemovals {
    ids: HashSet<u64, RandomState>,
    is_over: bool,
}

impl EarlyRemovals {
    pub(super) fn add(&mut self, id: u64) {
        if self.ids.len() == MAX_IDS {
            self.is_over = true;
        } else {
            self.ids.insert(id);
        }
    }

    /// Whether an object with this id that was stored by an earlier process was removed, or may have been.
    pub(super) fn cover(&self, id: u64) -> bool {
        self.is_over || self.ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_that_are_not_remembered_cover_everything() {
        let mut early = EarlyRemovals::default();
        (0..MAX_IDS as u64).for_each(|id| early.add(id));
        assert!(early.cover(1) && !early.cover(u64::MAX));
        early.add(u64::MAX - 1);
        assert!(early.cover(u64::MAX));
    }
}
