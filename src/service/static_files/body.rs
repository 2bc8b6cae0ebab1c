//! The content of a file as a body: read in pieces on threads that may block.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tidegate_core::{BodyError, BoxFuture, Frames, Polled};

use super::open::Stamp;
use super::reading::{NotRead, Reader};

/// Size of a piece in bytes.
const PIECE: u64 = 64 * 1024;

/// Part of an open file. A piece is read when the client has taken the previous one, so an aborted response
/// reads at most one more.
///
/// The body fails if the file changes meanwhile: a response never mixes two versions.
pub(super) struct FileBody {
    file: Arc<File>,
    stamp: Stamp,
    left: Range<u64>,
    reader: Reader,
    reading: Option<BoxFuture<'static, Result<io::Result<Bytes>, NotRead>>>,
}

impl FileBody {
    /// Creates the body of these bytes. `stamp` is that of the whole file.
    pub(super) fn new(file: File, stamp: Stamp, range: Range<u64>, reader: Reader) -> Self {
        Self { file: Arc::new(file), stamp, left: range, reader, reading: None }
    }

    fn failed(&mut self, error: io::Error) -> Polled {
        self.left = 0..0;
        Poll::Ready(Some(Err(BodyError::Io(error))))
    }
}

impl Frames for FileBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let reading = match &mut self.reading {
            Some(reading) => reading,
            none => {
                let (file, stamp, start) = (self.file.clone(), self.stamp, self.left.start);
                let length = (self.left.end - start).min(PIECE);
                let reader = self.reader.clone();
                let read = async move { reader.run(move || read_piece(&file, stamp, start, length)).await };
                none.insert(Box::pin(read))
            }
        };
        let read = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        match read {
            Ok(Ok(piece)) => {
                self.left.start += piece.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Ok(Err(error)) => self.failed(error),
            Err(error) => self.failed(io::Error::other(error)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.end - self.left.start)
    }
}

fn read_piece(file: &File, stamp: Stamp, start: u64, length: u64) -> io::Result<Bytes> {
    let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut piece, start)?;
    if Stamp::of(file)? != stamp {
        return Err(io::Error::other("the file has changed while it was sent"));
    }
    Ok(piece.into())
}
