//! A bounded number of places for requests that wait or ask.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts taken places.
#[derive(Debug, Default)]
pub(super) struct Places(AtomicUsize);

/// A taken place, which becomes free when this is dropped.
pub(super) struct Place<'a>(&'a AtomicUsize);

impl Places {
    /// Takes a place unless `limit` are taken.
    pub(super) fn take(&self, limit: usize) -> Option<Place<'_>> {
        let place = Place(&self.0);
        (self.0.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_become_free() {
        let places = Places::default();
        let first = places.take(1);
        assert!(first.is_some() && places.take(1).is_none());
        drop(first);
        assert!(places.take(1).is_some());
    }
}
