//! Objects that outlive a snapshot because the next one uses them as well: servers, balances, turns.
//!
//! A registry knows them by key for as long as somebody holds them ([`Live`]). While a snapshot is compiled, its draft
//! looks objects up there and keeps new ones to itself ([`Staged`], [`Checks`]), so that a draft can be dropped without
//! a trace.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Objects by key, none of which is kept alive.
pub(crate) struct Live<K, T>(Mutex<HashMap<K, Weak<T>>>);

impl<K, T> Default for Live<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T> Live<K, T> {
    /// Returns the object of a key, unless nobody holds it any more.
    pub(crate) fn get(&self, key: &K) -> Option<Arc<T>> {
        self.0.lock().get(key).and_then(Weak::upgrade)
    }

    /// Forgets the objects that nobody holds any more, and returns the others.
    pub(crate) fn sweep(&self) -> Vec<Arc<T>> {
        let mut live = Vec::new();
        self.0.lock().retain(|_, object| {
            live.extend(object.upgrade());
            object.strong_count() > 0
        });
        live
    }
}

/// Live objects as a draft sees them, and the new ones of the draft.
pub(crate) struct Staged<K, T> {
    live: Arc<Live<K, T>>,
    new: RefCell<HashMap<K, Arc<T>>>,
}

impl<K: Eq + Hash, T> Staged<K, T> {
    /// Returns a view without new objects.
    pub(crate) fn new(live: Arc<Live<K, T>>) -> Self {
        Self { live, new: RefCell::default() }
    }

    /// Returns the object of a key, new or live, if it is usable.
    pub(crate) fn find(&self, key: &K, is_usable: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        let known = self.new.borrow().get(key).cloned().or_else(|| self.live.get(key));
        known.filter(|known| is_usable(known))
    }

    /// Adds a new object, in the place of any other of its key.
    pub(crate) fn add(&self, key: K, object: T) -> Arc<T> {
        let object = Arc::new(object);
        self.new.borrow_mut().insert(key, object.clone());
        object
    }

    /// Enters the new objects that somebody else holds as well, after `begin` was called for each. The others belong to
    /// services that could not be built or that no router uses.
    pub(crate) fn enter(self, begin: impl Fn(&T)) {
        for (key, object) in self.new.into_inner() {
            if Arc::strong_count(&object) > 1 {
                begin(&object);
                self.live.0.lock().insert(key, Arc::downgrade(&object));
            }
        }
    }
}

/// The health checks `C` of the servers `S` of each service of a draft.
pub(crate) struct Checks<S, C>(RefCell<HashMap<String, Vec<Checked<S, C>>>>);

/// A server with its health check.
type Checked<S, C> = (Arc<S>, Option<C>);

impl<S, C> Default for Checks<S, C> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<S, C> Checks<S, C> {
    /// Sets the checks of a service.
    pub(crate) fn set(&self, service: &str, checks: Vec<Checked<S, C>>) {
        self.0.borrow_mut().insert(service.to_owned(), checks);
    }

    /// Drops the checks of all other services.
    pub(crate) fn retain(&self, services: &BTreeSet<String>) {
        self.0.borrow_mut().retain(|service, _| services.contains(service));
    }

    /// Returns the check of each server.
    pub(crate) fn into_all(self) -> impl Iterator<Item = Checked<S, C>> {
        self.0.into_inner().into_values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(live: &Arc<Live<&'static str, u32>>) -> Staged<&'static str, u32> {
        Staged::new(live.clone())
    }

    fn make(staged: &Staged<&'static str, u32>, key: &'static str, value: u32) -> Arc<u32> {
        staged.find(&key, |known| *known == value).unwrap_or_else(|| staged.add(key, value))
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_no_trace() {
        let live = Arc::default();
        let draft = staged(&live);
        let made = make(&draft, "a", 1);
        assert!(Arc::ptr_eq(&made, &make(&draft, "a", 1)));
        drop(draft);
        assert!(live.get(&"a").is_none());
    }

    #[test]
    fn only_what_is_used_is_entered_and_found_again() {
        let live = Arc::default();
        let draft = staged(&live);
        let used = make(&draft, "used", 1);
        drop(make(&draft, "unused", 2));
        draft.enter(|begun| assert_eq!(*begun, 1));
        assert_eq!(live.sweep(), std::slice::from_ref(&used));
        let next = staged(&live);
        assert!(Arc::ptr_eq(&make(&next, "used", 1), &used));
        assert!(!Arc::ptr_eq(&make(&next, "used", 7), &used), "not usable");
        drop((used, next));
        assert!(live.get(&"used").is_none() && live.sweep().is_empty());
    }
}
