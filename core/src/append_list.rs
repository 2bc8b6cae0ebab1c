//! A list that grows without a lock while others read it.

use std::sync::OnceLock;

/// Maximum number of entries.
const MAX_ENTRIES: usize = 64;

/// An append-only list for concurrent writers that holds up to 64 entries. The first needs no allocation,
/// since most exchanges have at most one.
#[derive(Debug)]
pub(crate) struct AppendList<T> {
    first: OnceLock<T>,
    more: OnceLock<Box<AppendList<T>>>,
}

impl<T> Default for AppendList<T> {
    fn default() -> Self {
        Self { first: OnceLock::new(), more: OnceLock::new() }
    }
}

impl<T> AppendList<T> {
    /// Appends what `make` returns, which is created in its place. Returns `None` when the list is full.
    pub(crate) fn push(&self, make: impl Fn() -> T) -> Option<&T> {
        let mut at = self;
        for _ in 0..MAX_ENTRIES {
            let mut is_new = false;
            let entry = at.first.get_or_init(|| {
                is_new = true;
                make()
            });
            if is_new {
                return Some(entry);
            }
            at = at.more.get_or_init(Box::default);
        }
        None
    }

    /// Returns the entries, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = Some(self);
        std::iter::from_fn(move || {
            let log = at?;
            at = log.more.get().map(|more| &**more);
            log.first.get()
        })
    }

    /// Returns the newest entry.
    pub(crate) fn last(&self) -> Option<&T> {
        let mut log = self;
        while let Some(more) = log.more.get() {
            if more.first.get().is_none() {
                break;
            }
            log = more;
        }
        log.first.get()
    }
}
