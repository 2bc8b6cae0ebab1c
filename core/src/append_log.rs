//! An append-only list, for what is recorded of one request.

use std::sync::OnceLock;

/// Maximum number of attempts, pages, routes and identities recorded per request, of each kind.
const MAX_ENTRIES: usize = 64;

/// An append-only list for concurrent writers that holds up to 64 entries. The first needs no allocation,
/// since most exchanges have at most one.
#[derive(Debug)]
pub(crate) struct Log<T> {
    first: OnceLock<T>,
    more: OnceLock<Box<Log<T>>>,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { first: OnceLock::new(), more: OnceLock::new() }
    }
}

impl<T> Log<T> {
    /// Appends an entry. Returns `None` when the list is full.
    pub(crate) fn push(&self, mut entry: T) -> Option<&T> {
        let mut at = self;
        for _ in 0..MAX_ENTRIES {
            match at.first.set(entry) {
                Ok(()) => return at.first.get(),
                Err(back) => entry = back,
            }
            at = at.more.get_or_init(Box::default);
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = Some(self);
        std::iter::from_fn(move || {
            let log = at?;
            at = log.more.get().map(|more| &**more);
            log.first.get()
        })
    }

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
