//! Bodies between the HTTP library and the gateway: they tell the connection how far a request and its answer are.

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
use crate::entrypoint::http::min_rate::{self, Answering};
use crate::entrypoint::http::protocol::Protocol;
use crate::entrypoint::http1_2::linger::{self, Leftover};
use crate::entrypoint::http1_2::progress::Progress;

/// One open answer, counted until dropped.
pub(in crate::entrypoint) struct OpenAnswer {
    progress: Arc<Progress>,
    /// Its body waits for the client to take more (HTTP/2).
    stalled: bool,
}

impl OpenAnswer {
    /// Counts an answer.
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

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        self.set_stalled(false);
        self.progress.end();
    }
}

/// The body of an answer, as the HTTP library reads it.
pub(in crate::entrypoint) struct AnswerBody {
    body: Body,
    open: OpenAnswer,
    protocol: Protocol,
    closing: Option<Closing>,
    /// What few answers need, in a box of its own: this body is moved several times.
    framed: Option<Box<Framed>>,
}

/// What an answer over HTTP/2 has to do with its request.
struct Framed {
    /// The request body, which learns when the answer begins.
    answering: Option<Answering>,
    /// What the client may still be sending of the request when the answer is over.
    leftover: Option<Leftover>,
    /// When it must be over.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl AnswerBody {
    /// The body of an answer whose end closes `open` and `closing`. `headless`: no body follows the head whatever `body`
    /// says.
    pub(in crate::entrypoint) fn new(
        body: Body,
        (open, closing): (OpenAnswer, Option<Closing>),
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

    /// Ties the answer to its request: `answering` is set until the answer is over, what is left of the request is
    /// discarded then, and the answer fails at `deadline`.
    pub(in crate::entrypoint) fn bind(
        &mut self,
        answering: Option<Answering>,
        leftover: Option<Leftover>,
        deadline: Option<Instant>,
    ) {
        let deadline = deadline.filter(|_| !self.body.is_end_stream());
        if answering.is_none() && leftover.is_none() && deadline.is_none() {
            return;
        }
        if let Some(answering) = &answering {
            answering.set(true);
        }
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        self.framed = Some(Box::new(Framed { answering, leftover, deadline }));
    }

    fn fail(&mut self, error: &BodyError) {
        self.body.fail(error);
        if let Some(closing) = &mut self.closing {
            closing.finish(End::Failed(error.kind()));
        }
    }
}

impl HttpBody for AnswerBody {
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
                    if this.body.is_end_stream() {
                        closing.finish(End::Complete);
                    }
                }
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "the body of an answer broke off");
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

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let framed = self.framed.take();
        if let Some(answering) = framed.as_ref().and_then(|framed| framed.answering.as_ref()) {
            answering.set(false);
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
) -> (Body, Option<(Answering, Leftover)>) {
    match min_rate {
        _ if incoming.is_end_stream() => (Body::empty(), None),
        None => (Body::incoming(incoming), None),
        Some(min_rate) => {
            let answering = Answering::stream();
            let (body, leftover) =
                min_rate::with_min_rate_and_leftover(Body::incoming(incoming), min_rate, answering.clone());
            (body, Some((answering, leftover)))
        }
    }
}
