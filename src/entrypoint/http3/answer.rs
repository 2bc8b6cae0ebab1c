//! The response on a request stream: head, body and trailers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use quinn::{SendStream, VarInt};
use smallvec::SmallVec;
use tidegate_core::{Body, BodyError, Response};
use tidegate_wire::http3::frame::{self, code};
use tidegate_wire::http3::qpack::{self, Added};
use tokio::time::Instant;

use crate::entrypoint::clock::STALLED;
use crate::entrypoint::conn_limit::ConnectionLimit;
use crate::entrypoint::http::date;

/// From how many bytes, or pieces, on a response is written instead of gathering more of what is available.
const MAX_GATHERED: usize = 64 * 1024;
const MAX_PIECES: usize = 16;

/// The sending side of a request stream, which is reset if it is dropped before the response is complete.
pub(super) struct ResponseStream {
    stream: SendStream,
    /// When the response must be complete.
    deadline: Option<Instant>,
    eviction: Eviction,
    finished: bool,
}

/// The connection of a response, which may be evicted if the client stalls.
pub(super) struct Eviction {
    pub(super) quic: quinn::Connection,
    pub(super) connections: Arc<ConnectionLimit>,
}

impl Eviction {
    /// Waits until the client has stalled for a while and connections are needed, then closes the connection.
    async fn evicted(&self) {
        tokio::time::sleep(STALLED).await;
        self.connections.evicted_when_full().await;
        self.quic.close(VarInt::from_u32(code::EXCESSIVE_LOAD), b"stalled while others need the room");
    }
}

/// The client has cancelled the request, or is too slow.
#[derive(Debug)]
pub(super) struct Unwanted;

impl ResponseStream {
    /// Creates the response of a stream.
    pub(super) fn new(stream: SendStream, deadline: Option<Instant>, eviction: Eviction) -> Self {
        Self { stream, deadline, eviction, finished: false }
    }

    /// Resolves at the deadline.
    pub(super) fn late(&self) -> impl Future<Output = ()> + Send + use<> {
        let deadline = self.deadline;
        async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Resolves when the client has received a finished response, or has stopped the stream.
    pub(super) async fn delivered(&self) -> Result<(), Unwanted> {
        tokio::select! {
            () = self.over() => Ok(()),
            () = self.late() => Err(Unwanted),
            () = self.eviction.evicted() => Err(Unwanted),
        }
    }

    /// Resolves when the client stops the stream or disconnects, or has received a finished response.
    pub(super) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.stream.stopped();
        async { drop(stopped.await) }
    }

    /// Resets the stream.
    pub(super) fn reset(&mut self, code: u32) {
        self.finished = true;
        // This only fails if the client has already stopped the stream.
        let _ = self.stream.reset(VarInt::from_u32(code));
    }

    /// Sends a complete response, without its body if `is_head`.
    pub(super) async fn send(&mut self, answer: Response, is_head: bool) -> Result<(), Unwanted> {
        let (head, body) = answer.into_parts();
        let has_body = !is_head && !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = if has_body { body.size_hint().exact() } else { None };
        let date = date::now();
        let added = Added { date: date.as_ref().map(|date| &date[..]), length };
        let mut first = qpack::write_frame(Some(head.status), &head.headers, added);
        if has_body {
            // A body of known length is a single frame.
            if let Some(length) = length.filter(|length| *length > 0) {
                frame::put_data_head(&mut first, length);
            }
            self.body(first.freeze(), body, length).await?;
        } else {
            self.write(&mut [first.freeze()]).await?;
        }
        self.finish()
    }

    /// Sends informational responses (RFC 9114 section 4.1).
    pub(super) async fn interim(&mut self, hints: Vec<(StatusCode, HeaderMap)>) -> Result<(), Unwanted> {
        for (status, headers) in hints {
            let frame = qpack::write_frame(Some(status), &headers, Added::default());
            self.write(&mut [frame.freeze()]).await?;
        }
        Ok(())
    }

    /// Sends the head of a response that opens a tunnel.
    pub(super) async fn open(&mut self, answer: Response) -> Result<(), Unwanted> {
        let (head, _) = answer.into_parts();
        let date = date::now();
        // A tunnel has no `Content-Length`.
        let added = Added { date: date.as_ref().map(|date| &date[..]), length: None };
        let frame = qpack::write_frame(Some(head.status), &head.headers, added);
        self.write(&mut [frame.freeze()]).await
    }

    /// Sends a data frame.
    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), Unwanted> {
        self.write(&mut [frame::data_head(data.len()), data]).await
    }

    /// Finishes the stream.
    pub(super) fn finish(&mut self) -> Result<(), Unwanted> {
        self.finished = true;
        self.stream.finish().map_err(|_| Unwanted)
    }

    /// Sends `first` and a body. `left` is its length in bytes if it is known, and then `first` has the head of its
    /// frame. What is available at once is written at once.
    async fn body(&mut self, first: Bytes, mut body: Body, mut left: Option<u64>) -> Result<(), Unwanted> {
        let mut over = std::pin::pin!(self.over());
        let mut late = std::pin::pin!(self.late());
        let mut gathered = Gathered { pieces: SmallVec::new(), size: 0 };
        gathered.pieces.push(first);
        loop {
            let next = std::future::poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
                Poll::Pending if !gathered.pieces.is_empty() => Poll::Ready(None),
                polled => polled.map(Some),
            });
            let next = tokio::select! {
                biased;
                next = next => next,
                () = &mut over => return Err(Unwanted),
                () = &mut late => {
                    body.fail(&BodyError::TimedOut);
                    return Err(Unwanted);
                }
            };
            let is_waiting = next.is_none();
            let ended = match next {
                None => false,
                Some(None) => true,
                Some(Some(Ok(frame))) => match gathered.add(frame, &mut left) {
                    Ok(()) => false,
                    Err(TooLong) => return Err(self.fail("it is longer than announced")),
                },
                Some(Some(Err(error))) => return Err(self.fail(&error)),
            };
            if is_waiting || ended || gathered.is_full() {
                if let Err(error) = self.write(&mut gathered.pieces).await {
                    if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        body.fail(&BodyError::TimedOut);
                    }
                    return Err(error);
                }
                gathered.clear();
            }
            if ended {
                return match left {
                    Some(1..) => Err(self.fail("it is shorter than announced")),
                    _ => Ok(()),
                };
            }
        }
    }

    /// Resets the stream, because the body of the response is broken.
    fn fail(&mut self, error: &(impl std::fmt::Display + ?Sized)) -> Unwanted {
        tracing::debug!(%error, "response body failed");
        self.reset(code::INTERNAL_ERROR);
        Unwanted
    }

    async fn write(&mut self, mut pieces: &mut [Bytes]) -> Result<(), Unwanted> {
        while !pieces.is_empty() {
            let late = self.late();
            let written = tokio::select! {
                biased;
                written = self.stream.write_chunks(pieces) => written.map_err(|_| Unwanted)?,
                () = late => return Err(Unwanted),
                () = self.eviction.evicted() => return Err(Unwanted),
            };
            pieces = &mut pieces[written.chunks..];
        }
        Ok(())
    }
}

impl Drop for ResponseStream {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(code::REQUEST_CANCELLED);
        }
    }
}

/// Pieces of a response that are written together.
struct Gathered {
    pieces: SmallVec<[Bytes; 4]>,
    /// Bytes of the body in them.
    size: usize,
}

/// A body is longer than announced.
struct TooLong;

impl Gathered {
    /// Adds a frame of a body. `left` is the length of the rest if the body is a single frame.
    fn add(&mut self, frame: http_body::Frame<Bytes>, left: &mut Option<u64>) -> Result<(), TooLong> {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                match left {
                    Some(left) => *left = left.checked_sub(data.len() as u64).ok_or(TooLong)?,
                    None => self.pieces.push(frame::data_head(data.len())),
                }
                self.size += data.len();
                self.pieces.push(data);
            }
            Err(frame) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let frame = qpack::write_frame(None, trailers, Added::default());
                    self.pieces.push(frame.freeze());
                }
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.size >= MAX_GATHERED || self.pieces.len() >= MAX_PIECES
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.size = 0;
    }
}
