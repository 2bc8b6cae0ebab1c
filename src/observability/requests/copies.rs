//! Copies of records for readers that follow requests as they end.
//!
//! Each worker has a list of its own, which it fills only while there is a reader. Without one, a request reads a flag.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::record::Record;
use crate::observability::enter::enter;

/// Maximum number of records in the list of one worker. Half of them wake who takes them.
pub(super) const MAX_RECORDS: usize = 4096;

/// The lists of all workers.
pub(super) struct Copies {
    lists: Box<[Mutex<Vec<Record>>]>,
    is_wanted: AtomicBool,
    /// Number of records that a worker could not keep.
    lost: AtomicU64,
    is_crowded: AtomicBool,
    crowded: Notify,
}

impl Copies {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            lists: (0..workers).map(|_| Mutex::default()).collect(),
            is_wanted: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            is_crowded: AtomicBool::new(false),
            crowded: Notify::new(),
        }
    }

    /// Keeps a copy of a record if someone reads.
    pub(super) fn offer(&self, worker: usize, record: &Record) {
        if self.is_wanted.load(Ordering::Relaxed) {
            self.keep(worker, record);
        }
    }

    #[cold]
    fn keep(&self, worker: usize, record: &Record) {
        let list = enter(&self.lists[worker]).filter(|list| list.len() < MAX_RECORDS);
        let Some(mut list) = list else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        list.push(record.clone());
        if list.len() >= MAX_RECORDS / 2 && !self.is_crowded.swap(true, Ordering::Relaxed) {
            self.crowded.notify_one();
        }
    }

    /// Sets whether there is a reader. The first one begins with empty lists.
    pub(super) fn want(&self, is_wanted: bool) {
        if is_wanted && !self.is_wanted.load(Ordering::Relaxed) {
            // What a worker kept while the last reader left is too old.
            self.lists.iter().for_each(|list| list.lock().clear());
        }
        self.is_wanted.store(is_wanted, Ordering::Relaxed);
    }

    /// Takes all records, the first to end first, and the number of those that were lost meanwhile.
    pub(super) fn take(&self) -> (Vec<Record>, u64) {
        let mut records: Vec<Record> = Vec::new();
        for list in &self.lists {
            records.append(&mut mem::take(&mut *list.lock()));
        }
        self.is_crowded.store(false, Ordering::Relaxed);
        records.sort_by_key(Record::ended);
        (records, self.lost.swap(0, Ordering::Relaxed))
    }

    /// Waits until a list is half full.
    pub(super) async fn crowded(&self) {
        self.crowded.notified().await;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lists.iter().map(|list| list.lock().len()).sum()
    }
}
