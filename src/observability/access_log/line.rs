//! Formats one line: Traefik's common log format with its additional columns, or JSON with its fields.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, Version};
use serde_json::Value;
use tidegate_core::Exchange;
use tidegate_core::exchange::{Failed, Summary};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::fields::{Number, Text, Time};
use super::modes::{Mode, Modes};
use super::{Aborted, Seen, nanoseconds};
use crate::tls::subject::subject;

/// What is written for a header that must not be read.
const REDACTED: &str = "REDACTED";

/// Everything that is known of one request at its end.
pub(super) struct Entry<'a> {
    pub(super) seen: &'a Seen,
    pub(super) exchange: &'a Exchange,
    pub(super) summary: &'a Summary<'a>,
    /// Headers of the response.
    pub(super) headers: Option<&'a HeaderMap>,
    /// Who has cut the response short.
    pub(super) aborted: Option<Aborted>,
    pub(super) duration: Duration,
    /// Number of the request since the start, internal ones left out.
    pub(super) count: u64,
}

impl Entry<'_> {
    /// The common log format; `extended` adds count, router, server and milliseconds, and who cut
    /// the answer short when that was so.
    pub(super) fn clf(&self, modes: &Modes, extended: bool) -> String {
        let seen = self.seen;
        let mut line = String::with_capacity(256);
        let field = |name: &str, value: &str, line: &mut String| match value {
            value if !value.is_empty() && modes.keeps(name) => push_plain(line, value),
            _ => line.push('-'),
        };
        let quoted = |keep: bool, value: Option<&str>, line: &mut String| {
            push_quoted(line, value.filter(|value| keep && !value.is_empty()).unwrap_or("-"));
        };
        let number = |name: &str, value: u64, line: &mut String| match modes.keeps(name) {
            true => line.push_str(itoa::Buffer::new().format(value)),
            false => line.push('-'),
        };
        field("ClientHost", &self.client_host(), &mut line);
        line.push_str(" - ");
        field("ClientUsername", self.summary.user.unwrap_or(""), &mut line);
        let day = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
        let _ = write!(line, " [{}] \"", seen.at.format(&day).unwrap_or_default());
        field("RequestMethod", seen.method.as_str(), &mut line);
        line.push(' ');
        field("RequestPath", self.path(modes), &mut line);
        line.push(' ');
        field("RequestProtocol", protocol(self.exchange.version), &mut line);
        line.push_str("\" ");
        number("DownstreamStatus", self.exchange.status().into(), &mut line);
        line.push(' ');
        number("DownstreamContentSize", self.exchange.sent(), &mut line);
        for name in [http::header::REFERER, http::header::USER_AGENT] {
            line.push(' ');
            let value = match modes.of_header(&name) {
                Mode::Keep => self.header(&name),
                Mode::Redact => self.header(&name).map(|_| REDACTED.into()),
                Mode::Drop => None,
            };
            quoted(true, value.as_deref(), &mut line);
        }
        if extended {
            line.push(' ');
            number("RequestCount", self.count, &mut line);
            line.push(' ');
            quoted(modes.keeps("RouterName"), self.router(), &mut line);
            line.push(' ');
            quoted(modes.keeps("ServiceURL"), self.summary.server.map(|server| &*server.url), &mut line);
            let _ = write!(line, " {}ms", self.duration.as_millis());
            if let Some(aborted) = self.aborted.filter(|_| modes.keeps("DownstreamAborted")) {
                let _ = write!(line, " aborted-by-{}", aborted.name());
            }
        }
        line.push('\n');
        line
    }

    /// One JSON object, its keys sorted.
    pub(super) fn json(&self, modes: &Modes) -> String {
        let mut out: BTreeMap<Cow<'_, str>, Value> = BTreeMap::new();
        self.request_fields(modes, &mut out);
        self.response_fields(&mut out);
        out.retain(|name, _| modes.keeps(name));
        let headers = [
            ("request_", self.seen.headers.as_ref()),
            ("origin_", self.summary.origin_headers),
            ("downstream_", self.headers),
        ];
        for (prefix, headers) in headers {
            if let Some(headers) = headers {
                push_headers(prefix, headers, modes, &mut out);
            }
        }
        out.insert("level".into(), "info".into());
        out.insert("msg".into(), "".into());
        let second = OffsetDateTime::now_utc().replace_nanosecond(0);
        out.insert("time".into(), second.ok().and_then(|at| at.format(&Rfc3339).ok()).into());
        let mut line = escape_controls(serde_json::to_string(&out).unwrap_or_default());
        line.push('\n');
        line
    }

    fn request_fields(&self, modes: &Modes, out: &mut BTreeMap<Cow<'_, str>, Value>) {
        let seen = self.seen;
        let peer = self.exchange.connection.peer;
        let address = self.address();
        let (host, port) = host_and_port(&address);
        let at: Value = seen.at.format(&Rfc3339).ok().into();
        let tls = self.exchange.connection.tls.as_ref();
        out.extend::<[(Cow<'_, str>, Value); 18]>([
            ("StartUTC".into(), at.clone()),
            ("StartLocal".into(), at),
            ("ClientAddr".into(), peer.to_string().into()),
            ("ClientHost".into(), self.client_host().into()),
            ("ClientPort".into(), peer.port().to_string().into()),
            ("ClientUsername".into(), self.summary.user.unwrap_or("-").into()),
            ("RequestAddr".into(), (*address).into()),
            ("RequestHost".into(), host.into()),
            ("RequestPort".into(), port.into()),
            ("RequestMethod".into(), seen.method.as_str().into()),
            ("RequestPath".into(), self.path(modes).into()),
            ("RequestProtocol".into(), protocol(self.exchange.version).into()),
            ("RequestScheme".into(), if tls.is_some() { "https" } else { "http" }.into()),
            ("RequestContentSize".into(), self.exchange.received().into()),
            ("RequestCount".into(), self.count.into()),
            ("RetryAttempts".into(), self.summary.retries.into()),
            ("entryPointName".into(), (*self.exchange.connection.entry_point).into()),
            ("Duration".into(), nanoseconds(self.duration).into()),
        ]);
        if let Some(tls) = tls {
            out.insert("TLSVersion".into(), tls.version.into());
            out.insert("TLSCipher".into(), tls.cipher.into());
            if let Some(subject) = tls.client_certificates.first().and_then(|der| subject(der)) {
                out.insert("TLSClientSubject".into(), subject.into());
            }
        }
    }

    fn response_fields(&self, out: &mut BTreeMap<Cow<'_, str>, Value>) {
        let summary = self.summary;
        out.insert("DownstreamStatus".into(), self.exchange.status().into());
        out.insert("DownstreamContentSize".into(), self.exchange.sent().into());
        out.insert("Overhead".into(), nanoseconds(self.time(Time::Overhead)).into());
        let texts = [
            ("RouterName", self.router()),
            ("ServiceName", summary.service),
            ("ServiceURL", summary.server.map(|server| &*server.url)),
            ("ServiceAddr", summary.server.map(|server| &*server.address)),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                out.insert(name.into(), value.into());
            }
        }
        let (sent, size) = (self.exchange.sent(), self.sent_by_server());
        out.insert("OriginStatus".into(), self.origin_status().into());
        out.insert("OriginDuration".into(), nanoseconds(self.time(Time::OriginDuration)).into());
        out.insert("OriginContentSize".into(), self.origin_size().into());
        if sent > 0 && size != sent {
            let ratio = if size == 0 { Value::from(0) } else { self.gzip_ratio().into() };
            out.insert("GzipRatio".into(), ratio);
        }
        if let Some(aborted) = self.aborted {
            out.insert("DownstreamAborted".into(), true.into());
            out.insert("DownstreamAbortedBy".into(), aborted.name().into());
        }
        if let Some(page) = &summary.page {
            self.page_fields(page, out);
        }
        if !summary.failed.is_empty() {
            out.insert("FailedAttempts".into(), summary.failed.iter().map(failed_attempt).collect());
        }
    }

    fn page_fields(&self, page: &Summary<'_>, out: &mut BTreeMap<Cow<'_, str>, Value>) {
        let texts = [
            ("ErrorPageServiceName", page.service),
            ("ErrorPageServiceURL", page.server.map(|server| &*server.url)),
            ("ErrorPageServiceAddr", page.server.map(|server| &*server.address)),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                out.insert(name.into(), value.into());
            }
        }
        out.insert("ErrorPageStatus".into(), self.page_status().into());
        out.insert("ErrorPageContentSize".into(), self.page_size().into());
        out.insert("ErrorPageDuration".into(), nanoseconds(self.time(Time::ErrorPageDuration)).into());
        if !page.failed.is_empty() {
            out.insert("ErrorPageFailedAttempts".into(), page.failed.iter().map(failed_attempt).collect());
        }
    }

    /// A field that is a number; 0 where the log has none.
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
            Number::RequestPort => host_and_port(&self.address()).1.parse().unwrap_or(0),
        };
        whole as f64
    }

    /// A field that is a length of time.
    pub(super) fn time(&self, field: Time) -> Duration {
        // Who is still waiting for an answer has waited until now.
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

    /// A field that is a text; empty where the log has none.
    pub(super) fn text(&self, field: &Text, modes: &Modes) -> Cow<'_, str> {
        let (seen, summary) = (self.seen, self.summary);
        let tls = self.exchange.connection.tls.as_ref();
        match field {
            Text::ClientAddr => self.exchange.connection.peer.to_string().into(),
            Text::ClientHost => self.client_host().into(),
            Text::ClientUsername => summary.user.unwrap_or("-").into(),
            Text::RequestAddr => self.address(),
            Text::RequestHost => host_and_port(&self.address()).0.to_owned().into(),
            Text::RequestMethod => seen.method.as_str().into(),
            Text::RequestPath => self.path(modes).into(),
            Text::RequestProtocol => protocol(self.exchange.version).into(),
            Text::RequestScheme => if tls.is_some() { "https" } else { "http" }.into(),
            Text::RouterName => self.router().unwrap_or("").into(),
            Text::ServiceName => summary.service.unwrap_or("").into(),
            Text::ServiceUrl => summary.server.map_or("", |server| &server.url).into(),
            Text::ServiceAddr => summary.server.map_or("", |server| &server.address).into(),
            Text::AbortedBy => self.aborted.map_or("", Aborted::name).into(),
            Text::ErrorPageServiceName => self.page_text(|page| page.service),
            Text::ErrorPageServiceUrl => self.page_text(|page| page.server.map(|server| &*server.url)),
            Text::ErrorPageServiceAddr => self.page_text(|page| page.server.map(|server| &*server.address)),
            Text::FailedAttempts => attempts_text(&summary.failed),
            Text::EntryPointName => (&*self.exchange.connection.entry_point).into(),
            Text::TlsVersion => tls.map_or("", |tls| tls.version).into(),
            Text::TlsCipher => tls.map_or("", |tls| tls.cipher).into(),
            Text::TlsClientSubject => {
                let first = tls.and_then(|tls| tls.client_certificates.first());
                first.and_then(|der| subject(der)).unwrap_or_default().into()
            }
            Text::StartUtc => seen.at.format(&Rfc3339).unwrap_or_default().into(),
            Text::RequestHeader(name) => values(seen.headers.as_ref(), name),
            Text::OriginHeader(name) => values(summary.origin_headers, name),
            Text::DownstreamHeader(name) => values(self.headers, name),
        }
    }

    /// The `Host` header.
    fn address(&self) -> Cow<'_, str> {
        self.seen.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes())).unwrap_or_default()
    }

    /// Our own answer stands for that of a server which gave none.
    fn origin_status(&self) -> u16 {
        let asked = self.summary.server.is_some() && self.summary.page.is_none();
        self.summary.origin_status.unwrap_or(if asked { self.exchange.status() } else { 0 })
    }

    fn origin_size(&self) -> u64 {
        let asked = self.summary.server.is_some() && self.summary.page.is_none();
        self.summary.origin_size.unwrap_or(if asked { self.exchange.sent() } else { 0 })
    }

    fn page_text(&self, field: for<'a> fn(&Summary<'a>) -> Option<&'a str>) -> Cow<'_, str> {
        self.summary.page.as_deref().and_then(field).unwrap_or("").into()
    }

    /// The router; `None` when there was none.
    fn router(&self) -> Option<&str> {
        self.summary.route.map(|route| &*route.router)
    }

    fn page_status(&self) -> u16 {
        // Without a status the client did not wait for the page.
        self.summary.page.as_ref().map_or(0, |page| page.origin_status.unwrap_or(self.exchange.status()))
    }

    fn page_size(&self) -> u64 {
        self.summary.page.as_ref().map_or(0, |page| page.origin_size.unwrap_or(self.exchange.sent()))
    }

    /// Length of the body that was meant for the client.
    fn sent_by_server(&self) -> u64 {
        if self.summary.page.is_some() { self.page_size() } else { self.origin_size() }
    }

    fn gzip_ratio(&self) -> f64 {
        let (sent, size) = (self.exchange.sent(), self.sent_by_server());
        if sent > 0 && size != sent { size as f64 / sent as f64 } else { 0.0 }
    }

    /// Who the client is: what the entry point believes, else the first address of `X-Forwarded-For`, else the peer.
    fn client_host(&self) -> String {
        let forwarded =
            self.seen.forwarded.as_ref().and_then(|value| value.as_bytes().split(|b| *b == b',').next());
        match forwarded.map(<[u8]>::trim_ascii) {
            Some(first) if !first.is_empty() => tidegate_core::forwarded::entry_name(first),
            _ => self.exchange.connection.peer.ip().to_canonical().to_string(),
        }
    }

    fn path(&self, modes: &Modes) -> &str {
        let uri = &self.seen.uri;
        match modes.query {
            true => uri.path_and_query().map_or("", |target| target.as_str()),
            false => uri.path(),
        }
    }

    fn header(&self, name: &http::HeaderName) -> Option<Cow<'_, str>> {
        let value = self.seen.headers.as_ref()?.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()))
    }
}

fn failed_attempt(failed: &Failed<'_>) -> Value {
    let mut out = serde_json::Map::new();
    let texts = [
        ("ServiceName", Some(failed.service)),
        ("ServiceURL", failed.server.map(|server| &*server.url)),
        ("ServiceAddr", failed.server.map(|server| &*server.address)),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            out.insert(name.to_owned(), value.into());
        }
    }
    out.insert("OriginStatus".to_owned(), failed.status.into());
    out.insert("OriginDuration".to_owned(), nanoseconds(failed.duration.unwrap_or_default()).into());
    out.into()
}

/// Attempts as filters see them: `name@provider http://server 503, …`.
fn attempts_text(attempts: &[Failed<'_>]) -> Cow<'static, str> {
    let one = |failed: &Failed<'_>| {
        let server = failed.server.map_or("-", |server| &server.url);
        format!("{} {server} {}", failed.service, failed.status)
    };
    attempts.iter().map(one).collect::<Vec<_>>().join(", ").into()
}

fn push_headers(prefix: &str, headers: &HeaderMap, modes: &Modes, out: &mut BTreeMap<Cow<'_, str>, Value>) {
    for name in headers.keys().filter(|name| *name != http::header::HOST) {
        let value = match modes.of_header(name) {
            Mode::Drop => continue,
            Mode::Redact => REDACTED.to_owned(),
            Mode::Keep => values(Some(headers), name).into_owned(),
        };
        out.insert(format!("{prefix}{}", canonical(name.as_str())).into(), value.into());
    }
}

/// All values of a header in one text; empty when there is none.
fn values<'a>(headers: Option<&'a HeaderMap>, name: &http::HeaderName) -> Cow<'a, str> {
    let mut all = headers.into_iter().flat_map(|headers| headers.get_all(name));
    let shown = |value: &'a http::HeaderValue| String::from_utf8_lossy(value.as_bytes());
    let Some(first) = all.next().map(shown) else { return Cow::Borrowed("") };
    all.fold(first, |joined, value| Cow::Owned(format!("{joined},{}", shown(value))))
}

/// A host and its port, `-` without one.
fn host_and_port(address: &str) -> (&str, &str) {
    match address.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (address, "-"),
    }
}

/// A header's name as Go writes it: `X-Real-Ip`.
fn canonical(name: &str) -> String {
    let mut upper = true;
    let letter = |c: char| {
        let written = if upper { c.to_ascii_uppercase() } else { c };
        upper = c == '-';
        written
    };
    name.chars().map(letter).collect()
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// JSON with those control characters escaped that it allows as they are, and line ends of Unicode, as Go does: a
/// terminal that shows the log obeys some of them.
fn escape_controls(json: String) -> String {
    let moves = |c: char| matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
    // Most lines are plain ASCII.
    if !json.bytes().any(|byte| byte >= 0x7f) || !json.contains(moves) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if moves(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A text without quotes around it: what could be taken for another column or line is escaped.
fn push_plain(line: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            ' ' => line.push_str("\\x20"),
            c if c.is_control() => push_escaped(line, c),
            c => line.push(c),
        }
    }
}

/// A text in double quotes, escaped as Go's `strconv.Quote` does.
fn push_quoted(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if c.is_control() => push_escaped(line, c),
            c => line.push(c),
        }
    }
    line.push('"');
}

fn push_escaped(line: &mut String, c: char) {
    match c {
        '\n' => line.push_str("\\n"),
        '\r' => line.push_str("\\r"),
        '\t' => line.push_str("\\t"),
        // Writing to a String cannot fail.
        c if u32::from(c) < 0x80 => drop(write!(line, "\\x{:02x}", u32::from(c))),
        c => drop(write!(line, "\\u{:04x}", u32::from(c))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_canonical() {
        assert_eq!(canonical("x-real-ip"), "X-Real-Ip");
    }
}
