//! One ended request: what happened to it, without texts that had to be formatted.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Version};
use smallvec::SmallVec;
use tidegate_core::concealed::Concealed;
use tidegate_core::forwarded::X_FORWARDED_FOR;
use tidegate_core::{Attempt, Exchange, Origin, Reason, RouteInfo, ServerInfo, TraceContext};

use crate::observability::access_log::{Aborted, Redaction};

/// Maximum number of bytes of all texts of a record.
pub(super) const MAX_TEXT: usize = 1024;
/// Number of bytes that the texts of most records need.
const TYPICAL_TEXT: usize = 128;
/// Maximum number of bytes of one text, so that none displaces the others.
const MAX_PART: usize = 512;
/// Maximum number of attempts per record.
const MAX_ATTEMPTS: usize = 8;
/// Headers that are never recorded, whatever the access log has.
const SECRET: [HeaderName; 3] = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];

/// Texts of a record, in the order in which they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Host,
    Target,
    /// The first address of `X-Forwarded-For`, which is believed.
    Client,
    ServerName,
    /// Lines of `name: value`.
    Headers,
    RequestId,
    User,
    Subject,
    Consumer,
}

/// Number of texts.
const TEXTS: usize = 9;

/// One ended request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Unique while the gateway runs.
    pub(crate) id: u64,
    /// When the request head was complete.
    pub(crate) started: Instant,
    /// Index of the entry point in the settings.
    pub(crate) entry_point: u16,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The client's connection, unless the access log drops the address.
    pub(crate) peer: Option<SocketAddr>,
    /// When the connection was accepted.
    pub(crate) accepted: Instant,
    /// TLS version and cipher suite.
    pub(crate) tls: Option<(&'static str, &'static str)>,
    pub(crate) route: Option<Arc<RouteInfo>>,
    /// How many middlewares of the route were reached.
    pub(crate) middlewares: usize,
    /// Which middleware of the route responded, if one did.
    pub(crate) middleware: Option<u16>,
    pub(crate) reached_service: bool,
    pub(crate) attempts: SmallVec<[Try; 1]>,
    pub(crate) retries: u32,
    pub(crate) status: u16,
    pub(crate) origin: Option<Origin>,
    pub(crate) reason: Option<Reason>,
    pub(crate) aborted: Option<Aborted>,
    pub(crate) routed: Option<Duration>,
    pub(crate) answered: Option<Duration>,
    pub(crate) duration: Duration,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) trace: Option<TraceContext>,
    /// The texts one after the other, as the client sent them.
    text: Vec<u8>,
    ends: [u16; TEXTS],
}

/// One attempt at a server.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) service: Arc<str>,
    pub(crate) server: Option<Arc<ServerInfo>>,
    /// When the request was passed to the server's connections.
    pub(crate) sent: Instant,
    pub(crate) connected: Option<Duration>,
    pub(crate) secured: Option<Duration>,
    pub(crate) took: Option<Duration>,
    pub(crate) status: Option<u16>,
    /// Whether another attempt or page followed.
    pub(crate) replaced: bool,
}

/// A request whose head has just been read, before middlewares change it.
pub(super) struct Arrival<'a> {
    pub(super) exchange: &'a Exchange,
    /// Index of the entry point in the settings.
    pub(super) entry_point: usize,
    pub(super) head: &'a http::request::Parts,
    /// Whether it may have the header `X-Forwarded-For`.
    pub(super) is_forwarded: bool,
}

impl Record {
    /// Creates a record without a request.
    pub(super) fn empty() -> Self {
        let now = Instant::now();
        Self {
            id: 0,
            started: now,
            entry_point: 0,
            method: Method::GET,
            version: Version::HTTP_11,
            peer: None,
            accepted: now,
            tls: None,
            route: None,
            middlewares: 0,
            middleware: None,
            reached_service: false,
            attempts: SmallVec::new(),
            retries: 0,
            status: 0,
            origin: None,
            reason: None,
            aborted: None,
            routed: None,
            answered: None,
            duration: Duration::ZERO,
            received: 0,
            sent: 0,
            trace: None,
            text: Vec::with_capacity(TYPICAL_TEXT),
            ends: [0; TEXTS],
        }
    }

    /// Begins the record of a request, in place of the previous one.
    pub(super) fn begin(&mut self, arrival: &Arrival<'_>, redaction: &Redaction) {
        let Arrival { exchange, entry_point, head, is_forwarded } = arrival;
        let connection = &exchange.connection;
        let tls = connection.tls.as_ref();
        self.started = exchange.started;
        self.entry_point = u16::try_from(*entry_point).unwrap_or(u16::MAX);
        self.method.clone_from(&head.method);
        self.version = exchange.version;
        self.peer = redaction.keeps_client().then_some(connection.peer);
        self.accepted = connection.accepted;
        self.tls = tls.map(|tls| (tls.version, tls.cipher));
        self.text.clear();
        self.push(Text::Host, head.headers.get(HOST).map_or(&[], HeaderValue::as_bytes));
        let target = match redaction.keeps_query() {
            true => head.uri.path_and_query().map_or("", PathAndQuery::as_str),
            false => head.uri.path(),
        };
        self.push(Text::Target, if redaction.keeps_path() { target.as_bytes() } else { &[] });
        let first = if *is_forwarded { head.headers.get(X_FORWARDED_FOR) } else { None };
        let first = first.filter(|_| redaction.keeps_client());
        let first = first.and_then(|value| value.as_bytes().split(|byte| *byte == b',').next());
        self.push(Text::Client, first.unwrap_or(&[]).trim_ascii());
        self.push(Text::ServerName, tls.and_then(|tls| tls.server_name.as_deref()).unwrap_or("").as_bytes());
        if redaction.keeps_headers() {
            self.push_headers(&head.headers, redaction);
        }
        self.end(Text::Headers);
    }

    fn push_headers(&mut self, headers: &HeaderMap, redaction: &Redaction) {
        for (name, value) in headers {
            if SECRET.contains(name) || *name == HOST {
                continue;
            }
            if let Some(shown) = redaction.header(name, value) {
                for part in [name.as_str().as_bytes(), b": ", shown, b"\n"] {
                    self.push(Text::Headers, part);
                }
            }
        }
    }

    /// Completes the record of a request that ended at `now`.
    pub(super) fn complete(
        &mut self,
        (id, now): (u64, Instant),
        exchange: &Exchange,
        aborted: Option<Aborted>,
        redaction: &Redaction,
    ) {
        self.id = id;
        self.route = exchange.route().cloned();
        self.middlewares = exchange.middlewares_reached();
        self.middleware = exchange.middleware_index().and_then(|index| u16::try_from(index).ok());
        self.reached_service = exchange.has_reached_service();
        self.attempts.clear();
        self.attempts.extend(exchange.attempts().take(MAX_ATTEMPTS).map(Try::new));
        self.retries = exchange.retries();
        self.status = exchange.status();
        self.origin = exchange.origin();
        self.reason = exchange.reason();
        self.aborted = aborted;
        self.routed = exchange.routed();
        self.answered = exchange.answered();
        self.duration = now.saturating_duration_since(exchange.started);
        self.received = exchange.received();
        self.sent = exchange.sent();
        self.trace = exchange.trace().copied();
        let keeps_user = redaction.keeps_user();
        for concealed in exchange.concealed() {
            self.conceal(concealed);
        }
        self.push(Text::RequestId, exchange.request_id().unwrap_or("").as_bytes());
        self.push(Text::User, exchange.user().filter(|_| keeps_user).unwrap_or("").as_bytes());
        let subject = exchange.identity().filter(|_| keeps_user).map_or("", |identity| &identity.subject);
        self.push(Text::Subject, subject.as_bytes());
        let consumer = exchange.consumer().filter(|_| redaction.keeps_consumer()).unwrap_or("");
        self.push(Text::Consumer, consumer.as_bytes());
    }

    /// Masks credentials. Lengths stay, since the texts are parts of one.
    fn conceal(&mut self, concealed: &Concealed) {
        let range = self.range(Text::Target);
        let target = self.text.get(range.clone()).unwrap_or_default();
        // A character may be cut at the end.
        let valid = target.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let mut hidden = concealed.values(valid);
        for value in &mut hidden {
            let end = if value.end == valid.len() { target.len() } else { value.end };
            *value = range.start + value.start..range.start + end;
        }
        let range = self.range(Text::Headers);
        let mut start = range.start;
        for line in self.text.get(range).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            let name = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let is_hidden = |header: &HeaderName| line.get(..name) == Some(header.as_str().as_bytes());
            if concealed.headers.iter().any(is_hidden) {
                let content = line.strip_suffix(b"\n").unwrap_or(line);
                hidden.push(start + name + 2..start + content.len());
            }
            start += line.len();
        }
        for value in hidden {
            if let Some(value) = self.text.get_mut(value) {
                value.fill(b'*');
            }
        }
    }

    /// Appends to a text, which must be the last one so far. Texts that are too long are truncated.
    fn push(&mut self, text: Text, bytes: &[u8]) {
        let room = MAX_TEXT.saturating_sub(self.text.len()).min(MAX_PART);
        self.text.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.end(text);
    }

    fn end(&mut self, text: Text) {
        self.ends[text as usize] = u16::try_from(self.text.len()).unwrap_or(u16::MAX);
    }

    /// Returns a text; empty if there is none. Clients may send any bytes: those that are not UTF-8 are replaced.
    pub(crate) fn text(&self, text: Text) -> Cow<'_, str> {
        let bytes = self.text.get(self.range(text));
        String::from_utf8_lossy(bytes.unwrap_or_default())
    }

    /// Returns the place of a text.
    fn range(&self, text: Text) -> Range<usize> {
        let number = text as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        usize::from(start)..usize::from(self.ends[number])
    }

    /// Returns true for requests that outlive others: failures of servers or the gateway, incomplete responses, and
    /// those that took longer than `slow` until their response began.
    pub(super) fn is_notable(&self, slow: Duration) -> bool {
        self.status >= 500
            || self.aborted.is_some()
            || self.reason.is_some_and(|reason| reason.origin() == Origin::Client)
            || self.answered.is_none_or(|answered| answered >= slow)
    }

    /// Returns when the request ended.
    pub(crate) fn ended(&self) -> Instant {
        self.started + self.duration
    }

    /// Returns the server that responded or was tried last.
    pub(crate) fn server(&self) -> Option<&ServerInfo> {
        self.attempts.last()?.server.as_deref()
    }
}

impl Try {
    fn new(attempt: &Attempt) -> Self {
        Self {
            service: attempt.service.clone(),
            server: attempt.server.clone(),
            sent: attempt.sent,
            connected: attempt.connected(),
            secured: attempt.secured(),
            took: attempt.took(),
            status: attempt.status(),
            replaced: attempt.is_replaced(),
        }
    }
}
