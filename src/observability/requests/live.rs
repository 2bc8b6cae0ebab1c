//! Requests as they end, for readers that stay connected.
//!
//! While there is a reader, each worker keeps copies of records in a list of its own; a task of the control plane takes
//! the lists ten times a second, and selects and formats what each reader wants. A reader that is slow loses records, and
//! learns how many. Without a reader, a request reads one flag.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_core::{Frames, Polled};
use tokio::sync::{Notify, mpsc};

use super::select::Selection;
use super::{Record, Requests, json};
use crate::observability::enter::enter;

/// Maximum number of readers.
const MAX_READERS: usize = 16;
/// How often lists are taken.
const INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of records in the list of one worker. Half of them wake the task.
const MAX_RECORDS: usize = 4096;
/// Maximum number of records that wait for one reader.
const MAX_WAITING: usize = 256;
/// How often an idle reader gets an empty line, which shows whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Maximum number of records per second that a reader may ask for.
pub(crate) const MAX_RATE: u32 = 10_000;

/// The lists of all workers, and who reads them.
pub(super) struct Live {
    shards: Box<[Mutex<Vec<Record>>]>,
    has_readers: AtomicBool,
    /// Number of records that a worker could not keep.
    lost: AtomicU64,
    is_crowded: AtomicBool,
    crowded: Notify,
    /// Wakes the task when there is a reader.
    joined: Notify,
    readers: Mutex<Readers>,
}

#[derive(Default)]
struct Readers {
    open: Vec<Reader>,
    /// Whether the gateway stops, so that no reader is admitted.
    is_closed: bool,
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A JSON object per line.
    Lines,
    /// Server-sent events.
    Events,
}

/// What a reader wants.
pub(crate) struct Wanted {
    pub(crate) selection: Option<Selection>,
    pub(crate) format: Format,
    /// Maximum number of records per second.
    pub(crate) rate: u32,
}

struct Reader {
    wanted: Wanted,
    sender: mpsc::Sender<Bytes>,
    /// Start of the current second of its rate, and number of records sent within.
    second: Instant,
    sent: u32,
    /// Number of records that it did not get since it last learned of them.
    missed: u64,
    last: Instant,
}

/// Why a reader is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// There are too many.
    #[error("too many readers: at most {MAX_READERS} are served at a time")]
    TooMany,
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopping,
}

/// The body of a response to a reader.
pub(crate) struct Stream(mpsc::Receiver<Bytes>);

impl Frames for Stream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        match Pin::new(&mut self.0).poll_recv(cx) {
            Poll::Ready(text) => Poll::Ready(text.map(|text| Ok(Frame::data(text)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Live {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers).map(|_| Mutex::default()).collect(),
            has_readers: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            is_crowded: AtomicBool::new(false),
            crowded: Notify::new(),
            joined: Notify::new(),
            readers: Mutex::default(),
        }
    }

    /// Keeps a copy of a record if someone reads.
    pub(super) fn offer(&self, shard: usize, record: &Record) {
        if self.has_readers.load(Ordering::Relaxed) {
            self.keep(shard, record);
        }
    }

    #[cold]
    fn keep(&self, shard: usize, record: &Record) {
        let list = enter(&self.shards[shard]).filter(|list| list.len() < MAX_RECORDS);
        let Some(mut list) = list else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        list.push(record.clone());
        if list.len() >= MAX_RECORDS / 2 && !self.is_crowded.swap(true, Ordering::Relaxed) {
            self.crowded.notify_one();
        }
    }

    fn admit(&self, wanted: Wanted, now: Instant) -> Result<Stream, NotAdmitted> {
        let mut readers = self.readers.lock();
        if readers.is_closed {
            return Err(NotAdmitted::Stopping);
        }
        readers.open.retain(|reader| !reader.sender.is_closed());
        if readers.open.len() >= MAX_READERS {
            return Err(NotAdmitted::TooMany);
        }
        if readers.open.is_empty() {
            // What a worker kept while the last reader left is too old.
            self.shards.iter().for_each(|shard| shard.lock().clear());
        }
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        readers.open.push(Reader { wanted, sender, second: now, sent: 0, missed: 0, last: now });
        self.has_readers.store(true, Ordering::Relaxed);
        self.joined.notify_one();
        Ok(Stream(receiver))
    }

    /// Ends all streams, and admits no further reader.
    fn close(&self) {
        let mut readers = self.readers.lock();
        readers.is_closed = true;
        readers.open.clear();
        self.has_readers.store(false, Ordering::Relaxed);
    }

    /// Sends the kept records to the readers. Returns true if there are readers left.
    fn send(&self, requests: &Requests, now: Instant) -> bool {
        let mut records: Vec<Record> = Vec::new();
        for shard in &self.shards {
            records.append(&mut mem::take(&mut *shard.lock()));
        }
        self.is_crowded.store(false, Ordering::Relaxed);
        records.sort_by_key(Record::ended);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut readers = self.readers.lock();
        for reader in &mut readers.open {
            reader.missed += lost;
            for record in &records {
                reader.offer(requests, record, now);
            }
            reader.report(now);
        }
        readers.open.retain(|reader| !reader.sender.is_closed());
        let has_readers = !readers.open.is_empty();
        self.has_readers.store(has_readers, Ordering::Relaxed);
        has_readers
    }
}

impl Reader {
    /// Sends a record if the reader wants it, and has room and rate for it.
    fn offer(&mut self, requests: &Requests, record: &Record, now: Instant) {
        if self.wanted.selection.as_ref().is_some_and(|selection| !selection.selects(requests, record)) {
            return;
        }
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.sent) = (now, 0);
        }
        if self.sent >= self.wanted.rate {
            self.missed += 1;
            return;
        }
        let text = self.text(&json::summary(requests, record).into(), "");
        match self.sender.try_send(text) {
            Ok(()) => (self.sent, self.last) = (self.sent + 1, now),
            Err(_) => self.missed += 1,
        }
    }

    /// Tells the reader how many records it missed, or that nothing happened.
    fn report(&mut self, now: Instant) {
        let text = match self.missed {
            0 if now.saturating_duration_since(self.last) < HEARTBEAT => return,
            0 if self.wanted.format == Format::Events => Bytes::from_static(b":\n\n"),
            0 => Bytes::from_static(b"\n"),
            missed => self.text(&json!({"missed": missed}), "event: missed\n"),
        };
        if self.sender.try_send(text).is_ok() {
            (self.missed, self.last) = (0, now);
        }
    }

    fn text(&self, json: &Value, event: &str) -> Bytes {
        match self.wanted.format {
            Format::Lines => format!("{json}\n"),
            Format::Events => format!("{event}data: {json}\n\n"),
        }
        .into()
    }
}

impl Requests {
    /// Admits a reader that gets requests as they end.
    pub(crate) fn follow(&self, wanted: Wanted) -> Result<Stream, NotAdmitted> {
        self.live.admit(wanted, Instant::now())
    }

    /// Sends requests to readers, until it is dropped.
    pub(crate) async fn serve_readers(self: Arc<Self>) {
        loop {
            self.live.joined.notified().await;
            while self.live.send(&self, Instant::now()) {
                let _ = tokio::time::timeout(INTERVAL, self.live.crowded.notified()).await;
            }
        }
    }

    /// Ends the streams of all readers, as the gateway stops.
    pub(crate) fn dismiss_readers(&self) {
        self.live.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{record, settings};
    use super::*;

    fn wanted(filter: &str, rate: u32) -> Wanted {
        Wanted { selection: Some(Selection::parse(filter).unwrap()), format: Format::Lines, rate }
    }

    fn read(stream: &mut Stream) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(text) = stream.0.try_recv() {
            lines.push(String::from_utf8(text.to_vec()).unwrap());
        }
        lines
    }

    #[test]
    fn readers_get_what_they_want_and_learn_what_they_missed() {
        let requests = Requests::new(&settings(|_| ()), 2).unwrap();
        record(&requests, "/before", 500);
        let now = Instant::now();
        let mut failed = requests.live.admit(wanted("status >= 500", 2), now).unwrap();
        let mut slow = requests.live.admit(wanted("status > 0", 10_000), now).unwrap();
        for number in 0..400 {
            record(&requests, &format!("/{number}"), if number % 100 == 0 { 500 } else { 200 });
        }
        assert!(requests.live.send(&requests, now));
        let lines = read(&mut failed);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].contains("\"path\":\"/0\"") && lines[1].contains("\"path\":\"/100\""), "{lines:?}");
        assert_eq!(lines[2], "{\"missed\":2}\n", "its rate is two per second");
        assert_eq!(read(&mut slow).len(), MAX_WAITING);
        assert!(requests.live.send(&requests, now));
        assert_eq!(read(&mut slow), [format!("{{\"missed\":{}}}\n", 400 - MAX_WAITING)]);
        record(&requests, "/later", 500);
        assert!(requests.live.send(&requests, now + Duration::from_secs(1)));
        assert!(read(&mut failed)[0].contains("/later"));
    }

    #[test]
    fn without_a_reader_nothing_is_kept() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let stream = requests.live.admit(wanted("status > 0", 1), Instant::now()).unwrap();
        record(&requests, "/a", 200);
        assert_eq!(requests.live.shards[0].lock().len(), 1);
        drop(stream);
        assert!(!requests.live.send(&requests, Instant::now()));
        record(&requests, "/b", 200);
        assert!(requests.live.shards[0].lock().is_empty());
    }

    #[test]
    fn a_list_that_is_full_loses_records() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let mut stream = requests.live.admit(wanted("status > 200", 1), Instant::now()).unwrap();
        for _ in 0..MAX_RECORDS + 3 {
            record(&requests, "/a", 200);
        }
        requests.live.send(&requests, Instant::now());
        assert_eq!(read(&mut stream), ["{\"missed\":3}\n"]);
    }

    #[test]
    fn readers_are_limited_and_dismissed() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let mut streams: Vec<Stream> =
            (0..MAX_READERS).map(|_| requests.follow(wanted("status > 0", 1)).unwrap()).collect();
        assert_eq!(requests.follow(wanted("status > 0", 1)).err(), Some(NotAdmitted::TooMany));
        streams.pop();
        streams.push(requests.follow(wanted("status > 0", 1)).unwrap());
        requests.dismiss_readers();
        assert!(matches!(streams[0].0.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert_eq!(requests.follow(wanted("status > 0", 1)).err(), Some(NotAdmitted::Stopping));
    }

    #[test]
    fn idle_readers_get_an_empty_line() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let now = Instant::now();
        let mut lines = requests.live.admit(wanted("status > 0", 1), now).unwrap();
        let events = Wanted { format: Format::Events, ..wanted("status > 0", 1) };
        let mut events = requests.live.admit(events, now).unwrap();
        requests.live.send(&requests, now + HEARTBEAT);
        assert_eq!((read(&mut lines), read(&mut events)), (vec!["\n".into()], vec![":\n\n".into()]));
        record(&requests, "/a", 200);
        requests.live.send(&requests, now + HEARTBEAT);
        assert!(read(&mut events)[0].starts_with("data: {"));
    }
}
