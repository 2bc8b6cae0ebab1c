//! The audit log: who was refused, who signed in or out, and which keys of consumers changed, as JSON lines.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http::header::HOST;
use http::{HeaderValue, Method, Uri};
use serde_json::{Map, Value};
use tidegate_core::consumer::ApiKey;
use tidegate_core::forwarded::X_FORWARDED_FOR;
use tidegate_core::word::Word;
use tidegate_core::{AuditEvent, Consumers, Exchange, Reason};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::line_writer::LineWriter;
use super::log_file::Rotation;
use crate::settings;

/// Maximum length of a text from the client.
const MAX_TEXT: usize = 1024;

/// An open audit log.
pub struct AuditLog {
    writer: LineWriter,
    /// Whether all providers have delivered: what exists at the start is no change.
    is_complete: AtomicBool,
}

/// A request that may have to be recorded when it ends.
pub(crate) struct Audited {
    log: Arc<AuditLog>,
    at: SystemTime,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    /// The believed `X-Forwarded-For`.
    forwarded: Option<HeaderValue>,
}

impl AuditLog {
    /// Opens the log. Fails if the file cannot be opened.
    pub fn open(settings: &settings::AuditLog) -> io::Result<Arc<Self>> {
        let settings::AuditLog { max_size, max_age, max_backups, compress, .. } = *settings;
        let rotation = Rotation::new(max_size, max_age, max_backups, compress);
        let writer = LineWriter::start("audit log", &settings.file_path, rotation, 0)?;
        Ok(Arc::new(Self { writer, is_complete: AtomicBool::new(false) }))
    }

    /// Reopens the file after it was moved away.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Keeps what the log says of a request, before middlewares change it.
    /// `is_forwarded` is whether it may have the header `X-Forwarded-For`, which is believed.
    pub(crate) fn begin(self: &Arc<Self>, head: &http::request::Parts, is_forwarded: bool) -> Audited {
        Audited {
            log: self.clone(),
            at: SystemTime::now(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: head.headers.get(HOST).cloned(),
            forwarded: if is_forwarded { head.headers.get(X_FORWARDED_FOR).cloned() } else { None },
        }
    }

    /// Records changes of keys from now on: every provider has delivered.
    pub(crate) fn complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }

    /// Records which API keys differ between two directories of consumers.
    pub(crate) fn keys_changed(&self, before: &Consumers, now: &Consumers) {
        if !self.is_complete.load(Ordering::Relaxed) {
            return;
        }
        for key in now.keys() {
            match before.key(&key.id) {
                None => self.key_event("key_added", key),
                Some(old) if !is_same(old, key) => self.key_event("key_changed", key),
                Some(_) => {}
            }
        }
        for key in before.keys().filter(|key| now.key(&key.id).is_none()) {
            self.key_event("key_removed", key);
        }
    }

    /// Records that a cache has applied a purge that another member has announced: its name, operator and number.
    pub(crate) fn announced_purge(
        &self,
        middleware: &str,
        subject: &str,
        (origin, operator, announcement): (&str, &str, u64),
    ) {
        let mut line = Line::new(AuditEvent::CachePurged.name(), SystemTime::now());
        line.add("middleware", middleware);
        line.add("subject", &lossy(subject.as_bytes()));
        line.add("identity", &lossy(operator.as_bytes()));
        line.add("origin", origin);
        if announcement > 0 {
            line.put("announcement", announcement);
        }
        line.write(&self.writer);
    }

    /// Records that a router was switched because another member has announced it: its name, operator and number.
    pub(crate) fn announced_switch(
        &self,
        event: AuditEvent,
        router: &str,
        (origin, operator, announcement): (&str, &str, u64),
    ) {
        let mut line = Line::new(event.name(), SystemTime::now());
        line.add("subject", &lossy(router.as_bytes()));
        line.add("identity", &lossy(operator.as_bytes()));
        line.add("origin", &lossy(origin.as_bytes()));
        if announcement > 0 {
            line.put("announcement", announcement);
        }
        line.write(&self.writer);
    }

    fn key_event(&self, event: &str, key: &ApiKey) {
        let mut line = Line::new(event, SystemTime::now());
        line.add("keyId", &key.id);
        line.add("label", &key.label);
        line.add("consumer", &key.consumer.name);
        line.add("state", Word::from(key.state).as_str());
        line.write(&self.writer);
    }
}

impl Audited {
    /// Records the request if it was refused, or if a session began or ended with it.
    pub(crate) fn end(self, exchange: &Exchange) {
        let audit = exchange.audit();
        let event = match audit {
            Some(audit) => audit.event.name(),
            None if exchange.reason().is_some_and(Reason::is_refusal) => "refused",
            None => return,
        };
        let mut line = Line::new(event, self.at);
        if let Some(reason) = exchange.reason().filter(|_| audit.is_none()) {
            line.add("reason", reason.name());
        }
        line.put("status", exchange.status());
        line.add("entryPoint", &exchange.connection.entry_point);
        line.add("router", exchange.router());
        line.add("middleware", exchange.middleware().map_or("", |name| &**name));
        let peer = exchange.connection.peer.ip().to_canonical();
        let forwarded =
            self.forwarded.as_ref().and_then(|value| value.as_bytes().split(|byte| *byte == b',').next());
        match forwarded.map(<[u8]>::trim_ascii).filter(|client| !client.is_empty()) {
            Some(client) => line.add("client", &lossy(client)),
            None => line.put("client", peer.to_string()),
        }
        line.put("peer", peer.to_string());
        line.add("method", self.method.as_str());
        line.add("host", &self.host.as_ref().map(|host| lossy(host.as_bytes())).unwrap_or_default());
        // Queries may contain secrets.
        line.add("path", &lossy(self.uri.path().as_bytes()));
        line.add("claimedUser", &lossy(exchange.user().unwrap_or("").as_bytes()));
        line.add("subject", audit.map_or("", |audit| &audit.subject));
        if let Some(identity) = exchange.identity() {
            line.add("identity", &identity.subject);
            line.add("authMethod", identity.method.name());
            line.add("consumer", identity.consumer.as_ref().map_or("", |consumer| &*consumer.name));
        }
        line.add("requestId", exchange.request_id().unwrap_or(""));
        if let Some(trace) = exchange.trace() {
            line.put("traceId", trace.trace_id_hex());
        }
        line.write(&self.log.writer);
    }
}

/// A line that is being built.
struct Line(Map<String, Value>);

impl Line {
    fn new(event: &str, at: SystemTime) -> Self {
        let mut line = Self(Map::new());
        line.put("time", OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default());
        line.put("event", event);
        line
    }

    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Adds a text, unless it is empty.
    fn add(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.put(name, text);
        }
    }

    fn write(self, writer: &LineWriter) {
        let mut line = Value::from(self.0).to_string().into_bytes();
        line.push(b'\n');
        writer.write(line);
    }
}

/// Returns true if two versions of a key permit the same.
fn is_same(one: &ApiKey, other: &ApiKey) -> bool {
    one.hash == other.hash
        && one.consumer.name == other.consumer.name
        && one.state == other.state
        && (one.not_before, one.expires) == (other.not_before, other.expires)
        && one.scopes == other.scopes
        && one.allowed == other.allowed
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned()
}
