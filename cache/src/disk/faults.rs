//! Failures of a disk, for tests.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// What goes wrong.
#[derive(Default)]
pub(super) struct Faults {
    /// Writing fails as on a full disk.
    pub(super) full: AtomicBool,
    /// Writing waits for this lock: a slow disk.
    pub(super) gate: Mutex<()>,
}

impl Faults {
    pub(super) fn before_write(&self) -> io::Result<()> {
        drop(self.gate.lock());
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}
