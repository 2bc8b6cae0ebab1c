//! Files that a configuration names (certificates, keys, CAs, user lists), read once and watched.
//!
//! Changes are detected by content: touching a file or replacing it by an equal one changes nothing. Time,
//! size and inode only decide when to read a file again, so that a check costs one `stat` per file.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use parking_lot::Mutex;

/// Maximum file size in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Name of a file that panics when read, for tests of panics while compiling.
#[cfg(test)]
pub(super) const PANICKING: &str = "panicking";

/// The content of one file, or why it could not be read.
pub(super) type Content = Result<Arc<[u8]>, FileError>;

/// Why a file cannot be read. The first two messages are Traefik's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    /// The file does not exist.
    #[error("open {0}: no such file or directory")]
    NotFound(String),
    /// The file is not readable.
    #[error("open {0}: permission denied")]
    PermissionDenied(String),
    /// Any other I/O error.
    #[error("cannot read {path}: {reason}")]
    Io {
        /// The path.
        path: String,
        /// The error of the operating system.
        reason: String,
    },
    /// The path is a directory or a special file.
    #[error("cannot read {0}: not a file")]
    NotAFile(String),
    /// The file is larger than [`MAX_SIZE`].
    #[error("cannot read {0}: larger than {MAX_SIZE} bytes")]
    TooLarge(String),
}

/// The files that the current configuration names.
#[derive(Clone, Default)]
pub struct Files {
    known: Arc<Mutex<HashMap<String, Known>>>,
}

/// The files named by the configuration being compiled. [`Files`] does not change.
pub(super) struct Draft {
    files: Files,
    named: RefCell<HashMap<String, Known>>,
}

/// Replaces the watched files by those of a draft.
pub(super) struct Effects {
    files: Files,
    named: HashMap<String, Known>,
}

#[derive(Clone)]
struct Known {
    stamp: Option<Stamp>,
    content: Content,
}

#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    size: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Files {
    /// Returns an empty draft.
    pub(super) fn draft(&self) -> Draft {
        Draft { files: self.clone(), named: RefCell::default() }
    }

    /// Returns true if the content of a known file has changed since the last read. Each change is reported
    /// once.
    pub fn changed(&self) -> bool {
        let before = self.known.lock().clone();
        let mut changed = false;
        for (path, file) in before {
            let now = current(&path, Some(&file));
            changed |= now.content != file.content;
            if let Some(known) = self.known.lock().get_mut(&path) {
                *known = now;
            }
        }
        changed
    }
}

impl Draft {
    /// Returns the content of a file, the same for all calls. The file is read only if its size, time or
    /// inode has changed.
    pub(super) fn content(&self, path: &str) -> Content {
        #[cfg(test)]
        assert_ne!(path, PANICKING, "panic in test");
        if let Some(file) = self.named.borrow().get(path) {
            return file.content.clone();
        }
        let known = self.files.known.lock().get(path).cloned();
        let file = current(path, known.as_ref());
        let content = file.content.clone();
        self.named.borrow_mut().insert(path.to_owned(), file);
        content
    }

    /// Returns the effects of the draft.
    pub(super) fn finish(self) -> Effects {
        Effects { files: self.files, named: self.named.into_inner() }
    }
}

impl Effects {
    /// Stops watching all other files.
    pub(super) fn apply(self) {
        *self.files.known.lock() = self.named;
    }
}

/// Returns the current state of a file. `known` is its last known state.
fn current(path: &str, known: Option<&Known>) -> Known {
    let stamp = stamp(path);
    match known {
        Some(known) if known.stamp == stamp && stamp.is_some() => known.clone(),
        _ => Known { stamp, content: read(path) },
    }
}

fn stamp(path: &str) -> Option<Stamp> {
    let data: Metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        size: data.size(),
        inode: data.ino(),
        seconds: data.mtime(),
        nanoseconds: data.mtime_nsec(),
    })
}

fn read(path: &str) -> Content {
    let fail = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => FileError::NotFound(path.to_owned()),
        std::io::ErrorKind::PermissionDenied => FileError::PermissionDenied(path.to_owned()),
        _ => FileError::Io { path: path.to_owned(), reason: error.to_string() },
    };
    let data = std::fs::metadata(path).map_err(fail)?;
    if !data.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    if data.size() > MAX_SIZE {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    std::fs::read(path).map(Arc::from).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_change_only_with_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users").to_str().unwrap().to_owned();
        let files = Files::default();
        let read = || {
            let draft = files.draft();
            let content = draft.content(&path);
            draft.finish().apply();
            content
        };
        assert!(read().unwrap_err().to_string().contains("no such file"));
        assert!(!files.changed());
        std::fs::write(&path, "a").unwrap();
        assert!(files.changed());
        assert_eq!(&*read().unwrap(), b"a");
        assert!(!files.changed());
        std::fs::write(folder.path().join("new"), "a").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(!files.changed(), "another file with the same content");
        std::fs::write(&path, "bb").unwrap();
        assert!(files.changed());
        std::fs::remove_file(&path).unwrap();
        assert!(files.changed());
        files.draft().finish().apply();
        std::fs::write(&path, "c").unwrap();
        assert!(!files.changed(), "no longer known");
    }
}
