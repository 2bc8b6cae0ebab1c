//! Files that stay open: a response that is asked for often costs one read, and none of its requests opens it again.

use std::fs::File;
use std::io;
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::inner::{DiskObject, Inner};
use super::reading::ReadError;
use crate::catalog::Entry;
use crate::head::Head;

/// Files that a store keeps open.
const MAX_OPEN: usize = 256;

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

    /// Closes a file that is removed: until then, the disk keeps its bytes.
    pub(super) fn close(&self, id: u64) {
        self.0.remove(&id);
    }
}

impl Opened {
    /// Opens an entry, and reads its head. Waits for the disk.
    pub(super) fn open(inner: &Inner, entry: &Arc<Entry<DiskObject>>) -> Result<Arc<Self>, ReadError> {
        let DiskObject { id, length } = entry.value;
        let (file, end) = match inner.folder.open(id) {
            Ok(Some(opened)) => opened,
            Ok(None) => {
                inner.discard(entry, true);
                return Err(ReadError::Corrupt);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                inner.discard(entry, false);
                return Err(ReadError::Gone);
            }
            Err(error) => return Err(ReadError::Io(error)),
        };
        if end.key != entry.key || end.length != length {
            inner.discard(entry, true);
            return Err(ReadError::Corrupt);
        }
        if end.head.variant != entry.variant {
            // Its head was replaced after it was found.
            return Err(ReadError::Gone);
        }
        let opened = Arc::new(Self { entry: entry.clone(), file, nonce: end.nonce, head: end.head });
        inner.opened.0.insert(id, opened.clone());
        if !inner.catalog.contains(entry) {
            // It was removed meanwhile.
            inner.opened.close(id);
        }
        Ok(opened)
    }
}
