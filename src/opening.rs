//! The moment from which on clients are served: when the first configuration is complete.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether clients are served yet. It opens once and stays open.
#[derive(Debug)]
pub struct Opening {
    open: AtomicBool,
    changed: Notify,
}

impl Default for Opening {
    /// Open from the beginning: there is nothing to wait for.
    fn default() -> Self {
        Self { open: AtomicBool::new(true), changed: Notify::new() }
    }
}

impl Opening {
    /// Not open yet.
    pub fn closed() -> Self {
        Self { open: AtomicBool::new(false), changed: Notify::new() }
    }

    /// True once clients are served.
    pub fn is_open(&self) -> bool {
        // Acquire: whoever sees it open sees the snapshot that was stored before.
        self.open.load(Ordering::Acquire)
    }

    /// Lets everyone in who waits, and all who come.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until clients are served.
    pub async fn opened(&self) {
        // Registered before the look, so that an opening in between is not missed.
        let changed = self.changed.notified();
        if !self.is_open() {
            changed.await;
        }
    }
}
