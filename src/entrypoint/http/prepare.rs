//! Normalizes a request before it is routed: target, headers that count, and what servers will see of the client.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HeaderValue, UPGRADE};
use http::{HeaderMap, StatusCode};
use tidegate_core::{OriginalTarget, Reason, Response, reply};

use crate::entrypoint::header_budget::MAX_HEADER_LINES;
use crate::entrypoint::http::aliases::Aliases;
use crate::entrypoint::http::forwarded::{ForwardedRules, Peer};
use crate::entrypoint::http::presence::{HTTP2_SETTINGS, Presence};
use crate::entrypoint::http::target::{TargetRules, refused};
use crate::identity::OwnHeaders;

/// How the requests of a connection are normalized.
pub(in crate::entrypoint) struct Preparation<'a> {
    pub(in crate::entrypoint) target: &'a TargetRules,
    pub(in crate::entrypoint) aliases: Aliases,
    /// Removed, as only the gateway may set them.
    pub(in crate::entrypoint) own: &'a OwnHeaders,
    pub(in crate::entrypoint) forwarded: &'a ForwardedRules,
    pub(in crate::entrypoint) peer: &'a Peer,
    /// Whether the protocol is HTTP/2 or HTTP/3.
    pub(in crate::entrypoint) framed: bool,
}

impl Preparation<'_> {
    /// Normalizes a request. Returns its target as it was received if redirects need it. The error is the response to
    /// a malformed request.
    pub(in crate::entrypoint) fn apply(
        &self,
        head: &mut http::request::Parts,
        presence: Presence,
    ) -> Result<Option<OriginalTarget>, Box<Response>> {
        let original = self.target.apply(head)?;
        let expected = if presence.expect { head.headers.get(EXPECT) } else { None };
        if expected.is_some_and(|expected| !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return Err(refused(StatusCode::EXPECTATION_FAILED, Reason::ExpectationFailed));
        }
        self.aliases.apply(&mut head.headers)?;
        self.own.remove_from(&mut head.headers);
        if self.framed {
            join_cookies(&mut head.headers);
            head.headers.remove(HTTP2_SETTINGS);
            // The library enforces this limit for HTTP/1.
            if head.headers.len() > MAX_HEADER_LINES {
                return Err(Box::new(reply::empty(
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    Reason::HeadTooLarge,
                )));
            }
            if is_ambiguous_length(&head.headers) {
                return Err(Box::new(reply::empty(StatusCode::BAD_REQUEST, Reason::MalformedRequest)));
            }
        } else if presence.upgrade || presence.http2_settings {
            remove_h2c(&mut head.headers);
        }
        self.forwarded.apply(head, self.peer, presence);
        Ok(original)
    }
}

/// Returns true if a length has several values, or a leading zero, which some parsers read as octal. HTTP/1 requests
/// like this are refused earlier.
fn is_ambiguous_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let first = lengths.next();
    lengths.next().is_some() || first.is_some_and(|value| value.len() > 1 && value.as_bytes()[0] == b'0')
}

/// Joins the cookies that HTTP/2 and HTTP/3 may split (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(COOKIE).iter();
    let (Some(first), true) = (values.next(), values.next().is_some()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for value in headers.get_all(COOKIE).iter().skip(1) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&whole) {
        headers.insert(COOKIE, value);
    }
}

/// Removes requests for h2c: an upgrade to HTTP/2 would tunnel requests past the routers.
fn remove_h2c(headers: &mut HeaderMap) {
    let is_h2c = |value: &HeaderValue| {
        value.as_bytes().split(|b| *b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"h2c"))
    };
    if headers.get_all(UPGRADE).iter().any(is_h2c) {
        headers.remove(UPGRADE);
    }
    headers.remove(HTTP2_SETTINGS);
}
