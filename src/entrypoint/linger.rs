//! Continues to read after a response that was sent before its request was complete.
//!
//! A socket that is closed while the client still sends is reset, and the client may lose the response (RFC 9112
//! section 9.6). Over HTTP/2 and HTTP/3, many clients report an error if a stream ends while they send. So the rest is
//! read and discarded, within limits of time and bytes.

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

use crate::entrypoint::prefixed::Prefixed;

/// Maximum time to read after a response.
const MAX_TIME: Duration = Duration::from_secs(5);
/// HTTP/2: flow-control window of all request bodies together. The library disconnects clients that send many small
/// frames, with a budget of half this window, so it must not be small.
pub(in crate::entrypoint) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// A client that sends nothing for this long has finished.
const MAX_SILENCE: Duration = Duration::from_secs(1);
/// Maximum number of bytes to discard after a response.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Maximum number of bytes to discard after the last frame of an HTTP/2 connection: what the window allows, and heads
/// and control frames in flight.
const MAX_FRAMED_BYTES: usize = CONNECTION_WINDOW as usize + 256 * 1024;
/// Bytes discarded per read.
const PIECE: usize = 16 * 1024;
/// Maximum number of reads before the task yields.
const MAX_READS_PER_POLL: usize = 16;

/// Access to a client's stream below TLS.
pub(in crate::entrypoint) trait Wire {
    /// Ready when there are bytes or the end of the stream. May be ready spuriously.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Reads raw bytes, encrypted or not.
    fn poll_raw(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    /// Sends FIN without a TLS close_notify.
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
    // Decrypted bytes have all been read: a connection is only parked after a read that would block.
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

/// How much may still be read and discarded.
struct Allowance {
    end: Instant,
    /// When a silent client is considered finished.
    until: Instant,
    bytes: usize,
}

impl Allowance {
    fn new(bytes: usize) -> Self {
        let now = Instant::now();
        Self { end: now + MAX_TIME, until: now + MAX_SILENCE, bytes }
    }

    /// Counts discarded bytes. Returns false if a limit is reached.
    fn spend(&mut self, length: usize) -> bool {
        let now = Instant::now();
        self.bytes = self.bytes.saturating_sub(length);
        self.until = self.end.min(now + MAX_SILENCE);
        self.bytes > 0 && now < self.end
    }
}

/// A connection that is closed for writing, until the client closes it, too.
pub(in crate::entrypoint) struct Linger {
    allowance: Allowance,
    timer: Pin<Box<Sleep>>,
    /// The client may still be sending; otherwise only what has already arrived is discarded.
    expects: bool,
}

impl Linger {
    /// Starts to wait for the client. `expects` if its request is incomplete.
    pub(in crate::entrypoint) fn new(expects: bool) -> Self {
        Self::within(MAX_BYTES, expects)
    }

    /// Starts to wait for an HTTP/2 client, which may send at any time.
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
        for _ in 0..MAX_READS_PER_POLL {
            let mut room = [const { MaybeUninit::uninit() }; PIECE];
            let mut room = ReadBuf::uninit(&mut room);
            match wire.poll_raw(cx, &mut room) {
                Poll::Pending if !self.expects => return Poll::Ready(()),
                Poll::Pending => return self.poll_timer(cx),
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                    self.expects = true;
                    if !self.allowance.spend(room.filled().len()) {
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
    // There is no wait for a client that has disconnected.
    if std::future::poll_fn(|cx| wire.poll_end(cx)).await.is_ok() {
        let mut linger = Linger::new(true);
        std::future::poll_fn(|cx| linger.poll(&mut wire, cx)).await;
    }
}

/// Receives the rest of a request body if it is dropped before its end.
pub(in crate::entrypoint) type Leftover = oneshot::Receiver<Body>;

/// Discards the rest of a request body once its reader drops it.
pub(in crate::entrypoint) async fn drain(leftover: Leftover) {
    // Without a rest, the body was complete or failed. A server may continue to read after its response.
    if let Ok(Ok(body)) = tokio::time::timeout(MAX_TIME, leftover).await {
        discard(body).await;
    }
}

/// Like [`drain`], in a separate task if there is anything to discard.
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

/// Discards a body that was already dropped, before a redirect is sent: curl 7.88 then continues to send, but reads
/// nothing more, not even window updates.
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
        if !allowance.spend(frame.data_ref().map_or(0, bytes::Bytes::len)) {
            return;
        }
        tokio::task::consume_budget().await;
    }
}
