//! Files that stay open: a response that is asked for often costs one read, and none of its requests opens it again.

use std::fs::File;
use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::catalog::Entry;
use crate::head::Head;

/// Files that a store keeps open.
const MAX_OPEN: usize = 256;

/// An object on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskObject {
    /// Its name. A newer object has a larger one.
    pub(super) id: u64,
    /// Bytes of its body.
    pub(super) length: u64,
}

/// A response whose file is open.
pub(super) struct Opened {
    pub(super) entry: Arc<Entry<DiskObject>>,
    pub(super) file: File,
    pub(super) nonce: u64,
    pub(super) head: Head,
}

/// The open files of a store, by the ids of their responses.
pub(super) struct OpenFiles(Cache<u64, Arc<Opened>>);

impl OpenFiles {
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_OPEN))
    }

    /// An entry whose file is open. Never waits.
    pub(super) fn get(&self, entry: &Arc<Entry<DiskObject>>) -> Option<Arc<Opened>> {
        // An entry that replaces another one may have a newer head beside the same file.
        self.0.get(&entry.value.id).filter(|opened| Arc::ptr_eq(&opened.entry, entry))
    }

    /// Keeps a file open.
    pub(super) fn insert(&self, opened: Arc<Opened>) {
        self.0.insert(opened.entry.value.id, opened);
    }

    /// Closes a file that is removed: until then, the disk keeps its bytes.
    pub(super) fn close(&self, id: u64) {
        self.0.remove(&id);
    }
}
