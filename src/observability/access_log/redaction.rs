//! What the access log hides, for records of requests that follow the same rules.

use http::{HeaderName, HeaderValue};

use super::fields::Field;
use super::line::REDACTED;
use super::modes::{Mode, Modes};
use crate::settings::{AccessLog, AccessLogFields};

/// Which parts of a request may be recorded.
pub(crate) struct Redaction(Option<Modes>);

impl Redaction {
    /// Returns the rules of an access log, or the default ones if there is none.
    pub(crate) fn new(settings: Option<&AccessLog>) -> Self {
        let usual = AccessLogFields::default();
        // Settings are checked, so the rules are valid; invalid ones would hide everything.
        Self(Modes::new(settings.map_or(&usual, |log| &log.fields)).ok())
    }

    /// Returns true if any header may be recorded.
    pub(crate) fn keeps_headers(&self) -> bool {
        self.0.as_ref().is_some_and(Modes::keeps_headers)
    }

    /// Returns true if queries may be recorded.
    pub(crate) fn keeps_query(&self) -> bool {
        self.0.as_ref().is_some_and(|modes| modes.query)
    }

    /// Returns true if paths may be recorded.
    pub(crate) fn keeps_path(&self) -> bool {
        self.keeps(&[Field::RequestPath])
    }

    /// Returns true if the addresses of clients may be recorded.
    pub(crate) fn keeps_client(&self) -> bool {
        self.keeps(&[Field::ClientAddr, Field::ClientHost])
    }

    /// Returns true if the names of clients may be recorded.
    pub(crate) fn keeps_user(&self) -> bool {
        self.keeps(&[Field::ClientUsername])
    }

    /// Returns true if the names of consumers may be recorded.
    pub(crate) fn keeps_consumer(&self) -> bool {
        self.keeps(&[Field::Consumer])
    }

    /// Returns the value of a header as it is recorded; `None` for one that is not.
    pub(crate) fn header<'a>(&self, name: &HeaderName, value: &'a HeaderValue) -> Option<&'a [u8]> {
        match self.0.as_ref()?.of_header(name) {
            Mode::Keep => Some(value.as_bytes()),
            Mode::Redact => Some(REDACTED.as_bytes()),
            Mode::Drop => None,
        }
    }

    fn keeps(&self, fields: &[Field]) -> bool {
        self.0.as_ref().is_some_and(|modes| fields.iter().all(|field| modes.keeps(*field)))
    }
}
