//! What a client is sent on a request stream: head, body and trailers of the answer.

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

use crate::entrypoint::conn_limit::ConnectionLimit;
use crate::entrypoint::http1_2::clock::STALLED;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// The sending side of a request stream. Unless the answer was finished, its end is no orderly one for the client.
pub(super) struct Answer {
    stream: SendStream,
    /// When it must be over.
    deadline: Option<Instant>,
    place: Place,
    finished: bool,
}

/// The connection of an answer, as the one of many that it is.
pub(super) struct Place {
    pub(super) quic: quinn::Connection,
    pub(super) connections: Arc<ConnectionLimit>,
}

impl Place {
    /// Closes the connection once the client has stalled for a while and others need its room.
    async fn yielded(&self) {
        tokio::time::sleep(STALLED).await;
        self.connections.evicted_when_full().await;
        self.quic.close(VarInt::from_u32(code::EXCESSIVE_LOAD), b"stalled while others need the room");
    }
}

/// The client does not want the answer any more, or takes too long.
#[derive(Debug)]
pub(super) struct Unwanted;

impl Answer {
    /// An answer on this stream.
    pub(super) fn new(stream: SendStream, deadline: Option<Instant>, place: Place) -> Self {
        Self { stream, deadline, place, finished: false }
    }

    /// Ready when it must be over.
    pub(super) fn late(&self) -> impl Future<Output = ()> + Send + use<> {
        let deadline = self.deadline;
        async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Ready when the client has the whole of a finished answer, or does not want it any more.
    pub(super) async fn delivered(&self) -> Result<(), Unwanted> {
        tokio::select! {
            () = self.over() => Ok(()),
            () = self.late() => Err(Unwanted),
            () = self.place.yielded() => Err(Unwanted),
        }
    }

    /// Ready when the client stops the stream or is gone; or, when the answer is finished, when the client has it.
    pub(super) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.stream.stopped();
        async { drop(stopped.await) }
    }

    /// Ends the stream without an answer.
    pub(super) fn reset(&mut self, code: u32) {
        self.finished = true;
        // It is an error when the client has stopped the stream already.
        let _ = self.stream.reset(VarInt::from_u32(code));
    }

    /// Sends a whole answer. `is_head`: it goes without its body.
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

    /// Sends interim answers, which come before the answer itself (RFC 9114 section 4.1).
    pub(super) async fn interim(&mut self, hints: Vec<(StatusCode, HeaderMap)>) -> Result<(), Unwanted> {
        for (status, headers) in hints {
            let block = qpack::write(Some(status), &headers);
            self.write(&mut [frame::block_head(block.len()), block]).await?;
        }
        Ok(())
    }

    /// Sends the head of an answer, whose data is then a tunnel's.
    pub(super) async fn open(&mut self, answer: Response) -> Result<(), Unwanted> {
        let (mut head, body) = answer.into_parts();
        // A tunnel has no length.
        complete(&mut head, &body, true);
        let block = qpack::write(Some(head.status), &head.headers);
        self.write(&mut [frame::block_head(block.len()), block]).await
    }

    /// Sends data.
    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), Unwanted> {
        self.write(&mut [frame::data_head(data.len()), data]).await
    }

    /// Ends the stream in order.
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
                    tracing::debug!(%error, "the body of an answer broke off");
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
                () = self.place.yielded() => return Err(Unwanted),
            };
            pieces = &mut pieces[written.chunks..];
        }
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(code::REQUEST_CANCELLED);
        }
    }
}

/// Adds what every answer has, and removes what speaks of one connection.
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
