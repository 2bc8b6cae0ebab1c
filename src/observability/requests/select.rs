//! Selects recorded requests by an expression, in the language of the access log's filter.

use std::borrow::Cow;
use std::time::Duration;

use super::json::{client, origin};
use super::{Record, Requests, Text};
use crate::observability::access_log::{
    Aborted, ExpressionError, Filter, Number, Text as Field, Time, Values, host_and_port, protocol,
};

/// Why an expression cannot select records.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectError {
    /// It is not an expression.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// It has a matcher, which needs the request itself.
    #[error("{0} needs the request itself, which is not kept: expected a field, such as path or host")]
    Matcher(String),
}

/// Selects records.
pub(crate) struct Selection(Filter);

impl Selection {
    /// Compiles an expression.
    pub(crate) fn parse(text: &str) -> Result<Self, SelectError> {
        let filter = Filter::parse(text)?;
        match filter.matcher() {
            Some(matcher) => Err(SelectError::Matcher(matcher.to_owned())),
            None => Ok(Self(filter)),
        }
    }

    /// Returns true if the expression holds for a record.
    pub(crate) fn selects(&self, requests: &Requests, record: &Record) -> bool {
        self.0.holds(&OfRecord(requests, record))
    }
}

struct OfRecord<'a>(&'a Requests, &'a Record);

impl Values for OfRecord<'_> {
    fn number(&self, field: Number) -> f64 {
        let record = self.1;
        let last = record.attempts.last();
        let whole = match field {
            Number::DownstreamStatus => record.status.into(),
            Number::DownstreamContentSize => record.sent,
            Number::OriginStatus => last.and_then(|last| last.status).unwrap_or(0).into(),
            Number::RequestContentSize => record.received,
            Number::RetryAttempts => record.retries.into(),
            Number::ClientPort => record.peer.map_or(0, |peer| peer.port()).into(),
            Number::RequestPort => {
                let host = record.text(Text::Host);
                let port = str::from_utf8(host_and_port(host.as_bytes()).1);
                port.ok().and_then(|port| port.parse().ok()).unwrap_or(0)
            }
            Number::OriginContentSize
            | Number::ErrorPageStatus
            | Number::ErrorPageContentSize
            | Number::RequestCount
            | Number::GzipRatio => 0,
        };
        whole as f64
    }

    fn time(&self, field: Time) -> Duration {
        let record = self.1;
        let origin = record.attempts.last().and_then(|last| last.took).unwrap_or_default();
        match field {
            Time::Duration => record.duration,
            Time::OriginDuration => origin,
            Time::Overhead => record.duration.saturating_sub(origin),
            Time::ErrorPageDuration => Duration::ZERO,
        }
    }

    fn text(&self, field: &Field) -> Cow<'_, str> {
        let Self(requests, record) = *self;
        let host = || record.text(Text::Host);
        let last = record.attempts.last();
        let route = record.route.as_ref();
        match field {
            Field::ClientAddr => record.peer.map(|peer| peer.to_string()).unwrap_or_default().into(),
            Field::ClientHost => client(record).unwrap_or_default().into(),
            Field::ClientUsername => record.text(Text::User),
            Field::Consumer => record.text(Text::Consumer),
            Field::RequestAddr => host(),
            Field::RequestHost => {
                String::from_utf8_lossy(host_and_port(host().as_bytes()).0).into_owned().into()
            }
            Field::RequestId => record.text(Text::RequestId),
            Field::RequestMethod => record.method.as_str().into(),
            Field::RequestPath => record.text(Text::Target),
            Field::RequestProtocol => protocol(record.version).into(),
            Field::RequestScheme => if record.tls.is_some() { "https" } else { "http" }.into(),
            Field::RouterName => route.map_or("", |route| &route.router).into(),
            Field::ServiceName => {
                let reached = || route.filter(|_| record.reached_service).map_or("", |route| &route.service);
                last.map_or_else(reached, |last| &last.service).into()
            }
            Field::ServiceUrl => record.server().map_or("", |server| &server.url).into(),
            Field::ServiceAddr => record.server().map_or("", |server| &server.address).into(),
            Field::EntryPointName => requests.entry_point(record.entry_point).into(),
            Field::Origin => origin(record).into(),
            Field::Reason => record.reason.map_or("", |reason| reason.name()).into(),
            Field::AbortedBy => record.aborted.map_or("", Aborted::name).into(),
            Field::TlsVersion => record.tls.map_or("", |tls| tls.0).into(),
            Field::TlsCipher => record.tls.map_or("", |tls| tls.1).into(),
            Field::RequestHeader(name) => {
                let headers = record.text(Text::Headers);
                let lines = headers.lines().filter_map(|line| line.split_once(": "));
                let values: Vec<&str> =
                    lines.filter(|(key, _)| name == key).map(|(_, value)| value).collect();
                values.join(",").into()
            }
            Field::ErrorPageServiceName
            | Field::ErrorPageServiceUrl
            | Field::ErrorPageServiceAddr
            | Field::FailedAttempts
            | Field::TlsClientSubject
            | Field::StartUtc
            | Field::OriginHeader(_)
            | Field::DownstreamHeader(_) => "".into(),
        }
    }

    fn is_aborted(&self) -> bool {
        self.1.aborted.is_some()
    }

    fn matches(&self, _place: usize) -> bool {
        false
    }
}
