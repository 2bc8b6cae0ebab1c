//! Locks of single workers that a reader holds for moments.

use parking_lot::{Mutex, MutexGuard};

/// How often a request tries to enter.
const MAX_SPINS: usize = 200;

/// Enters a lock without waiting for more than a few hundred nanoseconds; `None` if its reader holds it for longer.
pub(super) fn enter<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    (0..MAX_SPINS).find_map(|_| {
        let guard = mutex.try_lock();
        if guard.is_none() {
            std::hint::spin_loop();
        }
        guard
    })
}
