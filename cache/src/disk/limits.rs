//! What a store on disk may use, and what it reports.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Limits of a store on disk, in bytes where not said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// All files.
    pub total: u64,
    /// The body of one response.
    pub object: u64,
    /// The number of responses. Each costs about 400 bytes of memory.
    pub objects: u64,
    /// What waits for the disk. Further responses are not stored.
    pub queued: u64,
    /// The number of responses that are written at once.
    pub open: usize,
    /// The number of variants of a key.
    pub variants: usize,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            total: 1 << 30,
            object: 128 << 20,
            objects: 100_000,
            queued: 16 << 20,
            open: 128,
            variants: 16,
        }
    }
}

/// Limits that requests read while they may change.
pub(super) struct AtomicLimits {
    total: AtomicU64,
    object: AtomicU64,
    objects: AtomicU64,
    queued: AtomicU64,
    open: AtomicUsize,
    variants: AtomicUsize,
}

impl AtomicLimits {
    pub(super) fn new(limits: DiskLimits) -> Self {
        let DiskLimits { total, object, objects, queued, open, variants } = limits;
        Self {
            total: total.into(),
            object: object.min(total).into(),
            objects: objects.into(),
            queued: queued.into(),
            open: open.into(),
            variants: variants.into(),
        }
    }

    pub(super) fn get(&self) -> DiskLimits {
        let Self { total, object, objects, queued, open, variants } = self;
        DiskLimits {
            total: total.load(Ordering::Relaxed),
            object: object.load(Ordering::Relaxed),
            objects: objects.load(Ordering::Relaxed),
            queued: queued.load(Ordering::Relaxed),
            open: open.load(Ordering::Relaxed),
            variants: variants.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set(&self, limits: DiskLimits) {
        let DiskLimits { total, object, objects, queued, open, variants } = limits;
        self.total.store(total, Ordering::Relaxed);
        self.object.store(object.min(total), Ordering::Relaxed);
        self.objects.store(objects, Ordering::Relaxed);
        self.queued.store(queued, Ordering::Relaxed);
        self.open.store(open, Ordering::Relaxed);
        self.variants.store(variants, Ordering::Relaxed);
    }
}

/// What has gone wrong. Requests are answered by their servers meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskProblem {
    /// A file cannot be written, for example because the disk is full. Nothing is stored for some seconds.
    #[error("cannot write {}: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The kind of error.
        kind: io::ErrorKind,
        /// Its text.
        message: String,
    },
    /// A file is not what was written. It is removed.
    #[error("wrong checksum in {}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// Another process uses the folder. The store waits for it.
    #[error("another process holds {}", path.display())]
    InUse {
        /// The lock.
        path: PathBuf,
    },
    /// The folder cannot be read. Nothing is stored.
    #[error("cannot read the folder of {}: {message}", path.display())]
    Recovery {
        /// The lock in it.
        path: PathBuf,
        /// The kind of error.
        kind: io::ErrorKind,
        /// Its text.
        message: String,
    },
}

/// Called with each problem, on a thread of the store.
pub type Report = Box<dyn Fn(&DiskProblem) + Send + Sync>;

/// What a store has and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Stored responses.
    pub objects: usize,
    /// What they take on disk, in bytes.
    pub bytes: u64,
    /// Responses that were removed because others needed their place.
    pub evicted: u64,
    /// Bytes that wait for the disk.
    pub queued: u64,
    /// Responses that were stored since the start.
    pub written: u64,
    /// Responses that were not stored because too much was waiting, or the store was not available.
    pub lost: u64,
    /// Errors when writing.
    pub failed: u64,
    /// Files with wrong checksums.
    pub corrupt: u64,
    /// Responses that the start has found.
    pub recovered: u64,
    /// Whether everything that was stored before is found.
    pub ready: bool,
    /// The last problem, until a response is written again.
    pub problem: Option<DiskProblem>,
}
