//! The response on a request stream: head, body and trailers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode, response};
use http_body::Body as _;
use quinn::{SendStream, VarInt};
use tidegate_core::{Body, BodyError, Response};
use tidegate_wire::http3::frame::{self, code};
use tidegate_wire::http3::qpack;
use tokio::time::Instant;

use crate::entrypoint::clock::STALLED;
use crate::entrypoint::conn_limit::ConnectionLimit;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

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
        let (mut head, body) = answer.into_parts();
        let bodiless = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        complete(&mut head, &body, is_head);
        let block = qpack::write(Some(head.status), &head.headers);
        self.write(&mut [frame::block_head(block.len()), block]).await?;
        if !bodiless {
            self.body(body).await?;
        }
        self.finish()
    }

    /// Sends informational responses (RFC 9114 section 4.1).
    pub(super) async fn interim(&mut self, hints: Vec<(StatusCode, HeaderMap)>) -> Result<(), Unwanted> {
        for (status, headers) in hints {
            let block = qpack::write(Some(status), &headers);
            self.write(&mut [frame::block_head(block.len()), block]).await?;
        }
        Ok(())
    }

    /// Sends the head of a response that opens a tunnel.
    pub(super) async fn open(&mut self, answer: Response) -> Result<(), Unwanted> {
        let (mut head, body) = answer.into_parts();
        // A tunnel has no `Content-Length`.
        complete(&mut head, &body, true);
        let block = qpack::write(Some(head.status), &head.headers);
        self.write(&mut [frame::block_head(block.len()), block]).await
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

    async fn body(&mut self, mut body: Body) -> Result<(), Unwanted> {
        let mut over = std::pin::pin!(self.over());
        let mut late = std::pin::pin!(self.late());
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            let next = tokio::select! {
                biased;
                next = next => next,
                () = &mut over => return Err(Unwanted),
                () = &mut late => {
                    body.fail(&BodyError::TimedOut);
                    return Err(Unwanted);
                }
            };
            let frame = match next {
                None => return Ok(()),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    tracing::debug!(%error, "response body failed");
                    self.reset(code::INTERNAL_ERROR);
                    return Err(Unwanted);
                }
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    if let Err(error) = self.data(data).await {
                        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                            body.fail(&BodyError::TimedOut);
                        }
                        return Err(error);
                    }
                }
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        let block = qpack::write(None, trailers);
                        self.write(&mut [frame::block_head(block.len()), block]).await?;
                    }
                }
            }
        }
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

/// Adds `Date` and `Content-Length`, and removes connection-specific headers.
fn complete(head: &mut response::Parts, body: &Body, is_head: bool) {
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(name);
    }
    if !head.headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        head.headers.insert(DATE, date);
    }
    let may_have_length =
        !is_head && head.status != StatusCode::NO_CONTENT && head.status != StatusCode::NOT_MODIFIED;
    if may_have_length
        && !head.headers.contains_key(CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
}
