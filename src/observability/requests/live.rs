//! Requests as they end, for readers that stay connected.
//!
//! A task of the control plane takes what workers have kept (`copies`) ten times a second, and selects and formats what
//! each reader wants. A reader that is slow loses records, and learns how many.

use std::sync::Arc;
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

/// Maximum number of readers.
const MAX_READERS: usize = 16;
/// How often lists are taken.
const INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of records that wait for one reader.
const MAX_WAITING: usize = 256;
/// How often an idle reader gets an empty line, which shows whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Maximum number of records per second that a reader may ask for.
pub(crate) const MAX_RATE: u32 = 10_000;

/// Who reads requests as they end.
pub struct Live {
    requests: Arc<Requests>,
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
        match self.0.poll_recv(cx) {
            Poll::Ready(text) => Poll::Ready(text.map(|text| Ok(Frame::data(text)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Live {
    /// Creates the list of readers, which is empty.
    pub(crate) fn new(requests: Arc<Requests>) -> Arc<Self> {
        Arc::new(Self { requests, joined: Notify::new(), readers: Mutex::default() })
    }

    /// Admits a reader that gets requests as they end.
    pub(crate) fn follow(&self, wanted: Wanted) -> Result<Stream, NotAdmitted> {
        self.admit(wanted, Instant::now())
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
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        readers.open.push(Reader { wanted, sender, second: now, sent: 0, missed: 0, last: now });
        self.requests.copies.want(true);
        self.joined.notify_one();
        Ok(Stream(receiver))
    }

    /// Sends requests to readers, until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            self.joined.notified().await;
            while self.send(Instant::now()) {
                let _ = tokio::time::timeout(INTERVAL, self.requests.copies.crowded()).await;
            }
        }
    }

    /// Ends the streams of all readers, as the gateway stops, and admits no further one.
    pub(crate) fn close(&self) {
        let mut readers = self.readers.lock();
        readers.is_closed = true;
        readers.open.clear();
        self.requests.copies.want(false);
    }

    /// Sends the records that were kept to the readers. Returns true if there are readers left.
    fn send(&self, now: Instant) -> bool {
        let (records, lost) = self.requests.copies.take();
        let mut readers = self.readers.lock();
        for reader in &mut readers.open {
            reader.missed += lost;
            for record in &records {
                reader.offer(&self.requests, record, now);
            }
            reader.report(now);
        }
        readers.open.retain(|reader| !reader.sender.is_closed());
        let has_readers = !readers.open.is_empty();
        self.requests.copies.want(has_readers);
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

#[cfg(test)]
mod tests {
    use super::super::copies::MAX_RECORDS;
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
        let live = Live::new(requests.clone());
        record(&requests, "/before", 500);
        let now = Instant::now();
        let mut failed = live.admit(wanted("status >= 500", 2), now).unwrap();
        let mut slow = live.admit(wanted("status > 0", 10_000), now).unwrap();
        for number in 0..400 {
            record(&requests, &format!("/{number}"), if number % 100 == 0 { 500 } else { 200 });
        }
        assert!(live.send(now));
        let lines = read(&mut failed);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].contains("\"path\":\"/0\"") && lines[1].contains("\"path\":\"/100\""), "{lines:?}");
        assert_eq!(lines[2], "{\"missed\":2}\n", "its rate is two per second");
        assert_eq!(read(&mut slow).len(), MAX_WAITING);
        assert!(live.send(now));
        assert_eq!(read(&mut slow), [format!("{{\"missed\":{}}}\n", 400 - MAX_WAITING)]);
        record(&requests, "/later", 500);
        assert!(live.send(now + Duration::from_secs(1)));
        assert!(read(&mut failed)[0].contains("/later"));
    }

    #[test]
    fn without_a_reader_nothing_is_kept() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let live = Live::new(requests.clone());
        let stream = live.admit(wanted("status > 0", 1), Instant::now()).unwrap();
        record(&requests, "/a", 200);
        assert_eq!(requests.copies.len(), 1);
        drop(stream);
        assert!(!live.send(Instant::now()));
        record(&requests, "/b", 200);
        assert!(requests.copies.len() == 0);
    }

    #[test]
    fn a_list_that_is_full_loses_records() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let live = Live::new(requests.clone());
        let mut stream = live.admit(wanted("status > 200", 1), Instant::now()).unwrap();
        for _ in 0..MAX_RECORDS + 3 {
            record(&requests, "/a", 200);
        }
        live.send(Instant::now());
        assert_eq!(read(&mut stream), ["{\"missed\":3}\n"]);
    }

    #[test]
    fn readers_are_limited_and_dismissed() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let live = Live::new(requests.clone());
        let mut streams: Vec<Stream> =
            (0..MAX_READERS).map(|_| live.follow(wanted("status > 0", 1)).unwrap()).collect();
        assert_eq!(live.follow(wanted("status > 0", 1)).err(), Some(NotAdmitted::TooMany));
        streams.pop();
        streams.push(live.follow(wanted("status > 0", 1)).unwrap());
        live.close();
        assert!(matches!(streams[0].0.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        assert_eq!(live.follow(wanted("status > 0", 1)).err(), Some(NotAdmitted::Stopping));
    }

    #[test]
    fn idle_readers_get_an_empty_line() {
        let requests = Requests::new(&settings(|_| ()), 1).unwrap();
        let live = Live::new(requests.clone());
        let now = Instant::now();
        let mut lines = live.admit(wanted("status > 0", 1), now).unwrap();
        let events = Wanted { format: Format::Events, ..wanted("status > 0", 1) };
        let mut events = live.admit(events, now).unwrap();
        live.send(now + HEARTBEAT);
        assert_eq!((read(&mut lines), read(&mut events)), (vec!["\n".into()], vec![":\n\n".into()]));
        record(&requests, "/a", 200);
        live.send(now + HEARTBEAT);
        assert!(read(&mut events)[0].starts_with("data: {"));
    }
}
