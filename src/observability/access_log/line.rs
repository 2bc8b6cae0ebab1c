//! The values of a line, for formats and filters.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderMap, Version};
use tidegate_core::attempt::Failed;
use tidegate_core::exchange::Summary;
use tidegate_core::forwarded::address_text;
use tidegate_core::{Exchange, Origin, Reason, ServerInfo};

use super::fields::{Number, Text, Time};
use super::modes::Modes;
use super::{Aborted, Seen, stamp};
use crate::tls::subject::subject;

/// Written in place of a redacted value.
pub(super) const REDACTED: &str = "REDACTED";

/// Everything known about a request at its end.
pub(super) struct Entry<'a> {
    pub(super) seen: &'a Seen,
    pub(super) exchange: &'a Exchange,
    pub(super) summary: &'a Summary<'a>,
    /// Headers of the response.
    pub(super) headers: Option<&'a HeaderMap>,
    /// Who aborted the response.
    pub(super) aborted: Option<Aborted>,
    pub(super) duration: Duration,
    /// Number of the request since the start, without internal ones.
    pub(super) count: u64,
}

impl Entry<'_> {
    /// Returns the value of a numeric field; 0 if the log omits it.
    pub(super) fn number(&self, field: Number) -> f64 {
        let whole = match field {
            Number::DownstreamStatus => self.exchange.status().into(),
            Number::DownstreamContentSize => self.exchange.sent(),
            Number::OriginStatus => self.origin_status().into(),
            Number::OriginContentSize => self.origin_size(),
            Number::ErrorPageStatus => self.page_status().into(),
            Number::ErrorPageContentSize => self.page_size(),
            Number::RequestContentSize => self.exchange.received(),
            Number::RequestCount => self.count,
            Number::RetryAttempts => self.summary.retries.into(),
            Number::GzipRatio => return self.gzip_ratio(),
            Number::ClientPort => self.exchange.connection.peer.port().into(),
            Number::RequestPort => {
                let port = str::from_utf8(host_and_port(self.host()).1);
                port.ok().and_then(|port| port.parse().ok()).unwrap_or(0)
            }
        };
        whole as f64
    }

    /// Returns the value of a duration field.
    pub(super) fn time(&self, field: Time) -> Duration {
        // Without a response, the wait has lasted until now.
        let took = |summary: &Summary<'_>| {
            let asked = || summary.asked.map(|asked| asked.elapsed());
            summary.origin_duration.or_else(asked).unwrap_or_default()
        };
        let (origin, page) = (took(self.summary), self.summary.page.as_deref().map(took).unwrap_or_default());
        match field {
            Time::Duration => self.duration,
            Time::OriginDuration => origin,
            Time::ErrorPageDuration => page,
            Time::Overhead => self.duration.saturating_sub(origin).saturating_sub(page),
        }
    }

    /// Returns the value of a text field; empty if the log omits it.
    pub(super) fn text(&self, field: &Text, modes: &Modes) -> Cow<'_, str> {
        let (seen, summary) = (self.seen, self.summary);
        let tls = self.exchange.connection.tls.as_ref();
        match field {
            Text::ClientAddr => self.exchange.connection.peer.to_string().into(),
            Text::ClientHost => {
                self.forwarded_client().unwrap_or_else(|| address_text(self.peer_address())).into()
            }
            Text::ClientUsername => summary.user.unwrap_or("-").into(),
            Text::Consumer => self.exchange.consumer().unwrap_or("").into(),
            Text::RequestAddr => String::from_utf8_lossy(self.host()),
            Text::RequestHost => String::from_utf8_lossy(host_and_port(self.host()).0),
            Text::RequestId => self.exchange.request_id().unwrap_or("").into(),
            Text::RequestMethod => seen.method.as_str().into(),
            Text::RequestPath => self.path(modes).into(),
            Text::RequestProtocol => protocol(self.exchange.version).into(),
            Text::RequestScheme => self.scheme().into(),
            Text::RouterName => self.router().unwrap_or("").into(),
            Text::ServiceName => summary.service.unwrap_or("").into(),
            Text::ServiceUrl => summary.server.map_or("", |server| &server.url).into(),
            Text::ServiceAddr => summary.server.map_or("", |server| &server.address).into(),
            Text::AbortedBy => self.aborted.map_or("", Aborted::name).into(),
            Text::ErrorPageServiceName => self.page_text(|page| page.service),
            Text::ErrorPageServiceUrl => self.page_text(|page| page.server.map(|server| &*server.url)),
            Text::ErrorPageServiceAddr => self.page_text(|page| page.server.map(|server| &*server.address)),
            Text::FailedAttempts => attempts_text(&summary.failed),
            Text::Origin => origin(self.exchange, self.summary.server).into(),
            Text::Reason => self.exchange.reason().map_or("", Reason::name).into(),
            Text::EntryPointName => (&*self.exchange.connection.entry_point).into(),
            Text::TlsVersion => tls.map_or("", |tls| tls.version).into(),
            Text::TlsCipher => tls.map_or("", |tls| tls.cipher).into(),
            Text::TlsClientSubject => {
                let first = tls.and_then(|tls| tls.client_certificates.first());
                first.and_then(|der| subject(der)).unwrap_or_default().into()
            }
            Text::StartUtc => stamp::nanoseconds(seen.at).into(),
            Text::RequestHeader(name) => values(seen.headers.as_ref(), name),
            Text::OriginHeader(name) => values(summary.origin_headers, name),
            Text::DownstreamHeader(name) => values(self.headers, name),
        }
    }

    /// Returns the `Host` header.
    pub(super) fn host(&self) -> &[u8] {
        self.seen.host.as_ref().map_or(&[], |host| host.as_bytes())
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.exchange.connection.tls.is_some() { "https" } else { "http" }
    }

    /// Returns the status of the server's response, or of ours if the server sent none.
    pub(super) fn origin_status(&self) -> u16 {
        let asked = self.summary.server.is_some() && self.summary.page.is_none();
        self.summary.origin_status.unwrap_or(if asked { self.exchange.status() } else { 0 })
    }

    pub(super) fn origin_size(&self) -> u64 {
        let asked = self.summary.server.is_some() && self.summary.page.is_none();
        self.summary.origin_size.unwrap_or(if asked { self.exchange.sent() } else { 0 })
    }

    fn page_text(&self, field: for<'a> fn(&Summary<'a>) -> Option<&'a str>) -> Cow<'_, str> {
        self.summary.page.as_deref().and_then(field).unwrap_or("").into()
    }

    /// Returns the router, if any.
    pub(super) fn router(&self) -> Option<&str> {
        self.summary.route.map(|route| &*route.router)
    }

    pub(super) fn page_status(&self) -> u16 {
        // Without a status, the client did not wait for the page.
        self.summary.page.as_ref().map_or(0, |page| page.origin_status.unwrap_or(self.exchange.status()))
    }

    pub(super) fn page_size(&self) -> u64 {
        self.summary.page.as_ref().map_or(0, |page| page.origin_size.unwrap_or(self.exchange.sent()))
    }

    /// Returns the length of the body before it was sent to the client.
    pub(super) fn sent_by_server(&self) -> u64 {
        if self.summary.page.is_some() { self.page_size() } else { self.origin_size() }
    }

    pub(super) fn gzip_ratio(&self) -> f64 {
        let (sent, size) = (self.exchange.sent(), self.sent_by_server());
        if sent > 0 && size != sent { size as f64 / sent as f64 } else { 0.0 }
    }

    /// Returns the first address of `X-Forwarded-For`, which the entry point removes if the peer is not trusted.
    /// Returns `None` if the client is the peer.
    pub(super) fn forwarded_client(&self) -> Option<String> {
        let first = self.seen.forwarded.as_ref()?.as_bytes().split(|byte| *byte == b',').next()?.trim_ascii();
        (!first.is_empty()).then(|| tidegate_core::forwarded::entry_name(first))
    }

    /// Returns the peer's address; IPv4-mapped ones as IPv4.
    pub(super) fn peer_address(&self) -> IpAddr {
        self.exchange.connection.peer.ip().to_canonical()
    }

    pub(super) fn path(&self, modes: &Modes) -> &str {
        let uri = &self.seen.uri;
        match modes.query {
            true => uri.path_and_query().map_or("", |target| target.as_str()),
            false => uri.path(),
        }
    }
}

/// Returns attempts in the form of filters: `name@provider http://server 503, …`.
fn attempts_text(attempts: &[Failed<'_>]) -> Cow<'static, str> {
    let one = |failed: &Failed<'_>| {
        let server = failed.server.map_or("-", |server| &server.url);
        format!("{} {server} {}", failed.service, failed.status)
    };
    attempts.iter().map(one).collect::<Vec<_>>().join(", ").into()
}

/// Returns all values of a header in one text; empty if there are none.
fn values<'a>(headers: Option<&'a HeaderMap>, name: &http::HeaderName) -> Cow<'a, str> {
    let mut all = headers.into_iter().flat_map(|headers| headers.get_all(name));
    let shown = |value: &'a http::HeaderValue| String::from_utf8_lossy(value.as_bytes());
    let Some(first) = all.next().map(shown) else { return Cow::Borrowed("") };
    all.fold(first, |joined, value| Cow::Owned(format!("{joined},{}", shown(value))))
}

/// Returns who responded: `client`, `gateway`, `middleware:<name>` or `server:<url>`; empty without a response.
pub(super) fn origin(exchange: &Exchange, server: Option<&ServerInfo>) -> String {
    match exchange.origin() {
        None => String::new(),
        Some(Origin::Middleware) => match exchange.middleware() {
            Some(name) => format!("middleware:{name}"),
            None => Origin::Middleware.name().to_owned(),
        },
        Some(Origin::Server) => match server {
            Some(server) => format!("server:{}", server.url),
            None => Origin::Server.name().to_owned(),
        },
        Some(other) => other.name().to_owned(),
    }
}

/// Returns host and port; `-` if there is no port.
pub(crate) fn host_and_port(address: &[u8]) -> (&[u8], &[u8]) {
    let colon = address.iter().rposition(|byte| *byte == b':');
    match colon.map(|at| (&address[..at], &address[at + 1..])) {
        Some((host, port)) if !port.is_empty() && port.iter().all(u8::is_ascii_digit) => (host, port),
        _ => (address, b"-"),
    }
}

/// Appends a number.
pub(super) fn push_number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}
