//! The body of a response, which reads the connection, and returns it to its pool at the end.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tidegate_core::{Body, BodyError, Frames, Polled};
use tidegate_wire::http1::Framing;
use tidegate_wire::http1::client::Event;

use super::release::Release;
use super::upload::Uploading;
use super::{Http1, Http1Error};

/// Returns the body of a response, whose head has been read. If all of it has been read, the connection is free at once.
pub(in crate::upstream) fn response_body(
    mut connection: Box<Http1>,
    framing: Framing,
    release: Release,
) -> Body {
    let whole = match framing {
        Framing::None | Framing::Length(0) => Some(Bytes::new()),
        Framing::Length(length) => connection.take_whole(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    if let Some(data) = whole {
        release.release(connection);
        return Body::full(data);
    }
    if connection.is_sending() {
        // The client may send all of its request before it reads anything.
        return Body::of_frames(Uploading::start(connection, framing, release));
    }
    Body::of_frames(ResponseBody {
        open: Some((connection, release)),
        is_exact: matches!(framing, Framing::Length(_)),
        ready: None,
    })
}

/// A body that is read from its connection.
struct ResponseBody {
    /// `None` after the end.
    open: Option<(Box<Http1>, Release)>,
    /// Its length is known.
    is_exact: bool,
    /// What follows the last frame, if it is known.
    ready: Option<Result<Event, Http1Error>>,
}

impl ResponseBody {
    /// Looks at what follows, as not every reader polls again after the last frame.
    fn look_ahead(&mut self) {
        let Some((connection, _)) = &mut self.open else { return };
        if connection.codec.body_left() != Some(0) {
            return;
        }
        match connection.codec.poll() {
            Ok(Some(Event::End)) => self.end(),
            Ok(Some(event)) => self.ready = Some(Ok(event)),
            Ok(None) => {}
            Err(error) => self.ready = Some(Err(error.into())),
        }
    }

    fn end(&mut self) {
        if let Some((connection, release)) = self.open.take() {
            release.release(connection);
        }
    }
}

impl Frames for ResponseBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let event = match (self.ready.take(), &mut self.open) {
            (_, None) => return Poll::Ready(None),
            (Some(event), _) => event,
            (None, Some((connection, _))) => ready!(connection.poll_event(cx)),
        };
        Poll::Ready(match event {
            Ok(Event::Data(data)) => {
                self.look_ahead();
                Some(Ok(Frame::data(data)))
            }
            Ok(Event::Trailers(trailers)) => {
                self.look_ahead();
                Some(Ok(Frame::trailers(trailers.headers)))
            }
            Ok(Event::End) => {
                self.end();
                None
            }
            Ok(Event::Head(_) | Event::Informational(_) | Event::Upgraded(_)) => {
                self.open = None;
                Some(Err(Http1Error::Closed.into()))
            }
            Err(error) => {
                self.open = None;
                Some(Err(BodyError::from(error)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.open {
            None => SizeHint::with_exact(0),
            Some((connection, _)) if self.is_exact => {
                connection.codec.body_left().map_or_else(SizeHint::new, SizeHint::with_exact)
            }
            Some(_) => SizeHint::new(),
        }
    }
}
