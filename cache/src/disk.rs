//! The store on disk: a file for each response, found again after a restart or a crash.
//!
//! Nothing here waits for the disk except what says so. A response is visible only when its file is complete; every
//! block is checked when it is read. Data are not flushed to the medium: after a loss of power, files that are not
//! complete fail their checks and are removed.

mod early;
#[cfg(test)]
mod faults;
mod file;
mod inner;
mod limits;
mod names;
mod opened;
mod reading;
mod record;
mod recovery;
#[cfg(test)]
mod tests;
mod writing;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::catalog::Entry;
use crate::contents::{Listed, StoredObject, most};
use crate::head::Head;
use crate::key::{Key, Variant};
use crate::not_kept::NotKept;
use crate::purge::{Epoch, Purge};
use inner::Inner;
use opened::DiskObject;
use writing::{Message, Reserved, Update};

pub use limits::{DiskLimits, DiskProblem, DiskUsage, Report};
pub use reading::{OpenObject, ReadError};
pub use writing::{DiskWriter, Stored};

/// Maximum size of the text beside the responses, in bytes.
const MAX_NOTE: u64 = 1024;
/// Threads that write.
const WRITERS: usize = 2;

/// A response on disk, as the index knows it.
#[derive(Clone, Debug)]
pub struct DiskRef(Arc<Entry<DiskObject>>);

impl DiskRef {
    /// Bytes of its body.
    pub fn length(&self) -> u64 {
        self.0.value.length
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.0.key
    }
}

/// What is stored for a key.
#[derive(Debug, Default)]
pub struct DiskFound {
    /// The response for the request's fields (RFC 9111 §4.1).
    pub matching: Option<DiskRef>,
    /// The number of responses for other fields.
    pub others: usize,
}

/// The store on disk.
pub struct DiskStore {
    inner: Arc<Inner>,
    queues: Vec<Sender<Message>>,
}

impl DiskStore {
    /// Opens a store in a folder, and creates that if necessary. Threads are started that write, and that find what is
    /// there: until [`DiskUsage::ready`], a response may be missed.
    ///
    /// # Errors
    ///
    /// If the folder cannot be created or a thread cannot be started.
    pub fn open(path: &Path, limits: DiskLimits, report: Report) -> io::Result<Arc<Self>> {
        let inner = Arc::new(Inner::create(path, limits, report)?);
        let mut queues = Vec::with_capacity(WRITERS);
        for number in 0..WRITERS {
            let (queue, messages) = mpsc::channel();
            queues.push(queue);
            let inner = inner.clone();
            let thread = std::thread::Builder::new().name(format!("cache-write-{number}"));
            thread.spawn(move || writing::run(&inner, &messages))?;
        }
        let store = Arc::new(Self { inner: inner.clone(), queues });
        let thread = std::thread::Builder::new().name("cache-recover".to_owned());
        thread.spawn(move || recovery::run(&inner))?;
        Ok(store)
    }

    /// What is stored for a key, from the index in memory. Counts as a use of the matching response.
    pub fn find(&self, key: &Key, request: &HeaderMap) -> DiskFound {
        let found = self.inner.catalog.find(key, request);
        DiskFound { matching: found.entry.map(DiskRef), others: found.others.len() }
    }

    /// A response whose file is open, because it was read not long ago. Never waits.
    pub fn opened(&self, found: &DiskRef) -> Option<OpenObject> {
        OpenObject::opened(&self.inner, &found.0)
    }

    /// Opens a response, and reads its head. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If it is gone or not what was written: it is removed then, and is a miss.
    pub fn read(&self, found: &DiskRef) -> Result<OpenObject, ReadError> {
        OpenObject::new(&self.inner, &found.0)
    }

    /// The moment at which a request begins: to be taken before it is sent to the server.
    pub fn epoch(&self) -> Epoch {
        self.inner.catalog.epoch()
    }

    /// Begins to store a response. Never waits.
    pub fn write(&self, key: Key, head: Head, epoch: Epoch) -> Result<DiskWriter, NotKept> {
        DiskWriter::new(&self.inner, &self.queues, key, head, epoch)
    }

    /// Replaces the head of a response, after a 304 or a response to HEAD. Never waits; if the disk fails, the old head
    /// stays.
    pub fn update(&self, found: &DiskRef, head: Head, epoch: Epoch) -> Result<(), NotKept> {
        let bytes = u64::try_from(head.size()).unwrap_or(u64::MAX);
        let reserved = Reserved::new(&self.inner, bytes)?;
        let update = Update { entry: found.0.clone(), head, epoch, _reserved: reserved };
        let queue = self.queues.first().ok_or(NotKept::Unavailable)?;
        queue.send(Message::Update(Box::new(update))).map_err(|_| NotKept::Unavailable)
    }

    /// Removes a response, unless it has been replaced. Waits for the disk.
    pub fn remove(&self, found: &DiskRef) {
        self.inner.discard(&found.0, false);
    }

    /// Removes the response for a key and variant, also one that the recovery has not found yet. Waits for the disk.
    pub fn remove_variant(&self, key: &Key, variant: &Variant) {
        self.inner.remove_variant(key, variant);
    }

    /// The limits.
    pub fn limits(&self) -> DiskLimits {
        self.inner.limits()
    }

    /// Changes the limits, and removes what no longer fits. Waits for the disk.
    pub fn resize(&self, limits: DiskLimits) {
        self.inner.resize(limits);
    }

    /// Some of what is stored. Looks at every response in the index, and reads the heads of those that are listed:
    /// waits for the disk.
    pub fn list(&self, listed: &Listed<'_>) -> Vec<StoredObject> {
        let entries = match listed {
            Listed::Resource(resource) => self.inner.catalog.of_resource(resource),
            Listed::Largest(_) | Listed::Hottest(_) => self.inner.catalog.all(),
        };
        let policy = |entry: &Arc<_>| Some(OpenObject::new(&self.inner, entry).ok()?.head().policy);
        most(entries, listed, |object| object.length, policy)
    }

    /// Removes what a purge covers, and returns its number. When it returns, the files are gone, and a crash does not
    /// bring them back. Waits for the disk.
    pub fn purge(&self, purge: &Purge) -> usize {
        self.inner.purge(purge)
    }

    /// The text that is kept beside the responses; `None` if there is none, or it is too long. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn note(&self) -> io::Result<Option<String>> {
        match File::open(self.inner.folder.note()) {
            Ok(file) => {
                let mut text = String::new();
                let length = file.take(MAX_NOTE + 1).read_to_string(&mut text);
                Ok(length.ok().filter(|length| *length as u64 <= MAX_NOTE).map(|_| text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces that text, at once and as a whole. False without a change if what is on disk is not known yet: purges
    /// hold for what is found later only as long as the process runs. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn set_note(&self, text: &str) -> io::Result<bool> {
        if !self.inner.recovered.load(Ordering::Acquire) || self.inner.lock.lock().is_none() {
            return Ok(false);
        }
        let new = self.inner.folder.new_file(self.inner.next_id());
        fs::write(&new, text)?;
        fs::rename(new, self.inner.folder.note())?;
        Ok(true)
    }

    /// Writes what waits for the disk, then stores nothing more, and lets others use the folder. False if that was not
    /// written in time. Waits for the disk.
    pub fn close(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let (done, written) = mpsc::channel();
        for queue in &self.queues {
            // A thread that is gone has nothing left to write.
            let _ = queue.send(Message::Flush(done.clone()));
        }
        drop(done);
        let mut is_complete = true;
        for _ in 0..self.queues.len() {
            let left = until.saturating_duration_since(Instant::now());
            is_complete &= written.recv_timeout(left) != Err(RecvTimeoutError::Timeout);
        }
        self.inner.close();
        is_complete
    }

    /// What the store has and has done.
    pub fn usage(&self) -> DiskUsage {
        let (objects, bytes) = self.inner.catalog.usage();
        let counters = &self.inner.counters;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        DiskUsage {
            objects,
            bytes,
            evicted: self.inner.catalog.evicted(),
            queued: self.inner.queued.load(Ordering::Relaxed),
            written: count(&counters.written),
            lost: count(&counters.lost),
            failed: count(&counters.failed),
            corrupt: count(&counters.corrupt),
            recovered: count(&counters.recovered),
            ready: self.inner.recovered.load(Ordering::Acquire),
            problem: self.inner.last_error.lock().clone(),
        }
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::Relaxed);
    }
}
