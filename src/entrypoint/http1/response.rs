//! A response as it is written: its head with the first of its body, then the rest as it comes.

use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, StatusCode, response};
use http_body::Frame;
use tidegate_wire::http1::encode::Fields;
use tidegate_wire::http1::server::Response;
use tidegate_wire::http1::{Payload, SendError, Spelling};

use super::io::{Io, Shared, Stream};
use crate::entrypoint::http::body::SentBody;
use crate::entrypoint::http::date;

/// Number of unwritten bytes from which on they are written before more is taken from a body.
const FULL: usize = 16 * 1024;
/// Data of at most this many bytes are copied behind what is written before them, if more may follow at once.
const SMALL: usize = 2 * 1024;

/// How a response went on.
pub(super) enum Progress {
    /// All of it is in the output.
    Complete,
    /// The client has gone.
    Gone,
}

/// Why a response ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResponseError {
    /// Its body failed, which [`SentBody`] has logged. What was read before is written.
    #[error("response body failed")]
    Body,
    /// Its body is not as long as its head says.
    #[error("{0}")]
    Send(#[from] SendError),
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl<S: Stream> Io<S> {
    /// Puts the head of a response into the output.
    pub(super) fn begin_response(&mut self, head: &response::Parts, body: &SentBody) {
        let payload = payload(head.status, &head.headers, body);
        let fields = Fields { headers: &head.headers, spelling: &Spelling::LOWER };
        let response = Response { status: head.status, reason: None, fields, payload };
        let has_date = head.headers.contains_key(DATE);
        if let Err(error) = self.codec.respond(response, &mut self.output.head) {
            // An informational status, or a 101 that the client has not asked for.
            tracing::debug!(status = head.status.as_u16(), %error, "response cannot be sent");
            self.codec.close_after_response();
            let fields = Fields { headers: &HeaderMap::new(), spelling: &Spelling::LOWER };
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let response = Response { status, reason: None, fields, payload: Payload::None };
            // There is a request, and the status is final.
            let _ = self.codec.respond(response, &mut self.output.head);
        } else if !has_date {
            add_date(&mut self.output.head);
        }
    }

    /// Puts a part of the body into the output. Returns true if it was the last.
    fn add(
        &mut self,
        part: Option<Frame<bytes::Bytes>>,
        is_last: bool,
        trailers: bool,
    ) -> Result<bool, SendError> {
        let part = match part.map(Frame::into_data) {
            None => None,
            Some(Ok(data)) => {
                let frame = self.codec.send_data(data, is_last)?;
                self.output.push(frame, SMALL);
                return Ok(is_last);
            }
            Some(Err(part)) => part.into_trailers().ok().filter(|_| trailers),
        };
        let spelling = &Spelling::LOWER;
        let fields = part.as_ref().map(|headers| Fields { headers, spelling });
        self.codec.send_end(fields, &mut self.output.head)?;
        Ok(true)
    }
}

/// Takes the body and writes it, together with what is in the output. Sends trailers if the client accepts any.
pub(super) fn poll<S: Stream>(
    shared: &Shared<S>,
    body: &mut SentBody,
    trailers: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Progress, ResponseError>> {
    loop {
        let has_room = {
            let mut io = shared.lock();
            io.begin_poll(cx);
            !io.output.has_frame() && io.output.head_left() < FULL
        };
        // It may be the body of the request, which reads the connection.
        let polled = has_room.then(|| body.poll_frame(cx));
        let mut io = shared.lock();
        io.end_poll();
        let is_waiting = match polled {
            Some(Poll::Ready(part)) => {
                let part = part.transpose().map_err(|_| ResponseError::Body)?;
                if io.add(part, body.is_end_stream(), trailers)? {
                    return Poll::Ready(Ok(Progress::Complete));
                }
                if !io.output.has_frame() {
                    continue;
                }
                false
            }
            Some(Poll::Pending) => true,
            None => false,
        };
        ready!(io.poll_drain(cx))?;
        if is_waiting {
            return io.poll_gone(cx).map(|gone| gone.map(|()| Progress::Gone).map_err(ResponseError::from));
        }
    }
}

/// Adds the date to a head that ends with its empty line.
fn add_date(head: &mut Vec<u8>) {
    let Some(date) = date::now() else { return };
    head.truncate(head.len() - b"\r\n".len());
    for part in [&b"date: "[..], &date, b"\r\n\r\n"] {
        head.extend_from_slice(part);
    }
}

/// How the end of a body is announced: as its source knows it, or as its head says.
fn payload(status: StatusCode, headers: &HeaderMap, body: &SentBody) -> Payload {
    if body.is_end_stream() || status == StatusCode::NOT_MODIFIED {
        return Payload::None;
    }
    let announced = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    body.size_hint().exact().or_else(announced).map_or(Payload::Unknown, Payload::Length)
}
