//! The fields of a line, and their types in filters.

use http::HeaderName;

/// Declares [`Field`], in the order of a line.
macro_rules! fields {
    ($($field:ident $name:literal,)*) => {
        /// A field of a line, except headers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field {
            $($field,)*
        }

        /// Each field with its name and its JSON key, preceded by a comma.
        const FIELDS: &[(Field, &str, &str)] =
            &[$((Field::$field, $name, concat!(",\"", $name, "\":")),)*];
    };
}

fields! {
    ClientAddr "ClientAddr",
    ClientHost "ClientHost",
    ClientPort "ClientPort",
    ClientUsername "ClientUsername",
    Consumer "Consumer",
    DownstreamAborted "DownstreamAborted",
    DownstreamAbortedBy "DownstreamAbortedBy",
    DownstreamContentSize "DownstreamContentSize",
    DownstreamStatus "DownstreamStatus",
    Duration "Duration",
    ErrorPageContentSize "ErrorPageContentSize",
    ErrorPageDuration "ErrorPageDuration",
    ErrorPageFailedAttempts "ErrorPageFailedAttempts",
    ErrorPageServiceAddr "ErrorPageServiceAddr",
    ErrorPageServiceName "ErrorPageServiceName",
    ErrorPageServiceUrl "ErrorPageServiceURL",
    ErrorPageStatus "ErrorPageStatus",
    FailedAttempts "FailedAttempts",
    GzipRatio "GzipRatio",
    Origin "Origin",
    OriginContentSize "OriginContentSize",
    OriginDuration "OriginDuration",
    OriginStatus "OriginStatus",
    Overhead "Overhead",
    Reason "Reason",
    RequestAddr "RequestAddr",
    RequestContentSize "RequestContentSize",
    RequestCount "RequestCount",
    RequestHost "RequestHost",
    RequestId "RequestId",
    RequestMethod "RequestMethod",
    RequestPath "RequestPath",
    RequestPort "RequestPort",
    RequestProtocol "RequestProtocol",
    RequestScheme "RequestScheme",
    RetryAttempts "RetryAttempts",
    RouterName "RouterName",
    ServiceAddr "ServiceAddr",
    ServiceName "ServiceName",
    ServiceUrl "ServiceURL",
    SpanId "SpanId",
    StartLocal "StartLocal",
    StartUtc "StartUTC",
    TlsCipher "TLSCipher",
    TlsClientSubject "TLSClientSubject",
    TlsVersion "TLSVersion",
    TraceId "TraceId",
    EntryPointName "entryPointName",
}

impl Field {
    /// Returns all fields with their names.
    pub(super) fn all() -> impl Iterator<Item = (Self, &'static str)> {
        FIELDS.iter().map(|(field, name, _)| (*field, *name))
    }

    /// Returns the JSON key of the field, preceded by a comma and followed by a colon.
    pub(super) fn json_key(self) -> &'static [u8] {
        FIELDS[self as usize].2.as_bytes()
    }
}

/// A set of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields(u64);

impl Fields {
    /// No field.
    pub(super) const NONE: Self = Self(0);
    /// Fields with lower-case names, which are sorted after the headers of the response.
    pub(super) const LOWER_CASE: Self = Self::of(&[Field::EntryPointName]);
    /// Fields of the error page that replaces a response.
    pub(super) const PAGE: Self = Self::of(&[
        Field::ErrorPageContentSize,
        Field::ErrorPageDuration,
        Field::ErrorPageFailedAttempts,
        Field::ErrorPageServiceAddr,
        Field::ErrorPageServiceName,
        Field::ErrorPageServiceUrl,
        Field::ErrorPageStatus,
    ]);
    /// Fields of TLS.
    pub(super) const TLS: Self = Self::of(&[Field::TlsCipher, Field::TlsClientSubject, Field::TlsVersion]);
    /// Fields of an aborted response.
    pub(super) const ABORTED: Self = Self::of(&[Field::DownstreamAborted, Field::DownstreamAbortedBy]);
    /// Fields of attempts before the last one.
    pub(super) const FAILED: Self = Self::of(&[Field::FailedAttempts]);

    /// Fields of the trace.
    pub(super) const TRACE: Self = Self::of(&[Field::SpanId, Field::TraceId]);

    const fn of(fields: &[Field]) -> Self {
        let (mut bits, mut place) = (0, 0);
        while place < fields.len() {
            bits |= 1 << fields[place] as u64;
            place += 1;
        }
        Self(bits)
    }

    /// Returns true if the field is in the set.
    pub(super) fn contains(self, field: Field) -> bool {
        self.0 >> field as u64 & 1 == 1
    }

    /// Returns the union of both sets.
    pub(super) fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Returns the fields that are not in the other set.
    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Returns the intersection of both sets.
    pub(super) fn only(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Returns the fields in the order of a line.
    pub(super) fn iter(self) -> impl Iterator<Item = Field> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let (field, ..) = FIELDS.get(left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(*field)
        })
    }
}

impl FromIterator<Field> for Fields {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        fields.into_iter().fold(Self::NONE, |set, field| set.with(Self::of(&[field])))
    }
}

/// Numeric fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    DownstreamStatus,
    DownstreamContentSize,
    OriginStatus,
    OriginContentSize,
    ErrorPageStatus,
    ErrorPageContentSize,
    RequestContentSize,
    RequestCount,
    RetryAttempts,
    GzipRatio,
    ClientPort,
    RequestPort,
}

/// Fields that are durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    Duration,
    OriginDuration,
    ErrorPageDuration,
    Overhead,
}

/// Text fields. What the log omits is empty here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    ClientAddr,
    ClientHost,
    ClientUsername,
    Consumer,
    RequestAddr,
    RequestHost,
    RequestId,
    RequestMethod,
    RequestPath,
    RequestProtocol,
    RequestScheme,
    RouterName,
    ServiceName,
    ServiceUrl,
    ServiceAddr,
    ErrorPageServiceName,
    ErrorPageServiceUrl,
    ErrorPageServiceAddr,
    FailedAttempts,
    EntryPointName,
    Origin,
    Reason,
    AbortedBy,
    TlsVersion,
    TlsCipher,
    TlsClientSubject,
    StartUtc,
    RequestHeader(HeaderName),
    OriginHeader(HeaderName),
    DownstreamHeader(HeaderName),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_sorted_by_name() {
        let names: Vec<&str> = Field::all().map(|(_, name)| name).collect();
        assert!(names.is_sorted(), "{names:?}");
        let all: Fields = Field::all().map(|(field, _)| field).collect();
        assert!(all.iter().eq(Field::all().map(|(field, _)| field)));
        let small = Field::all().filter(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase()));
        assert_eq!(small.map(|(field, _)| field).collect::<Fields>(), Fields::LOWER_CASE);
    }
}
