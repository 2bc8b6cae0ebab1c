//! The byte stream of a client, scanned as it is read: follows its state, and refuses malformed framing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tidegate_core::Reason;
use tidegate_wire::http1::framing::{Place, Refusal, Scanner, Violation};
use tidegate_wire::http2::scan::FrameScan;
use tidegate_wire::target::escape_of;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::entrypoint::http::protocol::Protocol;
use crate::entrypoint::http1_2::header_budget::HeaderReservation;
use crate::entrypoint::http1_2::linger::{Linger, Wire};
use crate::entrypoint::http1_2::progress::Progress;

/// Maximum number of bytes per read, which keeps the library's adaptive buffers small.
const MAX_READ: usize = 16 * 1024;
/// HTTP/2: first size of the output buffer, which fills one TLS record (RFC 8446 section 5.1).
const OUTPUT_BUFFER: usize = 16 * 1024;
/// HTTP/2: size of the output buffer for large bodies. A frame of the usual size and its header exceed 16 KiB, and each
/// write costs more than the copy.
const LARGE_OUTPUT_BUFFER: usize = 64 * 1024;

/// A scanned stream. `G` is dropped with the stream, also after an upgrade.
pub(in crate::entrypoint) struct Watched<S, G> {
    stream: S,
    scan: Scan,
    progress: Arc<Progress>,
    /// The unwritten rest of our response to a malformed head, if there was one.
    refusal: Option<&'static [u8]>,
    /// Bytes of the current or last request head.
    head: usize,
    /// Maximum number of them.
    largest: usize,
    held: HeaderReservation,
    /// HTTP/1: scanned bytes that exceeded the reader's buffer because a target was escaped.
    overflow: Vec<u8>,
    gathered: Gathered,
    /// HTTP/1: informational responses that are being written.
    interim: Gathered,
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

enum Scan {
    /// HTTP/1, and what follows an upgrade.
    Requests(Box<Scanner>),
    /// HTTP/2.
    Frames(Box<FrameScan>),
}

impl<S, G> Watched<S, G> {
    /// Wraps a stream at the start of HTTP/1 or HTTP/2. An HTTP/1 head may have `largest` bytes.
    pub(in crate::entrypoint) fn new(
        stream: S,
        protocol: Protocol,
        progress: Arc<Progress>,
        held: HeaderReservation,
        largest: usize,
        guard: G,
    ) -> Self {
        let scan =
            if protocol.is_framed() { Scan::Frames(Box::default()) } else { Scan::Requests(Box::default()) };
        let gathered = Gathered::default();
        let interim = Gathered::default();
        Self {
            stream,
            scan,
            progress,
            refusal: None,
            head: 0,
            largest,
            held,
            overflow: Vec::new(),
            gathered,
            interim,
            linger: None,
            cut: false,
            _guard: guard,
        }
    }

    /// Releases the memory of the last head, as the connection is idle.
    pub(in crate::entrypoint) fn release_head(&mut self) {
        self.head = 0;
        self.held.release();
    }

    /// Returns the inner stream.
    pub(in crate::entrypoint) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Scans what was just read into `buffer` from `start` on. Malformed framing is replaced by bytes that the library
    /// refuses.
    fn look(&mut self, buffer: &mut ReadBuf<'_>, start: usize) -> io::Result<()> {
        self.progress.add_received(buffer.filled().len() - start);
        match &mut self.scan {
            Scan::Requests(_) if self.progress.is_upgraded() => self.held.release(),
            Scan::Requests(scan) => {
                let (heads, begins) = (scan.heads(), !scan.is_refused());
                let fresh = &mut buffer.filled_mut()[start..];
                if self.head > 0 && scan.place() == Place::Start && !self.progress.is_awaiting_response() {
                    self.head = 0;
                    self.held.release();
                }
                match scan.scan(fresh) {
                    Ok(()) if scan.place() == Place::Head => {
                        self.head = match scan.began() {
                            Some(at) => fresh.len() - at,
                            None => self.head + fresh.len(),
                        };
                        if self.head > self.largest || !self.held.grow(self.head + scan.kept()) {
                            scan.refuse_large();
                            poison(&mut fresh[scan.sound()..], begins);
                            note_refusal(&mut self.refusal, &self.progress, scan.refusal());
                        }
                    }
                    Ok(()) => {}
                    Err(Violation::Head) => {
                        poison(&mut fresh[scan.sound()..], begins);
                        note_refusal(&mut self.refusal, &self.progress, scan.refusal());
                    }
                    Err(Violation::Body) => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed request body"));
                    }
                }
                self.progress.read(scan.place(), scan.heads() != heads);
                if !scan.unescaped().is_empty() {
                    self.overflow = escape(buffer, start, scan.unescaped());
                }
            }
            Scan::Frames(scan) => {
                let blocks = scan.blocks();
                if let Err(reason) = scan.feed(&buffer.filled()[start..], std::time::Instant::now()) {
                    self.cut = true;
                    return Err(io::Error::other(reason));
                }
                let place = match (scan.in_header_block(), scan.in_frame()) {
                    (true, _) => Place::Head,
                    (false, true) => Place::Body,
                    (false, false) => Place::Start,
                };
                if place == Place::Head {
                    if !self.held.grow(scan.block_bytes()) {
                        return Err(io::Error::other("header block exceeds the remaining budget"));
                    }
                } else if HeaderReservation::counts(scan.block_bytes()) {
                    self.held.release();
                    self.progress.note_large();
                }
                self.progress.read(place, scan.blocks() != blocks);
            }
        }
        Ok(())
    }
}

/// Records why a head is refused. The first response stays.
fn note_refusal(answer: &mut Option<&'static [u8]>, progress: &Progress, refusal: Refusal) {
    *answer = answer.or(refusal.answer());
    progress.refuse(match refusal {
        Refusal::TooLarge => Reason::HeadTooLarge,
        Refusal::TargetTooLong => Reason::TargetTooLong,
        _ => Reason::MalformedRequest,
    });
}

/// Escapes the bytes at `places`, relative to `start`, and returns what exceeds the buffer.
fn escape(buffer: &mut ReadBuf<'_>, start: usize, places: &[usize]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(buffer.filled().len() - start + 2 * places.len());
    let mut from = 0;
    let fresh = &buffer.filled()[start..];
    for &at in places {
        whole.extend_from_slice(&fresh[from..at]);
        from = at;
        // Other bytes were overwritten.
        if let b'"' | b'<' | b'>' | b'`' = fresh[at] {
            whole.extend_from_slice(&escape_of(fresh[at]));
            from += 1;
        }
    }
    whole.extend_from_slice(&fresh[from..]);
    buffer.set_filled(start);
    let overflow = whole.split_off(whole.len().min(buffer.remaining()));
    buffer.put_slice(&whole);
    overflow
}

/// Makes the library refuse a head: it parses at the next empty line, and refuses a NUL anywhere. `begins` if this is
/// the first call for the head.
fn poison(bytes: &mut [u8], begins: bool) {
    bytes.fill(b'\n');
    if let (Some(first), true) = (bytes.first_mut(), begins) {
        *first = 0;
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Watched<S, G> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.overflow.is_empty() {
            let length = this.overflow.len().min(buffer.remaining());
            buffer.put_slice(&this.overflow[..length]);
            this.overflow.drain(..length);
            return Poll::Ready(Ok(()));
        }
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
        Poll::Ready(if buffer.filled().len() > start { this.look(buffer, start) } else { Ok(()) })
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
    /// Writes our response to a malformed head in place of the library's, which gives no reason. `bytes` is the start
    /// of what the library writes, and `length` its length. Returns `None` if that is another response.
    fn poll_refusal(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        length: usize,
    ) -> Option<Poll<io::Result<usize>>> {
        let rest = self.refusal.as_mut()?;
        if !bytes.starts_with(b"HTTP/1.1 400 ") {
            return None;
        }
        while !rest.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(written)) => *rest = &rest[written..],
                other => return Some(other),
            }
        }
        Some(Poll::Ready(Ok(length)))
    }

    /// Writes the informational responses that are partly written; with `more`, also those that wait.
    ///
    /// They are started when the library flushes: it has then written a whole response, so they come between responses.
    fn poll_interim(&mut self, cx: &mut Context<'_>, more: bool) -> Poll<io::Result<()>> {
        loop {
            while self.interim.written < self.interim.bytes.len() {
                let rest = &self.interim.bytes[self.interim.written..];
                let polled = Pin::new(&mut self.stream).poll_write(cx, rest);
                self.progress.block_write(polled.is_pending());
                match ready!(polled)? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    length => self.interim.written += length,
                }
            }
            let bytes = if more { self.progress.take_interim() } else { Vec::new() };
            self.interim = Gathered { bytes, written: 0 };
            if self.interim.bytes.is_empty() {
                if more {
                    self.progress.interim_written();
                }
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn buffers_output(&self) -> bool {
        matches!(self.scan, Scan::Frames(_))
    }

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
        let this = self.get_mut();
        if this.buffers_output() {
            return this.poll_gather(cx, &[io::IoSlice::new(bytes)]);
        }
        if !this.interim.bytes.is_empty() {
            ready!(this.poll_interim(cx, false))?;
        }
        let polled = match this.poll_refusal(cx, bytes, bytes.len()) {
            Some(polled) => polled,
            None => Pin::new(&mut this.stream).poll_write(cx, bytes),
        };
        this.record_write(polled, |length| *length)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffers_output() {
            return this.poll_gather(cx, slices);
        }
        if !this.interim.bytes.is_empty() {
            ready!(this.poll_interim(cx, false))?;
        }
        let first = slices.first().map_or(&[][..], |slice| slice);
        let length = slices.iter().map(|slice| slice.len()).sum();
        let polled = match this.poll_refusal(cx, first, length) {
            Some(polled) => polled,
            None => Pin::new(&mut this.stream).poll_write_vectored(cx, slices),
        };
        this.record_write(polled, |length| *length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffers_output() {
            if !this.progress.is_flushing() {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_drain(cx))?;
        } else if this.progress.has_interim() {
            ready!(this.poll_interim(cx, true))?;
        }
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
            if this.progress.is_upgraded() || this.cut {
                return Poll::Ready(Ok(()));
            }
            // From here on `Linger` has the timeout, not the clock. It waits for an HTTP/1 client that has not sent all
            // of its request.
            this.progress.read(Place::Opaque, false);
            this.linger = Some(match &this.scan {
                Scan::Frames(_) => Linger::framed(),
                Scan::Requests(scan) => Linger::new(scan.is_refused() || scan.place() != Place::Start),
            });
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
    use crate::entrypoint::http1_2::header_budget::HeaderBudget;
    use crate::entrypoint::http1_2::linger::Wire;

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
    async fn scanned(protocol: Protocol, pieces: &[&[u8]]) -> (Vec<u8>, io::Result<()>) {
        let held = HeaderReservation::new(HeaderBudget::with_max(0));
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut stream = Watched::new(near, protocol, Arc::new(Progress::default()), held, 1 << 20, ());
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
    async fn a_head_beyond_the_budget_is_refused_in_any_pieces() {
        let large =
            [b"GET / HTTP/1.1\r\nHost: h\r\nX: ".to_vec(), vec![b'y'; 16_000], b"\r\nX: ".to_vec()].concat();
        for more in [&[&[b'z'; 900][..]][..], &[&[b'z'; 400], b"z", b"z", b"z", &[b'z'; 100], b"z"]] {
            let (got, outcome) = scanned(Protocol::Http1, &[&[&large[..]], more].concat()).await;
            assert!(outcome.is_ok());
            assert!(got.windows(2).any(|pair| pair == b"\n\n"), "the library looks at it");
            assert!(got.contains(&0), "and refuses it");
        }
        assert_eq!(scanned(Protocol::Http1, &[&large]).await.0, large, "this much fits");
    }

    #[tokio::test]
    async fn a_body_before_a_refused_head_is_unchanged() {
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n";
        let body = [b'b'; 9000];
        let next = [b"GET / HTTP/1.1\r\nHost: h\r\nX: ".to_vec(), vec![b'x'; 15_000]].concat();
        let (first, rest) = next.split_at(5000);
        let (got, _) =
            scanned(Protocol::Http1, &[head, &[&body[..], first].concat(), rest, &[b'x'; 3000]]).await;
        let begins = head.len() + body.len();
        assert_eq!(got[..begins], [&head[..], &body].concat());
        assert!(!got[..begins + 5000].contains(&0), "the head alone is counted");
        assert!(got[begins..].contains(&0));
    }

    #[tokio::test]
    async fn a_broken_head_in_pieces_is_refused_at_once() {
        let (got, _) = scanned(Protocol::Http1, &[b"GET / HTTP/1.1\r\nHost: h\r\n", b" folded\r\n"]).await;
        assert_eq!(got, b"GET / HTTP/1.1\r\nHost: h\r\n\0\n\n\n\n\n\n\n\n");
    }

    #[tokio::test]
    async fn a_header_block_beyond_the_budget_closes_the_connection() {
        let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        let frame = |kind| [&[0, 0x30, 0, kind, 0, 0, 0, 0, 1][..], &[0; 0x3000]].concat();
        let (headers, continuation) = (frame(1), frame(9));
        assert!(scanned(Protocol::Http2, &[&preface, &headers]).await.1.is_ok());
        assert!(scanned(Protocol::Http2, &[&preface, &headers, &continuation]).await.1.is_err());
    }

    #[tokio::test]
    async fn frames_are_written_together_at_a_flush() {
        let (near, mut far) = tokio::io::duplex(LARGE_OUTPUT_BUFFER);
        let progress = Arc::new(Progress::default());
        let mut stream = Watched::new(near, Protocol::Http2, progress.clone(), held(), 1 << 20, ());
        for part in [&b"one "[..], b"two ", b"three"] {
            let length = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, part)).await.unwrap();
            assert_eq!(length, part.len());
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
        }
        assert!(progress.has_gathered());
        assert_eq!(progress.writes(), 0);
        progress.flush(true);
        poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
        assert!(!progress.has_gathered());
        assert_eq!(progress.writes(), 1);
        let mut got = [0; 13];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two three");
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
        let mut stream =
            Watched::new(HoldsBack::default(), Protocol::Http2, progress.clone(), held(), 1 << 20, ());
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
        let mut stream =
            Watched::new(near, Protocol::Http2, Arc::new(Progress::default()), held(), 1 << 20, ());
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
