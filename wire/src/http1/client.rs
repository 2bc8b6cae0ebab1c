//! The client's side of a connection, without I/O: requests become bytes, and responses come out of bytes.
//!
//! The driver reads into [`Client::input`] while [`Client::wants_input`], and calls [`Client::poll`] until it returns
//! `None`. One request is sent at a time. What is written is appended to a buffer of the driver, or returned as a
//! [`Frame`].

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Uri};

use super::body::Decoder;
use super::encode::{self, Connection, Fields, Frame};
use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::message::{Asked, Framing};
use super::piece::{Piece, Sender, Trailers};
use super::response::{ResponseHead, ResponseParser};
use super::send::{BodyWriter, Payload, SendError};

/// What a server has sent.
#[derive(Debug)]
pub enum Event {
    /// An informational response: the response is still to come.
    Informational(ResponseHead),
    /// A head. The rest of the response follows if [`Framing::has_body`].
    Head(ResponseHead),
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

/// A request that is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The fields. `Connection` is decided here.
    pub fields: Fields<'a>,
    /// What is known about the body.
    pub payload: Payload,
    /// Whether the client asks for the protocol in `Upgrade`.
    pub upgrade: bool,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Client {
    limits: Limits,
    input: BytesMut,
    parser: ResponseParser,
    reading: Reading,
    /// The body that is being sent.
    writing: Option<BodyWriter>,
    asked: Asked,
    persists: bool,
    /// A byte of the response has come.
    touched: bool,
    /// The server has ended its side.
    ended: bool,
}

#[derive(Debug)]
enum Reading {
    /// No request was sent, or its response is complete.
    Nothing,
    Head,
    Body(Decoder),
    Switching,
    Closed,
}

impl Client {
    /// Creates the state of a new connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            input: BytesMut::new(),
            parser: ResponseParser::default(),
            reading: Reading::Nothing,
            writing: None,
            asked: Asked::default(),
            persists: true,
            touched: false,
            ended: false,
        }
    }

    /// Returns the buffer to read into. Bytes may only be added at its end.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Returns true while more bytes are useful. An idle connection is read to learn that the server has closed it.
    pub fn wants_input(&self) -> bool {
        !self.ended && !matches!(self.reading, Reading::Closed | Reading::Switching)
    }

    /// Records that the server sends nothing more.
    pub fn end_input(&mut self) {
        self.ended = true;
    }

    /// Returns true if a request can be sent: the last exchange is complete, and the server has neither ended the
    /// connection nor sent more than its response.
    pub fn is_reusable(&self) -> bool {
        matches!(self.reading, Reading::Nothing)
            && self.writing.is_none()
            && self.persists
            && !self.ended
            && self.input.is_empty()
    }

    /// Returns true while no byte of a response to the current request has come, so that another connection may be
    /// tried (RFC 9110 section 9.2.2).
    pub fn is_untouched(&self) -> bool {
        !self.touched && self.input.is_empty()
    }

    /// Returns how many bytes of the body are left, as far as that is known: [`Decoder::left`].
    pub fn body_left(&self) -> Option<u64> {
        if let Reading::Body(decoder) = &self.reading { decoder.left() } else { Some(0) }
    }

    /// Returns true while the request is incomplete.
    pub fn is_sending(&self) -> bool {
        self.writing.is_some()
    }

    /// Writes the head of a request.
    ///
    /// # Errors
    /// If the connection is not [reusable](Self::is_reusable).
    pub fn request(&mut self, request: Request<'_>, out: &mut Vec<u8>) -> Result<(), SendError> {
        if !self.is_reusable() {
            return Err(SendError::UnexpectedHead);
        }
        let Request { method, uri, fields, payload, upgrade } = request;
        let framing = match payload {
            Payload::None => Framing::None,
            Payload::Length(length) => Framing::Length(length),
            Payload::Unknown => Framing::Chunked,
        };
        let connection = if upgrade { Connection::Upgrade } else { Connection::Unsaid };
        self.persists = encode::request(method, uri, fields, framing, connection, out);
        self.asked = Asked::new(method, upgrade);
        self.writing = BodyWriter::new(framing);
        self.reading = Reading::Head;
        self.touched = false;
        Ok(())
    }

    /// Frames a part of the request's body. With `last`, it is the end, without trailers.
    ///
    /// # Errors
    /// If no body is being sent, or it is not as long as was announced.
    pub fn send_data(&mut self, data: Bytes, last: bool) -> Result<Frame, SendError> {
        let body = self.writing.as_mut().ok_or(SendError::UnexpectedData)?;
        let frame = body.data(data, last)?;
        if last {
            self.writing = None;
        }
        Ok(frame)
    }

    /// Writes the end of the request's body.
    ///
    /// # Errors
    /// If no body is being sent, or it is shorter than was announced.
    pub fn send_end(&mut self, trailers: Option<Fields<'_>>, out: &mut Vec<u8>) -> Result<(), SendError> {
        let body = self.writing.ok_or(SendError::UnexpectedData)?;
        body.end(trailers, out)?;
        self.writing = None;
        Ok(())
    }

    /// Takes the next part of a response from the buffer. Returns `None` if that needs more bytes.
    ///
    /// # Errors
    /// The first violation, or bytes without a request. The connection has to be closed.
    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        let polled = match &mut self.reading {
            Reading::Nothing if self.input.is_empty() => Ok(None),
            Reading::Nothing => Err(Error::new(ErrorKind::Unsolicited, 0)),
            Reading::Head if self.input.is_empty() && !self.ended => Ok(None),
            Reading::Head => self.poll_head(),
            Reading::Body(_) => self.poll_body(),
            Reading::Switching => {
                let rest = std::mem::take(&mut self.input);
                self.close();
                Ok(Some(Event::Upgraded(rest)))
            }
            Reading::Closed => Ok(None),
        };
        if polled.is_err() {
            self.close();
        }
        polled
    }

    /// Returns true once the connection cannot be used any more.
    pub fn is_closed(&self) -> bool {
        match self.reading {
            Reading::Closed => true,
            Reading::Nothing => self.ended || !self.persists,
            Reading::Head | Reading::Body(_) | Reading::Switching => false,
        }
    }

    /// Gives memory back if the connection is idle, as [`ResponseParser::release`] does. Returns true if it was.
    pub fn release(&mut self) -> bool {
        let is_idle = self.input.is_empty() && matches!(self.reading, Reading::Nothing | Reading::Closed);
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
        self.touched |= !self.input.is_empty();
        let Some(head) = self.parser.parse(&mut self.input, self.asked, &self.limits)? else {
            if self.ended {
                return Err(Error::new(ErrorKind::IncompleteHead, self.input.len()));
            }
            return Ok(None);
        };
        if self.asked.opens_tunnel(head.parts.status) {
            self.persists = false;
            self.reading = Reading::Switching;
        } else if head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::new(ErrorKind::UnexpectedUpgrade, 0));
        } else if head.parts.status.is_informational() {
            return Ok(Some(Event::Informational(head)));
        } else {
            // After a refused upgrade, it is not known what comes.
            self.persists &= head.persists() && !self.asked.upgrade && !self.asked.connect;
            self.reading = if head.framing.has_body() {
                Reading::Body(Decoder::new(head.framing, Sender::Server))
            } else {
                Reading::Nothing
            };
        }
        Ok(Some(Event::Head(head)))
    }

    fn poll_body(&mut self) -> Result<Option<Event>, Error> {
        let Reading::Body(decoder) = &mut self.reading else { return Ok(None) };
        if self.ended && self.input.is_empty() {
            decoder.end_of_input()?;
        }
        Ok(match decoder.decode(&mut self.input, &self.limits)? {
            Some(Piece::Data(data)) => Some(Event::Data(data)),
            Some(Piece::Trailers(trailers)) => Some(Event::Trailers(trailers)),
            Some(Piece::End) => {
                self.reading = Reading::Nothing;
                Some(Event::End)
            }
            None if self.ended => return decoder.end_of_input().map(|()| None),
            None => None,
        })
    }

    fn close(&mut self) {
        self.reading = Reading::Closed;
        self.persists = false;
        self.input = BytesMut::new();
        self.parser = ResponseParser::default();
    }
}
