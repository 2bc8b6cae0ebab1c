//! Files that a configuration names (certificates, keys, authorities, user lists), read once and watched.
//!
//! Content is compared, not times: a file that is touched or replaced by an equal one changes nothing. Times and sizes
//! only say when it is worth reading again, so that asking costs one `stat` for each file.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_core::BuildError;

/// Largest file that is read, in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Name of a file that panics when it is read, for tests of what a panic leaves behind.
#[cfg(test)]
pub(super) const PANICKING: &str = "panicking";

/// The content of one file, or why it could not be read.
pub(super) type Content = Result<Arc<[u8]>, FileError>;

/// Why a file cannot be read. The first two texts are Traefik's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileError {
    /// There is no such file.
    #[error("open {0}: no such file or directory")]
    NotFound(String),
    /// The file must not be read.
    #[error("open {0}: permission denied")]
    PermissionDenied(String),
    /// Any other failure of the system.
    #[error("cannot read {path}: {reason}")]
    Io {
        /// The path.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// The path is a folder, or something that may never end.
    #[error("cannot read {0}: not a file")]
    NotAFile(String),
    /// The file is too large for anything that configurations name.
    #[error("cannot read {0}: larger than {MAX_SIZE} bytes")]
    TooLarge(String),
}

/// The files that the current configuration names.
#[derive(Default)]
pub struct Files {
    known: Mutex<HashMap<String, Known>>,
}

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
    /// The content of a file. It is read again only when its size, time or inode has changed.
    pub(super) fn content(&self, path: &str) -> Content {
        #[cfg(test)]
        assert_ne!(path, PANICKING, "as the test wants it");
        let stamp = stamp(path);
        let mut known = self.known.lock();
        if let Some(file) = known.get(path)
            && file.stamp == stamp
            && stamp.is_some()
        {
            return file.content.clone();
        }
        let content = read(path);
        known.insert(path.to_owned(), Known { stamp, content: content.clone() });
        content
    }

    /// The content of a file, as options that are built ask for it.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        self.content(path).map(|bytes| bytes.to_vec()).map_err(|error| BuildError::new(error.to_string()))
    }

    /// Forgets all files but these.
    pub fn keep(&self, wanted: &dyn Fn(&str) -> bool) {
        self.known.lock().retain(|path, _| wanted(path));
    }

    /// True when the content of a known file has changed since it was read last.
    pub fn changed(&self) -> bool {
        let before: Vec<(String, Content)> =
            self.known.lock().iter().map(|(path, file)| (path.clone(), file.content.clone())).collect();
        // Every file is asked for, so that all changes of one moment are applied together.
        before.into_iter().filter(|(path, content)| self.content(path) != *content).count() > 0
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
    fn a_change_is_seen_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users").to_str().unwrap().to_owned();
        let files = Files::default();
        assert!(files.content(&path).unwrap_err().to_string().contains("no such file"));
        assert!(!files.changed());
        std::fs::write(&path, "a").unwrap();
        assert!(files.changed());
        assert_eq!(files.read(&path).unwrap(), b"a");
        assert!(!files.changed());
        std::fs::write(folder.path().join("new"), "a").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(!files.changed(), "another file with the same content");
        std::fs::write(&path, "bb").unwrap();
        assert!(files.changed());
        std::fs::remove_file(&path).unwrap();
        assert!(files.changed());
        files.keep(&|_| false);
        std::fs::write(&path, "c").unwrap();
        assert!(!files.changed(), "no longer known");
    }
}
