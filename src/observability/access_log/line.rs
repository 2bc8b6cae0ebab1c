//! Formats one line: Traefik's common log format with its additional columns, or JSON with its fields.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Version};
use serde_json::Value;
use tidegate_core::record::{Failed, Fields};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use super::filter::{Number, Text, Time};
use super::modes::{Mode, Modes};
use super::{Aborted, Outcome, Seen, nanoseconds};
use crate::tls::subject::subject;

/// What is written for a header that must not be read.
const REDACTED: &str = "REDACTED";

/// Everything that is known of one request at its end.
pub(super) struct Entry<'a> {
    pub(super) seen: &'a Seen,
    pub(super) fields: &'a Fields,
    /// What was filled in while a page for an error was fetched.
    pub(super) page: Option<&'a Fields>,
    pub(super) outcome: &'a Outcome<'a>,
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
        field("ClientUsername", self.fields.user.as_deref().unwrap_or(""), &mut line);
        let day = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
        let _ = write!(line, " [{}] \"", seen.at.format(&day).unwrap_or_default());
        field("RequestMethod", seen.method.as_str(), &mut line);
        line.push(' ');
        field("RequestPath", self.path(modes), &mut line);
        line.push(' ');
        field("RequestProtocol", protocol(seen.version), &mut line);
        line.push_str("\" ");
        number("DownstreamStatus", self.outcome.status.into(), &mut line);
        line.push(' ');
        number("DownstreamContentSize", self.outcome.sent, &mut line);
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
            quoted(modes.keeps("RouterName"), self.fields.router.as_deref(), &mut line);
            line.push(' ');
            quoted(modes.keeps("ServiceURL"), self.fields.server_url.as_deref(), &mut line);
            let _ = write!(line, " {}ms", self.duration.as_millis());
            if let Some(aborted) = self.outcome.aborted.filter(|_| modes.keeps("DownstreamAborted")) {
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
            ("origin_", self.fields.origin_headers.as_ref()),
            ("downstream_", self.outcome.headers),
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
        let peer = seen.connection.peer;
        let address = self.address();
        let (host, port) = host_and_port(&address);
        let at: Value = seen.at.format(&Rfc3339).ok().into();
        let tls = seen.connection.tls.as_ref();
        out.extend::<[(Cow<'_, str>, Value); 18]>([
            ("StartUTC".into(), at.clone()),
            ("StartLocal".into(), at),
            ("ClientAddr".into(), peer.to_string().into()),
            ("ClientHost".into(), self.client_host().into()),
            ("ClientPort".into(), peer.port().to_string().into()),
            ("ClientUsername".into(), self.fields.user.as_deref().unwrap_or("-").into()),
            ("RequestAddr".into(), (*address).into()),
            ("RequestHost".into(), host.into()),
            ("RequestPort".into(), port.into()),
            ("RequestMethod".into(), seen.method.as_str().into()),
            ("RequestPath".into(), self.path(modes).into()),
            ("RequestProtocol".into(), protocol(seen.version).into()),
            ("RequestScheme".into(), if tls.is_some() { "https" } else { "http" }.into()),
            ("RequestContentSize".into(), seen.received.load(std::sync::atomic::Ordering::Relaxed).into()),
            ("RequestCount".into(), self.count.into()),
            ("RetryAttempts".into(), self.fields.retries.into()),
            ("entryPointName".into(), (*seen.connection.entry_point).into()),
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
        let fields = self.fields;
        out.insert("DownstreamStatus".into(), self.outcome.status.into());
        out.insert("DownstreamContentSize".into(), self.outcome.sent.into());
        out.insert("Overhead".into(), nanoseconds(self.time(Time::Overhead)).into());
        let texts = [
            ("RouterName", &fields.router),
            ("ServiceName", &fields.service),
            ("ServiceURL", &fields.server_url),
            ("ServiceAddr", &fields.server_addr),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                out.insert(name.into(), (**value).into());
            }
        }
        let (sent, size) = (self.outcome.sent, self.sent_by_server());
        out.insert("OriginStatus".into(), self.origin_status().into());
        out.insert("OriginDuration".into(), nanoseconds(self.time(Time::OriginDuration)).into());
        out.insert("OriginContentSize".into(), self.origin_size().into());
        if sent > 0 && size != sent {
            let ratio = if size == 0 { Value::from(0) } else { self.gzip_ratio().into() };
            out.insert("GzipRatio".into(), ratio);
        }
        if let Some(aborted) = self.outcome.aborted {
            out.insert("DownstreamAborted".into(), true.into());
            out.insert("DownstreamAbortedBy".into(), aborted.name().into());
        }
        if let Some(page) = self.page {
            self.page_fields(page, out);
        }
        if !fields.failed.is_empty() {
            out.insert("FailedAttempts".into(), fields.failed.iter().map(failed_attempt).collect());
        }
    }

    fn page_fields(&self, page: &Fields, out: &mut BTreeMap<Cow<'_, str>, Value>) {
        let texts = [
            ("ErrorPageServiceName", &page.service),
            ("ErrorPageServiceURL", &page.server_url),
            ("ErrorPageServiceAddr", &page.server_addr),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                out.insert(name.into(), (**value).into());
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
            Number::DownstreamStatus => self.outcome.status.into(),
            Number::DownstreamContentSize => self.outcome.sent,
            Number::OriginStatus => self.origin_status().into(),
            Number::OriginContentSize => self.origin_size(),
            Number::ErrorPageStatus => self.page_status().into(),
            Number::ErrorPageContentSize => self.page_size(),
            Number::RequestContentSize => self.seen.received.load(std::sync::atomic::Ordering::Relaxed),
            Number::RequestCount => self.count,
            Number::RetryAttempts => self.fields.retries.into(),
            Number::GzipRatio => return self.gzip_ratio(),
            Number::ClientPort => self.seen.connection.peer.port().into(),
            Number::RequestPort => host_and_port(&self.address()).1.parse().unwrap_or(0),
        };
        whole as f64
    }

    /// A field that is a length of time.
    pub(super) fn time(&self, field: Time) -> Duration {
        // Who is still waiting for an answer has waited until now.
        let took = |fields: &Fields| {
            let asked = || fields.asked.map(|asked| asked.elapsed());
            fields.origin_duration.or_else(asked).unwrap_or_default()
        };
        let (origin, page) = (took(self.fields), self.page.map(took).unwrap_or_default());
        match field {
            Time::Duration => self.duration,
            Time::OriginDuration => origin,
            Time::ErrorPageDuration => page,
            Time::Overhead => self.duration.saturating_sub(origin).saturating_sub(page),
        }
    }

    /// A field that is a text; empty where the log has none.
    pub(super) fn text(&self, field: &Text, modes: &Modes) -> Cow<'_, str> {
        let (seen, fields) = (self.seen, self.fields);
        let tls = seen.connection.tls.as_ref();
        match field {
            Text::ClientAddr => seen.connection.peer.to_string().into(),
            Text::ClientHost => self.client_host().into(),
            Text::ClientUsername => fields.user.as_deref().unwrap_or("-").into(),
            Text::RequestAddr => self.address(),
            Text::RequestHost => host_and_port(&self.address()).0.to_owned().into(),
            Text::RequestMethod => seen.method.as_str().into(),
            Text::RequestPath => self.path(modes).into(),
            Text::RequestProtocol => protocol(seen.version).into(),
            Text::RequestScheme => if tls.is_some() { "https" } else { "http" }.into(),
            Text::RouterName => fields.router.as_deref().unwrap_or("").into(),
            Text::ServiceName => fields.service.as_deref().unwrap_or("").into(),
            Text::ServiceUrl => fields.server_url.as_deref().unwrap_or("").into(),
            Text::ServiceAddr => fields.server_addr.as_deref().unwrap_or("").into(),
            Text::AbortedBy => self.outcome.aborted.map_or("", Aborted::name).into(),
            Text::ErrorPageServiceName => self.page_text(|page| &page.service),
            Text::ErrorPageServiceUrl => self.page_text(|page| &page.server_url),
            Text::ErrorPageServiceAddr => self.page_text(|page| &page.server_addr),
            Text::FailedAttempts => attempts_text(&fields.failed),
            Text::EntryPointName => (&*seen.connection.entry_point).into(),
            Text::TlsVersion => tls.map_or("", |tls| tls.version).into(),
            Text::TlsCipher => tls.map_or("", |tls| tls.cipher).into(),
            Text::TlsClientSubject => {
                let first = tls.and_then(|tls| tls.client_certificates.first());
                first.and_then(|der| subject(der)).unwrap_or_default().into()
            }
            Text::StartUtc => seen.at.format(&Rfc3339).unwrap_or_default().into(),
            Text::RequestHeader(name) => values(seen.headers.as_ref(), name),
            Text::OriginHeader(name) => values(fields.origin_headers.as_ref(), name),
            Text::DownstreamHeader(name) => values(self.outcome.headers, name),
        }
    }

    /// The `Host` header.
    fn address(&self) -> Cow<'_, str> {
        self.seen.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes())).unwrap_or_default()
    }

    /// Our own answer stands for that of a server which gave none.
    fn origin_status(&self) -> u16 {
        let asked = self.fields.server_url.is_some() && self.page.is_none();
        self.fields.origin_status.unwrap_or(if asked { self.outcome.status } else { 0 })
    }

    fn origin_size(&self) -> u64 {
        let asked = self.fields.server_url.is_some() && self.page.is_none();
        self.fields.origin_size.unwrap_or(if asked { self.outcome.sent } else { 0 })
    }

    fn page_text(&self, field: fn(&Fields) -> &Option<Arc<str>>) -> Cow<'_, str> {
        self.page.and_then(|page| field(page).as_deref()).unwrap_or("").into()
    }

    fn page_status(&self) -> u16 {
        // Without a status the client did not wait for the page.
        self.page.map_or(0, |page| page.origin_status.unwrap_or(self.outcome.status))
    }

    fn page_size(&self) -> u64 {
        self.page.map_or(0, |page| page.origin_size.unwrap_or(self.outcome.sent))
    }

    /// Length of the body that was meant for the client.
    fn sent_by_server(&self) -> u64 {
        if self.page.is_some() { self.page_size() } else { self.origin_size() }
    }

    fn gzip_ratio(&self) -> f64 {
        let (sent, size) = (self.outcome.sent, self.sent_by_server());
        if sent > 0 && size != sent { size as f64 / sent as f64 } else { 0.0 }
    }

    /// Who the client is: what the entry point believes, else the first address of `X-Forwarded-For`, else the peer.
    fn client_host(&self) -> String {
        if let Some(client) = self.seen.client {
            return client.to_canonical().to_string();
        }
        let forwarded =
            self.seen.forwarded.as_ref().and_then(|value| value.as_bytes().split(|b| *b == b',').next());
        match forwarded.map(<[u8]>::trim_ascii) {
            Some(first) if !first.is_empty() => tidegate_core::forwarded::entry_name(first),
            _ => self.seen.connection.peer.ip().to_canonical().to_string(),
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

fn failed_attempt(failed: &Failed) -> Value {
    let mut out = serde_json::Map::new();
    let texts = [
        ("ServiceName", &failed.service),
        ("ServiceURL", &failed.server_url),
        ("ServiceAddr", &failed.server_addr),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            out.insert(name.to_owned(), (**value).into());
        }
    }
    out.insert("OriginStatus".to_owned(), failed.status.into());
    out.insert("OriginDuration".to_owned(), nanoseconds(failed.duration.unwrap_or_default()).into());
    out.into()
}

/// Attempts as filters see them: `name@provider http://server 503, …`.
fn attempts_text(attempts: &[Failed]) -> Cow<'static, str> {
    let one = |failed: &Failed| {
        let text = |value: &Option<Arc<str>>| value.as_deref().unwrap_or("-").to_owned();
        format!("{} {} {}", text(&failed.service), text(&failed.server_url), failed.status)
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
