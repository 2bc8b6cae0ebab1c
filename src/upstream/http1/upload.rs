//! Requests that are still being sent when their response begins.
//!
//! The reader of a response may not poll it until the request is complete, so a task sends the rest, and reads the
//! response as fast as it is taken.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tidegate_core::{BodyError, Frames, Polled};
use tidegate_wire::http1::Framing;
use tidegate_wire::http1::client::Event;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::release::Release;
use super::{Http1, Http1Error};

/// A part of a body, or its end.
type Part = Option<Result<Frame<Bytes>, BodyError>>;

/// The body of a response to a request that is still being sent.
pub(super) struct Uploading {
    parts: Receiver<Part>,
    /// Bytes left, if that is known.
    left: Option<u64>,
    ended: bool,
}

impl Uploading {
    /// Starts the task.
    pub(super) fn start(connection: Box<Http1>, framing: Framing, release: Release) -> Self {
        // The task reads one part ahead.
        let (sender, parts) = mpsc::channel(1);
        tokio::spawn(run(connection, release, sender));
        let left = if let Framing::Length(length) = framing { Some(length) } else { None };
        Self { parts, left, ended: false }
    }
}

impl Frames for Uploading {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.ended {
            return Poll::Ready(None);
        }
        // Without its end, the task was stopped.
        let part = ready!(self.parts.poll_recv(cx)).unwrap_or(Some(Err(Http1Error::Closed.into())));
        match (&part, &mut self.left) {
            (Some(Ok(frame)), Some(left)) => {
                *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                self.ended = *left == 0;
            }
            (Some(Ok(_)), None) => {}
            (Some(Err(_)) | None, _) => self.ended = true,
        }
        Poll::Ready(part)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Sends the request, and passes the response on, until its reader is gone.
async fn run(mut connection: Box<Http1>, release: Release, parts: Sender<Part>) {
    if read(&mut connection, &parts).await {
        drop(parts);
        release.release(connection);
    }
}

/// Passes the response on. Returns true if it is complete, and false if the connection is of no more use.
async fn read(connection: &mut Http1, parts: &Sender<Part>) -> bool {
    // A reader that knows the length does not wait for the end.
    let is_over = |connection: &mut Http1| matches!(connection.codec.poll(), Ok(Some(Event::End)));
    loop {
        let permit = match while_sending(connection, parts.reserve()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return is_over(connection),
            Err(error) => {
                // Its reader may be gone.
                let _ = parts.send(Some(Err(error.into()))).await;
                return false;
            }
        };
        let mut gone = pin!(parts.closed());
        let event = poll_fn(|cx| {
            if gone.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if connection.is_sending()
                && let Poll::Ready(Err(error)) = connection.poll_send(cx)
            {
                return Poll::Ready(Some(Err(error)));
            }
            connection.poll_event(cx).map(Some)
        });
        match event.await {
            None => return is_over(connection),
            Some(Ok(Event::Data(data))) => permit.send(Some(Ok(Frame::data(data)))),
            Some(Ok(Event::Trailers(trailers))) => permit.send(Some(Ok(Frame::trailers(trailers.headers)))),
            Some(Ok(Event::End)) => {
                permit.send(None);
                return true;
            }
            Some(Ok(Event::Head(_) | Event::Informational(_) | Event::Upgraded(_))) => {
                permit.send(Some(Err(Http1Error::Closed.into())));
                return false;
            }
            Some(Err(error)) => {
                permit.send(Some(Err(error.into())));
                return false;
            }
        }
    }
}

/// Waits for something, and sends the request meanwhile.
///
/// # Errors
/// If the request cannot be sent.
async fn while_sending<T>(connection: &mut Http1, wanted: impl Future<Output = T>) -> Result<T, Http1Error> {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        if connection.is_sending()
            && let Poll::Ready(Err(error)) = connection.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        wanted.as_mut().poll(cx).map(Ok)
    })
    .await
}
