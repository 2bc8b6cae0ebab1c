//! The body of a request, which reads the connection.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tidegate_core::body::MinDataRate;
use tidegate_core::{BodyError, Frames, Polled};
use tidegate_wire::http1::server::Event;
use tidegate_wire::http1::{Framing, Piece};

use super::io::{Shared, Stream};

/// The body of a request. It may be read by another task than the connection's.
pub(super) struct RequestBody<S: Stream> {
    shared: Arc<Shared<S>>,
    /// What follows the last frame, if it is known.
    ahead: Option<Result<Frame<Bytes>, BodyError>>,
    /// Bytes left, if that is known.
    left: Option<u64>,
    has_ended: bool,
}

impl<S: Stream> RequestBody<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, framing: Framing) -> Self {
        let left = if let Framing::Length(length) = framing { Some(length) } else { None };
        Self { shared, ahead: None, left, has_ended: false }
    }

    fn end(&mut self) {
        if !self.has_ended {
            self.has_ended = true;
            self.shared.lock().close_body();
        }
    }

    /// Looks at what follows, as not every reader polls again after the last frame.
    fn look_ahead(&mut self) {
        let found = self.shared.lock().look_ahead();
        match found {
            Ok(Some(Event::Data(data))) => self.ahead = Some(Ok(Frame::data(data))),
            Ok(Some(Event::Trailers(trailers))) => self.ahead = Some(Ok(Frame::trailers(trailers.headers))),
            Ok(Some(_)) => self.end(),
            Ok(None) => {}
            Err(error) => {
                self.shared.lock().fail_body();
                self.ahead = Some(Err(BodyError::Gone(error.to_string())));
            }
        }
    }
}

impl<S: Stream> Frames for RequestBody<S> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let frame = match self.ahead.take() {
            Some(ahead) => ahead,
            None => match { ready!(self.shared.lock().poll_body(cx)) } {
                Ok(Piece::Data(data)) => Ok(Frame::data(data)),
                Ok(Piece::Trailers(trailers)) => Ok(Frame::trailers(trailers.headers)),
                Ok(Piece::End) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Err(error) => Err(error),
            },
        };
        match &frame {
            Ok(frame) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                self.look_ahead();
            }
            Err(_) => self.end(),
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.has_ended => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        self.shared.lock().body.limits = Some(min_rate);
        true
    }
}

impl<S: Stream> Drop for RequestBody<S> {
    fn drop(&mut self) {
        self.end();
    }
}
