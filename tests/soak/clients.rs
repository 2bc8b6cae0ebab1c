//! The clients: what each kind does, one request after another, at its pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::connect::{EntryPoints, Failure, Link, Protocol, Reply, stream};
use super::pattern::{Check, Pattern};
use super::tally::{Outcome, Tally};

/// How long a request may take.
const MAX_TIME: Duration = Duration::from_secs(60);
const SMALL: usize = 1024;
const LARGE: usize = 1 << 20;
/// Length of responses and uploads that are given up: more than the system buffers.
const HUGE: usize = 16 << 20;
/// Messages of a WebSocket, and of a session over UDP.
const MESSAGES: usize = 10;
/// How often a datagram is sent, and how long a reply may take: the system may drop datagrams.
const SENDINGS: usize = 3;
const MAX_REPLY: Duration = Duration::from_secs(1);
const MAX_DATAGRAM: usize = 1200;

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
    Echo,
    AbortedEcho,
    Datagrams,
}

/// A kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(usize);

/// Name, what it does, over what, how many clients, and the interval of their requests. Without an interval, it is
/// calibrated.
type Row = (&'static str, Job, Protocol, usize, Option<Duration>);

const SECOND: Option<Duration> = Some(Duration::from_secs(1));
const KINDS: [Row; 37] = [
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
    ("HTTP/2: aborted upload", Job::AbortedUpload, Protocol::Http2, 2, SECOND),
    ("HTTP/3: aborted upload", Job::AbortedUpload, Protocol::Http3, 1, SECOND),
    ("HTTP/1.1: slow download", Job::SlowDownload, Protocol::Http1, 8, SECOND),
    ("HTTP/1.1 over TLS: slow download", Job::SlowDownload, Protocol::Http1Tls, 4, SECOND),
    ("HTTP/1.1: slow upload", Job::SlowUpload, Protocol::Http1, 8, SECOND),
    ("TCP: 1 MiB there and back", Job::Echo, Protocol::Tcp, 1, None),
    ("TCP over TLS: 1 MiB there and back", Job::Echo, Protocol::TcpTls, 1, None),
    ("TCP: aborted", Job::AbortedEcho, Protocol::Tcp, 2, SECOND),
    ("TCP over TLS: aborted", Job::AbortedEcho, Protocol::TcpTls, 1, SECOND),
    ("UDP: 10 datagrams there and back", Job::Datagrams, Protocol::Udp, 8, SECOND),
    ("containers, HTTP/1.1: GET, 1 KiB", Job::Get, Protocol::Http1, 4, None),
    ("containers, HTTP/2: GET, 1 KiB", Job::Get, Protocol::Http2, 4, None),
    ("containers, HTTP/3: GET, 1 KiB", Job::Get, Protocol::Http3, 2, None),
    ("containers, HTTP/2: GET, 1 MiB", Job::Download, Protocol::Http2, 1, None),
    ("containers, HTTP/1.1: PUT, 1 MiB", Job::Upload, Protocol::Http1, 1, None),
    ("containers, HTTP/2: PUT, 1 MiB", Job::Upload, Protocol::Http2, 1, None),
    ("containers, HTTP/1.1: aborted upload", Job::AbortedUpload, Protocol::Http1, 1, SECOND),
];
/// The last kinds, which are for the servers in containers, and the hosts of both.
const CONTAINER_KINDS: usize = 7;
const HOST: &str = "app.test";
/// The host of the servers in containers.
pub const CONTAINER_HOST: &str = "container.test";

impl Kind {
    /// All kinds, with or without those for containers.
    fn all(has_containers: bool) -> impl Iterator<Item = Self> {
        (0..KINDS.len()).map(Self).filter(move |kind| has_containers || kind.host() != CONTAINER_HOST)
    }

    fn host(self) -> &'static str {
        if self.0 + CONTAINER_KINDS < KINDS.len() { HOST } else { CONTAINER_HOST }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS[self.0].0
    }
}

/// What the clients share.
pub struct Load {
    entry_points: EntryPoints,
    has_containers: bool,
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
    pub fn new(entry_points: EntryPoints, has_containers: bool) -> Arc<Self> {
        let intervals = KINDS.map(|row| row.4.map_or(0, |pause| u64::try_from(pause.as_nanos()).unwrap()));
        let intervals = intervals.into_iter().map(AtomicU64::new).collect();
        let (is_over, tally) = (AtomicBool::new(false), Tally::default());
        Arc::new(Self { entry_points, has_containers, intervals, is_over, tally })
    }

    /// Starts all clients.
    pub fn start(self: &Arc<Self>) -> tokio::task::JoinSet<()> {
        let mut clients = tokio::task::JoinSet::new();
        for kind in Kind::all(self.has_containers) {
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
        for kind in Kind::all(self.has_containers) {
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
            let outcome = match timeout(MAX_TIME, self.request(kind, &slot)).await {
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

    async fn request(&self, kind: Kind, slot: &Slot) -> Result<Outcome, Failure> {
        let ((_, job, protocol, _, _), host) = (KINDS[kind.0], kind.host());
        let chunked = if fastrand::bool() { "/chunked" } else { "" };
        match job {
            Job::Get => self.exchange(protocol, slot, get(host, &format!("/{SMALL}")), SMALL).await,
            Job::Download => {
                self.exchange(protocol, slot, get(host, &format!("{chunked}/{LARGE}")), LARGE).await
            }
            Job::Upload => {
                let body = if chunked.is_empty() { Pattern::sized(LARGE) } else { Pattern::chunked(LARGE) };
                self.upload(protocol, slot, put(host, body)).await
            }
            Job::WebSocket => self.web_socket(protocol).await,
            Job::AbortedDownload => self.aborted_download(protocol, slot).await,
            Job::AbortedUpload => match protocol {
                Protocol::Http2 | Protocol::Http3 => self.cancelled_upload(protocol, slot, host).await,
                _ => self.aborted_upload(protocol, host).await,
            },
            Job::SlowDownload => self.slow_download(protocol).await,
            Job::SlowUpload => self.slow_upload(protocol).await,
            Job::Echo => self.echo(protocol).await,
            Job::AbortedEcho => self.aborted_echo(protocol).await,
            Job::Datagrams => self.datagrams().await,
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
            None => Link::open(protocol, self.entry_points).await?,
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

    async fn upload(
        &self,
        protocol: Protocol,
        slot: &Slot,
        request: Request<Pattern>,
    ) -> Result<Outcome, Failure> {
        let mut link = self.link(protocol, slot).await?;
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
        let (status, mut reply) = link.send(get(HOST, &format!("/{HUGE}"))).await?;
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

    /// Closes the connection before the end of the body.
    async fn aborted_upload(&self, protocol: Protocol, host: &str) -> Result<Outcome, Failure> {
        let mut stream = stream(protocol, self.entry_points).await?;
        stream.write_all(head(&Method::PUT, host, "/", Some(HUGE)).as_bytes()).await?;
        let mut body = Pattern::aborted(HUGE, fastrand::usize(..LARGE));
        while !body.is_aborted() {
            stream.write_all(&body.take().unwrap_or_default()).await?;
        }
        Ok(Outcome::Aborted)
    }

    /// Cancels the request before the end of its body, which must not end the connection.
    async fn cancelled_upload(
        &self,
        protocol: Protocol,
        slot: &Slot,
        host: &str,
    ) -> Result<Outcome, Failure> {
        let mut link = self.link(protocol, slot).await?;
        let body = Pattern::aborted(HUGE, fastrand::usize(..LARGE));
        Ok(match link.send(put(host, body)).await {
            Ok((status, _)) => Outcome::Failed(format!("status {status} before the end of the request")),
            Err(failure) if link.is_closed() => {
                Outcome::Failed(format!("the connection ended: {}", chain(&*failure)))
            }
            Err(_) => Outcome::Aborted,
        })
    }

    /// Sends bytes over TCP, and reads them while more are sent.
    async fn echo(&self, protocol: Protocol) -> Result<Outcome, Failure> {
        let (mut source, mut sink) = tokio::io::split(stream(protocol, self.entry_points).await?);
        let send = async {
            let mut body = Pattern::sized(LARGE);
            while let Some(piece) = body.take() {
                sink.write_all(&piece).await?;
            }
            sink.shutdown().await
        };
        let receive = async {
            let (mut check, mut part) = (Check::default(), vec![0; 64 << 10]);
            loop {
                match source.read(&mut part).await? {
                    0 => return Ok(check),
                    read => check.read(&part[..read]),
                }
            }
        };
        let ((), check) = tokio::try_join!(send, receive)?;
        Ok(match check {
            Check { length: LARGE, is_wrong: false } => Outcome::Complete,
            check => Outcome::Failed(format!("{} bytes came back", check.length)),
        })
    }

    async fn aborted_echo(&self, protocol: Protocol) -> Result<Outcome, Failure> {
        let mut stream = stream(protocol, self.entry_points).await?;
        let mut first = [0; 1];
        stream.write_all(&Pattern::sized(LARGE).take().unwrap_or_default()).await?;
        stream.read_exact(&mut first).await?;
        Ok(Outcome::Aborted)
    }

    /// Sends datagrams in a session of its own, and waits for the reply to each.
    async fn datagrams(&self) -> Result<Outcome, Failure> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(self.entry_points.udp).await?;
        let mut reply = [0; MAX_DATAGRAM];
        for number in 0..MESSAGES {
            let mut datagram = vec![fastrand::u8(..); fastrand::usize(1..MAX_DATAGRAM)];
            datagram[0] = u8::try_from(number)?;
            let mut is_returned = false;
            for _ in 0..SENDINGS {
                socket.send(&datagram).await?;
                // An earlier datagram may have been sent twice.
                let returned = async {
                    while socket.recv(&mut reply).await.is_ok_and(|size| reply[..size] != datagram) {}
                };
                is_returned = timeout(MAX_REPLY, returned).await.is_ok();
                if is_returned {
                    break;
                }
            }
            if !is_returned {
                return Ok(Outcome::Failed(format!("no reply to datagram {number}")));
            }
        }
        Ok(Outcome::Complete)
    }

    /// Reads with pauses, so that the gateway has to wait for the client.
    async fn slow_download(&self, protocol: Protocol) -> Result<Outcome, Failure> {
        let mut stream = stream(protocol, self.entry_points).await?;
        stream.write_all(head(&Method::GET, HOST, &format!("/{HUGE}"), None).as_bytes()).await?;
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
        let mut stream = stream(protocol, self.entry_points).await?;
        for piece in head(&Method::PUT, HOST, "/", Some(LARGE)).as_bytes().chunks(20) {
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
        let stream = stream(protocol, self.entry_points).await?;
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

fn get(host: &str, path: &str) -> Request<Pattern> {
    let uri = format!("https://{host}{path}");
    Request::get(uri).header("Host", host).body(Pattern::sized(0)).unwrap()
}

fn put(host: &str, body: Pattern) -> Request<Pattern> {
    Request::put(format!("https://{host}/")).header("Host", host).body(body).unwrap()
}

fn head(method: &Method, host: &str, path: &str, length: Option<usize>) -> String {
    let length = length.map_or_else(String::new, |length| format!("Content-Length: {length}\r\n"));
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{length}\r\n")
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
