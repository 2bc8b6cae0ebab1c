//! The byte stream of a client under watch: deadlines for what a client owes, and a look at what it sends.
//!
//! The HTTP library has one timer for heads that also runs on idle connections, none for bodies and none for a
//! stalled reader; so the time is kept here, with one timer that is moved lazily: a request that is read at once
//! touches no timer at all.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::frame_scan::FrameScan;
use super::progress::Progress;
use super::strict::{Place, Scanner, Violation};

/// Most that is read at once: keeps the library's adaptive buffers small.
const MAX_READ: usize = 16 * 1024;
/// How long an idle HTTP/2 client may take to hang up after it was told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a client may take. `None`: as long as it likes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For a request head, from its first byte; for the first byte of a new connection; for an HTTP/2 header block.
    pub(super) head: Option<Duration>,
    /// Without any progress while a body is read.
    pub(super) body: Option<Duration>,
    /// Without a request.
    pub(super) idle: Option<Duration>,
    /// Without any progress while an answer is written.
    pub(super) write: Option<Duration>,
}

/// What is spoken on the stream.
pub(super) enum Protocol {
    /// HTTP/1, and what it may be upgraded to.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A stream under watch. `G` is held as long as the stream lives, also after an upgrade.
pub(super) struct Watched<S, G> {
    stream: S,
    scan: Scan,
    progress: Arc<Progress>,
    limits: Limits,
    waiting: Wait,
    until: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    writing: bool,
    /// A request has been read before.
    served: bool,
    _guard: G,
}

enum Scan {
    Requests(Scanner),
    Frames(FrameScan),
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    Request,
    Head,
    Body,
    Stalled,
    Farewell,
}

impl<S, G> Watched<S, G> {
    /// Watches a stream.
    pub(super) fn new(stream: S, protocol: Protocol, progress: Arc<Progress>, limits: Limits, guard: G) -> Self {
        let scan = match protocol {
            Protocol::Http1 => Scan::Requests(Scanner::default()),
            Protocol::Http2 => Scan::Frames(FrameScan::default()),
        };
        Self {
            stream,
            scan,
            progress,
            limits,
            waiting: Wait::Nothing,
            until: Instant::now(),
            timer: None,
            write_timer: None,
            writing: false,
            served: false,
            _guard: guard,
        }
    }

    /// Looks at what was just read into `buffer` from `start` on. What breaks the rules of framing becomes bytes that
    /// no parser accepts.
    fn look(&mut self, buffer: &mut ReadBuf<'_>, start: usize) -> io::Result<()> {
        if self.waiting == Wait::Body {
            self.waiting = Wait::Nothing;
        }
        match &mut self.scan {
            Scan::Requests(_) if self.progress.is_upgraded() => {}
            Scan::Requests(scan) => {
                let heads = scan.heads();
                let fresh = &mut buffer.filled_mut()[start..];
                match scan.scan(fresh) {
                    Ok(()) => {}
                    // A NUL is refused by the library wherever in a head it stands.
                    Err(Violation::Head) => fresh.fill(0),
                    Err(Violation::Body) => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed request body"));
                    }
                }
                if scan.heads() != heads {
                    self.served = true;
                    self.waiting = Wait::Nothing;
                }
            }
            Scan::Frames(scan) => {
                let in_block = scan.in_header_block();
                scan.feed(&buffer.filled()[start..], std::time::Instant::now()).map_err(io::Error::other)?;
                // A block's time runs from its beginning: only its end stops the clock.
                if !(in_block && scan.in_header_block()) && self.waiting != Wait::Farewell {
                    self.waiting = Wait::Nothing;
                }
                self.served |= self.progress.is_answering();
            }
        }
        Ok(())
    }

    /// What a client that sends nothing now is waited for.
    fn wait(&self) -> Wait {
        if self.progress.is_upgraded() {
            return Wait::Nothing;
        }
        match &self.scan {
            Scan::Requests(scan) => match scan.place() {
                Place::Body => Wait::Body,
                _ if self.progress.is_answering() => Wait::Nothing,
                Place::Start => Wait::Request,
                Place::Head => Wait::Head,
                Place::Opaque => Wait::Nothing,
            },
            Scan::Frames(scan) if scan.in_header_block() => Wait::Head,
            Scan::Frames(scan) if scan.in_frame() => Wait::Body,
            Scan::Frames(_) if self.progress.is_stalled() => Wait::Stalled,
            Scan::Frames(_) if self.progress.is_answering() => Wait::Nothing,
            Scan::Frames(_) if self.progress.is_leaving() => Wait::Farewell,
            Scan::Frames(_) => Wait::Request,
        }
    }

    /// Decides on a client that sends nothing now: `Pending` while it has time, `Ok` to take the connection as
    /// closed, an error to cut it.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wait = self.wait();
        let limit = match wait {
            Wait::Nothing => None,
            Wait::Request if self.served => self.limits.idle,
            Wait::Request | Wait::Head => self.limits.head,
            Wait::Body => self.limits.body,
            Wait::Stalled => self.limits.write,
            Wait::Farewell => Some(FAREWELL),
        };
        let Some(limit) = limit else {
            self.waiting = Wait::Nothing;
            return Poll::Pending;
        };
        if wait != self.waiting {
            self.waiting = wait;
            self.until = Instant::now() + limit;
        }
        ready!(poll_timer(&mut self.timer, self.until, cx));
        match (wait, &self.scan) {
            // Tells the connection to say goodbye, and waits for the client to hang up.
            (Wait::Request, Scan::Frames(_)) if self.served && self.progress.leave() => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Wait::Request | Wait::Farewell, _) => Poll::Ready(Ok(())),
            (Wait::Head, _) => Poll::Ready(Err(timed_out("request head"))),
            (Wait::Stalled, _) => Poll::Ready(Err(timed_out("the client to take the answer"))),
            _ => Poll::Ready(Err(timed_out("request body"))),
        }
    }

    fn poll_write_time(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(limit) = self.limits.write.filter(|_| !self.progress.is_upgraded()) else {
            return Poll::Pending;
        };
        if !self.writing {
            self.writing = true;
            self.write_timer = None;
        }
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx).map(|()| timed_out("the client to take the answer"))
    }
}

/// Ready at `until`. The timer is only moved when it would be late; when it is early it is moved as it fires.
fn poll_timer(timer: &mut Option<Pin<Box<Sleep>>>, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
    if timer.deadline() > until {
        timer.as_mut().reset(until);
    }
    loop {
        ready!(timer.as_mut().poll(cx));
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        timer.as_mut().reset(until);
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("timed out waiting for {what}"))
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Watched<S, G> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = buffer.filled().len();
        let polled = if buffer.remaining() <= MAX_READ {
            Pin::new(&mut this.stream).poll_read(cx, buffer)
        } else {
            let unfilled = buffer.initialize_unfilled_to(MAX_READ);
            let mut part = ReadBuf::new(unfilled);
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut part);
            let length = part.filled().len();
            buffer.advance(length);
            polled
        };
        match polled {
            Poll::Ready(Ok(())) if buffer.filled().len() > start => Poll::Ready(this.look(buffer, start)),
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => this.poll_time(cx),
        }
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> Watched<S, G> {
    fn count(&self, polled: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(length)), Scan::Requests(_)) = (polled, &self.scan) {
            self.progress.sent(*length);
        }
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Pending => self.poll_write_time(cx).map(Err),
            ready => {
                self.writing = false;
                ready
            }
        }
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Watched<S, G> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.count(&polled);
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.count(&polled);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.written(cx, polled)
    }
}
