//! Where a store on disk is kept.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_cache::Purge;
use tidegate_cache::disk::{DiskLimits, DiskProblem, DiskStore};
use tidegate_cache::key::{Key, Variant};

use super::marks::Marks;

/// Problems of one kind are logged this often at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum size of the removals that wait for a folder, in bytes. With more, everything is removed.
const MAX_EARLY_BYTES: usize = 4 << 20;
/// What each of them counts for, besides its names.
const EARLY_OVERHEAD: usize = 128;

/// Why a folder is not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("cannot open {}: {error}", path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("{} is in use by another cache", path.display())]
    InUse { path: PathBuf },
}

/// The folders that caches of this process have open, and which.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<DiskStore>>>> = LazyLock::new(Mutex::default);

/// What is removed before the folder is open.
pub(super) enum EarlyRemoval {
    Purge(Purge),
    Variant(Key, Variant),
}

/// Removals that wait for the folder.
#[derive(Default)]
struct EarlyRemovals {
    purges: Vec<Purge>,
    variants: HashSet<(Key, Variant)>,
    bytes: usize,
}

impl EarlyRemovals {
    fn add(&mut self, removal: EarlyRemoval) {
        if self.bytes > MAX_EARLY_BYTES {
            // Everything is removed.
            return;
        }
        self.bytes += EARLY_OVERHEAD;
        match removal {
            EarlyRemoval::Purge(purge) => {
                self.bytes += match &purge {
                    Purge::All => 0,
                    Purge::Resource(start) | Purge::Prefix(start) => start.len(),
                    Purge::Tag(tag) => tag.len(),
                };
                self.purges.push(purge);
            }
            EarlyRemoval::Variant(key, variant) => {
                self.bytes += key.as_bytes().len();
                self.variants.insert((key, variant));
            }
        }
        if self.bytes > MAX_EARLY_BYTES {
            (self.purges, self.variants) = (vec![Purge::All], HashSet::new());
        }
    }

    fn apply(self, store: &DiskStore) {
        for purge in &self.purges {
            store.purge(purge);
        }
        for (key, variant) in &self.variants {
            store.remove_variant(key, variant);
        }
    }
}

/// The store of one cache, once it is open. It outlives changes of options.
pub(super) struct DiskSlot {
    path: PathBuf,
    store: OnceLock<Arc<DiskStore>>,
    early: Mutex<EarlyRemovals>,
    /// Which announcements of the cluster hold for what is on disk.
    pub(super) marks: Marks,
    /// Why it is not open.
    problem: Mutex<Option<String>>,
}

impl DiskSlot {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            store: OnceLock::new(),
            early: Mutex::default(),
            marks: Marks::default(),
            problem: Mutex::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The store, if it is open.
    pub(super) fn store(&self) -> Option<&Arc<DiskStore>> {
        self.store.get()
    }

    /// The store, if it is open; otherwise, the removal is done when it is opened.
    pub(super) fn store_or(&self, removal: impl FnOnce() -> EarlyRemoval) -> Option<&Arc<DiskStore>> {
        if let Some(store) = self.store.get() {
            return Some(store);
        }
        let mut early = self.early.lock();
        let store = self.store.get();
        if store.is_none() {
            early.add(removal());
        }
        store
    }

    /// Why it is not open.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Replaces the problem. False if it is the same.
    pub(super) fn set_problem(&self, problem: Option<&String>) -> bool {
        let mut last = self.problem.lock();
        let is_new = last.as_ref() != problem;
        *last = problem.cloned();
        is_new
    }

    /// Opens the folder for this slot only. Blocks.
    pub(super) fn open(&self, name: &str, limits: DiskLimits) -> Result<Arc<DiskStore>, OpenError> {
        let failed = |error| OpenError::Folder { path: self.path.clone(), error };
        // Two names may lead to one folder.
        std::fs::create_dir_all(&self.path).map_err(failed)?;
        let path = self.path.canonicalize().map_err(failed)?;
        let mut open = OPEN.lock();
        open.retain(|_, store| store.strong_count() > 0);
        if open.contains_key(&path) {
            return Err(OpenError::InUse { path });
        }
        let store = DiskStore::open(&path, limits, reporter(name.to_owned())).map_err(failed)?;
        open.insert(path, Arc::downgrade(&store));
        Ok(store)
    }

    /// Lets requests use the store, without what was removed before. Blocks.
    pub(super) fn publish(&self, store: Arc<DiskStore>) {
        // What is removed meanwhile waits for the lock.
        let mut early = self.early.lock();
        std::mem::take(&mut *early).apply(&store);
        // Only set here, by the task of one configuration at a time.
        let _ = self.store.set(store);
    }

    /// Writes what waits, and lets other caches use the folder. Blocks.
    pub(super) fn close(&self, within: Duration) -> bool {
        let Some(store) = self.store.get() else { return true };
        let is_complete = store.close(within);
        OPEN.lock().retain(|_, other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(store)));
        is_complete
    }
}

/// Logs problems of the store `name`, and none again for a while.
fn reporter(name: String) -> tidegate_cache::disk::Report {
    let last: Mutex<HashMap<std::mem::Discriminant<DiskProblem>, std::time::Instant>> = Mutex::default();
    Box::new(move |problem| {
        let now = std::time::Instant::now();
        let kind = std::mem::discriminant(problem);
        if last.lock().get(&kind).is_some_and(|last| now.duration_since(*last) < LOG_INTERVAL) {
            return;
        }
        last.lock().insert(kind, now);
        tracing::error!(middleware = name, "cache: {problem}");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_early_removals_become_one() {
        let mut early = EarlyRemovals::default();
        early.add(EarlyRemoval::Purge(Purge::Prefix(vec![b'x'; 100])));
        early.add(EarlyRemoval::Purge(Purge::Resource(vec![b'x'; MAX_EARLY_BYTES])));
        early.add(EarlyRemoval::Purge(Purge::Prefix(vec![b'x'; 100])));
        assert_eq!(early.purges, [Purge::All]);
    }
}
