//! Which of the headers that are looked at before routing a request has.

use http::HeaderMap;
use http::header::{CONNECTION, EXPECT, HeaderName, UPGRADE};

pub(super) const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers that most requests do not have. One look at each name costs less than to look for each of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Presence {
    pub(super) connection: bool,
    pub(super) expect: bool,
    pub(super) http2_settings: bool,
    pub(super) upgrade: bool,
}

impl Presence {
    /// Looks at all names.
    pub(super) fn of(headers: &HeaderMap) -> Self {
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
