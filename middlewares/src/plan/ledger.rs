//! What was used of quotas, in memory and in a file.
//!
//! A request is written to the file before it is forwarded, so a crash never forgets one that was. A thread writes, with
//! one call for all requests that wait, and workers only wait for it.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tidegate_core::plan::Quota;
use tokio::sync::oneshot;

use super::log::{Log, Total, Totals};
use super::window::Window;

const SHARDS: usize = 64;
/// Maximum number of buckets. They belong to consumers, so strangers cannot create any.
const MAX_BUCKETS: usize = 1_000_000;
/// Maximum number of records that wait for the writer.
const MAX_QUEUE: usize = 65_536;
/// Maximum number of records that are written at once.
const MAX_BATCH: usize = 4096;
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// When the file reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before each request is forwarded: survives a power failure.
    Always,
    /// Once a second.
    Interval,
    /// When the system likes.
    Never,
}

/// Why nothing can be counted.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LedgerError {
    #[error("{0}: {1}")]
    File(PathBuf, Arc<io::Error>),
    #[error("{0}: more than {MAX_BUCKETS} quotas")]
    Full(PathBuf),
    #[error("{0}: too many requests wait to be counted")]
    Busy(PathBuf),
}

/// A record for the writer, and who waits for it.
struct Record {
    bucket: String,
    total: Total,
    done: Option<oneshot::Sender<bool>>,
}

/// What was used, by bucket.
pub(super) struct Ledger {
    path: PathBuf,
    shards: [Mutex<Totals>; SHARDS],
    hasher: foldhash::fast::RandomState,
    writer: SyncSender<Record>,
}

/// The ledgers of this process: a file is opened once, whatever uses it.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Ledger>>>> = LazyLock::new(Mutex::default);

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is within the quota. `before` and `after` are what was used.
    Within { before: u64, after: u64, window: Window },
    /// The quota is used up.
    Over { used: u64, window: Window },
}

impl Ledger {
    /// Opens a file, or returns the ledger that has it. Blocks.
    pub(super) fn open(path: &Path, fsync: Fsync) -> Result<Arc<Self>, LedgerError> {
        let mut open = OPEN.lock();
        open.retain(|_, ledger| ledger.strong_count() > 0);
        if let Some(known) = open.get(path).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let failed = |error| LedgerError::File(path.to_owned(), Arc::new(error));
        let log = Log::open(path).map_err(failed)?;
        let hasher = foldhash::fast::RandomState::default();
        let shards: [Mutex<Totals>; SHARDS] = std::array::from_fn(|_| Mutex::default());
        for (bucket, total) in log.totals() {
            shards[hasher.hash_one(bucket) as usize % SHARDS].lock().insert(bucket.clone(), *total);
        }
        let (writer, records) = sync_channel(MAX_QUEUE);
        let name = "tidegate-usage".to_owned();
        std::thread::Builder::new().name(name).spawn(move || write(log, &records, fsync)).map_err(failed)?;
        let ledger = Arc::new(Self { path: path.to_owned(), shards, hasher, writer });
        open.insert(path.to_owned(), Arc::downgrade(&ledger));
        Ok(ledger)
    }

    /// Returns the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what a bucket has used in the current period.
    pub(super) fn peek(&self, bucket: &str, quota: &Quota, now: i64) -> Total {
        let last = self.shard(bucket).lock().get(bucket).copied();
        current(last, quota, now)
    }

    /// Returns the totals of all buckets.
    pub(super) fn all(&self) -> Vec<(String, Total)> {
        let each = self.shards.iter().flat_map(|shard| {
            shard.lock().iter().map(|(bucket, total)| (bucket.clone(), *total)).collect::<Vec<_>>()
        });
        each.collect()
    }

    /// Takes units, if they are left. Returns once the file has them.
    pub(super) async fn take(
        &self,
        bucket: &str,
        cost: u64,
        quota: &Quota,
        now: i64,
    ) -> Result<Taken, LedgerError> {
        let (taken, done) = self.take_here(bucket, cost, quota, now)?;
        match done {
            None => Ok(taken),
            Some(done) => match done.await {
                Ok(true) => Ok(taken),
                // The writer has logged why.
                _ => {
                    Err(LedgerError::File(self.path.clone(), Arc::new(io::Error::other("cannot be written"))))
                }
            },
        }
    }

    fn take_here(
        &self,
        bucket: &str,
        cost: u64,
        quota: &Quota,
        now: i64,
    ) -> Result<(Taken, Option<oneshot::Receiver<bool>>), LedgerError> {
        let mut shard = self.shard(bucket).lock();
        let last = shard.get(bucket).copied();
        let Total { window, used } = current(last, quota, now);
        // What costs nothing yet, such as bytes of a response, needs at least one unit.
        if used.saturating_add(cost.max(1)) > quota.limit {
            return Ok((Taken::Over { used, window }, None));
        }
        let total = Total { window, used: used.saturating_add(cost) };
        let taken = Taken::Within { before: used, after: total.used, window };
        if cost == 0 {
            return Ok((taken, None));
        }
        if last.is_none() && shard.len() >= MAX_BUCKETS / SHARDS {
            shard.retain(|_, total| total.window.end > now);
            if shard.len() >= MAX_BUCKETS / SHARDS {
                return Err(LedgerError::Full(self.path.clone()));
            }
        }
        let (done, waits) = oneshot::channel();
        // Under the lock, so that the file has the totals of a bucket in their order.
        let record = Record { bucket: bucket.to_owned(), total, done: Some(done) };
        self.writer.try_send(record).map_err(|_| LedgerError::Busy(self.path.clone()))?;
        shard.insert(bucket.to_owned(), total);
        Ok((taken, Some(waits)))
    }

    /// Charges units that were used already, even beyond the quota. Returns what was used before and after.
    pub(super) fn charge(&self, bucket: &str, units: u64, quota: &Quota, now: i64) -> (u64, u64) {
        let mut shard = self.shard(bucket).lock();
        let Total { window, used } = current(shard.get(bucket).copied(), quota, now);
        let total = Total { window, used: used.saturating_add(units) };
        shard.insert(bucket.to_owned(), total);
        // If the writer is busy, the next record of this bucket has these units, too.
        let _ = self.writer.try_send(Record { bucket: bucket.to_owned(), total, done: None });
        (used, total.used)
    }

    fn shard(&self, bucket: &str) -> &Mutex<Totals> {
        &self.shards[self.hasher.hash_one(bucket) as usize % SHARDS]
    }
}

/// Returns the total in the current period. What was used in a period that began within it counts as well, so that
/// another plan does not give back what was used.
fn current(last: Option<Total>, quota: &Quota, now: i64) -> Total {
    let window = Window::at(now, quota.period, quota.anchor, last.map(|last| last.window));
    let used = last.filter(|last| last.window.start >= window.start || now < last.window.start);
    Total { window, used: used.map_or(0, |last| last.used) }
}

/// Writes records until all senders are gone.
fn write(mut log: Log, records: &Receiver<Record>, fsync: Fsync) {
    let (mut is_dirty, mut synced) = (false, Instant::now());
    loop {
        let first = match records.recv_timeout(SYNC_INTERVAL) {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Some(first) = first {
            let batch: Vec<Record> =
                std::iter::once(first).chain(records.try_iter().take(MAX_BATCH - 1)).collect();
            let mut written = log.append(batch.iter().map(|record| (record.bucket.clone(), record.total)));
            if written.is_ok() && fsync == Fsync::Always {
                written = log.sync();
            }
            if let Err(error) = &written {
                tracing::error!("usage of quotas cannot be written: {error}");
            }
            for done in batch.into_iter().filter_map(|record| record.done) {
                // A client that has gone is counted all the same.
                let _ = done.send(written.is_ok());
            }
            is_dirty = true;
        }
        if is_dirty && fsync == Fsync::Interval && synced.elapsed() >= SYNC_INTERVAL {
            synced = Instant::now();
            // Errors concern a failure of power only; the next write tells of the disk.
            is_dirty = log.sync().is_err();
        }
        if let Err(error) = log.compact(seconds(SystemTime::now())) {
            tracing::error!("usage of quotas cannot be compacted: {error}");
        }
    }
    let _ = log.sync();
}

/// Returns seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
