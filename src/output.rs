//! What is to be written on a connection of HTTP/1: heads, and the data that follow them, in one vectored write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tidegate_wire::http1::encode::Frame;
use tokio::io::AsyncWrite;

/// Unwritten output of one connection.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Heads, and the ends of chunked bodies. Nothing may be added while there is a frame.
    pub(crate) head: Vec<u8>,
    /// Bytes of `head` that are written.
    written: usize,
    /// Data that follow the head.
    frame: Frame,
    /// What was written may be held back by TLS.
    unflushed: bool,
}

impl Output {
    /// Returns true if everything is written and flushed.
    pub(crate) fn is_empty(&self) -> bool {
        !self.has_bytes() && !self.unflushed
    }

    /// Returns true while there is a frame, after which nothing can be added.
    pub(crate) fn has_frame(&self) -> bool {
        self.frame.has_remaining()
    }

    /// Returns the number of bytes of the head that are not written.
    pub(crate) fn head_left(&self) -> usize {
        self.head.len() - self.written
    }

    /// Returns the number of bytes that are not written.
    pub(crate) fn left(&self) -> usize {
        self.head_left() + self.frame.remaining()
    }

    /// Appends a frame. The output must not hold another one.
    pub(crate) fn set_frame(&mut self, frame: Frame) {
        debug_assert!(!self.has_frame(), "two frames");
        self.frame = frame;
    }

    /// Adds data like [`set_frame`](Self::set_frame), or copies them if there are at most `small` bytes of them, so that
    /// more can be added.
    pub(crate) fn push(&mut self, mut frame: Frame, small: usize) {
        if frame.remaining() > small {
            return self.set_frame(frame);
        }
        while frame.has_remaining() {
            let chunk = frame.chunk();
            self.head.extend_from_slice(chunk);
            let length = chunk.len();
            frame.advance(length);
        }
    }

    /// Frees the buffer.
    pub(crate) fn release(&mut self) {
        if self.head_left() == 0 {
            (self.head, self.written) = (Vec::new(), 0);
        }
    }

    /// Writes and flushes everything.
    ///
    /// # Errors
    /// If the stream fails.
    pub(crate) fn poll_drain<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.has_bytes() {
            let written = ready!(self.poll_write(stream, cx))?;
            self.record(written);
        }
        if self.unflushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn has_bytes(&self) -> bool {
        self.head_left() > 0 || self.has_frame()
    }

    fn poll_write<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let head = &self.head[self.written..];
        let written = if self.has_frame() {
            let mut slices = [IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&[])];
            let first = usize::from(head.is_empty());
            let count = 1 + self.frame.chunks_vectored(&mut slices[1..]);
            ready!(Pin::new(stream).poll_write_vectored(cx, &slices[first..count]))?
        } else {
            ready!(Pin::new(stream).poll_write(cx, head))?
        };
        Poll::Ready(if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) })
    }

    fn record(&mut self, written: usize) {
        self.unflushed = true;
        let of_head = written.min(self.head_left());
        self.written += of_head;
        if self.head_left() == 0 {
            self.head.clear();
            self.written = 0;
        }
        self.frame.advance(written - of_head);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    /// Takes at most so many bytes per write, and keeps what each write has brought.
    struct Writes(usize, Vec<Vec<u8>>);

    impl AsyncWrite for Writes {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let mut whole: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            whole.truncate(self.0);
            self.1.push(whole);
            Poll::Ready(Ok(self.1.last().map_or(0, Vec::len)))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Writes a head and a chunk, at most so many bytes at once.
    fn written(at_once: usize, small: usize) -> Vec<Vec<u8>> {
        let (mut output, mut writes) = (Output::default(), Writes(at_once, Vec::new()));
        output.head.extend_from_slice(b"head ");
        output.push(Frame::chunk(Bytes::from_static(b"data"), true), small);
        assert_eq!(output.has_frame(), small == 0);
        assert_eq!(output.left(), 5 + "4\r\ndata\r\n0\r\n\r\n".len());
        let drained = std::future::poll_fn(|cx| output.poll_drain(&mut writes, cx)).now_or_never();
        assert!(matches!(drained, Some(Ok(()))) && output.is_empty());
        writes.1
    }

    #[test]
    fn head_and_data_are_written_at_once() {
        for small in [0, 100] {
            let whole = b"head 4\r\ndata\r\n0\r\n\r\n";
            assert_eq!(written(usize::MAX, small), [whole]);
            for at_once in 1..whole.len() {
                assert_eq!(written(at_once, small).concat(), whole, "{at_once}");
            }
        }
    }
}
