//! Bodies between the gateway and its clients, which report the progress of requests and responses.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, SizeHint};
use tidegate_core::{Body, BodyError, End, Polled};

use crate::entrypoint::http::closing::Closing;
use crate::entrypoint::http2::progress::Progress;

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

    /// Records whether the body waits for the client to read (HTTP/2).
    pub(in crate::entrypoint) fn set_stalled(&mut self, stalled: bool) {
        if stalled != self.stalled {
            self.stalled = stalled;
            self.progress.count_stalled(stalled);
        }
    }
}

impl OpenResponse {
    /// Returns true if the gateway has closed the connection.
    pub(in crate::entrypoint) fn is_cut(&self) -> bool {
        self.progress.is_cut()
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
