//! Opens files below a root. The kernel guarantees that no path leads out of it.

use std::fs::File;
use std::io;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;
use tidegate_config::static_files::FollowSymlinks;

use super::path::RelativePath;

/// Maximum number of attempts while directories are renamed.
const MAX_ATTEMPTS: usize = 8;

/// Flags for files. Opening a FIFO does not wait for its other end, and a terminal does not become ours.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// Flags for directories on the way.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What identifies the content of an open file, unless it is changed within one tick of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Size in bytes.
    pub(super) size: u64,
    /// Modification time: seconds since 1970.
    pub(super) seconds: i64,
    /// Modification time: nanoseconds of the second.
    pub(super) nanoseconds: i64,
}

/// What is at a path.
pub(super) enum Entry {
    /// A regular file.
    File(File, Stamp),
    /// A directory.
    Directory,
    /// Nothing that is served.
    Nothing,
}

/// The root directory of a service, open for one request.
pub(super) struct Root {
    directory: OwnedFd,
    links: FollowSymlinks,
}

impl Stamp {
    /// Returns the stamp of an open file.
    pub(super) fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&fstat(file)?))
    }
}

impl From<&Stat> for Stamp {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // The types depend on the platform.
    fn from(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            seconds: stat.st_mtime as i64,
            nanoseconds: stat.st_mtime_nsec as i64,
        }
    }
}

impl Root {
    /// Opens a root. Its own path may contain links, so that a deployment can replace it.
    pub(super) fn open(path: &str, links: FollowSymlinks) -> io::Result<Self> {
        Ok(Self { directory: openat(CWD, path, DIRECTORY, Mode::empty())?, links })
    }

    /// Opens what is at a path below the root.
    pub(super) fn entry(&self, path: &RelativePath) -> io::Result<Entry> {
        if path.is_root() {
            return Ok(Entry::Directory);
        }
        let file = match self.open_below(path) {
            Ok(file) => file,
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::XDEV
                | Errno::NAMETOOLONG
                | Errno::ACCESS
                | Errno::INVAL
                | Errno::NXIO
                | Errno::NODEV,
            ) => return Ok(Entry::Nothing),
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&file)?;
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Entry::File(File::from(file), Stamp::from(&stat)),
            FileType::Directory => Entry::Directory,
            _ => Entry::Nothing,
        })
    }

    fn open_below(&self, path: &RelativePath) -> Result<OwnedFd, Errno> {
        let confined = match self.links {
            FollowSymlinks::Always => {
                return openat(&self.directory, path.as_path(), FILE, Mode::empty());
            }
            FollowSymlinks::Inside => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            FollowSymlinks::Never => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        };
        for _ in 0..MAX_ATTEMPTS {
            match openat2(&self.directory, path.as_path(), FILE, Mode::empty(), confined) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Linux before 5.6, or a container runtime that does not know the call.
                Err(Errno::NOSYS | Errno::PERM) => return walk(self.directory.as_fd(), path),
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }
}

/// Opens a file name by name, following no links.
fn walk(root: BorrowedFd<'_>, path: &RelativePath) -> Result<OwnedFd, Errno> {
    let mut names = path.names().peekable();
    let mut parent: Option<OwnedFd> = None;
    while let Some(name) = names.next() {
        let directory = parent.as_ref().map_or(root, AsFd::as_fd);
        let flags = if names.peek().is_some() { DIRECTORY } else { FILE };
        let opened = openat(directory, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        if names.peek().is_none() {
            return Ok(opened);
        }
        parent = Some(opened);
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn kind(entry: io::Result<Entry>) -> &'static str {
        match entry.unwrap() {
            Entry::File(..) => "file",
            Entry::Directory => "directory",
            Entry::Nothing => "nothing",
        }
    }

    #[test]
    fn links_lead_out_only_if_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        fs::write(root.join("sub/file"), "f").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink(folder.path().join("secret"), root.join("absolute")).unwrap();
        symlink("sub/file", root.join("in")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let seen = |links: FollowSymlinks, path: &str| {
            let open = Root::open(root.to_str().unwrap(), links).unwrap();
            kind(open.entry(&RelativePath::parse(path).unwrap()))
        };
        for (path, inside, never, always) in [
            ("sub/file", "file", "file", "file"),
            ("sub", "directory", "directory", "directory"),
            ("in", "file", "nothing", "file"),
            ("out", "nothing", "nothing", "file"),
            ("up/secret", "nothing", "nothing", "file"),
            ("absolute", "nothing", "nothing", "file"),
            ("loop", "nothing", "nothing", "nothing"),
            ("magic/etc/passwd", "nothing", "nothing", "file"),
            ("sub/file/x", "nothing", "nothing", "nothing"),
            ("missing", "nothing", "nothing", "nothing"),
        ] {
            assert_eq!(seen(FollowSymlinks::Inside, path), inside, "inside: {path}");
            assert_eq!(seen(FollowSymlinks::Never, path), never, "never: {path}");
            assert_eq!(seen(FollowSymlinks::Always, path), always, "always: {path}");
            let open = Root::open(root.to_str().unwrap(), FollowSymlinks::Inside).unwrap();
            let walked = walk(open.directory.as_fd(), &RelativePath::parse(path).unwrap());
            assert_eq!(walked.is_ok(), never != "nothing", "without openat2: {path}");
        }
    }
}
