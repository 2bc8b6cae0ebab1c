//! Reads on behind an answer that came before its request was complete.
//!
//! A socket that is closed while the client still sends is reset, and the reset overtakes the answer (RFC 9112 section 9.6). Over
//! HTTP/2 and HTTP/3 many clients take the end of a stream that they still send on for a failure. So what comes is
//! read and discarded until the client stops, within bounds of time and bytes.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::Body as _;
use tidegate_core::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use crate::entrypoint::http1_2::prefixed::Prefixed;

/// Maximum time to read on behind an answer.
const MAX_TIME: Duration = Duration::from_secs(5);
/// HTTP/2: how much of all request bodies together. The library disconnects clients that send many small frames by a
/// budget of half this window, so it must not be small.
pub(in crate::entrypoint) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// A client that sends nothing for this long has stopped.
const MAX_SILENCE: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are discarded behind one answer.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The same behind the last frame of an HTTP/2 connection: what the client's window still allows, and as much in heads and
/// control frames as is on the way.
const MAX_FRAMED_BYTES: usize = CONNECTION_WINDOW as usize + 256 * 1024;
/// Bytes that are discarded at once.
const PIECE: usize = 16 * 1024;
/// Pieces that are discarded before others on the thread get their turn.
const TURNS: usize = 16;

/// The client's end of a stream, below TLS.
pub(in crate::entrypoint) trait Wire {
    /// Ready when there is something to read, or the end. May be ready without cause.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads what the client sends as it comes, encrypted or not.
    fn poll_raw(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    /// Sends FIN, and no end of TLS.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Wire for Prefixed<TcpStream> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() { self.inner.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_raw(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, room)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Wire for TlsStream<Prefixed<TcpStream>> {
    // What was decrypted has been read: a connection is only waited on after a read that found nothing.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_ref().0.poll_readable(cx)
    }

    fn poll_raw(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_raw(cx, room)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_end(cx)
    }
}

/// What may still be read and discarded.
struct Allowance {
    end: Instant,
    /// When a client that stays silent has stopped.
    until: Instant,
    bytes: usize,
}

impl Allowance {
    fn new(bytes: usize) -> Self {
        let now = Instant::now();
        Self { end: now + MAX_TIME, until: now + MAX_SILENCE, bytes }
    }

    /// Counts what came. False when that was enough.
    fn take(&mut self, length: usize) -> bool {
        let now = Instant::now();
        self.bytes = self.bytes.saturating_sub(length);
        self.until = self.end.min(now + MAX_SILENCE);
        self.bytes > 0 && now < self.end
    }
}

/// A connection that we have closed for writing, until the client closes it, too.
pub(in crate::entrypoint) struct Linger {
    allowance: Allowance,
    timer: Pin<Box<Sleep>>,
    /// The client may be sending; otherwise only what has come by now is discarded.
    expects: bool,
}

impl Linger {
    /// Begins to wait for the client. `expects`: it has not sent all of its request.
    pub(in crate::entrypoint) fn new(expects: bool) -> Self {
        Self::within(MAX_BYTES, expects)
    }

    /// The same for a client that speaks HTTP/2, which may send at any time.
    pub(in crate::entrypoint) fn framed() -> Self {
        Self::within(MAX_FRAMED_BYTES, true)
    }

    fn within(bytes: usize, expects: bool) -> Self {
        let allowance = Allowance::new(bytes);
        let timer = Box::pin(tokio::time::sleep_until(allowance.until));
        Self { allowance, timer, expects }
    }

    /// Ready when the connection can be closed.
    pub(in crate::entrypoint) fn poll(&mut self, wire: &mut impl Wire, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS {
            let mut room = [const { MaybeUninit::uninit() }; PIECE];
            let mut room = ReadBuf::uninit(&mut room);
            match wire.poll_raw(cx, &mut room) {
                Poll::Pending if !self.expects => return Poll::Ready(()),
                Poll::Pending => return self.poll_timer(cx),
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                    self.expects = true;
                    if !self.allowance.take(room.filled().len()) {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.deadline() != self.allowance.until {
            self.timer.as_mut().reset(self.allowance.until);
        }
        self.timer.as_mut().poll(cx)
    }
}

/// Closes the connection of a client that may still be sending.
pub(in crate::entrypoint) async fn close(mut wire: impl Wire) {
    // A client that has hung up is not waited for.
    if std::future::poll_fn(|cx| wire.poll_end(cx)).await.is_ok() {
        let mut linger = Linger::new(true);
        std::future::poll_fn(|cx| linger.poll(&mut wire, cx)).await;
    }
}

/// Where the rest of a request body comes to when nobody wants it.
pub(in crate::entrypoint) type Leftover = oneshot::Receiver<Body>;

/// Discards what the client still sends of a request body, beginning when nobody wants it any more.
pub(in crate::entrypoint) async fn drain(leftover: Leftover) {
    // Without one, the body was read to its end, or failed. A server may go on reading behind its answer.
    if let Ok(Ok(body)) = tokio::time::timeout(MAX_TIME, leftover).await {
        discard(body).await;
    }
}

/// The same in a task of its own, where there is something to discard.
pub(in crate::entrypoint) fn drain_behind(mut leftover: Leftover) {
    let task = match leftover.try_recv() {
        Err(oneshot::error::TryRecvError::Closed) => return,
        Ok(body) => futures_util::future::Either::Left(discard(body)),
        Err(oneshot::error::TryRecvError::Empty) => futures_util::future::Either::Right(drain(leftover)),
    };
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

/// The same before a redirection, when the body was refused already: there are clients that go on sending behind it, but
/// read nothing more, not even how much they may send (curl 7.88).
pub(in crate::entrypoint) async fn drain_before(leftover: &mut Leftover) {
    if let Ok(body) = leftover.try_recv() {
        discard(body).await;
    }
}

async fn discard(mut body: Body) {
    let mut allowance = Allowance::new(MAX_BYTES);
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Ok(Some(Ok(frame))) = tokio::time::timeout_at(allowance.until, next).await else { return };
        if !allowance.take(frame.data_ref().map_or(0, bytes::Bytes::len)) {
            return;
        }
        tokio::task::consume_budget().await;
    }
}
