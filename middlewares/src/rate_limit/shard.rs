//! A bounded map from sources to what is kept of each, one of several that share the sources of a limiter.

use std::collections::HashMap;
use std::sync::Arc;

/// Maximum number of sources (as in Traefik).
pub(super) const MAX_SOURCES: usize = 65_536;
/// Number of shards.
pub(super) const SHARDS: usize = 64;

/// Values by source. A full shard evicts with CLOCK.
#[derive(Debug)]
pub(super) struct Shard<V> {
    index: HashMap<Arc<str>, usize, foldhash::fast::RandomState>,
    slots: Vec<Slot<V>>,
    hand: usize,
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self { index: HashMap::default(), slots: Vec::new(), hand: 0 }
    }
}

#[derive(Debug)]
struct Slot<V> {
    source: Arc<str>,
    value: V,
    used: bool,
}

impl<V> Shard<V> {
    /// Returns the number of sources.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the value of a source, which does not count as a use.
    pub(super) fn peek(&self, source: &str) -> Option<&V> {
        self.slots.get(*self.index.get(source)?).map(|slot| &slot.value)
    }

    /// Returns the value of a source.
    pub(super) fn find(&mut self, source: &str) -> Option<&mut V> {
        let slot = self.slots.get_mut(*self.index.get(source)?)?;
        slot.used = true;
        Some(&mut slot.value)
    }

    /// Adds a source that is not present. If there is no room, evicts one that `is_spare` or was not used recently.
    pub(super) fn insert(&mut self, source: &str, value: V, is_spare: impl Fn(&V) -> bool) {
        let source: Arc<str> = Arc::from(source);
        let slot = Slot { source: source.clone(), value, used: false };
        if self.slots.len() < MAX_SOURCES / SHARDS {
            self.index.insert(source, self.slots.len());
            self.slots.push(slot);
            return;
        }
        let place = self.evict(is_spare);
        self.index.remove(&self.slots[place].source);
        self.index.insert(source, place);
        self.slots[place] = slot;
    }

    /// Returns the next slot that is spare, or that was not used since the hand last passed it.
    fn evict(&mut self, is_spare: impl Fn(&V) -> bool) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[place];
            if is_spare(&slot.value) || !slot.used {
                return place;
            }
            slot.used = false;
        }
    }

    /// Returns true if index and slots agree.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        self.index.len() == self.slots.len()
            && self.index.iter().all(|(source, place)| self.slots[*place].source == *source)
    }
}
