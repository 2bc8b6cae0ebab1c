//! Interim answers of a server (`103 Early Hints` and the like), seen on their way through a connection.
//!
//! The HTTP library passes over them. So the bytes that come while an answer is waited for are looked at before the
//! library gets them, as they are; once the answer itself begins, nothing is looked at any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body::Body as _;
use parking_lot::Mutex;
use tidegate_core::{Body, End, Guard, Interim};

use super::fields;

/// Largest interim answer that is passed on, in bytes.
const LARGEST: usize = 16 * 1024;
/// Most interim answers that wait for one request.
const MOST: usize = 16;
/// How each of them begins (RFC 9112 section 4).
const BEGIN: &[u8] = b"HTTP/1.1 1";

/// What one connection has seen.
#[derive(Default)]
pub(super) struct Tap {
    /// An answer is waited for that may have interim ones before it.
    armed: AtomicBool,
    /// There is something in `seen`.
    has_seen: AtomicBool,
    seen: Mutex<Vec<(StatusCode, HeaderMap)>>,
    waker: AtomicWaker,
    /// The body of the request is not all sent.
    sending: AtomicBool,
}

/// Ends the sending of a request body.
struct Sending(Arc<Tap>);

impl Guard for Sending {
    fn end(self: Box<Self>, end: End) {
        if end == End::Complete {
            self.0.sending.store(false, Ordering::Relaxed);
        }
    }
}

impl Tap {
    /// Begins to look: a request goes out.
    pub(super) fn arm(&self) {
        if self.has_seen.swap(false, Ordering::Acquire) {
            self.seen.lock().clear();
        }
        self.armed.store(true, Ordering::Release);
    }

    /// Notes when the body of a request that goes out has been sent.
    pub(super) fn sends(self: &Arc<Self>, request: &mut Request<Body>) {
        if request.body().is_end_stream() {
            return;
        }
        self.sending.store(true, Ordering::Relaxed);
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.with_guard(Box::new(Sending(self.clone())));
    }

    /// True while there is more of a request body to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    /// True while what is read is to be looked at.
    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Looks at bytes that were read. `kept` holds what there is of an interim answer that is not whole yet.
    pub(super) fn look(&self, kept: &mut Vec<u8>, fresh: &[u8]) {
        if kept.is_empty() && fresh.len() >= BEGIN.len() && !fresh.starts_with(BEGIN) {
            // As a rule the answer itself comes: nothing is copied.
            self.armed.store(false, Ordering::Release);
            return;
        }
        kept.extend_from_slice(fresh);
        let mut rest = &kept[..];
        let done = loop {
            if !rest.starts_with(BEGIN) {
                break !BEGIN.starts_with(rest);
            }
            let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") else { break rest.len() > LARGEST };
            // 101 is no interim answer: it is the last that this protocol has to say.
            match parse(&rest[..end]) {
                Some((StatusCode::SWITCHING_PROTOCOLS, _)) | None => break true,
                // The client is told to go on when its body is read.
                Some((StatusCode::CONTINUE, _)) => {}
                Some(answer) => {
                    let mut seen = self.seen.lock();
                    if seen.len() < MOST {
                        seen.push(answer);
                        self.has_seen.store(true, Ordering::Release);
                    }
                }
            }
            rest = &rest[end + 4..];
        };
        let used = kept.len() - rest.len();
        kept.drain(..used);
        if done {
            *kept = Vec::new();
            self.armed.store(false, Ordering::Release);
        }
        self.waker.wake();
    }

    /// Passes on what was seen, and has the task woken when there is more.
    pub(super) fn relay(&self, to: &dyn Interim, cx: &Context<'_>) {
        if self.is_armed() {
            self.waker.register(cx.waker());
        }
        if !self.has_seen.swap(false, Ordering::Acquire) {
            return;
        }
        for (status, headers) in self.seen.lock().drain(..) {
            to.send(status, &headers);
        }
    }
}

/// Reads a head. Fields that are none are left out, and so are those of the connection.
fn parse(head: &[u8]) -> Option<(StatusCode, HeaderMap)> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status = StatusCode::from_bytes(lines.next()?.get(9..12)?).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            let _ = headers.try_append(name, value);
        }
    }
    let _ = fields::clean_response(&mut headers);
    headers.remove(http::header::CONTENT_LENGTH);
    Some((status, headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nX: 1\r\n\r\n";

    fn looked(pieces: &[&[u8]]) -> (Vec<(u16, usize)>, bool) {
        let (tap, mut kept) = (Tap::default(), Vec::new());
        tap.arm();
        for piece in pieces {
            if tap.is_armed() {
                tap.look(&mut kept, piece);
            }
        }
        let seen = tap.seen.lock().iter().map(|(status, headers)| (status.as_u16(), headers.len())).collect();
        (seen, tap.is_armed())
    }

    #[test]
    fn interim_answers_are_seen_whole_or_in_pieces() {
        let fine: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 103 no\r\n\r\n";
        assert_eq!(looked(&[HINT]), (vec![(103, 1)], true));
        assert_eq!(looked(&[HINT, HINT, fine]), (vec![(103, 1), (103, 1)], false));
        assert_eq!(looked(&[&[HINT, fine].concat()]), (vec![(103, 1)], false));
        let whole = [b"HTTP/1.1 100 Continue\r\n\r\n", HINT, fine].concat();
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(looked(&bytes), (vec![(103, 1)], false));
        assert_eq!(looked(&[b"HTTP/1.1 102 Processing\r\n\r\n"]), (vec![(102, 0)], true));
    }

    #[test]
    fn what_is_no_interim_answer_ends_the_look() {
        for answer in
            ["HTTP/1.1 101 Switching\r\n\r\n", "HTTP/1.0 200 OK", "HTTP/1.1 1x3 a\r\n\r\n", "garbage"]
        {
            assert_eq!(looked(&[answer.as_bytes(), HINT]), (vec![], false), "{answer}");
        }
        let endless = [HINT.strip_suffix(b"\r\n").unwrap(), &[b'a'; LARGEST]].concat();
        assert_eq!(looked(&[&endless]), (vec![], false));
        assert_eq!(looked(&[&HINT.repeat(3 * MOST)]).0.len(), MOST);
    }
}
