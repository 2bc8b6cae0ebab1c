//! How often keys are asked for, so that what is asked for once is not stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use quick_cache::sync::Cache;

use crate::key::Key;

/// Counts requests by key, for a bounded number of keys. A key that is forgotten begins again.
pub struct UseCounter(Cache<Key, Arc<AtomicU32>>);

impl UseCounter {
    /// Counts for at most `keys` keys.
    pub fn new(keys: usize) -> Self {
        Self(Cache::new(keys.max(1)))
    }

    /// Counts a request, and returns how many there were with it.
    pub fn count(&self, key: &Key) -> u32 {
        if let Some(count) = self.0.get(key) {
            return count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        }
        self.0.insert(key.clone(), Arc::new(AtomicU32::new(1)));
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_and_bounded() {
        let counter = UseCounter::new(10);
        let key = |name: &str| Key::from_bytes(name.as_bytes());
        assert_eq!([counter.count(&key("a")), counter.count(&key("b")), counter.count(&key("a"))], [1, 1, 2]);
        for i in 0..1000 {
            counter.count(&key(&i.to_string()));
        }
        assert!(counter.0.len() <= 10);
    }
}
