//! Lines in Traefik's common log format.

use http::HeaderName;
use http::header::{REFERER, USER_AGENT};
use tidegate_core::forwarded::push_address;

use super::escape::{push_plain, push_quoted};
use super::fields::Field;
use super::line::{Entry, REDACTED, protocol, push_number};
use super::modes::{Mode, Modes};
use super::stamp;

impl Entry<'_> {
    /// Returns the line in the common log format. `extended` adds count, router, server and milliseconds, and who
    /// aborted the response, if it is incomplete.
    pub(super) fn clf(&self, modes: &Modes, extended: bool) -> Vec<u8> {
        let mut line = Vec::with_capacity(256);
        self.push_client(modes, &mut line);
        line.extend_from_slice(b" [");
        stamp::push_common(&mut line, self.seen.at);
        line.extend_from_slice(b" +0000] \"");
        self.push_request(modes, &mut line);
        line.extend_from_slice(b"\" ");
        let number = |field, value, line: &mut Vec<u8>| match modes.keeps(field) {
            true => push_number(line, value),
            false => line.push(b'-'),
        };
        number(Field::DownstreamStatus, self.exchange.status().into(), &mut line);
        line.push(b' ');
        number(Field::DownstreamContentSize, self.exchange.sent(), &mut line);
        self.push_header(&REFERER, modes, &mut line);
        self.push_header(&USER_AGENT, modes, &mut line);
        if extended {
            line.push(b' ');
            number(Field::RequestCount, self.count, &mut line);
            let router = self.router().filter(|_| modes.keeps(Field::RouterName));
            push_quoted_or_dash(router, &mut line);
            let server = self.summary.server.filter(|_| modes.keeps(Field::ServiceUrl));
            push_quoted_or_dash(server.map(|server| &*server.url), &mut line);
            line.push(b' ');
            push_number(&mut line, u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX));
            line.extend_from_slice(b"ms");
            if let Some(aborted) = self.aborted.filter(|_| modes.keeps(Field::DownstreamAborted)) {
                line.extend_from_slice(b" aborted-by-");
                line.extend_from_slice(aborted.name().as_bytes());
            }
        }
        line.push(b'\n');
        line
    }

    /// Appends the client's address and user name.
    fn push_client(&self, modes: &Modes, line: &mut Vec<u8>) {
        if !modes.keeps(Field::ClientHost) {
            line.push(b'-');
        } else if let Some(client) = self.forwarded_client() {
            push_plain(line, &client);
        } else {
            push_address(line, self.peer_address());
        }
        line.extend_from_slice(b" - ");
        push_plain_or_dash(self.summary.user.filter(|_| modes.keeps(Field::ClientUsername)), line);
    }

    /// Appends the request line.
    fn push_request(&self, modes: &Modes, line: &mut Vec<u8>) {
        let method = Some(self.seen.method.as_str());
        push_plain_or_dash(method.filter(|_| modes.keeps(Field::RequestMethod)), line);
        line.push(b' ');
        push_plain_or_dash(Some(self.path(modes)).filter(|_| modes.keeps(Field::RequestPath)), line);
        line.push(b' ');
        let protocol =
            if modes.keeps(Field::RequestProtocol) { protocol(self.exchange.version) } else { "-" };
        line.extend_from_slice(protocol.as_bytes());
    }

    fn push_header(&self, name: &HeaderName, modes: &Modes, line: &mut Vec<u8>) {
        let value = self.seen.headers.as_ref().and_then(|headers| headers.get(name));
        let value = value.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let shown = match value.as_deref() {
            None => None,
            value => match modes.of_header(name) {
                Mode::Keep => value,
                Mode::Redact => Some(REDACTED),
                Mode::Drop => None,
            },
        };
        push_quoted_or_dash(shown, line);
    }
}

fn push_plain_or_dash(value: Option<&str>, line: &mut Vec<u8>) {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => push_plain(line, value),
        None => line.push(b'-'),
    }
}

fn push_quoted_or_dash(value: Option<&str>, line: &mut Vec<u8>) {
    line.push(b' ');
    match value.filter(|value| !value.is_empty()) {
        Some(value) => push_quoted(line, value),
        None => line.extend_from_slice(b"\"-\""),
    }
}
