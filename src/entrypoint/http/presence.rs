//! Which of the headers that matter before routing a request has.

use http::HeaderMap;
use http::header::{CONNECTION, EXPECT, HeaderName, UPGRADE};

pub(in crate::entrypoint) const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers that most requests do not have. One pass over all names is cheaper than looking up each of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::entrypoint) struct Presence {
    pub(in crate::entrypoint) connection: bool,
    pub(in crate::entrypoint) expect: bool,
    pub(in crate::entrypoint) http2_settings: bool,
    pub(in crate::entrypoint) upgrade: bool,
}

impl Presence {
    /// Checks all names in one pass.
    pub(in crate::entrypoint) fn from_headers(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            found.connection |= *name == CONNECTION;
            found.expect |= *name == EXPECT;
            found.upgrade |= *name == UPGRADE;
            found.http2_settings |= *name == HTTP2_SETTINGS;
        }
        found
    }
}
