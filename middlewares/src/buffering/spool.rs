//! A whole body, in memory up to a limit and in a temporary file beyond it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tidegate_core::body::Unfinished;
use tidegate_core::{Body, BodyError, CollectError, Frames, Polled};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes per read from the file.
const CHUNK: usize = 64 * 1024;

/// A body that can be read any number of times. The file is anonymous and disappears with its last reader.
pub(super) enum Spool {
    Memory(Bytes),
    File(Arc<File>, u64),
}

impl Spool {
    /// Reads a body of at most `max` bytes; one longer than `memory` goes to a file. Drops trailers.
    pub(super) async fn fill(body: Body, max: u64, memory: u64) -> Result<Self, BodyError> {
        match body.collect(memory.min(max)).await {
            Ok(collected) => Ok(Self::Memory(collected.bytes)),
            Err(CollectError::TooLarge { body, .. }) if memory < max => Self::write(*body, max).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a body of at most `max` bytes to a file.
    async fn write(body: Unfinished, max: u64) -> Result<Self, BodyError> {
        let Unfinished { read, rest: mut body } = body;
        let too_large = || BodyError::TooLarge { limit: max };
        if read.len() as u64 > max {
            return Err(too_large());
        }
        let file = Arc::new(blocking(tempfile::tempfile).await?);
        let mut written = write(&file, read, 0).await?;
        let mut waiting = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if written + (waiting.len() + data.len()) as u64 > max {
                return Err(too_large());
            }
            waiting.extend_from_slice(&data);
            if waiting.len() >= CHUNK {
                written += write(&file, waiting.split().freeze(), written).await?;
            }
        }
        written += write(&file, waiting.freeze(), written).await?;
        Ok(Self::File(file, written))
    }

    /// Returns the length in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    /// Returns a body that reads from the start.
    pub(super) fn body(&self) -> Body {
        match self {
            Self::Memory(bytes) => Body::full(bytes.clone()),
            Self::File(file, length) => {
                Body::of_frames(FileBody { file: file.clone(), position: 0, length: *length, reading: None })
            }
        }
    }
}

async fn write(file: &Arc<File>, data: Bytes, position: u64) -> io::Result<u64> {
    let file = file.clone();
    blocking(move || file.write_all_at(&data, position).map(|()| data.len() as u64)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

struct FileBody {
    file: Arc<File>,
    position: u64,
    length: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Frames for FileBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        let rest = this.length - this.position;
        if rest == 0 {
            return Poll::Ready(None);
        }
        let reading = this.reading.get_or_insert_with(|| {
            let (file, position) = (this.file.clone(), this.position);
            let size = rest.min(CHUNK as u64) as usize;
            spawn_blocking(move || {
                let mut piece = vec![0; size];
                file.read_exact_at(&mut piece, position).map(|()| Bytes::from(piece))
            })
        });
        let read = ready!(Pin::new(reading).poll(cx));
        this.reading = None;
        Poll::Ready(Some(match read.map_err(io::Error::other).and_then(|read| read) {
            Ok(piece) => {
                this.position += piece.len() as u64;
                Ok(Frame::data(piece))
            }
            Err(error) => Err(error.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length - self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::block_on;
    use http_body::Body as _;

    #[test]
    fn a_long_body_is_in_a_file_and_can_be_read_twice() {
        block_on(async {
            let long = "0123456789".repeat(30_000);
            let spool = Spool::fill(pieces(&[&long[..10], &long[10..]]), u64::MAX, 100).await.unwrap();
            assert!(matches!(spool, Spool::File(..)));
            assert_eq!(spool.len(), 300_000);
            for _ in 0..2 {
                let body = spool.body();
                assert_eq!(body.size_hint().exact(), Some(300_000));
                assert_eq!(body.collect(1 << 20).await.unwrap().bytes, long);
            }
        });
    }

    #[test]
    fn a_short_body_is_in_memory() {
        block_on(async {
            let spool = Spool::fill(pieces(&["one", "two"]), 6, 6).await.unwrap();
            assert!(matches!(&spool, Spool::Memory(bytes) if bytes == "onetwo"));
            assert!(matches!(
                Spool::fill(pieces(&["one", "two"]), 5, 100).await,
                Err(BodyError::TooLarge { limit: 5 })
            ));
        });
    }
}
