//! The access log: one line for each request, in Traefik's formats.
//!
//! The entry point calls [`AccessLog::record_for`] when it has read a request's head and [`Pending::finish_with`] when
//! it has the response. The line is formatted when the response body ends and handed to one writer thread through a
//! bounded queue, so that no request ever waits for the disk.

mod line;
mod modes;
mod writer;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use tidegate_core::{Connection, Guard, Record, Request, Response};
use time::OffsetDateTime;

use crate::settings;
use modes::{Filters, Modes};
use writer::Writer;
pub(super) use writer::open as open_file;

/// The status of a request whose client went away before there was a response.
const CLIENT_CLOSED: u16 = 499;

/// An open access log.
pub struct AccessLog {
    format: Format,
    modes: Modes,
    filters: Filters,
    add_internals: bool,
    requests: AtomicU64,
    writer: Writer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Common,
    GenericClf,
    Json,
}

impl AccessLog {
    /// Opens the log as `accessLog` says. Fails when the file cannot be opened or an option is unknown.
    pub fn open(settings: &settings::AccessLog) -> io::Result<Arc<Self>> {
        let invalid =
            |reason: String| io::Error::new(io::ErrorKind::InvalidInput, format!("accessLog.{reason}"));
        let format = match settings.format.as_str() {
            "" | "common" => Format::Common,
            "genericCLF" => Format::GenericClf,
            "json" => Format::Json,
            other => {
                return Err(invalid(format!("format: `{other}` is not one of common, genericCLF and json")));
            }
        };
        let modes = Modes::new(&settings.fields).map_err(invalid)?;
        let filters = Filters::new(&settings.filters).map_err(invalid)?;
        let writer = Writer::start(&settings.file_path, settings.buffering_size)?;
        let add_internals = settings.add_internals;
        Ok(Arc::new(Self { format, modes, filters, add_internals, requests: AtomicU64::new(0), writer }))
    }

    /// Begins the line of a request and hangs a [`Record`] on its context, for the rest of the way to fill in.
    ///
    /// `client` is the address that the entry point believes is the client's. Without one, the first value of
    /// `X-Forwarded-For` counts (which must have been cleared when the peer is not trusted), else the peer.
    pub fn record_for(self: &Arc<Self>, request: &mut Request, client: Option<IpAddr>) -> Pending {
        let record = request.context.record.get_or_insert_with(|| Arc::new(Record::begin())).clone();
        let head = &request.head;
        let received = Arc::new(AtomicU64::new(0));
        let seen = Seen {
            at: OffsetDateTime::now_utc(),
            count: self.requests.fetch_add(1, Ordering::Relaxed) + 1,
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            host: head.headers.get(http::header::HOST).cloned(),
            forwarded: client.is_none().then(|| head.headers.get("x-forwarded-for").cloned()).flatten(),
            client,
            connection: request.context.connection.clone(),
            headers: self.modes.keeps_headers().then(|| head.headers.clone()),
            received: received.clone(),
        };
        if !http_body::Body::is_end_stream(&request.body) {
            request.body = std::mem::take(&mut request.body).with_guard(Box::new(Received(received)));
        }
        Pending(Some(Box::new(Open { log: self.clone(), record, seen })))
    }

    /// Opens the file again, after it has been moved away (`SIGUSR1`).
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits until all lines so far are written.
    pub fn flush(&self) {
        self.writer.flush();
    }

    /// How many lines were lost because the writer could not keep up.
    pub fn lost(&self) -> u64 {
        self.writer.lost()
    }
}

/// The line of a request that has no response yet. Dropped, it is written with status 499: the client went away.
pub struct Pending(Option<Box<Open>>);

impl Pending {
    /// Lets the line be written when the body of the response ends.
    pub fn finish_with(mut self, response: Response) -> Response {
        let Some(open) = self.0.take() else { return response };
        let headers = open.log.modes.keeps_headers().then(|| response.headers().clone());
        let guard = Ending { open, status: response.status().as_u16(), headers, sent: 0 };
        response.map(|body| body.with_guard(Box::new(guard)))
    }

    /// Writes no line: the router has `observability.accessLogs: false`.
    pub fn discard(mut self) {
        self.0 = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.write(&Outcome { status: CLIENT_CLOSED, sent: 0, headers: None, complete: false });
        }
    }
}

struct Open {
    log: Arc<AccessLog>,
    record: Arc<Record>,
    seen: Seen,
}

/// What is known of a request when it comes in. All of it is cheap to take: shared parts, no text is copied.
struct Seen {
    at: OffsetDateTime,
    count: u64,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    forwarded: Option<HeaderValue>,
    client: Option<IpAddr>,
    connection: Arc<Connection>,
    headers: Option<HeaderMap>,
    received: Arc<AtomicU64>,
}

/// How a response ended.
struct Outcome<'a> {
    status: u16,
    sent: u64,
    headers: Option<&'a HeaderMap>,
    complete: bool,
}

impl Open {
    fn write(&self, outcome: &Outcome<'_>) {
        let duration = self.record.started.elapsed();
        let fields = self.record.fields();
        let is_internal = |name: &Option<Arc<str>>| name.as_ref().is_some_and(|n| n.ends_with("@internal"));
        let internal = is_internal(&fields.service) || is_internal(&fields.router);
        if (internal && !self.log.add_internals)
            || !self.log.filters.keep(outcome.status, fields.retries, duration)
        {
            return;
        }
        let entry = line::Entry { seen: &self.seen, fields: &fields, outcome, duration };
        self.log.writer.write(match self.log.format {
            Format::Json => entry.json(&self.log.modes),
            format => entry.clf(&self.log.modes, format == Format::Common),
        });
    }
}

/// Counts what is sent, and writes the line at the end.
struct Ending {
    open: Box<Open>,
    status: u16,
    headers: Option<HeaderMap>,
    sent: u64,
}

impl Guard for Ending {
    fn data(&mut self, length: usize) {
        self.sent += length as u64;
    }

    fn end(self: Box<Self>, complete: bool) {
        let headers = self.headers.as_ref();
        self.open.write(&Outcome { status: self.status, sent: self.sent, headers, complete });
    }
}

/// Counts the bytes of a request body.
struct Received(Arc<AtomicU64>);

impl Guard for Received {
    fn data(&mut self, length: usize) {
        self.0.fetch_add(length as u64, Ordering::Relaxed);
    }

    fn end(self: Box<Self>, _complete: bool) {}
}

/// A duration in whole nanoseconds.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
