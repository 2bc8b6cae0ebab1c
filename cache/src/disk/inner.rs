//! What the threads of a store on disk share.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::early::EarlyRemovals;
use super::limits::{AtomicLimits, DiskLimits, DiskProblem, Report};
use super::names::Folder;
use super::opened::{DiskObject, OpenFiles};
use crate::catalog::{Catalog, Entry, Inserted, Limits};
use crate::key::{Key, Variant};
use crate::not_kept::NotKept;
use crate::purge::{Epoch, Purge};

/// How long nothing is stored after an error: a full disk stays full for a while.
const PAUSE: Duration = Duration::from_secs(2);
/// File systems give whole blocks, and a file has an inode.
const FILE_SYSTEM_BLOCK: u64 = 4096;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) corrupt: AtomicU64,
    pub(super) recovered: AtomicU64,
}

pub(super) struct Inner {
    pub(super) folder: Folder,
    pub(super) catalog: Catalog<DiskObject>,
    pub(super) opened: OpenFiles,
    limits: AtomicLimits,
    /// Read by what makes a file visible, written by purges: after a purge, not even a crash brings back what was
    /// about to be stored.
    commit: RwLock<()>,
    /// Bytes that wait for the disk.
    pub(super) queued: AtomicU64,
    /// Objects that are being written.
    pub(super) open: AtomicUsize,
    /// The folder is ours and may be written to.
    pub(super) writable: AtomicBool,
    /// Everything that was stored before is found.
    pub(super) recovered: AtomicBool,
    /// What was removed before that; `None` afterwards.
    pub(super) early: Mutex<Option<EarlyRemovals>>,
    pub(super) closed: AtomicBool,
    next_id: AtomicU64,
    pub(super) lock: Mutex<Option<File>>,
    paused_until: Mutex<Option<Instant>>,
    pub(super) last_error: Mutex<Option<DiskProblem>>,
    pub(super) counters: Counters,
    report: Report,
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

impl Inner {
    pub(super) fn create(path: &Path, limits: DiskLimits, report: Report) -> io::Result<Self> {
        let catalog = Catalog::new(Limits {
            weight: limits.total,
            // One queue: the disk is the limit, and an object may be as large as all of it.
            entry_weight: limits.total,
            variants: limits.variants.max(1),
        });
        Ok(Self {
            folder: Folder::create(path)?,
            catalog,
            opened: OpenFiles::new(),
            limits: AtomicLimits::new(limits),
            commit: RwLock::new(()),
            queued: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            recovered: AtomicBool::new(false),
            early: Mutex::new(Some(EarlyRemovals::default())),
            closed: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            lock: Mutex::new(None),
            paused_until: Mutex::new(None),
            last_error: Mutex::new(None),
            counters: Counters::default(),
            report,
            #[cfg(test)]
            faults: super::faults::Faults::default(),
        })
    }

    pub(super) fn limits(&self) -> DiskLimits {
        self.limits.get()
    }

    /// Changes the limits, and removes what no longer fits.
    pub(super) fn resize(&self, limits: DiskLimits) {
        self.limits.set(limits);
        let variants = limits.variants.max(1);
        let limits = Limits { weight: limits.total, entry_weight: limits.total, variants };
        for entry in self.catalog.resize(limits) {
            self.remove_file(entry.value.id);
        }
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Ids of new objects are larger than this one.
    pub(super) fn begin_after(&self, id: u64) {
        self.next_id.fetch_max(id.saturating_add(1), Ordering::Relaxed);
    }

    /// What an object counts for. The least is a share of the total: so small objects have a limit in number, and the
    /// index in memory is bounded.
    pub(super) fn weight(&self, size: u64) -> u64 {
        let blocks = size.div_ceil(FILE_SYSTEM_BLOCK).saturating_mul(FILE_SYSTEM_BLOCK);
        let limits = self.limits();
        blocks.max(limits.total / limits.objects.max(1))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Reports an error of the disk, and stores nothing for a while.
    pub(super) fn fail(&self, path: PathBuf, error: &io::Error) {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        *self.paused_until.lock() = Some(Instant::now() + PAUSE);
        self.problem(DiskProblem::Write { path, kind: error.kind(), message: error.to_string() });
    }

    /// What went wrong is over: a response was written, or the folder is ours.
    pub(super) fn recover_from_problem(&self) {
        self.last_error.lock().take();
    }

    pub(super) fn problem(&self, problem: DiskProblem) {
        (self.report)(&problem);
        *self.last_error.lock() = Some(problem);
    }

    /// Gives a complete file its name, and puts it into the catalog.
    pub(super) fn commit(
        &self,
        entry: Entry<DiskObject>,
        epoch: Epoch,
        rename: (&Path, &Path),
        still: impl FnOnce() -> bool,
    ) -> Result<(), NotKept> {
        let id = entry.value.id;
        let inserted = {
            let _commit = self.commit.read();
            if self.lock.lock().is_none() {
                let _ = fs::remove_file(rename.0);
                return Err(NotKept::Unavailable);
            }
            if !still() || self.catalog.is_purged(epoch, &entry.key, &entry.tags) {
                let _ = fs::remove_file(rename.0);
                return Err(NotKept::Purged);
            }
            if let Err(error) = fs::rename(rename.0, rename.1) {
                let _ = fs::remove_file(rename.0);
                self.fail(rename.1.to_owned(), &error);
                return Err(NotKept::Failed(error.kind()));
            }
            // The other thread may have been faster with a newer response.
            self.catalog.insert_unless(entry, epoch, |stored| stored.id > id)
        };
        self.settle(id, inserted)
    }

    /// Removes the files that an insertion has displaced, or the new one.
    pub(super) fn settle(&self, id: u64, inserted: Option<Inserted<DiskObject>>) -> Result<(), NotKept> {
        let Some(inserted) = inserted else {
            self.remove_file(id);
            return Err(NotKept::Purged);
        };
        for removed in inserted.removed.iter().filter(|removed| removed.value.id != id) {
            self.remove_file(removed.value.id);
        }
        if inserted.stored {
            return Ok(());
        }
        self.remove_file(id);
        Err(NotKept::NotAdmitted)
    }

    pub(super) fn purge(&self, purge: &Purge) -> usize {
        let removed = {
            let _commit = self.commit.write();
            self.catalog.purge(purge)
        };
        for entry in &removed {
            self.remove_file(entry.value.id);
        }
        removed.len()
    }

    /// Removes an object's files.
    pub(super) fn remove_file(&self, id: u64) {
        self.opened.close(id);
        self.folder.remove(id);
    }

    /// Removes the response for a key and variant, even if it is only found later.
    pub(super) fn remove_variant(&self, key: &Key, variant: &Variant) {
        if let Some(early) = &mut *self.early.lock() {
            early.add(self.catalog.id(key, variant));
        }
        if let Some(entry) = self.catalog.remove_variant(key, variant) {
            self.remove_file(entry.value.id);
        }
    }

    /// Removes an object that cannot be read.
    pub(super) fn discard(&self, entry: &Arc<Entry<DiskObject>>, corrupt: bool) {
        if corrupt {
            self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
            self.problem(DiskProblem::Corrupt { path: self.folder.object(entry.value.id) });
        }
        if self.catalog.remove(entry) {
            self.remove_file(entry.value.id);
        }
    }

    /// Stores nothing more, and lets others use the folder.
    pub(super) fn close(&self) {
        let _commit = self.commit.write();
        self.closed.store(true, Ordering::Relaxed);
        self.writable.store(false, Ordering::Release);
        self.lock.lock().take();
    }
}
