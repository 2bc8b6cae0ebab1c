//! Bodies between the gateway and its clients, which report the progress of requests and responses.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tidegate_core::body::MinDataRate;
use tidegate_core::{Body, BodyError, End, Polled};
use tokio::time::{Instant, Sleep};

use crate::entrypoint::http::closing::Closing;
use crate::entrypoint::http::min_rate::{self, Responding};
use crate::entrypoint::http1_2::linger::{self, Leftover};
use crate::entrypoint::http1_2::progress::Progress;

/// An open response, counted until it is dropped.
pub(in crate::entrypoint) struct OpenResponse {
    progress: Arc<Progress>,
    /// The body waits for the client to read (HTTP/2).
    stalled: bool,
}

impl OpenResponse {
    /// Counts a response.
    pub(in crate::entrypoint) fn new(progress: Arc<Progress>) -> Self {
        progress.begin();
        Self { progress, stalled: false }
    }

    fn set_stalled(&mut self, stalled: bool) {
        if stalled != self.stalled {
            self.stalled = stalled;
            self.progress.count_stalled(stalled);
        }
    }
}

impl Drop for OpenResponse {
    fn drop(&mut self) {
        self.set_stalled(false);
        self.progress.end();
    }
}

/// The body of a response to a client, whose end is that of its exchange.
pub(in crate::entrypoint) struct SentBody {
    body: Body,
    closing: Option<Closing>,
}

impl SentBody {
    /// Creates a body whose end completes `closing`.
    pub(in crate::entrypoint) fn new(body: Body, closing: Option<Closing>) -> Self {
        Self { body, closing }
    }

    /// Polls for the next frame.
    pub(in crate::entrypoint) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let Some(closing) = &mut self.closing else { return polled };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                closing.add_sent(frame.data_ref().map_or(0, Bytes::len));
                if let Some(trailers) = frame.trailers_ref() {
                    closing.record_fields(trailers);
                }
                if self.body.is_end_stream() {
                    closing.finish(End::Complete);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "response body failed");
                closing.finish(End::Failed(error.kind()));
            }
            Poll::Ready(None) => closing.finish(End::Complete),
            Poll::Pending => {}
        }
        polled
    }

    /// Returns true when the body is known to have ended.
    pub(in crate::entrypoint) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Returns the known bounds of the remaining length.
    pub(in crate::entrypoint) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    /// Ends the exchange, as there is nothing to send but the head.
    pub(in crate::entrypoint) fn complete(&mut self) {
        if let Some(closing) = &mut self.closing {
            closing.finish(End::Complete);
        }
    }

    /// Ends body and exchange because of a failure.
    pub(in crate::entrypoint) fn fail(&mut self, error: &BodyError) {
        self.body.fail(error);
        if let Some(closing) = &mut self.closing {
            closing.finish(End::Failed(error.kind()));
        }
    }
}

impl Drop for SentBody {
    fn drop(&mut self) {
        if let Some(closing) = &mut self.closing {
            closing.finish(if self.body.is_end_stream() { End::Complete } else { End::Dropped });
        }
    }
}

/// A response body as the HTTP library reads it (HTTP/2).
pub(in crate::entrypoint) struct ResponseBody {
    body: SentBody,
    open: OpenResponse,
    /// What few responses need; boxed, because this body is moved several times.
    framed: Option<Box<Framed>>,
}

/// What ties an HTTP/2 response to its request.
struct Framed {
    /// Tells the request body that the response has started.
    responding: Option<Responding>,
    /// The rest of the request body, which the client may still be sending after the response.
    leftover: Option<Leftover>,
    /// When the response must be complete.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    /// Creates a body whose end completes `open`. If `headless`, nothing of `body` is sent after the head.
    pub(in crate::entrypoint) fn new(body: SentBody, open: OpenResponse, headless: bool) -> Self {
        let mut this = Self { body, open, framed: None };
        if !this.body.is_end_stream() && !headless {
            this.open.set_stalled(true);
        }
        this
    }

    /// Ties the response to its request: `responding` is set until the response ends, then `leftover` is discarded. The
    /// response fails at `deadline`.
    pub(in crate::entrypoint) fn bind(
        &mut self,
        responding: Option<Responding>,
        leftover: Option<Leftover>,
        deadline: Option<Instant>,
    ) {
        let deadline = deadline.filter(|_| !self.body.is_end_stream());
        if responding.is_none() && leftover.is_none() && deadline.is_none() {
            return;
        }
        if let Some(responding) = &responding {
            responding.set(true);
        }
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        self.framed = Some(Box::new(Framed { responding, leftover, deadline }));
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let deadline = this.framed.as_mut().and_then(|framed| framed.deadline.as_mut());
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            this.body.fail(&BodyError::TimedOut);
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        let polled = this.body.poll_frame(cx);
        this.open.set_stalled(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let framed = self.framed.take();
        if let Some(responding) = framed.as_ref().and_then(|framed| framed.responding.as_ref()) {
            responding.set(false);
        }
        if self.open.progress.is_cut() {
            self.body.fail(&BodyError::TimedOut);
        }
        if let Some(leftover) = framed.and_then(|framed| framed.leftover) {
            linger::drain_behind(leftover);
        }
    }
}

/// Returns the body of a request of HTTP/2. The response then has to report when it is under way, and the rest of the
/// body can be drained.
pub(in crate::entrypoint) fn request_body(
    incoming: Incoming,
    min_rate: MinDataRate,
) -> (Body, Option<(Responding, Leftover)>) {
    if incoming.is_end_stream() {
        return (Body::empty(), None);
    }
    let responding = Responding::stream();
    let (body, leftover) =
        min_rate::with_min_rate_and_leftover(Body::incoming(incoming), min_rate, responding.clone());
    (body, Some((responding, leftover)))
}
