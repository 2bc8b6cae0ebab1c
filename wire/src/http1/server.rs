//! The server's side of a connection, without I/O: requests come out of bytes, and responses become bytes.
//!
//! The driver reads into [`Server::input`] while [`Server::wants_input`], and calls [`Server::poll`] until it returns
//! `None`. One request is handled at a time: those that a client sends ahead stay in the buffer until the response is
//! complete. What is written is appended to a buffer of the driver, or returned as a [`Frame`].

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode, Version};

use super::body::Decoder;
use super::encode::{self, Connection, Fields, Frame};
use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::message::{Asked, Framing, decimal};
use super::piece::{Piece, Sender, Trailers};
use super::request::{RequestHead, RequestParser};
use super::response::Reason;
use super::send::{BodyWriter, Payload, SendError};

/// What a client has sent.
#[derive(Debug)]
pub enum Event {
    /// A head. The rest of the request follows if [`Framing::has_body`].
    Head(RequestHead),
    /// Bytes of the body.
    Data(Bytes),
    /// Fields after the body.
    Trailers(Box<Trailers>),
    /// The end of the body.
    End,
    /// The connection has changed to another protocol, or is a tunnel: these are the first bytes that are not HTTP. The
    /// machine is done.
    Upgraded(BytesMut),
}

/// A response that is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The status, not an informational one except 101.
    pub status: StatusCode,
    /// The reason, if it is not the usual one.
    pub reason: Option<&'a Reason>,
    /// The fields. `Connection` may list `close`; the rest of it is decided here.
    pub fields: Fields<'a>,
    /// What is known about the body. It is ignored if there cannot be one.
    pub payload: Payload,
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: the connection is idle.
    Idle,
    /// A head that has started.
    Head,
    /// A body.
    Body,
    /// Nothing until the response is complete.
    Responding,
    /// Nothing any more.
    Closed,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    input: BytesMut,
    parser: RequestParser,
    reading: Reading,
    writing: Writing,
    exchange: Exchange,
    /// The client has ended its side.
    ended: bool,
}

#[derive(Debug)]
enum Reading {
    Head,
    Body(Decoder),
    /// The request is complete.
    Complete,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// There is no request to respond to.
    Nothing,
    /// The head of the response is expected.
    Head,
    Body(BodyWriter),
    /// The response is complete, but the request is not.
    Complete,
    /// The connection changes its protocol as soon as the request is complete.
    Switching,
}

/// What decides about the current response.
#[derive(Debug)]
struct Exchange {
    asked: Asked,
    version: Version,
    persists: bool,
    /// The client waits for a 100.
    awaits_continue: bool,
}

impl Server {
    /// Creates the state of a new connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            input: BytesMut::new(),
            parser: RequestParser::default(),
            reading: Reading::Head,
            writing: Writing::Nothing,
            exchange: Exchange {
                asked: Asked::default(),
                version: Version::HTTP_11,
                persists: true,
                awaits_continue: false,
            },
            ended: false,
        }
    }

    /// Returns the buffer to read into. Bytes may only be added at its end.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Returns true while more bytes are useful. Otherwise the client must not be read, so that the buffer does not grow:
    /// it sends requests ahead of their turn.
    pub fn wants_input(&self) -> bool {
        match self.reading {
            _ if self.ended => false,
            Reading::Head | Reading::Body(_) => true,
            // One read of requests ahead, or the news that the client has gone.
            Reading::Complete => self.input.is_empty(),
            Reading::Closed => false,
        }
    }

    /// Records that the client sends nothing more.
    pub fn end_input(&mut self) {
        self.ended = true;
    }

    /// Returns what the next bytes belong to.
    pub fn phase(&self) -> Phase {
        match self.reading {
            Reading::Head if self.input.is_empty() && self.parser.is_at_start() => Phase::Idle,
            Reading::Head => Phase::Head,
            Reading::Body(_) => Phase::Body,
            Reading::Complete => Phase::Responding,
            Reading::Closed => Phase::Closed,
        }
    }

    /// Returns the number of bytes of a head that is incomplete.
    pub fn incomplete_head(&self) -> usize {
        if matches!(self.reading, Reading::Head) { self.input.len() } else { 0 }
    }

    /// Returns how many bytes of the body are left, as far as that is known: [`Decoder::left`].
    pub fn body_left(&self) -> Option<u64> {
        if let Reading::Body(decoder) = &self.reading { decoder.left() } else { Some(0) }
    }

    /// Takes the next part of a request from the buffer. Returns `None` if that needs more bytes, or a response first.
    ///
    /// # Errors
    /// The first violation. [`refusal`](Self::refusal) is then the response to be written, and the connection has to be
    /// closed.
    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        let polled = match &mut self.reading {
            Reading::Head => self.poll_head(),
            Reading::Body(_) => self.poll_body(),
            Reading::Complete if self.writing == Writing::Switching => {
                let rest = std::mem::take(&mut self.input);
                self.close();
                Ok(Some(Event::Upgraded(rest)))
            }
            Reading::Complete | Reading::Closed => Ok(None),
        };
        if polled.is_err() {
            self.close();
        }
        polled
    }

    /// Refuses the incomplete head, since there is no memory for more of it.
    pub fn refuse_large(&mut self) -> Error {
        let error = self.parser.too_large(self.input.len());
        self.close();
        error
    }

    /// Returns the response to an error of [`poll`](Self::poll), unless another response has begun.
    pub fn refusal(&self, error: &Error) -> Option<&'static [u8]> {
        let is_free = matches!(self.writing, Writing::Nothing | Writing::Head);
        let is_answerable = !matches!(error.kind, ErrorKind::IncompleteHead | ErrorKind::IncompleteBody);
        (is_free && is_answerable).then(|| error.refusal().response())
    }

    /// Writes the 100 that the client waits for before it sends the body. Does nothing if it does not, or no longer.
    pub fn send_continue(&mut self, out: &mut Vec<u8>) {
        let is_due = self.exchange.awaits_continue && self.writing == Writing::Head && self.input.is_empty();
        if is_due {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.exchange.awaits_continue = false;
    }

    /// Writes an informational response, except to HTTP/1.0, which does not have them.
    ///
    /// # Errors
    /// If there is no request to respond to, or the status is none of those, or 101, which [`respond`](Self::respond)
    /// sends.
    pub fn inform(
        &mut self,
        status: StatusCode,
        fields: Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        if self.writing != Writing::Head {
            return Err(SendError::UnexpectedHead);
        }
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(SendError::Status);
        }
        if self.exchange.version == Version::HTTP_11 {
            self.exchange.awaits_continue &= status != StatusCode::CONTINUE;
            let version = Version::HTTP_11;
            encode::response(version, status, None, fields, Framing::None, Connection::Unsaid, out);
        }
        Ok(())
    }

    /// Lets the connection end with the current response, or with the next one.
    pub fn close_after_response(&mut self) {
        self.exchange.persists = false;
    }

    /// Writes the head of the response. It says whether the connection persists.
    ///
    /// # Errors
    /// If there is no request to respond to, or the status does not suit it.
    pub fn respond(&mut self, response: Response<'_>, out: &mut Vec<u8>) -> Result<(), SendError> {
        let Response { status, reason, fields, payload } = response;
        if self.writing != Writing::Head {
            return Err(SendError::UnexpectedHead);
        }
        let Exchange { asked, version, .. } = self.exchange;
        let switches = asked.opens_tunnel(status);
        if status.is_informational() && !switches {
            let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
            return Err(if is_upgrade { SendError::UnexpectedUpgrade } else { SendError::Status });
        }
        let is_bodiless = asked.is_bodiless(status);
        let framing = self.framing(status, payload, fields.headers);
        // Without the 100 it is not known whether the body comes, and after a request for an upgrade or a tunnel, whether
        // what comes is HTTP.
        let awaits_continue = self.exchange.awaits_continue && self.input.is_empty();
        let is_other = asked.upgrade || asked.connect;
        let ends = awaits_continue || is_other || framing == Framing::UntilClose;
        self.exchange.persists &= !ends;
        let connection = match (switches, self.exchange.persists) {
            (true, _) if status == StatusCode::SWITCHING_PROTOCOLS => Connection::Upgrade,
            (true, _) => Connection::Unsaid,
            (false, false) => Connection::Close,
            (false, true) if version == Version::HTTP_10 => Connection::KeepAlive,
            (false, true) => Connection::Unsaid,
        };
        self.exchange.persists &= encode::response(version, status, reason, fields, framing, connection, out);
        let body = BodyWriter::new(framing).filter(|_| !is_bodiless);
        match body {
            _ if switches => self.writing = Writing::Switching,
            Some(body) => self.writing = Writing::Body(body),
            None => self.finish(),
        }
        Ok(())
    }

    /// Frames a part of the response's body. With `last`, it is the end, without trailers.
    ///
    /// # Errors
    /// If no body is being sent, or it is not as long as was announced.
    pub fn send_data(&mut self, data: Bytes, last: bool) -> Result<Frame, SendError> {
        let Writing::Body(body) = &mut self.writing else { return Err(SendError::UnexpectedData) };
        let frame = body.data(data, last)?;
        if last {
            self.finish();
        }
        Ok(frame)
    }

    /// Writes the end of the response's body.
    ///
    /// # Errors
    /// If no body is being sent, or it is shorter than was announced.
    pub fn send_end(&mut self, trailers: Option<Fields<'_>>, out: &mut Vec<u8>) -> Result<(), SendError> {
        let Writing::Body(body) = self.writing else { return Err(SendError::UnexpectedData) };
        body.end(trailers, out)?;
        self.finish();
        Ok(())
    }

    /// Returns true while the body of the response is incomplete.
    pub fn is_sending(&self) -> bool {
        matches!(self.writing, Writing::Body(_))
    }

    /// Returns true from a response that changes the protocol to [`Event::Upgraded`].
    pub fn is_switching(&self) -> bool {
        self.writing == Writing::Switching
    }

    /// Returns true once the connection has to be closed, when everything is written.
    pub fn is_closed(&self) -> bool {
        match self.reading {
            Reading::Closed => true,
            Reading::Head => self.ended && self.input.is_empty(),
            Reading::Body(_) => self.writing == Writing::Complete && !self.exchange.persists,
            Reading::Complete => false,
        }
    }

    /// Gives all memory back if the connection is idle. Returns true if it was.
    pub fn release(&mut self) -> bool {
        let is_idle = matches!(self.phase(), Phase::Idle | Phase::Closed);
        if is_idle {
            self.input = BytesMut::new();
            self.parser.release();
        }
        is_idle
    }

    /// Returns the number of bytes that are allocated.
    pub fn allocated(&self) -> usize {
        self.input.capacity() + self.parser.allocated()
    }

    fn poll_head(&mut self) -> Result<Option<Event>, Error> {
        let Some(head) = self.parser.parse(&mut self.input, &self.limits)? else {
            if self.ended && !self.input.is_empty() {
                return Err(Error::new(ErrorKind::IncompleteHead, self.input.len()));
            }
            return Ok(None);
        };
        let has_body = head.framing.has_body();
        self.exchange = Exchange {
            asked: Asked::new(&head.parts.method, head.options.upgrade),
            version: head.parts.version,
            persists: self.exchange.persists && head.persists(),
            awaits_continue: has_body
                && head.options.expects_continue
                && head.parts.version == Version::HTTP_11,
        };
        self.writing = Writing::Head;
        self.reading = if has_body {
            Reading::Body(Decoder::new(head.framing, Sender::Client))
        } else {
            Reading::Complete
        };
        Ok(Some(Event::Head(head)))
    }

    fn poll_body(&mut self) -> Result<Option<Event>, Error> {
        let Reading::Body(decoder) = &mut self.reading else { return Ok(None) };
        // What has come needs no permission.
        self.exchange.awaits_continue &= self.input.is_empty();
        let event = match decoder.decode(&mut self.input, &self.limits)? {
            Some(Piece::Data(data)) => Event::Data(data),
            Some(Piece::Trailers(trailers)) => Event::Trailers(trailers),
            Some(Piece::End) => {
                self.reading = Reading::Complete;
                if self.writing == Writing::Complete {
                    self.next_request();
                }
                return Ok(Some(Event::End));
            }
            None if self.ended => return decoder.end_of_input().map(|()| None),
            None => return Ok(None),
        };
        Ok(Some(event))
    }

    /// Decides how a response's body ends.
    fn framing(&self, status: StatusCode, payload: Payload, headers: &HeaderMap) -> Framing {
        let Exchange { asked, version, .. } = self.exchange;
        if asked.is_bodiless(status) {
            // The length that the content has or would have (RFC 9110 section 8.6).
            let has_length = asked.head || status == StatusCode::NOT_MODIFIED;
            let length = headers.get(CONTENT_LENGTH).filter(|_| has_length);
            return match (length.and_then(|value| decimal(value.as_bytes())), payload) {
                (Some(length), _) => Framing::Length(length),
                (None, Payload::Length(length @ 1..)) if has_length => Framing::Length(length),
                _ => Framing::None,
            };
        }
        match payload {
            Payload::None => Framing::Length(0),
            Payload::Length(length) => Framing::Length(length),
            Payload::Unknown if version == Version::HTTP_11 => Framing::Chunked,
            Payload::Unknown => Framing::UntilClose,
        }
    }

    /// Ends the response.
    fn finish(&mut self) {
        self.writing = Writing::Complete;
        if matches!(self.reading, Reading::Complete) {
            self.next_request();
        }
    }

    fn next_request(&mut self) {
        self.writing = Writing::Nothing;
        if self.exchange.persists {
            self.reading = Reading::Head;
        } else {
            self.close();
        }
    }

    fn close(&mut self) {
        self.reading = Reading::Closed;
        self.input = BytesMut::new();
        self.parser.release();
    }
}
