//! The file that keeps what was used: lines that are appended, and read when it is opened.
//!
//! A line has the total of a bucket, so the last one counts. A crash may cut off the last line, which is removed when the
//! file is opened: its request was not forwarded.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::window::Window;

/// Maximum length of a line in bytes.
const MAX_LINE: u64 = 4096;
/// Size in bytes that a file reaches before it is rewritten.
const MIN_REWRITE: u64 = 1 << 20;
/// It is rewritten when it is this many times as large as what it keeps.
const REWRITE_FACTOR: u64 = 4;

/// What was used by a bucket in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) window: Window,
    pub(super) used: u64,
}

/// Totals by bucket. Names of buckets have no spaces and line feeds.
pub(super) type Totals = HashMap<String, Total>;

/// An open file, locked against other processes.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    /// What the file says.
    totals: Totals,
}

impl Log {
    /// Opens or creates a file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        lock(&file)?;
        let (totals, length, broken) = read(&file)?;
        if broken > 0 {
            tracing::error!("{}: {broken} lines cannot be read and are ignored", path.display());
        }
        let mut log = Self { path: path.to_owned(), file, length, totals };
        log.file.set_len(length)?;
        log.file.seek(SeekFrom::Start(length))?;
        Ok(log)
    }

    /// Returns what the file says.
    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Appends totals: once it returns, they survive the end of the process.
    pub(super) fn append(&mut self, records: impl IntoIterator<Item = (String, Total)>) -> io::Result<()> {
        let mut lines = String::new();
        let records: Vec<(String, Total)> = records.into_iter().collect();
        for (bucket, total) in &records {
            write_line(&mut lines, bucket, total);
        }
        if let Err(error) = self.file.write_all(lines.as_bytes()) {
            // Part of a line would make the next one unreadable.
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.totals.extend(records);
        Ok(())
    }

    /// Waits until the disk has everything.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Rewrites the file if most of it is obsolete. Totals of periods that ended before `now` are dropped.
    pub(super) fn compact(&mut self, now: i64) -> io::Result<()> {
        let kept: u64 = self.totals.keys().map(|bucket| bucket.len() as u64 + 64).sum();
        if self.length < MIN_REWRITE.max(kept * REWRITE_FACTOR) {
            return Ok(());
        }
        // A period may become longer with another plan, so they are kept for some time.
        self.totals.retain(|_, total| total.window.end + 32 * 24 * 3600 > now);
        let mut lines = String::new();
        for (bucket, total) in &self.totals {
            write_line(&mut lines, bucket, total);
        }
        let beside = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&beside)?;
        lock(&file)?;
        file.write_all(lines.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        // The folder must know the new file, too.
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        (self.file, self.length) = (file, lines.len() as u64);
        Ok(())
    }
}

fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::other("another process uses it"),
        TryLockError::Error(error) => error,
    })
}

fn write_line(lines: &mut String, bucket: &str, total: &Total) {
    use std::fmt::Write as _;
    let start = lines.len();
    let Total { window, used } = total;
    let _ = write!(lines, "{} {} {used} {bucket}", window.start, window.end);
    let check = checksum(&lines.as_bytes()[start..]);
    let _ = writeln!(lines, " {check:016x}");
}

/// Returns what a file says, the length of its complete lines, and the number of lines that cannot be read.
fn read(file: &File) -> io::Result<(Totals, u64, usize)> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut totals, mut length, mut broken) = (Totals::new(), 0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 || (line.last() != Some(&b'\n') && (read as u64) < MAX_LINE) {
            return Ok((totals, length, broken));
        }
        length += read as u64;
        match parse(&line) {
            Some((bucket, total)) => drop(totals.insert(bucket, total)),
            None => broken += 1,
        }
    }
}

fn parse(line: &[u8]) -> Option<(String, Total)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (text, check) = line.rsplit_once(' ')?;
    if u64::from_str_radix(check, 16).ok()? != checksum(text.as_bytes()) {
        return None;
    }
    let mut parts = text.split(' ');
    let (start, end, used) =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let bucket = parts.next()?.to_owned();
    Some((bucket, Total { window: Window { start, end }, used }))
}

/// FNV-1a: detects lines that were written in part.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(used: u64) -> Total {
        Total { window: Window { start: 0, end: 1 << 40 }, used }
    }

    #[test]
    fn the_last_total_counts_and_a_part_of_a_line_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.log");
        let mut log = Log::open(&path).unwrap();
        log.append([("a".to_owned(), total(1)), ("b".to_owned(), total(7)), ("a".to_owned(), total(2))])
            .unwrap();
        assert!(Log::open(&path).is_err_and(|error| error.to_string().contains("another process")));
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let log = Log::open(&path).unwrap();
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let expected = [None, Some(1), Some(1), Some(2)][lines];
            assert_eq!(log.totals().get("a").map(|total| total.used), expected, "cut at {cut}");
            assert_eq!(
                whole[..cut].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1) as u64,
                log.length
            );
        }
    }

    #[test]
    fn a_damaged_line_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.log");
        Log::open(&path).unwrap().append([("a".to_owned(), total(1)), ("a".to_owned(), total(9))]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let damaged = text.replacen(" 9 a", " 8 a", 1) + &"x".repeat(10_000) + "\n";
        std::fs::write(&path, damaged).unwrap();
        let mut log = Log::open(&path).unwrap();
        assert_eq!(log.totals()["a"].used, 1);
        log.append([("a".to_owned(), total(3))]).unwrap();
        drop(log);
        assert_eq!(Log::open(&path).unwrap().totals()["a"].used, 3);
    }

    #[test]
    fn a_large_file_is_rewritten_with_what_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.log");
        let mut log = Log::open(&path).unwrap();
        let ended = Total { window: Window { start: 0, end: 10 }, used: 5 };
        log.append([("old".to_owned(), ended)]).unwrap();
        for n in 0..20_000 {
            log.append([("a".to_owned(), total(n)), ("b".to_owned(), total(n * 2))]).unwrap();
            log.compact(100_000_000).unwrap();
        }
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size < MIN_REWRITE * 2, "{size}");
        assert!(Log::open(&path).is_err(), "the new file is locked, too");
        drop(log);
        let log = Log::open(&path).unwrap();
        assert_eq!((log.totals()["a"].used, log.totals()["b"].used), (19_999, 39_998));
        assert!(!log.totals().contains_key("old"));
    }
}
