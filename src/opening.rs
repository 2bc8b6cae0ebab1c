//! When the gateway starts to serve clients: once the first configuration is complete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Whether clients are served yet. Opens once and stays open.
#[derive(Debug)]
pub struct Opening {
    open: AtomicBool,
    changed: Notify,
    holds: Mutex<Holds>,
}

#[derive(Debug, Default)]
struct Holds {
    /// Reasons to stay closed, with the number of holds for each.
    by: BTreeMap<Arc<str>, usize>,
    /// Whether nothing else is awaited.
    wanted: bool,
}

impl Default for Opening {
    /// Open from the start.
    fn default() -> Self {
        Self { open: AtomicBool::new(true), ..Self::closed() }
    }
}

impl Opening {
    /// Creates one that is closed.
    pub fn closed() -> Self {
        Self { open: AtomicBool::new(false), changed: Notify::new(), holds: Mutex::default() }
    }

    /// Returns true once clients are served.
    pub fn is_open(&self) -> bool {
        // Acquire: whoever sees it open also sees the snapshot stored before.
        self.open.load(Ordering::Acquire)
    }

    /// Keeps it closed until the hold is dropped; `what` is the reason.
    pub fn hold(self: &Arc<Self>, what: impl Into<Arc<str>>) -> Hold {
        let what = what.into();
        *self.holds.lock().by.entry(what.clone()).or_default() += 1;
        Hold { opening: self.clone(), what }
    }

    /// Returns the reasons why it is held.
    pub fn held_by(&self) -> Vec<Arc<str>> {
        self.holds.lock().by.keys().cloned().collect()
    }

    /// Starts to serve clients: now, or when the last hold is dropped.
    pub fn open(&self) {
        let mut holds = self.holds.lock();
        holds.wanted = true;
        if holds.by.is_empty() {
            drop(holds);
            self.open_anyway();
        }
    }

    /// Starts to serve clients regardless of holds.
    pub fn open_anyway(&self) {
        if !self.open.swap(true, Ordering::Release) {
            self.changed.notify_waiters();
        }
    }

    /// Waits until clients are served.
    pub async fn opened(&self) {
        // Registered before the check, so that opening in between is not missed.
        let changed = self.changed.notified();
        if !self.is_open() {
            changed.await;
        }
    }
}

/// Keeps clients waiting until dropped.
#[derive(Debug)]
pub struct Hold {
    opening: Arc<Opening>,
    what: Arc<str>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.opening.holds.lock();
        if let Some(count) = holds.by.get_mut(&self.what) {
            *count -= 1;
            if *count == 0 {
                holds.by.remove(&self.what);
            }
        }
        if holds.wanted && holds.by.is_empty() {
            drop(holds);
            self.opening.open_anyway();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_when_the_last_hold_is_dropped() {
        let opening = Arc::new(Opening::closed());
        let (one, other) = (opening.hold("a"), opening.hold("a"));
        let third = opening.hold("b");
        opening.open();
        drop((one, third));
        assert_eq!((opening.is_open(), opening.held_by()), (false, vec!["a".into()]));
        drop(other);
        assert!(opening.is_open());
        let unwanted = Arc::new(Opening::closed());
        drop(unwanted.hold("a"));
        assert!(!unwanted.is_open());
        let _held = unwanted.hold("a");
        unwanted.open_anyway();
        assert!(unwanted.is_open());
    }
}
