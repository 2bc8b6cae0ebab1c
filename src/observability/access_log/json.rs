//! Lines as JSON objects with Traefik's fields, sorted by key.

use std::io::Write as _;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;
use tidegate_core::attempt::Failed;
use tidegate_core::forwarded::push_address;

use super::escape::{push_json, push_json_part};
use super::fields::{Field, Fields, Time};
use super::line::{Entry, REDACTED, host_and_port, origin, protocol, push_number};
use super::modes::{Mode, Modes};
use super::{Aborted, nanoseconds, stamp};
use crate::tls::subject::subject;

/// Initial capacity, which suffices for most lines.
const INITIAL_CAPACITY: usize = 1280;

impl Entry<'_> {
    /// Returns the line as a JSON object, sorted by key.
    pub(super) fn json(&self, modes: &Modes) -> Vec<u8> {
        let mut line = Vec::with_capacity(INITIAL_CAPACITY);
        let fields = modes.fields().without(self.absent());
        self.push_fields(fields.without(Fields::LOWER_CASE), modes, &mut line);
        push_headers(b"downstream_", self.headers, modes, &mut line);
        self.push_fields(fields.only(Fields::LOWER_CASE), modes, &mut line);
        line.extend_from_slice(b",\"level\":\"info\",\"msg\":\"\"");
        push_headers(b"origin_", self.summary.origin_headers, modes, &mut line);
        push_headers(b"request_", self.seen.headers.as_ref(), modes, &mut line);
        // Traefik writes both forms of these names.
        if fields.contains(Field::SpanId) {
            line.extend_from_slice(b",\"span_id\":");
            let _ = self.push_value(Field::SpanId, modes, &mut line);
        }
        line.extend_from_slice(b",\"time\":\"");
        stamp::push_seconds(&mut line, self.seen.at + self.duration);
        line.push(b'"');
        if fields.contains(Field::TraceId) {
            line.extend_from_slice(b",\"trace_id\":");
            let _ = self.push_value(Field::TraceId, modes, &mut line);
        }
        line.extend_from_slice(b"}\n");
        // Every key is preceded by a comma, including the first.
        line[0] = b'{';
        line
    }

    /// Returns fields without a value in this line, though not necessarily all of them.
    fn absent(&self) -> Fields {
        [
            (Fields::PAGE, self.summary.page.is_none()),
            (Fields::TLS, self.exchange.connection.tls.is_none()),
            (Fields::ABORTED, self.aborted.is_none()),
            (Fields::FAILED, self.summary.failed.is_empty()),
            (Fields::TRACE, self.exchange.trace().is_none()),
        ]
        .into_iter()
        .fold(
            Fields::NONE,
            |absent, (fields, is_absent)| if is_absent { absent.with(fields) } else { absent },
        )
    }

    fn push_fields(&self, fields: Fields, modes: &Modes, line: &mut Vec<u8>) {
        for field in fields.iter() {
            let before = line.len();
            line.extend_from_slice(field.json_key());
            if self.push_value(field, modes, line).is_none() {
                line.truncate(before);
            }
        }
    }

    /// Appends the value of a field. Returns `None` if it has none.
    fn push_value(&self, field: Field, modes: &Modes, line: &mut Vec<u8>) -> Option<()> {
        let summary = self.summary;
        let page = summary.page.as_deref();
        match field {
            Field::ClientAddr => self.push_peer(line),
            Field::ClientHost => self.push_client_host(line),
            Field::ClientPort => push_digits(line, self.exchange.connection.peer.port()),
            Field::ClientUsername => push_json(line, summary.user.unwrap_or("-").as_bytes()),
            Field::Consumer => push_json(line, self.exchange.consumer()?.as_bytes()),
            Field::DownstreamAborted => line.extend_from_slice(b"true"),
            Field::DownstreamAbortedBy => push_word(line, self.aborted.map(Aborted::name)?),
            Field::DownstreamContentSize => push_number(line, self.exchange.sent()),
            Field::DownstreamStatus => push_number(line, self.exchange.status().into()),
            Field::Duration => push_number(line, nanoseconds(self.duration)),
            Field::EntryPointName => push_json(line, self.exchange.connection.entry_point.as_bytes()),
            Field::ErrorPageContentSize => push_number(line, self.page_size()),
            Field::ErrorPageDuration => push_number(line, nanoseconds(self.time(Time::ErrorPageDuration))),
            Field::ErrorPageFailedAttempts => push_attempts(line, &page?.failed)?,
            Field::ErrorPageServiceAddr => push_json(line, page?.server?.address.as_bytes()),
            Field::ErrorPageServiceName => push_json(line, page?.service?.as_bytes()),
            Field::ErrorPageServiceUrl => push_json(line, page?.server?.url.as_bytes()),
            Field::ErrorPageStatus => push_number(line, self.page_status().into()),
            Field::FailedAttempts => push_attempts(line, &summary.failed)?,
            Field::GzipRatio => self.push_ratio(line)?,
            Field::Origin => push_json(line, origin(self.exchange, summary.server).as_bytes()),
            Field::OriginContentSize => push_number(line, self.origin_size()),
            Field::OriginDuration => push_number(line, nanoseconds(self.time(Time::OriginDuration))),
            Field::OriginStatus => push_number(line, self.origin_status().into()),
            Field::Overhead => push_number(line, nanoseconds(self.time(Time::Overhead))),
            Field::Reason => push_word(line, self.exchange.reason()?.name()),
            Field::RequestAddr => push_json(line, self.host()),
            Field::RequestContentSize => push_number(line, self.exchange.received()),
            Field::RequestCount => push_number(line, self.count),
            Field::RequestHost => push_json(line, host_and_port(self.host()).0),
            Field::RequestId => push_json(line, self.exchange.request_id()?.as_bytes()),
            Field::RequestMethod => push_word(line, self.seen.method.as_str()),
            Field::RequestPath => push_json(line, self.path(modes).as_bytes()),
            Field::RequestPort => push_json(line, host_and_port(self.host()).1),
            Field::RequestProtocol => push_word(line, protocol(self.exchange.version)),
            Field::RequestScheme => push_word(line, self.scheme()),
            Field::RetryAttempts => push_number(line, summary.retries.into()),
            Field::RouterName => push_json(line, self.router()?.as_bytes()),
            Field::ServiceAddr => push_json(line, summary.server?.address.as_bytes()),
            Field::ServiceName => push_json(line, summary.service?.as_bytes()),
            Field::ServiceUrl => push_json(line, summary.server?.url.as_bytes()),
            Field::SpanId => push_word(line, &self.exchange.trace()?.span_id_hex()),
            Field::TraceId => push_word(line, &self.exchange.trace()?.trace_id_hex()),
            Field::StartLocal | Field::StartUtc => self.push_start(line),
            Field::TlsCipher => push_word(line, self.exchange.connection.tls.as_ref()?.cipher),
            Field::TlsClientSubject => {
                let first = self.exchange.connection.tls.as_ref()?.client_certificates.first()?;
                push_json(line, subject(first)?.as_bytes());
            }
            Field::TlsVersion => push_word(line, self.exchange.connection.tls.as_ref()?.version),
        }
        Some(())
    }

    fn push_peer(&self, line: &mut Vec<u8>) {
        let peer = self.exchange.connection.peer;
        line.push(b'"');
        match peer {
            SocketAddr::V4(_) => {
                push_address(line, peer.ip());
                line.push(b':');
                push_number(line, peer.port().into());
            }
            // Writing to a Vec cannot fail.
            SocketAddr::V6(_) => drop(write!(line, "{peer}")),
        }
        line.push(b'"');
    }

    fn push_client_host(&self, line: &mut Vec<u8>) {
        match self.forwarded_client() {
            Some(client) => push_json(line, client.as_bytes()),
            None => {
                line.push(b'"');
                push_address(line, self.peer_address());
                line.push(b'"');
            }
        }
    }

    fn push_start(&self, line: &mut Vec<u8>) {
        line.push(b'"');
        stamp::push_nanoseconds(line, self.seen.at);
        line.push(b'"');
    }

    fn push_ratio(&self, line: &mut Vec<u8>) -> Option<()> {
        let (sent, size) = (self.exchange.sent(), self.sent_by_server());
        if sent == 0 || size == sent {
            return None;
        }
        match size {
            0 => line.push(b'0'),
            // Writing to a Vec cannot fail.
            _ => drop(serde_json::to_writer(line, &self.gzip_ratio())),
        }
        Some(())
    }
}

/// Appends a string that needs no escaping.
fn push_word(line: &mut Vec<u8>, word: &str) {
    line.push(b'"');
    line.extend_from_slice(word.as_bytes());
    line.push(b'"');
}

/// Appends a number as a string.
fn push_digits(line: &mut Vec<u8>, number: u16) {
    line.push(b'"');
    push_number(line, number.into());
    line.push(b'"');
}

/// Appends the attempts before the last one. Returns `None` if there are none.
fn push_attempts(line: &mut Vec<u8>, attempts: &[Failed<'_>]) -> Option<()> {
    let (first, others) = attempts.split_first()?;
    line.push(b'[');
    push_attempt(line, first);
    for attempt in others {
        line.push(b',');
        push_attempt(line, attempt);
    }
    line.push(b']');
    Some(())
}

fn push_attempt(line: &mut Vec<u8>, attempt: &Failed<'_>) {
    line.extend_from_slice(b"{\"OriginDuration\":");
    push_number(line, nanoseconds(attempt.duration.unwrap_or_default()));
    line.extend_from_slice(b",\"OriginStatus\":");
    push_number(line, attempt.status.into());
    if let Some(server) = attempt.server {
        line.extend_from_slice(b",\"ServiceAddr\":");
        push_json(line, server.address.as_bytes());
    }
    line.extend_from_slice(b",\"ServiceName\":");
    push_json(line, attempt.service.as_bytes());
    if let Some(server) = attempt.server {
        line.extend_from_slice(b",\"ServiceURL\":");
        push_json(line, server.url.as_bytes());
    }
    line.push(b'}');
}

/// Appends the headers that are logged, with their names as Go writes them.
fn push_headers(prefix: &[u8], headers: Option<&HeaderMap>, modes: &Modes, line: &mut Vec<u8>) {
    let Some(headers) = headers else { return };
    let shown = headers.keys().filter(|name| *name != http::header::HOST);
    let shown = shown.map(|name| (name, modes.of_header(name))).filter(|(_, mode)| *mode != Mode::Drop);
    let mut shown: SmallVec<[(&HeaderName, Mode); 16]> = shown.collect();
    shown.sort_unstable_by(|(one, _), (other, _)| canonical(one).cmp(canonical(other)));
    for (name, mode) in shown {
        line.extend_from_slice(b",\"");
        line.extend_from_slice(prefix);
        line.extend(canonical(name));
        line.extend_from_slice(b"\":\"");
        match mode {
            Mode::Keep => {
                for (place, value) in headers.get_all(name).iter().enumerate() {
                    if place > 0 {
                        line.push(b',');
                    }
                    push_json_part(line, value.as_bytes());
                }
            }
            Mode::Redact | Mode::Drop => line.extend_from_slice(REDACTED.as_bytes()),
        }
        line.push(b'"');
    }
}

/// Returns a header name as Go writes it: `X-Real-Ip`.
fn canonical(name: &HeaderName) -> impl Iterator<Item = u8> {
    let mut upper = true;
    name.as_str().bytes().map(move |byte| {
        let written = if upper { byte.to_ascii_uppercase() } else { byte };
        upper = byte == b'-';
        written
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_canonical() {
        let name: Vec<u8> = canonical(&HeaderName::from_static("x-real-ip")).collect();
        assert_eq!(name, b"X-Real-Ip");
    }
}
