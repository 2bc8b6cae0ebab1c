//! How responses are written: pieces go through a bounded queue to threads, so nobody waits for the disk. What does not
//! fit is not stored.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use bytes::{Bytes, BytesMut};
use foldhash::quality::RandomState;
use http::header::CONTENT_LENGTH;
use tokio::sync::oneshot;

use super::file::{self, BLOCK};
use super::inner::Inner;
use super::opened::DiskObject;
use crate::catalog::Entry;
use crate::head::Head;
use crate::key::Key;
use crate::not_kept::NotKept;
use crate::purge::Epoch;

/// The result of a store that is under way.
pub type Stored = oneshot::Receiver<Result<(), NotKept>>;

pub(super) enum Message {
    /// A block of the body. It is full, unless it is the last.
    Block { id: u64, data: Bytes, _reserved: Reserved },
    /// The body is complete.
    Finish(Box<Finish>),
    /// The response is not to be stored.
    Abort { id: u64 },
    /// A newer head.
    Update(Box<Update>),
    /// Everything before it is to be written first.
    Flush(Sender<()>),
}

pub(super) struct Finish {
    id: u64,
    key: Key,
    head: Head,
    epoch: Epoch,
    length: u64,
    done: oneshot::Sender<Result<(), NotKept>>,
    _slot: Slot,
}

pub(super) struct Update {
    pub(super) entry: Arc<Entry<DiskObject>>,
    pub(super) head: Head,
    pub(super) epoch: Epoch,
    pub(super) _reserved: Reserved,
}

/// A share of the bytes that may wait.
pub(super) struct Reserved {
    inner: Arc<Inner>,
    bytes: u64,
}

impl Reserved {
    pub(super) fn new(inner: &Arc<Inner>, bytes: u64) -> Result<Self, NotKept> {
        let before = inner.queued.fetch_add(bytes, Ordering::Relaxed);
        let reserved = Self { inner: inner.clone(), bytes };
        if before + bytes > inner.limits().queued { Err(NotKept::Busy) } else { Ok(reserved) }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.inner.queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One of the objects that may be written at once.
struct Slot(Arc<Inner>);

impl Slot {
    fn new(inner: &Arc<Inner>) -> Result<Self, NotKept> {
        let before = inner.open.fetch_add(1, Ordering::Relaxed);
        let slot = Self(inner.clone());
        if before >= inner.limits().open { Err(NotKept::Busy) } else { Ok(slot) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response that is being received. Dropping it stores nothing.
pub struct DiskWriter {
    inner: Arc<Inner>,
    queue: Sender<Message>,
    id: u64,
    key: Key,
    head: Head,
    epoch: Epoch,
    open: BytesMut,
    reserved: Option<Reserved>,
    received: u64,
    expected: Option<u64>,
    /// `None` once the response is complete.
    slot: Option<Slot>,
}

impl DiskWriter {
    pub(super) fn new(
        inner: &Arc<Inner>,
        queues: &[Sender<Message>],
        key: Key,
        head: Head,
        epoch: Epoch,
    ) -> Result<Self, NotKept> {
        let lost = |reason| {
            inner.counters.lost.fetch_add(1, Ordering::Relaxed);
            reason
        };
        if !inner.writable.load(Ordering::Acquire) || inner.is_paused() {
            return Err(lost(NotKept::Unavailable));
        }
        let expected = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let limit = inner.limits().object;
        if expected.is_some_and(|expected| expected > limit) {
            return Err(NotKept::TooLarge(limit));
        }
        let (slot, id) = (Slot::new(inner).map_err(lost)?, inner.next_id());
        let queue = usize::try_from(id).unwrap_or(0) % queues.len().max(1);
        let queue = queues.get(queue).cloned().ok_or(NotKept::Unavailable)?;
        Ok(Self {
            inner: inner.clone(),
            queue,
            id,
            key,
            head,
            epoch,
            open: BytesMut::new(),
            reserved: None,
            received: 0,
            expected,
            slot: Some(slot),
        })
    }

    /// Adds a piece of the body, which is copied. Never waits. After an error, the writer is of no use.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), NotKept> {
        self.received += piece.len() as u64;
        let limit = self.inner.limits().object;
        if self.received > limit {
            return Err(NotKept::TooLarge(limit));
        }
        while !piece.is_empty() {
            if self.reserved.is_none() {
                let reserved = Reserved::new(&self.inner, BLOCK as u64);
                self.reserved = Some(reserved.inspect_err(|_| {
                    self.inner.counters.lost.fetch_add(1, Ordering::Relaxed);
                })?);
                self.open.reserve(BLOCK);
            }
            let (now, later) = piece.split_at(piece.len().min(BLOCK - self.open.len()));
            self.open.extend_from_slice(now);
            piece = later;
            if self.open.len() == BLOCK {
                self.send_block()?;
            }
        }
        Ok(())
    }

    fn send_block(&mut self) -> Result<(), NotKept> {
        let Some(reserved) = self.reserved.take() else { return Ok(()) };
        let data = std::mem::take(&mut self.open).freeze();
        let message = Message::Block { id: self.id, data, _reserved: reserved };
        self.queue.send(message).map_err(|_| NotKept::Unavailable)
    }

    /// Stores the response. To be called only when the body has ended as it should. Returns at once; what it returns
    /// says later whether the response can be found.
    pub fn finish(mut self) -> Result<Stored, NotKept> {
        if let Some(expected) = self.expected.filter(|expected| *expected != self.received) {
            return Err(NotKept::Incomplete { expected, received: self.received });
        }
        self.send_block()?;
        let (done, stored) = oneshot::channel();
        let Some(slot) = self.slot.take() else { return Err(NotKept::Unavailable) };
        let finish = Finish {
            id: self.id,
            key: self.key.clone(),
            head: self.head.clone(),
            epoch: self.epoch,
            length: self.received,
            done,
            _slot: slot,
        };
        self.queue.send(Message::Finish(Box::new(finish))).map_err(|_| NotKept::Unavailable)?;
        Ok(stored)
    }
}

impl Drop for DiskWriter {
    fn drop(&mut self) {
        if self.slot.is_some() && self.received > 0 {
            // If nobody receives it, the store is closed.
            let _ = self.queue.send(Message::Abort { id: self.id });
        }
    }
}

/// A file that is being written.
struct NewFile {
    file: File,
    nonce: u64,
    blocks: u64,
}

/// The thread that writes what comes through one queue, until all writers and the store are gone.
pub(super) fn run(inner: &Arc<Inner>, messages: &Receiver<Message>) {
    let mut files: HashMap<u64, io::Result<NewFile>, RandomState> = HashMap::default();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Block { id, data, .. } => {
                let file = files.entry(id).or_insert_with(|| begin(inner, id));
                if let Ok(open) = file
                    && let Err(error) = append(inner, open, &data)
                {
                    abandon(inner, id, &error);
                    *file = Err(error);
                }
            }
            Message::Finish(finish) => {
                let file = files.remove(&finish.id).unwrap_or_else(|| begin(inner, finish.id));
                let result = complete(inner, file, &finish);
                let Finish { done, _slot, .. } = *finish;
                drop(_slot);
                // Nobody may want to know.
                let _ = done.send(result);
            }
            Message::Abort { id } => {
                if let Some(Ok(_)) = files.remove(&id) {
                    let _ = fs::remove_file(inner.folder.new_file(id));
                }
            }
            Message::Update(update) => update_head(inner, *update),
            // Nobody may wait any longer.
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

fn begin(inner: &Inner, id: u64) -> io::Result<NewFile> {
    let file = before_write(inner).and_then(|()| File::create_new(inner.folder.new_file(id)));
    file.map(|file| NewFile { file, nonce: RandomState::default().hash(id), blocks: 0 })
        .inspect_err(|error| abandon(inner, id, error))
}

/// A number that another file does not have.
trait Nonce {
    fn hash(&self, id: u64) -> u64;
}

impl Nonce for RandomState {
    fn hash(&self, id: u64) -> u64 {
        std::hash::BuildHasher::hash_one(self, (id, std::process::id(), std::time::SystemTime::now()))
    }
}

fn append(inner: &Inner, open: &mut NewFile, data: &[u8]) -> io::Result<()> {
    before_write(inner)?;
    file::write_block(&mut open.file, open.nonce, open.blocks, data)?;
    open.blocks += 1;
    Ok(())
}

fn abandon(inner: &Inner, id: u64, error: &io::Error) {
    let path = inner.folder.new_file(id);
    let _ = fs::remove_file(&path);
    inner.fail(path, error);
}

fn complete(inner: &Arc<Inner>, file: io::Result<NewFile>, finish: &Finish) -> Result<(), NotKept> {
    let mut open = file.map_err(|error| NotKept::Failed(error.kind()))?;
    let written = before_write(inner)
        .and_then(|()| file::write_end(&mut open.file, open.nonce, finish.length, &finish.key, &finish.head));
    let size = written.map_err(|error| {
        abandon(inner, finish.id, &error);
        NotKept::Failed(error.kind())
    })?;
    drop(open);
    let entry = Entry {
        key: finish.key.clone(),
        variant: finish.head.variant.clone(),
        tags: finish.head.tags.clone(),
        weight: inner.weight(file::body_size(finish.length) + size),
        uses: AtomicU64::new(0),
        value: DiskObject { id: finish.id, length: finish.length },
    };
    let (new, object) = (inner.folder.new_file(finish.id), inner.folder.object(finish.id));
    inner.commit(entry, finish.epoch, (&new, &object), || true)?;
    inner.counters.written.fetch_add(1, Ordering::Relaxed);
    inner.recover_from_problem();
    Ok(())
}

/// Writes a newer head beside an object. If it fails, the object keeps its old one.
fn update_head(inner: &Arc<Inner>, update: Update) {
    let Update { entry, head, epoch, .. } = update;
    let DiskObject { id, length } = entry.value;
    let Ok(Some((_, end))) = inner.folder.open(id) else { return inner.discard(&entry, false) };
    let new = inner.folder.new_file(inner.next_id());
    let written = before_write(inner).and_then(|()| {
        let mut file = File::create_new(&new)?;
        file::write_end(&mut file, end.nonce, length, &entry.key, &head)
    });
    let size = match written {
        Ok(size) => size,
        Err(error) => {
            let _ = fs::remove_file(&new);
            return inner.fail(new, &error);
        }
    };
    let replacement = Entry {
        key: entry.key.clone(),
        variant: head.variant.clone(),
        tags: head.tags,
        weight: inner.weight(file::body_size(length) + end.size + size),
        uses: AtomicU64::new(entry.uses.load(Ordering::Relaxed)),
        value: entry.value,
    };
    let other_variant = replacement.variant != entry.variant;
    let still = || if other_variant { inner.catalog.remove(&entry) } else { inner.catalog.contains(&entry) };
    // A purge meanwhile has removed the object.
    let _ = inner.commit(replacement, epoch, (&new, &inner.folder.head(id)), still);
}

#[cfg(not(test))]
fn before_write(_: &Inner) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
fn before_write(inner: &Inner) -> io::Result<()> {
    inner.faults.before_write()
}
