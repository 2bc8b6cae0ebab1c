//! The fields of a line that a filter can ask for.

use http::HeaderName;

/// Fields that are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
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

/// Fields that are lengths of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    Duration,
    OriginDuration,
    ErrorPageDuration,
    Overhead,
}

/// Fields that are texts. What the log leaves out is empty here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    ClientAddr,
    ClientHost,
    ClientUsername,
    RequestAddr,
    RequestHost,
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
    AbortedBy,
    TlsVersion,
    TlsCipher,
    TlsClientSubject,
    StartUtc,
    RequestHeader(HeaderName),
    OriginHeader(HeaderName),
    DownstreamHeader(HeaderName),
}
