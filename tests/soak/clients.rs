//! The clients: what each kind does, one request after another, at its pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::connect::{Failure, Link, Protocol, Reply, stream};
use super::pattern::{Check, Pattern};
use super::tally::{Outcome, Tally};

/// How long a request may take.
const MAX_TIME: Duration = Duration::from_secs(60);
const SMALL: usize = 1024;
const LARGE: usize = 1 << 20;
/// Length of responses and uploads that are given up: more than the system buffers.
const HUGE: usize = 16 << 20;
/// Messages of a WebSocket.
const MESSAGES: usize = 10;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Get,
    Download,
    Upload,
    WebSocket,
    AbortedDownload,
    AbortedUpload,
    SlowDownload,
    SlowUpload,
}

/// A kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(usize);

/// Name, what it does, over what, how many clients, and the interval of their requests. Without an interval, it is
/// calibrated.
type Row = (&'static str, Job, Protocol, usize, Option<Duration>);

const SECOND: Option<Duration> = Some(Duration::from_secs(1));
const KINDS: [Row; 23] = [
    ("HTTP/1.1: GET, 1 KiB", Job::Get, Protocol::Http1, 12, None),
    ("HTTP/1.1 over TLS: GET, 1 KiB", Job::Get, Protocol::Http1Tls, 6, None),
    ("HTTP/2: GET, 1 KiB", Job::Get, Protocol::Http2, 12, None),
    ("HTTP/3: GET, 1 KiB", Job::Get, Protocol::Http3, 6, None),
    ("HTTP/1.1: GET, 1 MiB", Job::Download, Protocol::Http1, 1, None),
    ("HTTP/1.1 over TLS: GET, 1 MiB", Job::Download, Protocol::Http1Tls, 1, None),
    ("HTTP/2: GET, 1 MiB", Job::Download, Protocol::Http2, 1, None),
    ("HTTP/3: GET, 1 MiB", Job::Download, Protocol::Http3, 1, None),
    ("HTTP/1.1: PUT, 1 MiB", Job::Upload, Protocol::Http1, 1, None),
    ("HTTP/1.1 over TLS: PUT, 1 MiB", Job::Upload, Protocol::Http1Tls, 1, None),
    ("HTTP/2: PUT, 1 MiB", Job::Upload, Protocol::Http2, 1, None),
    ("HTTP/3: PUT, 1 MiB", Job::Upload, Protocol::Http3, 1, None),
    ("WebSocket", Job::WebSocket, Protocol::Http1, 8, SECOND),
    ("WebSocket over TLS", Job::WebSocket, Protocol::Http1Tls, 4, SECOND),
    ("HTTP/1.1: aborted download", Job::AbortedDownload, Protocol::Http1, 2, SECOND),
    ("HTTP/1.1 over TLS: aborted download", Job::AbortedDownload, Protocol::Http1Tls, 1, SECOND),
    ("HTTP/2: aborted download", Job::AbortedDownload, Protocol::Http2, 2, SECOND),
    ("HTTP/3: aborted download", Job::AbortedDownload, Protocol::Http3, 1, SECOND),
    ("HTTP/1.1: aborted upload", Job::AbortedUpload, Protocol::Http1, 2, SECOND),
    ("HTTP/1.1 over TLS: aborted upload", Job::AbortedUpload, Protocol::Http1Tls, 1, SECOND),
    ("HTTP/1.1: slow download", Job::SlowDownload, Protocol::Http1, 8, SECOND),
    ("HTTP/1.1 over TLS: slow download", Job::SlowDownload, Protocol::Http1Tls, 4, SECOND),
    ("HTTP/1.1: slow upload", Job::SlowUpload, Protocol::Http1, 8, SECOND),
];

impl Kind {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..KINDS.len()).map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS[self.0].0
    }
}

/// What the clients share.
pub struct Load {
    web: SocketAddr,
    secure: SocketAddr,
    /// Nanoseconds between two requests of a client, by kind.
    intervals: Vec<AtomicU64>,
    is_over: AtomicBool,
    /// What became of their requests.
    pub tally: Tally,
}

/// A connection that requests share or take turns on.
type Slot = Arc<Mutex<Option<Link>>>;

impl Load {
    /// A load for these entry points.
    pub fn new(web: SocketAddr, secure: SocketAddr) -> Arc<Self> {
        let intervals = KINDS.map(|row| row.4.map_or(0, |pause| u64::try_from(pause.as_nanos()).unwrap()));
        let intervals = intervals.into_iter().map(AtomicU64::new).collect();
        Arc::new(Self { web, secure, intervals, is_over: AtomicBool::new(false), tally: Tally::default() })
    }

    /// Starts all clients.
    pub fn start(self: &Arc<Self>) -> tokio::task::JoinSet<()> {
        let mut clients = tokio::task::JoinSet::new();
        for kind in Kind::all() {
            let (_, _, protocol, number, _) = KINDS[kind.0];
            // Requests over HTTP/2 and HTTP/3 share two connections.
            let is_shared = matches!(protocol, Protocol::Http2 | Protocol::Http3);
            let slots: Vec<Slot> = (0..if is_shared { 2 } else { number }).map(|_| Slot::default()).collect();
            for client in 0..number {
                clients.spawn(self.clone().client(kind, slots[client % slots.len()].clone()));
            }
        }
        clients
    }

    /// Limits the kinds without an interval to a share of the requests that they made in `time`, and returns their
    /// number per second.
    pub fn pace(&self, share: f64, time: Duration) -> f64 {
        let seen = self.tally.take();
        let mut sum = 0.0;
        for kind in Kind::all() {
            let (_, _, _, number, interval) = KINDS[kind.0];
            if interval.is_some() {
                continue;
            }
            let done = seen.get(&kind).map_or(1, |counts| counts.complete.max(1));
            let per_second = done as f64 / time.as_secs_f64() * share;
            sum += per_second;
            let interval = Duration::from_secs_f64(number as f64 / per_second);
            self.intervals[kind.0].store(u64::try_from(interval.as_nanos()).unwrap(), Ordering::Relaxed);
        }
        sum
    }

    /// Has the clients stop after their current requests.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    async fn client(self: Arc<Self>, kind: Kind, slot: Slot) {
        let (_, job, protocol, _, _) = KINDS[kind.0];
        let (mut ticks, mut pace) = (None, 0);
        while !self.is_over.load(Ordering::Relaxed) {
            let now = self.intervals[kind.0].load(Ordering::Relaxed);
            if now != pace {
                // Not all at once.
                sleep(Duration::from_nanos(fastrand::u64(..now))).await;
                let mut next = interval(Duration::from_nanos(now));
                next.set_missed_tick_behavior(MissedTickBehavior::Delay);
                (ticks, pace) = (Some(next), now);
            }
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let outcome = match timeout(MAX_TIME, self.request(job, protocol, &slot)).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(failure)) => Outcome::Failed(chain(&*failure)),
                Err(_) => Outcome::Failed(format!("no end after {} s", MAX_TIME.as_secs())),
            };
            if matches!(outcome, Outcome::Failed(_)) {
                // A gateway that refuses everything is not asked as fast as possible.
                sleep(Duration::from_millis(20)).await;
            }
            self.tally.record(kind, outcome);
        }
    }

    async fn request(&self, job: Job, protocol: Protocol, slot: &Slot) -> Result<Outcome, Failure> {
        let chunked = if fastrand::bool() { "/chunked" } else { "" };
        match job {
            Job::Get => self.exchange(protocol, slot, get(&format!("/{SMALL}")), SMALL).await,
            Job::Download => self.exchange(protocol, slot, get(&format!("{chunked}/{LARGE}")), LARGE).await,
            Job::Upload => {
                let body = if chunked.is_empty() { Pattern::sized(LARGE) } else { Pattern::chunked(LARGE) };
                self.upload(protocol, slot, body).await
            }
            Job::WebSocket => self.web_socket(protocol).await,
            Job::AbortedDownload => self.aborted_download(protocol, slot).await,
            Job::AbortedUpload => self.aborted_upload(protocol).await,
            Job::SlowDownload => self.slow_download(protocol).await,
            Job::SlowUpload => self.slow_upload(protocol).await,
        }
    }

    /// Takes the connection of a slot, or opens a new one.
    async fn link(&self, protocol: Protocol, slot: &Slot) -> Result<Link, Failure> {
        let mut kept = slot.lock().await;
        if kept.as_ref().is_some_and(Link::is_closed) {
            *kept = None;
        }
        let link = match kept.take() {
            Some(link) => link,
            None => Link::open(protocol, self.web, self.secure).await?,
        };
        *kept = link.share();
        Ok(link)
    }

    async fn exchange(
        &self,
        protocol: Protocol,
        slot: &Slot,
        request: Request<Pattern>,
        length: usize,
    ) -> Result<Outcome, Failure> {
        let mut link = self.link(protocol, slot).await?;
        let (status, mut reply) = link.send(request).await?;
        let mut check = Check::default();
        while reply.read(&mut check).await? {}
        if link.share().is_none() {
            *slot.lock().await = Some(link);
        }
        Ok(match (status, check) {
            (StatusCode::OK, Check { length: seen, is_wrong: false }) if seen == length => Outcome::Complete,
            (status, check) => Outcome::Failed(format!("status {status}, {} bytes", check.length)),
        })
    }

    async fn upload(&self, protocol: Protocol, slot: &Slot, body: Pattern) -> Result<Outcome, Failure> {
        let mut link = self.link(protocol, slot).await?;
        let request = Request::put(uri("/")).header("Host", "app.test").body(body).unwrap();
        let (status, reply) = link.send(request).await?;
        // The server compares every byte and answers with the length.
        let length = drain(reply).await?;
        if link.share().is_none() {
            *slot.lock().await = Some(link);
        }
        let is_right = status == StatusCode::OK && length == LARGE.to_string().len();
        Ok(if is_right { Outcome::Complete } else { Outcome::Failed(format!("status {status}")) })
    }

    async fn aborted_download(&self, protocol: Protocol, slot: &Slot) -> Result<Outcome, Failure> {
        let mut link = self.link(protocol, slot).await?;
        let (status, mut reply) = link.send(get(&format!("/{HUGE}"))).await?;
        let mut check = Check::default();
        let enough = fastrand::usize(1..LARGE);
        while check.length < enough {
            if status != StatusCode::OK || !reply.read(&mut check).await? || check.is_wrong {
                return Ok(Outcome::Failed(format!("status {status}, {} bytes", check.length)));
            }
        }
        // Dropped before its end, the response is cancelled.
        Ok(Outcome::Aborted)
    }

    async fn plain(&self, protocol: Protocol) -> Result<Box<dyn super::connect::Io>, Failure> {
        match protocol {
            Protocol::Http1 => stream(self.web, None).await,
            _ => stream(self.secure, Some(&["http/1.1"])).await,
        }
    }

    async fn aborted_upload(&self, protocol: Protocol) -> Result<Outcome, Failure> {
        let mut stream = self.plain(protocol).await?;
        stream.write_all(head(&Method::PUT, "/", Some(HUGE)).as_bytes()).await?;
        let (mut body, pieces) = (Pattern::sized(HUGE), fastrand::usize(0..32));
        for _ in 0..pieces {
            stream.write_all(&body.take().unwrap_or_default()).await?;
        }
        Ok(Outcome::Aborted)
    }

    /// Reads with pauses, so that the gateway has to wait for the client.
    async fn slow_download(&self, protocol: Protocol) -> Result<Outcome, Failure> {
        let mut stream = self.plain(protocol).await?;
        stream.write_all(head(&Method::GET, &format!("/{HUGE}"), None).as_bytes()).await?;
        let mut response = Response::default();
        let mut part = vec![0; 128 << 10];
        loop {
            let read = stream.read(&mut part).await?;
            if read == 0 {
                return Ok(response.outcome(HUGE));
            }
            response.read(&part[..read]);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends the head in pieces, and the body with pauses.
    async fn slow_upload(&self, protocol: Protocol) -> Result<Outcome, Failure> {
        let mut stream = self.plain(protocol).await?;
        for piece in head(&Method::PUT, "/", Some(LARGE)).as_bytes().chunks(20) {
            stream.write_all(piece).await?;
            sleep(Duration::from_millis(50)).await;
        }
        let mut body = Pattern::sized(LARGE);
        while let Some(piece) = body.take() {
            stream.write_all(&piece).await?;
            sleep(Duration::from_millis(50)).await;
        }
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        let text = String::from_utf8_lossy(&text);
        let is_right = text.starts_with("HTTP/1.1 200 ") && text.ends_with(&format!("\r\n\r\n{LARGE}"));
        let first = text.lines().next().unwrap_or("nothing");
        Ok(if is_right { Outcome::Complete } else { Outcome::Failed(first.to_owned()) })
    }

    async fn web_socket(&self, protocol: Protocol) -> Result<Outcome, Failure> {
        let stream = self.plain(protocol).await?;
        let (mut socket, _) = client_async("ws://app.test/socket", stream).await?;
        for _ in 0..MESSAGES {
            let message = Message::binary(Bytes::from(vec![fastrand::u8(..); fastrand::usize(..32 << 10)]));
            socket.send(message.clone()).await?;
            let echo = socket.next().await.ok_or("closed without an echo")??;
            if echo != message {
                return Ok(Outcome::Failed("another message than was sent".to_owned()));
            }
            sleep(Duration::from_millis(200)).await;
        }
        socket.close(None).await?;
        while let Some(message) = socket.next().await {
            message?;
        }
        Ok(Outcome::Complete)
    }
}

/// A response over a connection that ends with it.
#[derive(Default)]
struct Response {
    head: Vec<u8>,
    body: Check,
}

impl Response {
    fn read(&mut self, part: &[u8]) {
        const END: &[u8] = b"\r\n\r\n";
        if self.head.ends_with(END) {
            return self.body.read(part);
        }
        self.head.extend_from_slice(part);
        if let Some(at) = self.head.windows(END.len()).position(|window| window == END) {
            let rest = self.head.split_off(at + END.len());
            self.body.read(&rest);
        }
    }

    fn outcome(&self, length: usize) -> Outcome {
        let is_right =
            self.head.starts_with(b"HTTP/1.1 200 ") && !self.body.is_wrong && self.body.length == length;
        let head = String::from_utf8_lossy(&self.head);
        let first = head.lines().next().unwrap_or("nothing");
        if is_right {
            Outcome::Complete
        } else {
            Outcome::Failed(format!("{first}, {} bytes", self.body.length))
        }
    }
}

async fn drain(mut reply: Reply) -> Result<usize, Failure> {
    let mut check = Check::default();
    while reply.read(&mut check).await? {}
    Ok(check.length)
}

fn uri(path: &str) -> String {
    format!("https://app.test{path}")
}

fn get(path: &str) -> Request<Pattern> {
    Request::get(uri(path)).header("Host", "app.test").body(Pattern::sized(0)).unwrap()
}

fn head(method: &Method, path: &str, length: Option<usize>) -> String {
    let length = length.map_or_else(String::new, |length| format!("Content-Length: {length}\r\n"));
    format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{length}\r\n")
}

/// The error and what has caused it.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
