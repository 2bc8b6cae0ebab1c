//! Limits of a connection that the protocol of the crate `redis` does not have.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::connect::Stream;

/// Why a stream was given up.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum LimitError {
    /// A reply, or all unread messages, exceed the maximum size.
    #[error("the server has sent more than {} MiB at once", .0 >> 20)]
    Size(usize),
    /// The server did not accept data in time.
    #[error("cannot send within {0:?}")]
    Write(Duration),
}

/// The number of bytes received since the last reply was used.
#[derive(Clone)]
pub(super) struct Received {
    bytes: Arc<AtomicUsize>,
    limit: usize,
}

impl Received {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Arc::default(), limit }
    }

    /// Starts over, as a reply was used.
    pub(super) fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Returns an error if the limit is exceeded.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.bytes.load(Ordering::Relaxed) <= self.limit {
            return Ok(());
        }
        Err(io::Error::other(LimitError::Size(self.limit)))
    }

    fn add(&self, received: usize) -> io::Result<()> {
        self.bytes.fetch_add(received, Ordering::Relaxed);
        self.check()
    }
}

/// A stream that fails if too much is received at once, or if the server does not accept data in time.
pub(super) struct LimitedStream {
    stream: Box<dyn Stream>,
    received: Received,
    write_timeout: Duration,
    /// The timeout of a write that waits for the server.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl LimitedStream {
    pub(super) fn new(stream: Box<dyn Stream>, received: Received, write_timeout: Duration) -> Self {
        Self { stream, received, write_timeout, blocked: None }
    }

    fn limit<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.blocked = None;
            return outcome;
        }
        let limit = self.write_timeout;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, LimitError::Write(limit))))
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, out))?;
        Poll::Ready(this.received.add(out.filled().len() - before))
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.limit(outcome, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.limit(outcome, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.limit(outcome, cx)
    }
}
