//! The memory, and the disk behind it, as one store.
//!
//! What is in memory is at least as new as what is on disk: a response that one of them does not take is removed from
//! it, so that no older one takes its place.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tidegate_cache::disk::{DiskRef, DiskStore, DiskWriter, OpenObject, ReadError};
use tidegate_cache::key::{Key, Variant};
use tidegate_cache::memory::{self, MemoryStore, Object};
use tidegate_cache::{Epoch, Head, NotKept, Purge};
use tidegate_core::building::Task;

use super::disk::{DiskSlot, EarlyRemoval};
use super::marks::Marks;

/// The disk of a cache.
pub(super) struct Disk {
    pub(super) slot: Arc<DiskSlot>,
    /// Opens it.
    pub(super) _task: Task,
}

/// The stores of a cache.
pub(super) struct Tiers {
    pub(super) memory: Arc<MemoryStore>,
    /// Which announcements of the cluster hold for the memory.
    pub(super) marks: Arc<Marks>,
    pub(super) disk: Option<Disk>,
    /// Applies changed limits.
    pub(super) _resizing: Option<Task>,
    /// Applies what members of the cluster announce.
    pub(super) _following: Option<Task>,
}

/// A stored response.
#[derive(Clone)]
pub(super) enum Stored {
    Memory(memory::Stored),
    Disk(Arc<OnDisk>),
}

/// A response on disk, with its head.
pub(super) struct OnDisk {
    found: DiskRef,
    object: OpenObject,
}

/// The body of a stored response.
pub(super) enum StoredBody<'a> {
    Memory(&'a Object),
    Disk(&'a OpenObject),
}

impl Stored {
    pub(super) fn head(&self) -> &Head {
        match self {
            Self::Memory(stored) => &stored.object().head,
            Self::Disk(stored) => stored.object.head(),
        }
    }

    pub(super) fn body(&self) -> StoredBody<'_> {
        match self {
            Self::Memory(stored) => StoredBody::Memory(stored.object()),
            Self::Disk(stored) => StoredBody::Disk(&stored.object),
        }
    }
}

impl StoredBody<'_> {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Memory(object) => object.length(),
            Self::Disk(object) => object.length(),
        }
    }
}

/// What is stored for a key.
#[derive(Default)]
pub(super) struct Found {
    pub(super) matching: Option<Stored>,
    /// There are responses for other fields.
    pub(super) has_others: bool,
}

/// A moment in both stores.
#[derive(Clone, Copy)]
pub(super) struct Epochs {
    memory: Epoch,
    disk: Option<Epoch>,
}

impl Tiers {
    /// The store on disk, if it is open.
    pub(super) fn disk(&self) -> Option<&Arc<DiskStore>> {
        self.disk.as_ref()?.slot.store()
    }

    /// The store on disk. If it is not open yet, what it has for this key is removed when it is, since it is older than
    /// what is in memory.
    fn disk_or_forget(&self, key: &Key, variant: &Variant) -> Option<&Arc<DiskStore>> {
        let removal = || EarlyRemoval::Variant(key.clone(), variant.clone());
        self.disk.as_ref()?.slot.store_or(removal)
    }

    /// What is stored for a key. Waits only for what is on disk and not in memory.
    pub(super) async fn find(&self, key: &Key, headers: &HeaderMap) -> Found {
        let (mut found, on_disk) = self.look(key, headers);
        let Some(OnlyOnDisk { disk, found: on_disk, epoch }) = on_disk else { return found };
        if on_disk.length() > self.memory.limits().object
            && let Some(object) = disk.opened(&on_disk)
        {
            found.matching = Some(Stored::Disk(Arc::new(OnDisk { found: on_disk, object })));
            return found;
        }
        let (memory, disk, headers) = (self.memory.clone(), disk.clone(), headers.clone());
        let reading = Reading { memory, disk, found: on_disk, headers, epoch };
        if let Ok(stored) = tokio::task::spawn_blocking(move || reading.read()).await {
            found.matching = stored;
        }
        found
    }

    /// The same, for predictions: waits for the disk, and leaves what is there where it is.
    pub(super) fn peek(&self, key: &Key, headers: &HeaderMap) -> Found {
        let (mut found, on_disk) = self.look(key, headers);
        if let Some(OnlyOnDisk { disk, found: on_disk, .. }) = on_disk {
            let object = disk.read(&on_disk).ok();
            found.matching = object.map(|object| Stored::Disk(Arc::new(OnDisk { found: on_disk, object })));
        }
        found
    }

    fn look(&self, key: &Key, headers: &HeaderMap) -> (Found, Option<OnlyOnDisk<'_>>) {
        let found = self.memory.find(key, headers);
        let has_others = !found.others.is_empty();
        if let Some(stored) = found.matching {
            return (Found { matching: Some(Stored::Memory(stored)), has_others }, None);
        }
        let Some(disk) = self.disk() else { return (Found { matching: None, has_others }, None) };
        // Before the index is asked: a purge removes from the disk first.
        let epoch = self.memory.epoch();
        let on_disk = disk.find(key, headers);
        let only_on_disk = on_disk.matching.map(|found| OnlyOnDisk { disk, found, epoch });
        (Found { matching: None, has_others: has_others || on_disk.others > 0 }, only_on_disk)
    }

    /// The moment at which a request begins: to be taken before it is sent to the server.
    pub(super) fn epochs(&self) -> Epochs {
        Epochs { memory: self.memory.epoch(), disk: self.disk().map(|disk| disk.epoch()) }
    }

    /// Begins to store a response, in every store that takes it.
    pub(super) fn write(&self, key: Key, head: Head, epochs: Epochs) -> Result<Writer, NotKept> {
        let Some(disk) = self.disk_or_forget(&key, &head.variant) else {
            let memory = self.memory.write(key, head, epochs.memory)?;
            return Ok(Writer { memory: Some(memory), disk: None, place: None });
        };
        let place = Place {
            memory: self.memory.clone(),
            disk: disk.clone(),
            key: key.clone(),
            variant: head.variant.clone(),
        };
        // Without an epoch, it was opened after the request began.
        let on_disk = epochs.disk.ok_or(NotKept::Unavailable);
        let on_disk = on_disk.and_then(|epoch| disk.write(key.clone(), head.clone(), epoch));
        let memory = self.memory.write(key, head, epochs.memory);
        match (memory, on_disk) {
            (Err(_), Err(error)) => {
                place.forget(true, true);
                Err(error)
            }
            (memory, on_disk) => {
                place.forget(memory.is_err(), on_disk.is_err());
                Ok(Writer { memory: memory.ok(), disk: on_disk.ok(), place: Some(place) })
            }
        }
    }

    /// Replaces the head of a stored response. False if it is not stored any longer, or was purged.
    pub(super) fn update(&self, stored: &Stored, head: Head, epochs: Epochs) -> bool {
        match stored {
            Stored::Memory(stored) => {
                if self.disk_or_forget(stored.key(), &stored.object().head.variant).is_some() {
                    self.rewrite(stored, head.clone(), epochs);
                }
                self.memory.update(stored, head, epochs.memory)
            }
            Stored::Disk(stored) => self
                .disk()
                .zip(epochs.disk)
                .is_some_and(|(disk, epoch)| disk.update(&stored.found, head, epoch).is_ok()),
        }
    }

    /// Writes a response in memory to the disk. What is there may be an older one, so its head cannot be replaced.
    fn rewrite(&self, stored: &memory::Stored, head: Head, epochs: Epochs) {
        let Some((disk, epoch)) = self.disk().zip(epochs.disk) else { return };
        let key = stored.key().clone();
        let place = Place {
            memory: self.memory.clone(),
            disk: disk.clone(),
            key: key.clone(),
            variant: head.variant.clone(),
        };
        let written = disk.write(key, head, epoch).and_then(|mut writer| {
            stored.object().body().iter().try_for_each(|piece| writer.push(piece))?;
            writer.finish()
        });
        place.forget(false, written.is_err());
    }

    /// Removes a stored response.
    pub(super) fn remove(&self, stored: &Stored) {
        let (key, variant) = match stored {
            Stored::Memory(stored) => {
                self.memory.remove(stored);
                (stored.key(), &stored.object().head.variant)
            }
            Stored::Disk(stored) => (stored.found.key(), &stored.object.head().variant),
        };
        if let Some(disk) = self.disk_or_forget(key, variant) {
            let place = Place {
                memory: self.memory.clone(),
                disk: disk.clone(),
                key: key.clone(),
                variant: variant.clone(),
            };
            place.forget(false, true);
        }
    }

    /// Remembers that a purge was applied which is announced to the cluster with this id.
    pub(super) fn applied(&self, id: &str) {
        self.marks.applied(id);
        if let Some(disk) = &self.disk {
            disk.slot.marks.applied(id);
        }
    }

    /// Removes what a purge covers, and returns the number of responses. Dropping the future does not stop the removal.
    pub(super) async fn purge(&self, purge: Purge) -> usize {
        let in_memory = self.memory.purge(&purge);
        let disk =
            self.disk.as_ref().and_then(|disk| disk.slot.store_or(|| EarlyRemoval::Purge(purge.clone())));
        let Some(disk) = disk.cloned() else { return in_memory };
        let memory = self.memory.clone();
        let rest = tokio::task::spawn_blocking(move || {
            // The memory again, with what was read from the disk meanwhile.
            disk.purge(&purge) + memory.purge(&purge)
        });
        in_memory + rest.await.unwrap_or(0)
    }
}

/// A response that is not in memory, and the moment at which it was not.
struct OnlyOnDisk<'a> {
    disk: &'a Arc<DiskStore>,
    found: DiskRef,
    epoch: Epoch,
}

/// A response that is about to be read from the disk.
struct Reading {
    memory: Arc<MemoryStore>,
    disk: Arc<DiskStore>,
    found: DiskRef,
    headers: HeaderMap,
    epoch: Epoch,
}

impl Reading {
    /// Reads the head, and puts the response into the memory if it fits.
    fn read(self) -> Option<Stored> {
        let object = match self.disk.read(&self.found) {
            Ok(object) => object,
            Err(ReadError::Gone | ReadError::Corrupt) => return None,
            Err(ReadError::Io(error)) => {
                tracing::debug!(%error, "cache: cannot read from the disk");
                return None;
            }
        };
        match self.promote(&object) {
            Ok(Some(stored)) => Some(Stored::Memory(stored)),
            Ok(None) => Some(Stored::Disk(Arc::new(OnDisk { found: self.found, object }))),
            Err(_) => None,
        }
    }

    fn promote(&self, object: &OpenObject) -> Result<Option<memory::Stored>, ReadError> {
        if object.length() > self.memory.limits().object {
            return Ok(None);
        }
        let writer = self.memory.write(self.found.key().clone(), object.head().clone(), self.epoch);
        let Ok(mut writer) = writer else { return Ok(None) };
        let mut whole = object.clone();
        while let Some(piece) = whole.read()? {
            if writer.push(&piece).is_err() {
                return Ok(None);
            }
        }
        // Another request may have been faster.
        let _ = writer.finish_unless_stored();
        Ok(self.memory.find(self.found.key(), &self.headers).matching)
    }
}

/// The place of one response in both stores.
struct Place {
    memory: Arc<MemoryStore>,
    disk: Arc<DiskStore>,
    key: Key,
    variant: Variant,
}

impl Place {
    /// Removes what is stored there, since a newer response is not.
    fn forget(&self, from_memory: bool, from_disk: bool) {
        if from_memory {
            self.memory.remove_variant(&self.key, &self.variant);
        }
        if from_disk {
            let (disk, key, variant) = (self.disk.clone(), self.key.clone(), self.variant.clone());
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => {
                    // Nothing waits for it.
                    runtime.spawn_blocking(move || disk.remove_variant(&key, &variant));
                }
                Err(_) => disk.remove_variant(&key, &variant),
            }
        }
    }
}

/// A response that is being received.
pub(super) struct Writer {
    memory: Option<memory::Writer>,
    disk: Option<DiskWriter>,
    /// Where it goes; `None` without a disk.
    place: Option<Place>,
}

/// How storing has ended.
pub(super) enum Finished {
    /// It can be found.
    Stored,
    /// It is known later whether it can be found.
    Writing(tidegate_cache::disk::Stored),
    /// It cannot.
    Not,
}

impl Writer {
    /// Adds a piece of the body. False if no store takes it, and the writer is of no use.
    pub(super) fn push(&mut self, piece: &Bytes) -> bool {
        if self.memory.as_mut().is_some_and(|writer| writer.push(piece).is_err()) {
            self.memory = None;
            self.forget(true, false);
        }
        if self.disk.as_mut().is_some_and(|writer| writer.push(piece).is_err()) {
            self.disk = None;
            self.forget(false, true);
        }
        self.memory.is_some() || self.disk.is_some()
    }

    /// The part that is kept in memory, unless the response is too large for it.
    pub(super) fn memory(&mut self) -> Option<&mut memory::Writer> {
        self.memory.as_mut()
    }

    fn forget(&self, from_memory: bool, from_disk: bool) {
        if let Some(place) = &self.place {
            place.forget(from_memory, from_disk);
        }
    }

    /// Stores the response. To be called only when the body has ended as it should.
    pub(super) fn finish(mut self) -> Finished {
        let disk = self.disk.take().map(DiskWriter::finish);
        let memory = self.memory.take().map(memory::Writer::finish);
        self.forget(matches!(memory, Some(Err(_))), matches!(disk, Some(Err(_))));
        match (memory, disk) {
            (Some(Ok(())), _) => Finished::Stored,
            (_, Some(Ok(writing))) => Finished::Writing(writing),
            _ => Finished::Not,
        }
    }
}
