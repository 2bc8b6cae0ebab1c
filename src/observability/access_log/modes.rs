//! Which requests, fields and headers are logged.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;
use tidegate_core::word::{Vocabulary, Word};

use super::error::OptionError;
use super::fields::{Field, Fields};
use crate::settings::{AccessLogFields, AccessLogFilters, FieldMode, HeaderMode};

/// How a field or header is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Keep,
    Drop,
    /// The name stays, the value is `REDACTED`.
    Redact,
}

/// `accessLog.fields`, checked.
pub(super) struct Modes {
    fields: Fields,
    header: Mode,
    headers: HashMap<HeaderName, Mode>,
    /// Keep the query in `RequestPath`.
    pub(super) query: bool,
}

impl Modes {
    pub(super) fn new(settings: &AccessLogFields) -> Result<Self, OptionError> {
        let default = mode(&settings.default_mode, FieldMode::Keep, || "fields.defaultMode".to_owned())?;
        let mut named = HashMap::new();
        for (name, text) in &settings.names {
            named.insert(
                name.to_ascii_lowercase(),
                mode(text, FieldMode::Keep, || format!("fields.names.{name}"))?,
            );
        }
        let of_field = |name: &str| named.get(&name.to_ascii_lowercase()).copied().unwrap_or(default);
        let kept = Field::all().filter(|(_, name)| of_field(name) == Mode::Keep).map(|(field, _)| field);
        let mut headers = HashMap::new();
        for (name, text) in &settings.headers.names {
            let key =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| OptionError::HeaderName(name.clone()))?;
            headers.insert(key, mode(text, HeaderMode::Drop, || format!("fields.headers.names.{name}"))?);
        }
        let query = mode(&settings.query_parameters.default_mode, FieldMode::Keep, || {
            "fields.queryParameters.defaultMode".to_owned()
        })?;
        Ok(Self {
            fields: kept.collect(),
            header: mode(&settings.headers.default_mode, HeaderMode::Drop, || {
                "fields.headers.defaultMode".to_owned()
            })?,
            headers,
            query: query == Mode::Keep,
        })
    }

    /// Returns the fields that are logged.
    pub(super) fn fields(&self) -> Fields {
        self.fields
    }

    /// Returns true if a field is logged.
    pub(super) fn keeps(&self, field: Field) -> bool {
        self.fields.contains(field)
    }

    /// Returns how a header is logged.
    pub(super) fn of_header(&self, name: &HeaderName) -> Mode {
        self.headers.get(name).copied().unwrap_or(self.header)
    }

    /// Returns true if any header may be logged, so that they must be kept.
    pub(super) fn keeps_headers(&self) -> bool {
        self.header != Mode::Drop || self.headers.values().any(|mode| *mode != Mode::Drop)
    }
}

impl From<FieldMode> for Mode {
    fn from(mode: FieldMode) -> Self {
        match mode {
            FieldMode::Keep => Self::Keep,
            FieldMode::Drop => Self::Drop,
        }
    }
}

impl From<HeaderMode> for Mode {
    fn from(mode: HeaderMode) -> Self {
        match mode {
            HeaderMode::Keep => Self::Keep,
            HeaderMode::Drop => Self::Drop,
            HeaderMode::Redact => Self::Redact,
        }
    }
}

/// Returns the meaning of a word in the settings, or `default` if it is empty.
fn mode<T: Vocabulary + Into<Mode>>(
    word: &Word<T>,
    default: T,
    option: impl FnOnce() -> String,
) -> Result<Mode, OptionError> {
    match word.meaning() {
        Ok(mode) => Ok(mode.unwrap_or(default).into()),
        Err(source) => Err(OptionError::Mode { option: option(), source }),
    }
}

/// `accessLog.filters`, checked. A request is logged if any of them matches, or if there are none.
pub(super) struct Filters {
    statuses: Vec<RangeInclusive<u16>>,
    retried: bool,
    longer_than: Duration,
}

impl Filters {
    pub(super) fn new(settings: &AccessLogFilters) -> Result<Self, OptionError> {
        let statuses = settings.status_codes.iter().flat_map(|text| text.split(',')).map(statuses);
        Ok(Self {
            statuses: statuses.collect::<Result<_, _>>()?,
            retried: settings.retry_attempts,
            longer_than: settings.min_duration.0,
        })
    }

    /// Returns true if a request should be logged.
    pub(super) fn keep(&self, status: u16, retries: u32, duration: Duration) -> bool {
        (self.statuses.is_empty() && !self.retried && self.longer_than.is_zero())
            || self.statuses.iter().any(|range| range.contains(&status))
            || (self.retried && retries > 0)
            || (!self.longer_than.is_zero() && duration > self.longer_than)
    }
}

fn statuses(text: &str) -> Result<RangeInclusive<u16>, OptionError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(OptionError::Statuses(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_alternatives() {
        let filters = |codes: &[&str], retry_attempts, millis| {
            Filters::new(&AccessLogFilters {
                status_codes: codes.iter().map(|s| s.to_string()).collect(),
                retry_attempts,
                min_duration: tidegate_core::values::Duration::from_millis(millis),
                expression: String::new(),
            })
        };
        let short = Duration::from_millis(1);
        assert!(filters(&[], false, 0).unwrap().keep(200, 0, short));
        let some = filters(&["404", "500-599"], true, 10).unwrap();
        for (status, retries, duration, kept) in [
            (200, 0, short, false),
            (404, 0, short, true),
            (599, 0, short, true),
            (200, 1, short, true),
            (200, 0, Duration::from_millis(11), true),
        ] {
            assert_eq!(some.keep(status, retries, duration), kept, "{status} {retries} {duration:?}");
        }
        assert!(filters(&["5xx"], false, 0).is_err());
    }

    #[test]
    fn unknown_modes_are_refused() {
        let fields = AccessLogFields { default_mode: "redact".into(), ..Default::default() };
        let error = Modes::new(&fields).err().unwrap();
        assert_eq!(error.to_string(), "fields.defaultMode: `redact` is unknown: expected `keep` or `drop`");
    }
}
