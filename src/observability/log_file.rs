//! A log file that is rotated by its size, with the options and the file names of Traefik's log.
//!
//! The file is renamed while it is written, which takes a moment. A thread compresses and removes old files, and
//! reports what failed: a log cannot report its own failures while it is being written.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Maximum size of a file if only other options of the rotation are set, as in Traefik.
const DEFAULT_MEGABYTES: u64 = 100;
const MEGABYTE: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_hours(24);
/// The time in the name of a rotated file: `access-2026-11-29T22-25-26.120.log`.
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]-[minute]-[second].[subsecond digits:3]");
/// Length of [`STAMP`].
const STAMP_LENGTH: usize = 23;
const COMPRESSED: &str = ".gz";

/// When a file is rotated, and what happens to rotated ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Maximum size of the file in bytes.
    max_size: u64,
    /// Rotated files that are older are removed.
    max_age: Option<Duration>,
    /// Number of rotated files that are kept; 0 for all.
    max_backups: usize,
    /// Rotated files are compressed.
    compress: bool,
}

impl Rotation {
    /// Creates it from the options, in megabytes and days. Returns `None` if none is set: the file is not rotated.
    pub(crate) fn new(max_size: i64, max_age: i64, max_backups: i64, compress: bool) -> Option<Self> {
        let positive = |number: i64| u64::try_from(number).unwrap_or(0);
        let (size, age, backups) = (positive(max_size), positive(max_age), positive(max_backups));
        (size > 0 || age > 0 || backups > 0 || compress).then(|| Self {
            max_size: if size == 0 { DEFAULT_MEGABYTES } else { size }.saturating_mul(MEGABYTE),
            max_age: u32::try_from(age).ok().filter(|age| *age > 0).map(|age| DAY * age),
            max_backups: usize::try_from(backups).unwrap_or(usize::MAX),
            compress,
        })
    }
}

/// Why a log file could not be rotated, or an old one not be handled.
#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error("cannot rotate the log file `{}`, which grows until it can: {source}", path.display())]
    Rotate { path: PathBuf, source: io::Error },
    #[error("cannot compress the rotated log file `{}`: {source}", path.display())]
    Compress { path: PathBuf, source: io::Error },
    #[error("cannot remove the rotated log file `{}`: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("cannot list rotated log files in `{}`: {source}", path.display())]
    List { path: PathBuf, source: io::Error },
}

/// An open log file.
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    rotating: Option<Rotating>,
}

struct Rotating {
    rotation: Rotation,
    /// Current size of the file.
    size: u64,
    /// Size at which the file is rotated; above the maximum after a failure.
    limit: u64,
    cleaner: Cleaner,
}

impl LogFile {
    /// Opens a file for appending, and creates its directory.
    pub(crate) fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = open(path)?;
        let rotating = match rotation {
            Some(rotation) => Some(Rotating {
                rotation,
                size: file.metadata()?.len(),
                limit: rotation.max_size,
                cleaner: Cleaner::start(path, rotation)?,
            }),
            None => None,
        };
        Ok(Self { path: path.to_owned(), file, rotating })
    }

    /// Reopens the file after it was moved. The previous file stays open if that fails.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        if let Some(rotating) = &mut self.rotating {
            rotating.size = self.file.metadata()?.len();
            rotating.limit = rotating.rotation.max_size;
        }
        Ok(())
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Rotates the file if it has no room for `more` bytes.
    fn make_room(&mut self, more: u64) {
        let Some(rotating) = &mut self.rotating else { return };
        if rotating.size == 0 || rotating.size.saturating_add(more) <= rotating.limit {
            return;
        }
        match rotate(&self.path) {
            Ok(file) => {
                self.file = file;
                (rotating.size, rotating.limit) = (0, rotating.rotation.max_size);
                rotating.cleaner.request(Task::Clean);
            }
            Err(source) => {
                // Tried again after some growth, and not with every line.
                rotating.limit = rotating.size.saturating_add(more + rotating.rotation.max_size / 10);
                let error = RotationError::Rotate { path: self.path.clone(), source };
                rotating.cleaner.request(Task::Report(error));
            }
        }
    }
}

impl Write for LogFile {
    /// Writes whole lines, which are never divided between two files.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.make_room(lines.len() as u64);
        self.file.write_all(lines)?;
        if let Some(rotating) = &mut self.rotating {
            rotating.size += lines.len() as u64;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Opens a log file for appending, readable by owner and group only, and creates its directory.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let made = directory.map_or(Ok(()), std::fs::create_dir_all);
    let file = made.and_then(|()| OpenOptions::new().append(true).create(true).mode(0o640).open(path));
    file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Renames the file, and opens a new one.
fn rotate(path: &Path) -> io::Result<File> {
    let names = Names::of(path);
    let mut at = OffsetDateTime::now_utc();
    let mut backup = names.backup(at)?;
    // A name that is taken is not overwritten.
    while std::fs::exists(&backup)? {
        at += Duration::from_millis(1);
        backup = names.backup(at)?;
    }
    std::fs::rename(path, &backup)?;
    open(path).inspect_err(|_| {
        // Lines go to the file that is still open, which keeps its name.
        let _ = std::fs::rename(&backup, path);
    })
}

/// The names of a log file and of its rotated files.
struct Names {
    directory: PathBuf,
    /// The name before the time, with a dash.
    prefix: String,
    /// The name after the time, with its dot.
    suffix: String,
}

impl Names {
    fn of(path: &Path) -> Self {
        let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        Self {
            directory: directory.unwrap_or(Path::new(".")).to_owned(),
            prefix: text(path.file_stem()) + "-",
            suffix: path.extension().map_or_else(String::new, |end| format!(".{}", end.to_string_lossy())),
        }
    }

    /// Returns the path of the file that is rotated at this time.
    fn backup(&self, at: OffsetDateTime) -> io::Result<PathBuf> {
        let stamp = at.format(STAMP).map_err(io::Error::other)?;
        Ok(self.directory.join(format!("{}{stamp}{}", self.prefix, self.suffix)))
    }

    /// Returns when a file was rotated, and whether it is compressed. `None` if it is another file.
    fn parse(&self, name: &str) -> Option<(OffsetDateTime, bool)> {
        let rest = name.strip_prefix(&self.prefix)?;
        let (stamp, end) = rest.split_at_checked(STAMP_LENGTH)?;
        let compressed = match end.strip_prefix(&*self.suffix)? {
            "" => false,
            COMPRESSED => true,
            _ => return None,
        };
        let at = PrimitiveDateTime::parse(stamp, STAMP).ok()?;
        Some((at.assume_utc(), compressed))
    }
}

enum Task {
    Clean,
    Report(RotationError),
}

/// The thread that handles rotated files. It ends when this is dropped.
struct Cleaner {
    tasks: Option<SyncSender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    fn start(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let (tasks, receiver) = sync_channel(2);
        let names = Names::of(path);
        let work = move || run(&names, rotation, &receiver);
        let thread = std::thread::Builder::new().name("log-rotation".into()).spawn(work)?;
        let cleaner = Self { tasks: Some(tasks), thread: Some(thread) };
        // What earlier processes have left.
        cleaner.request(Task::Clean);
        Ok(cleaner)
    }

    /// Requests a task. Does nothing if enough are waiting, since each handles all files.
    fn request(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.try_send(task);
        }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(names: &Names, rotation: Rotation, tasks: &Receiver<Task>) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Report(error) => tracing::error!("{error}"),
            Task::Clean => clean(names, rotation, OffsetDateTime::now_utc()),
        }
    }
}

/// Removes and compresses rotated files.
fn clean(names: &Names, rotation: Rotation, now: OffsetDateTime) {
    let mut backups = match backups(names) {
        Ok(backups) => backups,
        Err(source) => {
            let error = RotationError::List { path: names.directory.clone(), source };
            return tracing::error!("{error}");
        }
    };
    // The newest first.
    backups.sort_unstable_by_key(|backup| Reverse(backup.at));
    let (mut kept, mut previous) = (0, None);
    for backup in backups {
        // A file and its compressed form count once.
        kept += usize::from(previous != Some(backup.at));
        previous = Some(backup.at);
        let is_surplus = rotation.max_backups > 0 && kept > rotation.max_backups;
        let is_old = rotation.max_age.is_some_and(|age| backup.at + age < now);
        let done = if is_surplus || is_old {
            let removed = std::fs::remove_file(&backup.path);
            removed.map_err(|source| RotationError::Remove { path: backup.path, source })
        } else if rotation.compress && !backup.compressed {
            compress(&backup.path).map_err(|source| RotationError::Compress { path: backup.path, source })
        } else {
            Ok(())
        };
        if let Err(error) = done {
            tracing::error!("{error}");
        }
    }
}

/// A rotated file.
struct Backup {
    path: PathBuf,
    at: OffsetDateTime,
    compressed: bool,
}

fn backups(names: &Names) -> io::Result<Vec<Backup>> {
    let mut backups = Vec::new();
    for entry in std::fs::read_dir(&names.directory)? {
        let entry = entry?;
        if let Some((at, compressed)) = entry.file_name().to_str().and_then(|name| names.parse(name)) {
            backups.push(Backup { path: entry.path(), at, compressed });
        }
    }
    Ok(backups)
}

/// Replaces a file by its compressed form.
fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(COMPRESSED);
    let target = PathBuf::from(target);
    let written = (|| {
        let mut source = File::open(path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&target)?;
        let mut encoder = GzEncoder::new(io::BufWriter::new(file), Compression::default());
        io::copy(&mut source, &mut encoder)?;
        encoder.finish()?.flush()
    })();
    match written {
        Ok(()) => std::fs::remove_file(path),
        Err(error) => {
            let _ = std::fs::remove_file(&target);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    const ALL: Rotation = Rotation { max_size: 20, max_age: None, max_backups: 0, compress: false };

    /// Returns the names of rotated files from old to new.
    fn rotated(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name != "a.log");
        names.sort_unstable();
        names
    }

    /// Writes lines to `a.log` in a directory, and waits until rotated files are handled.
    fn write(directory: &Path, rotation: Rotation, lines: &[&str]) {
        let mut file = LogFile::open(&directory.join("a.log"), Some(rotation)).unwrap();
        for line in lines {
            file.write_all(line.as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_file_is_rotated_before_it_exceeds_the_maximum() {
        let directory = tempfile::tempdir().unwrap();
        let lines =
            ["0123456789\n", "abcdefgh\n", "second\n", "a line that is longer than a file\n", "third\n"];
        write(directory.path(), ALL, &lines);
        let read = |name: &String| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let texts: Vec<String> = rotated(directory.path()).iter().map(read).collect();
        assert_eq!(texts, ["0123456789\nabcdefgh\n", "second\n", "a line that is longer than a file\n"]);
        assert_eq!(read(&"a.log".to_owned()), "third\n");
        for name in rotated(directory.path()) {
            assert!(Names::of(Path::new("a.log")).parse(&name).is_some(), "{name}");
        }
        // The size of an existing file counts.
        write(directory.path(), ALL, &["0123456789abcdef\n"]);
        assert_eq!(rotated(directory.path()).len(), 4);
    }

    #[test]
    fn rotated_files_are_limited_in_number_and_compressed() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("a-2020-01-01.log");
        std::fs::write(&other, "another file").unwrap();
        let rotation = Rotation { max_backups: 2, compress: true, ..ALL };
        let lines: Vec<String> = (0..6).map(|number| format!("line number {number}....\n")).collect();
        write(directory.path(), rotation, &lines.iter().map(String::as_str).collect::<Vec<_>>());
        // A task that is requested while others wait is left to them.
        write(directory.path(), rotation, &[]);
        assert!(other.exists());
        std::fs::remove_file(other).unwrap();
        let names = rotated(directory.path());
        assert!(names.len() == 2 && names.iter().all(|name| name.ends_with(".log.gz")), "{names:?}");
        let texts = names.iter().map(|name| {
            let mut text = String::new();
            let file = File::open(directory.path().join(name)).unwrap();
            GzDecoder::new(file).read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(texts.collect::<Vec<_>>(), lines[3..5]);
    }

    #[test]
    fn old_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let names = Names::of(&directory.path().join("a.log"));
        let now = OffsetDateTime::now_utc();
        for hours in [1, 23, 25, 49] {
            std::fs::write(names.backup(now - Duration::from_hours(hours)).unwrap(), "x").unwrap();
        }
        let rotation = Rotation { max_age: Some(DAY), ..ALL };
        clean(&names, rotation, now);
        assert_eq!(rotated(directory.path()).len(), 2);
        clean(&names, rotation, now + DAY);
        assert!(rotated(directory.path()).is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_rotated_is_still_written() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("logs");
        let mut file = LogFile::open(&folder.join("a.log"), Some(ALL)).unwrap();
        file.write_all(b"0123456789\n").unwrap();
        let mut reader = File::open(folder.join("a.log")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        for _ in 0..3 {
            file.write_all(b"0123456789\n").unwrap();
        }
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0123456789\n".repeat(4));
        // It recovers when the directory is back.
        file.reopen().unwrap();
        file.write_all(b"back\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a.log")).unwrap(), "back\n");
    }

    #[test]
    fn any_option_switches_the_rotation_on() {
        assert_eq!(Rotation::new(0, 0, 0, false), None);
        assert_eq!(Rotation::new(-1, -1, -1, false), None);
        let default = Rotation { max_size: 100 * MEGABYTE, max_age: None, max_backups: 0, compress: true };
        assert_eq!(Rotation::new(0, 0, 0, true), Some(default));
        let all = Rotation { max_size: MEGABYTE, max_age: Some(7 * DAY), max_backups: 3, compress: false };
        assert_eq!(Rotation::new(1, 7, 3, false), Some(all));
    }
}
