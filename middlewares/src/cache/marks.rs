//! What a store knows of the announcements of the cluster.

use std::collections::VecDeque;

use tidegate_core::announced::{Mark, PurgesHandle};
use tokio::sync::{Mutex, MutexGuard};

/// Purges that are remembered because they were applied before they were announced. Others are applied again.
const MAX_OWN: usize = 128;

/// What is known of a store: the last announcement that holds for it, and own purges that were announced later.
#[derive(Default)]
pub(super) struct Marks {
    mark: Mutex<Option<Mark>>,
    own: parking_lot::Mutex<VecDeque<String>>,
}

impl Marks {
    /// For a store that is still empty: what is announced by now does not concern it.
    pub(super) fn of_empty(purges: &PurgesHandle) -> Self {
        let last = purges.current().map(|list| list.last.clone());
        Self { mark: Mutex::new(last), own: parking_lot::Mutex::default() }
    }

    /// Waits until nobody else brings the store up to date.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Option<Mark>> {
        self.mark.lock().await
    }

    /// Remembers a purge that was applied, and is announced with this id.
    pub(super) fn applied(&self, id: &str) {
        let mut own = self.own.lock();
        if own.len() == MAX_OWN {
            own.pop_front();
        }
        own.push_back(id.to_owned());
    }

    /// Whether this purge was applied before it was announced.
    pub(super) fn has_applied(&self, id: &str) -> bool {
        self.own.lock().iter().any(|own| own == id)
    }
}
