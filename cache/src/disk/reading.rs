//! How a response is read: block by block, each checked, so a large one is never in memory as a whole.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::file::{self, BLOCK};
use super::inner::Inner;
use super::opened::{DiskObject, Opened};
use crate::catalog::Entry;
use crate::head::Head;

/// Why a response cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It has been removed, or replaced, a moment ago.
    #[error("no longer stored")]
    Gone,
    /// It is not what was written.
    #[error("wrong checksum")]
    Corrupt,
    /// The disk has failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A response on disk that is being read. Copies are read on their own. It can be read to its end even if it is removed meanwhile.
#[derive(Clone)]
pub struct OpenObject {
    inner: Arc<Inner>,
    opened: Arc<Opened>,
    /// The next byte to be read.
    next: u64,
    /// The byte after the last to be read.
    end: u64,
}

impl OpenObject {
    /// Waits for the disk, unless the file is open already.
    pub(super) fn new(inner: &Arc<Inner>, entry: &Arc<Entry<DiskObject>>) -> Result<Self, ReadError> {
        match Self::opened(inner, entry) {
            Some(object) => Ok(object),
            None => Ok(Self::of(inner, open(inner, entry)?)),
        }
    }

    /// If the file is open already.
    pub(super) fn opened(inner: &Arc<Inner>, entry: &Arc<Entry<DiskObject>>) -> Option<Self> {
        inner.opened.get(entry).map(|opened| Self::of(inner, opened))
    }

    fn of(inner: &Arc<Inner>, opened: Arc<Opened>) -> Self {
        let end = opened.entry.value.length;
        Self { inner: inner.clone(), opened, next: 0, end }
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.opened.head
    }

    /// Bytes of the whole body.
    pub fn length(&self) -> u64 {
        self.opened.entry.value.length
    }

    /// Reads only the bytes from `first` to `last`, both included.
    pub fn select(&mut self, first: u64, last: u64) {
        self.end = last.saturating_add(1).min(self.length());
        self.next = first.min(self.end);
    }

    /// The next piece of the body, at most 64 KiB; `None` after the last. Waits for the disk.
    ///
    /// # Errors
    ///
    /// If the block is not what was written: the response is removed then, and what was sent of it must be cut off.
    pub fn read(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let number = self.next / BLOCK as u64;
        let entry = &self.opened.entry;
        match file::read_block(&self.opened.file, self.opened.nonce, self.length(), number) {
            Ok(Some(block)) => Ok(Some(self.take(number, &block))),
            Ok(None) => {
                self.inner.discard(entry, true);
                Err(ReadError::Corrupt)
            }
            Err(error) => {
                self.inner.discard(entry, error.kind() == io::ErrorKind::UnexpectedEof);
                Err(ReadError::Io(error))
            }
        }
    }

    /// The next piece, if the system has it in memory. Otherwise `None`, and [`Self::read`] waits for it.
    pub fn read_from_memory(&mut self) -> Option<Bytes> {
        if self.next >= self.end {
            return None;
        }
        let number = self.next / BLOCK as u64;
        let block = file::block_in_memory(&self.opened.file, self.opened.nonce, self.length(), number)?;
        Some(self.take(number, &block))
    }

    /// What is asked for of a block.
    fn take(&mut self, number: u64, block: &Bytes) -> Bytes {
        let start = number * BLOCK as u64;
        let stop = self.end.min(start + block.len() as u64);
        // Both are within the block, whose length is a usize.
        let piece = block.slice((self.next - start) as usize..(stop - start) as usize);
        self.next = stop;
        piece
    }
}

/// Opens an entry, and reads its head. Waits for the disk.
fn open(inner: &Inner, entry: &Arc<Entry<DiskObject>>) -> Result<Arc<Opened>, ReadError> {
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
    let opened = Arc::new(Opened { entry: entry.clone(), file, nonce: end.nonce, head: end.head });
    inner.opened.insert(opened.clone());
    if !inner.catalog.contains(entry) {
        // It was removed meanwhile.
        inner.opened.close(id);
    }
    Ok(opened)
}
