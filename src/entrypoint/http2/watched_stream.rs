//! The byte stream of an HTTP/2 client, scanned as it is read, and with its output gathered.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tidegate_wire::http2::scan::FrameScan;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::entrypoint::header_budget::HeaderReservation;
use crate::entrypoint::http2::progress::{Place, Progress};
use crate::entrypoint::linger::{Linger, Wire};

/// Maximum number of bytes per read, which keeps the library's adaptive buffers small.
const MAX_READ: usize = 16 * 1024;
/// First size of the output buffer, which fills one TLS record (RFC 8446 section 5.1).
const OUTPUT_BUFFER: usize = 16 * 1024;
/// Size of the output buffer for large bodies. A frame of the usual size and its header exceed 16 KiB, and each write
/// costs more than the copy.
const LARGE_OUTPUT_BUFFER: usize = 64 * 1024;

/// A scanned stream. `G` is dropped with the stream.
pub(in crate::entrypoint) struct Watched<S, G> {
    stream: S,
    scan: Box<FrameScan>,
    progress: Arc<Progress>,
    held: HeaderReservation,
    gathered: Gathered,
    /// Set once everything is written and the stream is closed for writing.
    linger: Option<Linger>,
    /// The client exceeded a limit of the scan: the rest of its input is not read.
    cut: bool,
    _guard: G,
}

/// Buffered output.
///
/// The HTTP/2 library flushes after each data frame, which would cost a system call and a TLS record for each small
/// response. So frames are buffered while the connection is polled, and written afterwards.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    written: usize,
}

impl<S, G> Watched<S, G> {
    /// Wraps a stream at its start.
    pub(in crate::entrypoint) fn new(
        stream: S,
        progress: Arc<Progress>,
        held: HeaderReservation,
        guard: G,
    ) -> Self {
        Self {
            stream,
            scan: Box::default(),
            progress,
            held,
            gathered: Gathered::default(),
            linger: None,
            cut: false,
            _guard: guard,
        }
    }

    /// Scans what was just read.
    fn look(&mut self, fresh: &[u8]) -> io::Result<()> {
        let Self { scan, held, progress, .. } = self;
        let blocks = scan.blocks();
        if let Err(reason) = scan.feed(fresh, std::time::Instant::now()) {
            self.cut = true;
            return Err(io::Error::other(reason));
        }
        let place = match (scan.in_header_block(), scan.in_frame()) {
            (true, _) => Place::Head,
            (false, true) => Place::Frame,
            (false, false) => Place::Start,
        };
        if place == Place::Head {
            if !held.grow(scan.block_bytes()) {
                return Err(io::Error::other("header block exceeds the remaining budget"));
            }
        } else if HeaderReservation::counts(scan.block_bytes()) {
            held.release();
            progress.note_large();
        }
        progress.read(place, scan.blocks() != blocks);
        Ok(())
    }
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
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(MAX_READ));
            let polled = Pin::new(&mut this.stream).poll_read(cx, &mut part);
            let length = part.filled().len();
            buffer.advance(length);
            polled
        };
        this.progress.block_read(polled.is_pending());
        ready!(polled)?;
        let fresh = &buffer.filled()[start..];
        Poll::Ready(if fresh.is_empty() { Ok(()) } else { this.look(fresh) })
    }
}

impl<S, G> Watched<S, G> {
    /// Records whether a write is blocked, and how much was written.
    fn record_write<T>(
        &self,
        polled: Poll<io::Result<T>>,
        length: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        self.progress.block_write(polled.is_pending());
        if let Poll::Ready(Ok(written)) = &polled {
            self.progress.sent(length(written));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, G> Watched<S, G> {
    /// Buffers as much output as fits.
    fn poll_gather(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.gathered.bytes.len() >= LARGE_OUTPUT_BUFFER {
            ready!(self.poll_drain(cx))?;
        }
        let gathered = &mut self.gathered.bytes;
        let before = gathered.len();
        let after = before + slices.iter().map(|slice| slice.len()).sum::<usize>();
        if after > gathered.capacity() {
            let size = if after > OUTPUT_BUFFER { LARGE_OUTPUT_BUFFER } else { OUTPUT_BUFFER };
            gathered.reserve_exact(size - before);
        }
        for slice in slices {
            let room = LARGE_OUTPUT_BUFFER - gathered.len();
            gathered.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.progress.gather(true);
        Poll::Ready(Ok(self.gathered.bytes.len() - before))
    }

    /// Writes the buffered output, and frees the buffer, as the connection may become idle.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gathered.written < self.gathered.bytes.len() {
            let rest = &self.gathered.bytes[self.gathered.written..];
            let polled = Pin::new(&mut self.stream).poll_write(cx, rest);
            match ready!(self.record_write(polled, |length| *length))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.gathered.written += length,
            }
        }
        self.gathered = Gathered::default();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Wire + Unpin, G: Unpin> AsyncWrite for Watched<S, G> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_gather(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_gather(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.progress.is_flushing() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_drain(cx))?;
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        ready!(this.record_write(polled, |()| 0))?;
        // Only now: what TLS buffers while the socket is full must be flushed again.
        this.progress.gather(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(this.poll_drain(cx))?;
            let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.record_write(polled, |()| 0))?;
            if this.cut {
                return Poll::Ready(Ok(()));
            }
            // From here on `Linger` has the timeout, not the clock.
            this.progress.read(Place::Closed, false);
            this.linger = Some(Linger::framed());
        }
        let Some(linger) = &mut this.linger else { return Poll::Ready(Ok(())) };
        linger.poll(&mut this.stream, cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::entrypoint::header_budget::HeaderBudget;
    use crate::entrypoint::linger::Wire;

    impl Wire for tokio::io::DuplexStream {
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_raw(&mut self, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(self).poll_read(cx, room)
        }
        fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(self).poll_shutdown(cx)
        }
    }

    fn held() -> HeaderReservation {
        HeaderReservation::new(HeaderBudget::new(0))
    }

    /// Returns what the library reads of these pieces, with a budget that no large head fits.
    async fn scanned(pieces: &[&[u8]]) -> (Vec<u8>, io::Result<()>) {
        let held = HeaderReservation::new(HeaderBudget::with_max(0));
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut stream = Watched::new(near, Arc::new(Progress::default()), held, ());
        let mut got = Vec::new();
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut far, piece).await.unwrap();
            let whole = got.len() + piece.len();
            while got.len() < whole {
                let mut room = vec![0; MAX_READ];
                match stream.read(&mut room).await {
                    Ok(length) => got.extend_from_slice(&room[..length]),
                    Err(error) => return (got, Err(error)),
                }
            }
        }
        (got, Ok(()))
    }

    #[tokio::test]
    async fn a_header_block_beyond_the_budget_closes_the_connection() {
        let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        let frame = |kind| [&[0, 0x30, 0, kind, 0, 0, 0, 0, 1][..], &[0; 0x3000]].concat();
        let (headers, continuation) = (frame(1), frame(9));
        assert!(scanned(&[&preface, &headers]).await.1.is_ok());
        assert!(scanned(&[&preface, &headers, &continuation]).await.1.is_err());
    }

    #[tokio::test]
    async fn frames_are_written_together_at_a_flush() {
        let (near, mut far) = tokio::io::duplex(LARGE_OUTPUT_BUFFER);
        let progress = Arc::new(Progress::default());
        let mut stream = Watched::new(near, progress.clone(), held(), ());
        for part in [&b"one "[..], b"two ", b"three"] {
            let length = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, part)).await.unwrap();
            assert_eq!(length, part.len());
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
        }
        assert!(progress.has_gathered());
        let mut got = [0; 100];
        assert!(far.read(&mut got).now_or_never().is_none(), "nothing is written before");
        progress.flush(true);
        poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
        assert!(!progress.has_gathered());
        let length = far.read(&mut got).await.unwrap();
        assert_eq!(&got[..length], b"one two three");
    }

    /// Buffers everything until the second flush, as TLS does while the socket is full.
    #[derive(Default)]
    struct HoldsBack {
        flushes: usize,
    }

    impl AsyncWrite for HoldsBack {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            if self.flushes < 2 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Wire for HoldsBack {
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_raw(&mut self, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_end(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn output_buffered_by_tls_is_flushed_again() {
        let progress = Arc::new(Progress::default());
        let mut stream = Watched::new(HoldsBack::default(), progress.clone(), held(), ());
        poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"frame")).await.unwrap();
        progress.flush(true);
        assert!(poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).now_or_never().is_none());
        assert!(progress.has_gathered(), "it is not out yet");
        poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
        assert!(!progress.has_gathered());
    }

    #[tokio::test]
    async fn output_beyond_the_buffer_waits_for_the_client() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut stream = Watched::new(near, Arc::new(Progress::default()), held(), ());
        let whole = vec![7; LARGE_OUTPUT_BUFFER + 10];
        let slices = [io::IoSlice::new(&whole)];
        let length = poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &slices)).await.unwrap();
        assert_eq!(length, LARGE_OUTPUT_BUFFER);
        let more =
            poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &whole[LARGE_OUTPUT_BUFFER..])).now_or_never();
        assert!(more.is_none());
        let writing = async {
            let length = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &whole[LARGE_OUTPUT_BUFFER..]))
                .await
                .unwrap();
            assert_eq!(length, 10);
            poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(writing, far.read_to_end(&mut got));
        assert_eq!(read.unwrap(), whole.len());
        assert_eq!(got, whole);
    }
}
