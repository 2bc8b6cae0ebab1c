//! What a store does when it begins: it waits for the folder, lists what is there, and reads the end of each file. It
//! runs on a thread of its own, so nothing waits for it; what is not found yet is a miss.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::file;
use super::inner::Inner;
use super::limits::DiskProblem;
use super::names;
use super::opened::DiskObject;
use crate::catalog::Entry;
use crate::purge::Epoch;

/// How often a folder is asked for that another process uses.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

pub(super) fn run(inner: &Arc<Inner>) {
    if let Err(error) = recover(inner) {
        let path = inner.folder.lock();
        inner.problem(DiskProblem::Recovery { path, kind: error.kind(), message: error.to_string() });
    }
}

fn recover(inner: &Arc<Inner>) -> io::Result<()> {
    if !lock(inner)? {
        return Ok(());
    }
    inner.folder.remove_unfinished()?;
    let ids = list(inner)?;
    inner.begin_after(ids.last().copied().unwrap_or(0));
    inner.writable.store(true, Ordering::Release);
    // The newest first: they replace older ones, and are most likely to be asked for.
    for id in ids.into_iter().rev() {
        if inner.closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        recover_object(inner, id);
    }
    *inner.early.lock() = None;
    inner.recovered.store(true, Ordering::Release);
    Ok(())
}

/// Waits until no other process uses the folder. False if the store is closed before.
fn lock(inner: &Inner) -> io::Result<bool> {
    let file = File::options().create(true).truncate(false).write(true).open(inner.folder.lock())?;
    let mut reported = false;
    while !inner.closed.load(Ordering::Relaxed) {
        match file.try_lock() {
            Ok(()) => {
                let mut lock = inner.lock.lock();
                if inner.closed.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                *lock = Some(file);
                drop(lock);
                inner.recover_from_problem();
                return Ok(true);
            }
            Err(TryLockError::WouldBlock) => {
                if !reported {
                    inner.problem(DiskProblem::InUse { path: inner.folder.lock() });
                    reported = true;
                }
                std::thread::sleep(POLL_INTERVAL);
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// The ids of all objects. Heads without an object, and files with other names, are removed.
fn list(inner: &Inner) -> io::Result<BTreeSet<u64>> {
    let (mut objects, mut heads) = (BTreeSet::new(), BTreeSet::new());
    for shard in 0..=u8::MAX {
        for entry in fs::read_dir(inner.folder.shard(shard))? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(names::parse);
            match id.filter(|(id, _)| names::shard_of(*id) == shard) {
                Some((id, true)) => objects.insert(id),
                Some((id, false)) => heads.insert(id),
                None => fs::remove_file(entry.path()).is_ok(),
            };
        }
    }
    for id in heads.difference(&objects) {
        inner.folder.remove(*id);
    }
    Ok(objects)
}

fn recover_object(inner: &Inner, id: u64) {
    let end = match inner.folder.open(id) {
        Ok(Some((_, end))) => end,
        Ok(None) => return inner.folder.remove(id),
        // It may be readable the next time.
        Err(_) => return,
    };
    let entry = Entry {
        key: end.key,
        variant: end.head.variant,
        tags: end.head.tags,
        weight: inner.weight(file::body_size(end.length) + end.size),
        uses: AtomicU64::new(0),
        value: DiskObject { id, length: end.length },
    };
    // Held until it can be found: whoever removes it from now on finds it.
    let early = inner.early.lock();
    if early.as_ref().is_some_and(|early| early.cover(inner.catalog.id(&entry.key, &entry.variant))) {
        return inner.folder.remove(id);
    }
    // Purges since the start cover what they would have removed.
    let inserted = inner.catalog.insert_unless(entry, Epoch(0), |newer| newer.id > id);
    drop(early);
    if inner.settle(id, inserted).is_ok() {
        inner.counters.recovered.fetch_add(1, Ordering::Relaxed);
    }
}
