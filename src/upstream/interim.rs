//! Informational responses of a server (such as `103 Early Hints`), observed on the connection.
//!
//! The HTTP library skips them, so the raw bytes are scanned before they reach the library. The scan stops
//! when the final response starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body::Body as _;
use parking_lot::Mutex;
use tidegate_core::{Body, End, Guard, Interim};

use super::fields;

/// Maximum size of a forwarded informational response in bytes.
const MAX_SIZE: usize = 16 * 1024;
/// Maximum number of pending informational responses per request.
const MAX_PENDING: usize = 16;
/// The start of an informational response (RFC 9112 section 4).
const BEGIN: &[u8] = b"HTTP/1.1 1";

/// The informational responses of one connection.
#[derive(Default)]
pub(super) struct Tap {
    /// Whether a response is awaited that may follow informational ones.
    armed: AtomicBool,
    /// Whether `seen` is not empty.
    has_seen: AtomicBool,
    seen: Mutex<Vec<(StatusCode, HeaderMap)>>,
    waker: AtomicWaker,
    /// Whether the request body is still being sent.
    sending: AtomicBool,
}

/// Clears `sending` when the request body ends.
struct Sending(Arc<Tap>);

impl Guard for Sending {
    fn end(self: Box<Self>, end: End) {
        if end == End::Complete {
            self.0.sending.store(false, Ordering::Relaxed);
        }
    }
}

impl Tap {
    /// Starts the scan for a new request.
    pub(super) fn arm(&self) {
        if self.has_seen.swap(false, Ordering::Acquire) {
            self.seen.lock().clear();
        }
        self.armed.store(true, Ordering::Release);
    }

    /// Tracks the sending of a request's body.
    pub(super) fn sends(self: &Arc<Self>, request: &mut Request<Body>) {
        if request.body().is_end_stream() {
            return;
        }
        self.sending.store(true, Ordering::Relaxed);
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.with_guard(Box::new(Sending(self.clone())));
    }

    /// Returns true while a request body is being sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    /// Returns true while reads must be scanned.
    pub(super) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Scans bytes that were read. `kept` holds the start of an incomplete informational response.
    pub(super) fn scan(&self, kept: &mut Vec<u8>, fresh: &[u8]) {
        if kept.is_empty() && fresh.len() >= BEGIN.len() && !fresh.starts_with(BEGIN) {
            // Usually this is the final response, which is not copied.
            self.armed.store(false, Ordering::Release);
            return;
        }
        kept.extend_from_slice(fresh);
        let mut rest = &kept[..];
        let done = loop {
            if !rest.starts_with(BEGIN) {
                break !BEGIN.starts_with(rest);
            }
            let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") else { break rest.len() > MAX_SIZE };
            // 101 is final, as the protocol changes after it.
            match parse(&rest[..end]) {
                Some((StatusCode::SWITCHING_PROTOCOLS, _)) | None => break true,
                // The client gets a 100 when its body is read.
                Some((StatusCode::CONTINUE, _)) => {}
                Some(answer) => {
                    let mut seen = self.seen.lock();
                    if seen.len() < MAX_PENDING {
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

    /// Forwards the responses seen, and registers the task for more.
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

/// Parses a head. Invalid and hop-by-hop fields are removed.
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
                tap.scan(&mut kept, piece);
            }
        }
        let seen = tap.seen.lock().iter().map(|(status, headers)| (status.as_u16(), headers.len())).collect();
        (seen, tap.is_armed())
    }

    #[test]
    fn informational_responses_are_seen_whole_or_in_pieces() {
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
    fn other_responses_end_the_scan() {
        for answer in
            ["HTTP/1.1 101 Switching\r\n\r\n", "HTTP/1.0 200 OK", "HTTP/1.1 1x3 a\r\n\r\n", "garbage"]
        {
            assert_eq!(looked(&[answer.as_bytes(), HINT]), (vec![], false), "{answer}");
        }
        let endless = [HINT.strip_suffix(b"\r\n").unwrap(), &[b'a'; MAX_SIZE]].concat();
        assert_eq!(looked(&[&endless]), (vec![], false));
        assert_eq!(looked(&[&HINT.repeat(3 * MAX_PENDING)]).0.len(), MAX_PENDING);
    }
}
