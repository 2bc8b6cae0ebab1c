//! A body that is compressed as it streams.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_compression::Level;
use async_compression::brotli::EncoderParams;
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tidegate_core::word::Vocabulary;
use tidegate_core::{Body, BodyError, Frames, Polled};
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

/// Bytes compressed between two checks of the task's budget.
const SLICE: usize = 16 * 1024;
/// Maximum number of bytes compressed per poll, even without output.
const MAX_PER_POLL: usize = 64 * 1024;
/// Approximate length of output frames.
const OUTPUT_LEN: usize = 8 * 1024;

/// Interval after which the output of a body of known length is flushed (as in Traefik).
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// A content encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
    /// `zstd`: Zstandard.
    Zstd,
}

impl Vocabulary for Encoding {
    const WORDS: &'static [(&'static str, Self)] =
        &[("gzip", Self::Gzip), ("br", Self::Brotli), ("zstd", Self::Zstd)];
}

impl Encoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

enum Encoder {
    Gzip(GzipEncoder<Vec<u8>>),
    // Boxed because its state is large.
    Brotli(Box<BrotliEncoder<Vec<u8>>>),
    Zstd(ZstdEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Gzip => Self::Gzip(GzipEncoder::with_quality(Vec::new(), Level::Precise(6))),
            Encoding::Brotli => {
                // A window of 256 KiB and quality 4: close to gzip's speed, and little memory per response.
                let params = EncoderParams::default().quality(Level::Precise(4)).window_size(18);
                Self::Brotli(Box::new(BrotliEncoder::with_params(Vec::new(), params)))
            }
            Encoding::Zstd => Self::Zstd(ZstdEncoder::with_quality(Vec::new(), Level::Precise(3))),
        }
    }

    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        Pin::new(match self {
            Self::Gzip(encoder) => encoder,
            Self::Brotli(encoder) => &mut **encoder,
            Self::Zstd(encoder) => encoder,
        })
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }
}

/// The compressed form of a body.
///
/// A stream is flushed whenever its source has nothing to give, so that events and the like arrive at once. A
/// body of known length is usually a file, and is flushed only when its source stalls.
pub(super) struct Compressed {
    inner: Body,
    encoder: Encoder,
    input: Bytes,
    unflushed: bool,
    is_stream: bool,
    waiting: Option<Pin<Box<Sleep>>>,
    state: State,
}

enum State {
    Reading,
    Ending(Option<HeaderMap>),
    Trailers(HeaderMap),
    Done,
}

impl Compressed {
    pub(super) fn new(inner: Body, encoding: Encoding) -> Self {
        let is_stream = inner.size_hint().exact().is_none();
        Self {
            inner,
            encoder: Encoder::new(encoding),
            input: Bytes::new(),
            unflushed: false,
            is_stream,
            waiting: None,
            state: State::Reading,
        }
    }

    fn take_output(&mut self) -> Option<Frame<Bytes>> {
        let output = self.encoder.output();
        (!output.is_empty()).then(|| Frame::data(Bytes::from(std::mem::take(output))))
    }

    /// Compresses a slice of the input.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let slice = &self.input[..self.input.len().min(SLICE)];
        let written = ready!(self.encoder.writer().poll_write(cx, slice))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.input = self.input.slice(written..);
        self.unflushed = true;
        Poll::Ready(Ok(written))
    }

    /// Reads and compresses until there is a full output frame or the body ends.
    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut done = 0;
        loop {
            if self.encoder.output().len() >= OUTPUT_LEN {
                return Poll::Ready(self.take_output().map(Ok));
            }
            if done >= MAX_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.input.is_empty() {
                match ready!(self.write(cx)) {
                    Ok(written) => done += written,
                    Err(error) => return self.fail(error.into()),
                }
                continue;
            }
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.input = data,
                    Err(frame) => {
                        self.state = State::Ending(frame.into_trailers().ok());
                        return self.poll_ending(cx);
                    }
                },
                Poll::Ready(Some(Err(error))) => return self.fail(error),
                Poll::Ready(None) => {
                    self.state = State::Ending(None);
                    return self.poll_ending(cx);
                }
                Poll::Pending if self.unflushed => return self.poll_flush(cx),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Flushes pending output, at once or after the flush interval.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Polled {
        if !self.is_stream {
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(FLUSH_INTERVAL)));
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        if let Err(error) = ready!(self.encoder.writer().poll_flush(cx)) {
            return self.fail(error.into());
        }
        self.unflushed = false;
        match self.take_output() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Pending,
        }
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Err(error) = ready!(self.encoder.writer().poll_shutdown(cx)) {
            return self.fail(error.into());
        }
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::Ending(Some(trailers)) => State::Trailers(trailers),
            _ => State::Done,
        };
        match self.take_output() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.poll_trailers(),
        }
    }

    fn poll_trailers(&mut self) -> Polled {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Trailers(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            _ => Poll::Ready(None),
        }
    }

    fn fail(&mut self, error: BodyError) -> Polled {
        self.state = State::Done;
        Poll::Ready(Some(Err(error)))
    }
}

impl Frames for Compressed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        match self.state {
            State::Reading => self.poll_reading(cx),
            State::Ending(_) => self.poll_ending(cx),
            State::Trailers(_) | State::Done => self.poll_trailers(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::block_on;
    use async_compression::tokio::write::{BrotliDecoder, GzipDecoder, ZstdDecoder};
    use tidegate_core::CollectError;
    use tokio::io::AsyncWriteExt;

    pub(in crate::compress) fn decode(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        async fn through<W: AsyncWrite + Unpin>(mut decoder: W, bytes: &[u8]) -> W {
            decoder.write_all(bytes).await.unwrap();
            decoder.flush().await.unwrap();
            decoder
        }
        block_on(async {
            match encoding {
                Encoding::Gzip => through(GzipDecoder::new(Vec::new()), bytes).await.into_inner(),
                Encoding::Brotli => through(BrotliDecoder::new(Vec::new()), bytes).await.into_inner(),
                Encoding::Zstd => through(ZstdDecoder::new(Vec::new()), bytes).await.into_inner(),
            }
        })
    }

    /// Yields a chunk, is then pending for a while, and ends with trailers.
    struct Slow(u8);

    impl HttpBody for Slow {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
            self.0 += 1;
            match self.0 {
                1 => Poll::Ready(Some(Ok(Frame::data("data: 1\n\n".into())))),
                2 => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                3 => {
                    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                _ => Poll::Ready(None),
            }
        }
    }

    #[test]
    fn a_stream_is_flushed_when_its_source_is_pending() {
        for encoding in [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd] {
            block_on(async {
                let mut body = Body::of_frames(Compressed::new(Body::boxed(Slow(0)), encoding));
                let frame = async |body: &mut Body| {
                    std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.unwrap().unwrap()
                };
                let first = frame(&mut body).await.into_data().unwrap();
                let decoded = std::thread::spawn(move || decode(encoding, &first)).join().unwrap();
                assert_eq!(decoded, b"data: 1\n\n", "{encoding:?}");
                assert!(frame(&mut body).await.is_data());
                assert_eq!(frame(&mut body).await.into_trailers().unwrap()["x-sum"], "1");
            });
        }
    }

    /// Yields a chunk of a longer body, and is then pending forever.
    struct Stalled(Option<&'static str>);

    impl HttpBody for Stalled {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            self.0.take().map_or(Poll::Pending, |piece| Poll::Ready(Some(Ok(Frame::data(piece.into())))))
        }
        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(1_000_000)
        }
    }

    #[test]
    fn a_body_of_known_length_is_flushed_when_its_source_stalls() {
        let first = block_on(async {
            let mut body =
                Body::of_frames(Compressed::new(Body::boxed(Stalled(Some("begin"))), Encoding::Gzip));
            std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap()
        });
        assert_eq!(decode(Encoding::Gzip, &first.into_data().unwrap()), b"begin");
    }

    #[test]
    fn a_failed_body_fails_the_compressed_one() {
        let body = Body::of_frames(Compressed::new(Body::failed(BodyError::TimedOut), Encoding::Gzip));
        assert!(matches!(block_on(body.collect(100)), Err(CollectError::Failed(BodyError::TimedOut))));
    }
}
