//! Bodies whose every byte is known, so that whoever reads one notices what is missing, doubled or changed.

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Period of the bytes. It is not a power of two.
const PERIOD: usize = 251;
/// Size of a piece of a body. It is a multiple of [`PERIOD`], so all pieces are equal.
const PIECE: usize = PERIOD * 128;

static BYTES: LazyLock<Bytes> = LazyLock::new(|| (0..PIECE).map(|at| (at % PERIOD) as u8).collect());

/// A body of such bytes.
#[derive(Debug, Default)]
pub struct Pattern {
    left: usize,
    /// Whether the length is not announced.
    is_chunked: bool,
    /// Where it breaks off, in bytes before its end.
    aborted_at: usize,
}

impl Pattern {
    /// A body that announces its length.
    pub const fn sized(length: usize) -> Self {
        Self { left: length, is_chunked: false, aborted_at: 0 }
    }

    /// A body that does not announce its length.
    pub const fn chunked(length: usize) -> Self {
        Self { left: length, is_chunked: true, aborted_at: 0 }
    }

    /// A body that announces its length and breaks off after `sent` bytes.
    pub const fn aborted(length: usize, sent: usize) -> Self {
        Self { left: length, is_chunked: false, aborted_at: length - sent }
    }

    /// Returns whether it has broken off.
    pub const fn is_aborted(&self) -> bool {
        self.aborted_at > 0 && self.left == self.aborted_at
    }

    /// Takes the next piece.
    pub fn take(&mut self) -> Option<Bytes> {
        let size = (self.left - self.aborted_at).min(PIECE);
        self.left -= size;
        (size > 0).then(|| BYTES.slice(..size))
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_aborted() {
            return Poll::Ready(Some(Err(io::Error::other("aborted by the client"))));
        }
        Poll::Ready(self.take().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_chunked { SizeHint::default() } else { SizeHint::with_exact(self.left as u64) }
    }
}

/// Compares what is read with the pattern.
#[derive(Debug, Default)]
pub struct Check {
    /// Bytes that have been read.
    pub length: usize,
    /// Whether one of them was wrong.
    pub is_wrong: bool,
}

impl Check {
    /// Reads the next part.
    pub fn read(&mut self, mut part: &[u8]) {
        while !part.is_empty() {
            let at = self.length % PERIOD;
            let size = part.len().min(PIECE - at);
            self.is_wrong |= part[..size] != BYTES[at..at + size];
            self.length += size;
            part = &part[size..];
        }
    }
}
