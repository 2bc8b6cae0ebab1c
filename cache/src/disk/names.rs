//! Where files are, and how they are found again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, End};

/// The folder of a store:
///
/// - `lock` is held by the process that uses it,
/// - `note` has what the user of the store keeps beside the responses,
/// - `new/` has files that are being written,
/// - `objects/00/` to `objects/ff/` have files that are complete: `<id>.object` with body and head, and `<id>.head` with
///   a newer head.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let folder = Self(path.to_owned());
        fs::create_dir_all(folder.0.join("new"))?;
        for shard in 0..=u8::MAX {
            fs::create_dir_all(folder.shard(shard))?;
        }
        Ok(folder)
    }

    pub(super) fn shard(&self, shard: u8) -> PathBuf {
        self.0.join(format!("objects/{shard:02x}"))
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(super) fn note(&self) -> PathBuf {
        self.0.join("note")
    }

    pub(super) fn new_file(&self, id: u64) -> PathBuf {
        self.0.join(format!("new/{id:016x}"))
    }

    pub(super) fn object(&self, id: u64) -> PathBuf {
        self.shard(shard_of(id)).join(format!("{id:016x}.object"))
    }

    pub(super) fn head(&self, id: u64) -> PathBuf {
        self.shard(shard_of(id)).join(format!("{id:016x}.head"))
    }

    /// Removes what was being written by a process that is gone.
    pub(super) fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.0.join("new"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Removes an object. The body goes first: without it, a head that is left means nothing.
    pub(super) fn remove(&self, id: u64) {
        // Either may be gone already, and a file that cannot be removed is found again by the next start.
        let _ = fs::remove_file(self.object(id));
        let _ = fs::remove_file(self.head(id));
    }

    /// Opens an object, and reads its newest head. `Ok(None)` if it is not valid.
    pub(super) fn open(&self, id: u64) -> io::Result<Option<(File, End)>> {
        let object = File::open(self.object(id))?;
        let Some(mut end) = file::read_end(&object)? else { return Ok(None) };
        if object.metadata()?.len() != file::body_size(end.length) + end.size {
            return Ok(None);
        }
        let newer = match File::open(self.head(id)) {
            Ok(head) => file::read_end(&head)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some((object, end))),
            Err(error) => return Err(error),
        };
        match newer {
            Some(newer) if newer.nonce == end.nonce && newer.length == end.length => {
                end.size += newer.size;
                end.key = newer.key;
                end.head = newer.head;
                Ok(Some((object, end)))
            }
            // Which head is the right one is not known any more.
            _ => Ok(None),
        }
    }
}

/// The folder of an id.
pub(super) fn shard_of(id: u64) -> u8 {
    id.to_le_bytes()[0]
}

/// The id in a file's name, and whether it is an object.
pub(super) fn parse(name: &str) -> Option<(u64, bool)> {
    let (id, kind) = name.split_once('.')?;
    let id = (id.len() == 16).then(|| u64::from_str_radix(id, 16).ok())??;
    match kind {
        "object" => Some((id, true)),
        "head" => Some((id, false)),
        _ => None,
    }
}
