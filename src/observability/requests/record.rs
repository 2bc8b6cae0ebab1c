//! One ended request: what happened to it, without texts that had to be formatted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Uri, Version};
use smallvec::SmallVec;
use tidegate_core::{Attempt, Exchange, Origin, Reason, RouteInfo, ServerInfo, TraceContext};

use crate::observability::access_log::{Aborted, Redaction};

/// Maximum number of bytes of all texts of a record.
pub(super) const MAX_TEXT: usize = 1024;
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
    ServerName,
    RequestId,
    User,
    Subject,
    /// The first address of `X-Forwarded-For`, which is believed.
    Client,
    /// Lines of `name: value`.
    Headers,
}

/// Number of texts.
const TEXTS: usize = 8;

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
    /// Time from accepting the connection to the request head.
    pub(crate) connection_age: Duration,
    /// TLS version and cipher suite.
    pub(crate) tls: Option<(&'static str, &'static str)>,
    pub(crate) route: Option<Arc<RouteInfo>>,
    /// How many middlewares of the route were reached.
    pub(crate) middlewares: usize,
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
    text: String,
    ends: [u16; TEXTS],
}

/// One attempt at a server.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) service: Arc<str>,
    pub(crate) server: Option<Arc<ServerInfo>>,
    /// Time from the request head until it was passed to the server's connections.
    pub(crate) after: Duration,
    pub(crate) connected: Option<Duration>,
    pub(crate) took: Option<Duration>,
    pub(crate) status: Option<u16>,
    /// Whether another attempt or page followed.
    pub(crate) replaced: bool,
}

/// What is kept of a request while it is open: middlewares change the rest. Parts are shared, and no text is copied.
pub(crate) struct Seen {
    pub(super) entry_point: u16,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    pub(super) forwarded: Option<HeaderValue>,
    /// Only if the access log has any.
    pub(super) headers: Option<HeaderMap>,
}

impl Record {
    /// Creates the record of a request that has ended. `text` is an empty buffer.
    pub(super) fn new(
        id: u64,
        seen: &Seen,
        exchange: &Exchange,
        aborted: Option<Aborted>,
        (redaction, text): (&Redaction, String),
    ) -> Self {
        let connection = &exchange.connection;
        let tls = connection.tls.as_ref();
        let mut record = Self {
            id,
            started: exchange.started,
            entry_point: seen.entry_point,
            method: seen.method.clone(),
            version: exchange.version,
            peer: redaction.keeps_client().then_some(connection.peer),
            connection_age: exchange.started.saturating_duration_since(connection.accepted),
            tls: tls.map(|tls| (tls.version, tls.cipher)),
            route: exchange.route().cloned(),
            middlewares: exchange.middlewares_reached(),
            reached_service: exchange.has_reached_service(),
            attempts: exchange.attempts().take(MAX_ATTEMPTS).map(|one| Try::new(exchange, one)).collect(),
            retries: exchange.retries(),
            status: exchange.status(),
            origin: exchange.origin(),
            reason: exchange.reason(),
            aborted,
            routed: exchange.routed(),
            answered: exchange.answered(),
            duration: exchange.started.elapsed(),
            received: exchange.received(),
            sent: exchange.sent(),
            trace: exchange.trace().copied(),
            text,
            ends: [0; TEXTS],
        };
        record.push_texts(seen, exchange, redaction);
        record
    }

    /// Appends all texts, in the order of [`Text`].
    fn push_texts(&mut self, seen: &Seen, exchange: &Exchange, redaction: &Redaction) {
        let (user, client) = (redaction.keeps_user(), redaction.keeps_client());
        self.push(Text::Host, seen.host.as_ref().map_or(&[], HeaderValue::as_bytes));
        let target = match redaction.keeps_query() {
            true => seen.uri.path_and_query().map_or("", |target| target.as_str()),
            false => seen.uri.path(),
        };
        self.push(Text::Target, if redaction.keeps_path() { target.as_bytes() } else { &[] });
        let tls = exchange.connection.tls.as_ref();
        self.push(Text::ServerName, tls.and_then(|tls| tls.server_name.as_deref()).unwrap_or("").as_bytes());
        self.push(Text::RequestId, exchange.request_id().unwrap_or("").as_bytes());
        self.push(Text::User, exchange.user().filter(|_| user).unwrap_or("").as_bytes());
        let subject = exchange.identity().filter(|_| user).map_or("", |identity| &identity.subject);
        self.push(Text::Subject, subject.as_bytes());
        let first = seen.forwarded.as_ref().filter(|_| client);
        let first = first.and_then(|value| value.as_bytes().split(|byte| *byte == b',').next());
        self.push(Text::Client, first.unwrap_or(&[]).trim_ascii());
        for (name, value) in seen.headers.iter().flatten() {
            if SECRET.contains(name) || *name == http::header::HOST {
                continue;
            }
            if let Some(shown) = redaction.header(name, value) {
                for part in [name.as_str().as_bytes(), b": ", shown, b"\n"] {
                    self.push(Text::Headers, part);
                }
            }
        }
        self.end(Text::Headers);
    }

    /// Appends to a text, which must be the last one so far. Texts that are too long are truncated.
    fn push(&mut self, text: Text, bytes: &[u8]) {
        let room = MAX_TEXT.saturating_sub(self.text.len()).min(MAX_PART);
        let part = String::from_utf8_lossy(bytes.get(..room).unwrap_or(bytes));
        // A replaced character may be longer than what it replaces.
        if self.text.len() + part.len() <= MAX_TEXT {
            self.text.push_str(&part);
        }
        self.end(text);
    }

    fn end(&mut self, text: Text) {
        self.ends[text as usize] = u16::try_from(self.text.len()).unwrap_or(u16::MAX);
    }

    /// Returns a text; empty if there is none.
    pub(crate) fn text(&self, text: Text) -> &str {
        let number = text as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(usize::from(start)..usize::from(self.ends[number])).unwrap_or("")
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

    /// Returns the buffer of its texts, for another record.
    pub(super) fn into_buffer(mut self) -> String {
        self.text.clear();
        self.text
    }
}

impl Try {
    fn new(exchange: &Exchange, attempt: &Attempt) -> Self {
        Self {
            service: attempt.service.clone(),
            server: attempt.server.clone(),
            after: attempt.sent.saturating_duration_since(exchange.started),
            connected: attempt.connected(),
            took: attempt.took(),
            status: attempt.status(),
            replaced: attempt.is_replaced(),
        }
    }
}
