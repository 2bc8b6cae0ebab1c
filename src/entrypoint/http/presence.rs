//! Which of the headers that matter before routing a request has.

use http::HeaderMap;
use http::header::HeaderName;

pub(in crate::entrypoint) const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers that most requests do not have. One pass over all names is cheaper than looking up each of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::entrypoint) struct Presence {
    /// `Accept` or `Content-Type`, which tell the protocol on top of HTTP.
    pub(in crate::entrypoint) media_type: bool,
    pub(in crate::entrypoint) connection: bool,
    pub(in crate::entrypoint) expect: bool,
    pub(in crate::entrypoint) forwarded_for: bool,
    pub(in crate::entrypoint) http2_settings: bool,
    pub(in crate::entrypoint) upgrade: bool,
}

impl Presence {
    /// Checks all names in one pass.
    pub(in crate::entrypoint) fn from_headers(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match name.as_str().as_bytes() {
                b"accept" | b"content-type" => found.media_type = true,
                b"connection" => found.connection = true,
                b"expect" => found.expect = true,
                b"x-forwarded-for" => found.forwarded_for = true,
                b"upgrade" => found.upgrade = true,
                b"http2-settings" => found.http2_settings = true,
                _ => {}
            }
        }
        found
    }
}
