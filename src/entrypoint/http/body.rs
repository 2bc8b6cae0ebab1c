//! Bodies between the HTTP library and the gateway, which report the progress of requests and responses.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tidegate_core::body::MinDataRate;
use tidegate_core::{Body, BodyError, End};
use tokio::time::{Instant, Sleep};

use crate::entrypoint::http::closing::Closing;
use crate::entrypoint::http::min_rate::{self, Responding};
use crate::entrypoint::http::protocol::Protocol;
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

/// A response body as the HTTP library reads it.
pub(in crate::entrypoint) struct ResponseBody {
    body: Body,
    open: OpenResponse,
    protocol: Protocol,
    closing: Option<Closing>,
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
    /// Creates a body whose end completes `open` and `closing`. If `headless`, nothing of `body` is sent after the
    /// head.
    pub(in crate::entrypoint) fn new(
        body: Body,
        (open, closing): (OpenResponse, Option<Closing>),
        protocol: Protocol,
        headless: bool,
    ) -> Self {
        let mut this = Self { body, open, protocol, closing, framed: None };
        if !protocol.is_framed() {
            this.open.progress.respond();
        } else if !this.body.is_end_stream() && !headless {
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

    fn fail(&mut self, error: &BodyError) {
        self.body.fail(error);
        if let Some(closing) = &mut self.closing {
            closing.finish(End::Failed(error.kind()));
        }
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
        if !this.protocol.is_framed() && this.open.progress.poll_unsent(cx).is_pending() {
            return Poll::Pending;
        }
        let deadline = this.framed.as_mut().and_then(|framed| framed.deadline.as_mut());
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            this.fail(&BodyError::TimedOut);
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if this.protocol.is_framed() {
            this.open.set_stalled(matches!(polled, Poll::Ready(Some(Ok(_)))));
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if !this.protocol.is_framed() {
                    this.open.progress.add_unsent(length);
                }
                if let Some(closing) = &mut this.closing {
                    closing.add_sent(length);
                    if let Some(trailers) = frame.trailers_ref() {
                        closing.record_fields(trailers);
                    }
                    if this.body.is_end_stream() {
                        closing.finish(End::Complete);
                    }
                }
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "response body failed");
                if let Some(closing) = &mut this.closing {
                    closing.finish(End::Failed(error.kind()));
                }
            }
            Poll::Ready(None) => {
                if let Some(closing) = &mut this.closing {
                    closing.finish(End::Complete);
                }
            }
            Poll::Pending => {}
        }
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
            self.fail(&BodyError::TimedOut);
        }
        if let Some(closing) = &mut self.closing {
            closing.finish(if self.body.is_end_stream() { End::Complete } else { End::Dropped });
        }
        if let Some(leftover) = framed.and_then(|framed| framed.leftover) {
            linger::drain_behind(leftover);
        }
    }
}

/// Returns the body of a request. `min_rate` applies where the stream below does not enforce it (HTTP/2): the response
/// then has to report when it is under way, and the rest of the body can be drained.
pub(in crate::entrypoint) fn request_body(
    incoming: Incoming,
    min_rate: Option<MinDataRate>,
) -> (Body, Option<(Responding, Leftover)>) {
    match min_rate {
        _ if incoming.is_end_stream() => (Body::empty(), None),
        None => (Body::incoming(incoming), None),
        Some(min_rate) => {
            let responding = Responding::stream();
            let (body, leftover) =
                min_rate::with_min_rate_and_leftover(Body::incoming(incoming), min_rate, responding.clone());
            (body, Some((responding, leftover)))
        }
    }
}
