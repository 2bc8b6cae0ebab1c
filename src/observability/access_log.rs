//! The access log: one line for each request, in Traefik's formats.
//!
//! The entry point calls [`AccessLog::begin`] once the route of a request is known, and [`Line::write`] when the
//! exchange has ended. The line is then formatted and sent to a writer thread through a bounded queue, so that requests
//! never wait for the disk.

mod clf;
mod error;
mod escape;
mod fields;
mod filter;
mod json;
mod line;
mod modes;
mod redaction;
mod remote;
mod sampling;
mod stamp;
mod template;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Uri};
use tidegate_core::forwarded::X_FORWARDED_FOR;
use tidegate_core::{BodyErrorKind, End, Exchange, Request};
use tokio::runtime::Handle;

use super::line_writer::LineWriter;
use super::log_file::Rotation;
use crate::settings::{self, AccessLogFormat as Format};
pub use error::{ExpressionError, SamplingError, TemplateError};
pub(crate) use fields::{Number, Text, Time};
pub(crate) use filter::{Filter, Values};
pub(crate) use line::{host_and_port, protocol};
use modes::{Filters, Modes};
pub(crate) use redaction::Redaction;
use remote::{Record, Remote};
use sampling::Sampling;
use template::Template;

/// An open access log.
pub struct AccessLog {
    format: Format,
    /// Only for the format `template`.
    template: Option<Template>,
    modes: Modes,
    filters: Filters,
    expression: Option<Filter>,
    sampling: Option<Sampling>,
    add_internals: bool,
    requests: AtomicU64,
    /// The file or standard output; `None` if lines are only sent to a collector.
    writer: Option<LineWriter>,
    remote: Option<Remote>,
}

/// Checks `accessLog.filters.expression`. The error names what was expected, and where.
pub fn check_expression(text: &str) -> Result<(), ExpressionError> {
    if text.is_empty() { Ok(()) } else { Filter::parse(text).map(drop) }
}

/// Checks `accessLog.template`. The error names what was expected, and where.
pub fn check_template(text: &str) -> Result<(), TemplateError> {
    Template::parse(text).map(drop)
}

/// Checks `accessLog.sampling`.
pub fn check_sampling(sampling: &settings::AccessLogSampling) -> Result<(), SamplingError> {
    Sampling::new(sampling).map(drop)
}

impl AccessLog {
    /// Opens the log. Lines for a collector are sent by the control plane. Fails if the file cannot be opened or an
    /// option of `accessLog` is invalid.
    pub fn open(settings: &settings::AccessLog, control: &Handle) -> io::Result<Arc<Self>> {
        let invalid =
            |reason: String| io::Error::new(io::ErrorKind::InvalidInput, format!("accessLog.{reason}"));
        let format = settings.format.meaning().map_err(|error| invalid(format!("format: {error}")))?;
        let format = format.unwrap_or(Format::Common);
        let modes = Modes::new(&settings.fields).map_err(|error| invalid(error.to_string()))?;
        let filters = Filters::new(&settings.filters).map_err(|error| invalid(error.to_string()))?;
        let expression = match settings.filters.expression.as_str() {
            "" => None,
            text => {
                Some(Filter::parse(text).map_err(|reason| invalid(format!("filters.expression: {reason}")))?)
            }
        };
        let template = match format {
            Format::Template => Some(
                Template::parse(&settings.template).map_err(|error| invalid(format!("template: {error}")))?,
            ),
            _ => None,
        };
        let sampling = settings.sampling.as_ref().map(Sampling::new).transpose();
        let sampling = sampling.map_err(|error| invalid(format!("sampling.{error}")))?;
        let remote = settings.otlp.as_ref().map(|otlp| Remote::start(otlp, control)).transpose()?;
        let is_written = remote.is_none() || settings.dual_output;
        let writer = is_written.then(|| writer(settings)).transpose()?;
        let add_internals = settings.add_internals;
        Ok(Arc::new(Self {
            format,
            template,
            modes,
            filters,
            expression,
            sampling,
            add_internals,
            requests: AtomicU64::new(0),
            writer,
            remote,
        }))
    }

    /// Starts the line of a request: records the request before middlewares change it.
    ///
    /// The client's address is the first value of `X-Forwarded-For`, which must have been removed if the peer is not
    /// trusted, or else the address of the peer. `is_forwarded` is whether the request may have that header.
    pub fn begin(self: &Arc<Self>, request: &Request, is_forwarded: bool) -> Line {
        let head = &request.head;
        let seen = Seen {
            at: SystemTime::now(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: self.needs_host().then(|| head.headers.get(HOST).cloned()).flatten(),
            forwarded: if is_forwarded { head.headers.get(X_FORWARDED_FOR).cloned() } else { None },
            headers: self.keeps_headers().then(|| head.headers.clone()),
            facts: self.expression.as_ref().map_or(0, |filter| filter.ask(request)),
            sampling_facts: self.sampling.as_ref().map(|sampling| sampling.ask(request)).unwrap_or_default(),
        };
        Line { log: self.clone(), seen, headers: None }
    }

    /// Returns true if headers must be kept, because they may be logged or filtered by.
    pub fn keeps_headers(&self) -> bool {
        self.modes.keeps_headers()
            || self.expression.as_ref().is_some_and(Filter::needs_headers)
            || self.template.as_ref().is_some_and(Template::needs_headers)
            || self.sampling.as_ref().is_some_and(Sampling::needs_headers)
    }

    /// Returns true if the `Host` header must be kept.
    fn needs_host(&self) -> bool {
        matches!(self.format, Format::Json | Format::Template)
            || self.remote.is_some()
            || self.expression.is_some()
            || self.sampling.is_some()
    }

    /// Reopens the file after it was moved (`SIGUSR1`).
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }

    /// Waits until all previous lines are written.
    pub fn flush(&self) {
        if let Some(writer) = &self.writer {
            writer.flush();
        }
    }

    /// Sends the lines that are waiting for the collector.
    pub async fn stop(&self) {
        if let Some(remote) = &self.remote {
            remote.stop().await;
        }
    }

    /// Returns the number of lines lost because the disk or the collector could not keep up.
    pub fn lost(&self) -> u64 {
        self.writer.as_ref().map_or(0, LineWriter::lost) + self.remote.as_ref().map_or(0, Remote::lost)
    }

    /// Writes the line of a request, and sends it.
    fn write(&self, entry: &line::Entry<'_>) {
        let modes = &self.modes;
        let text = match (&self.template, self.format) {
            (Some(template), _) => template.line(entry, modes),
            (None, Format::Json) => entry.json(modes),
            (None, format) => entry.clf(modes, format == Format::Common),
        };
        let text = match (&self.writer, &self.remote) {
            (Some(writer), None) => return writer.write(text),
            (Some(writer), Some(_)) => {
                writer.write(text.clone());
                text
            }
            (None, _) => text,
        };
        let Some(remote) = &self.remote else { return };
        let (json, other) = match self.format {
            Format::Json => (text, None),
            _ => (entry.json(modes), Some(text)),
        };
        let times = (entry.seen.at, entry.seen.at + entry.duration);
        remote.send(Record { times, json, other, trace: entry.exchange.trace().copied() });
    }
}

/// Opens the file or standard output.
fn writer(settings: &settings::AccessLog) -> io::Result<LineWriter> {
    let settings::AccessLog { max_size, max_age, max_backups, compress, .. } = *settings;
    let rotation = Rotation::new(max_size, max_age, max_backups, compress);
    LineWriter::start("access log", &settings.file_path, rotation, settings.buffering_size)
}

/// The unfinished line of an open exchange.
pub struct Line {
    log: Arc<AccessLog>,
    seen: Seen,
    /// Headers of the response.
    headers: Option<HeaderMap>,
}

/// The original request. Cheap to record, since parts are shared and no text is copied.
#[derive(Clone)]
struct Seen {
    at: SystemTime,
    method: Method,
    uri: Uri,
    /// Only if [`AccessLog::needs_host`].
    host: Option<HeaderValue>,
    forwarded: Option<HeaderValue>,
    headers: Option<HeaderMap>,
    /// The results of the matchers in the filter.
    facts: u64,
    /// The same for each rule of the sampling.
    sampling_facts: Box<[u64]>,
}

impl Seen {
    /// Returns the request without credentials that must not be shown; `None` if it has none.
    fn redacted(&self, exchange: &Exchange) -> Option<Self> {
        let mut all = exchange.concealed().peekable();
        all.peek()?;
        let mut seen = self.clone();
        for concealed in all {
            if let Some(headers) = &mut seen.headers {
                concealed.redact_headers(headers);
            }
            let target = seen.uri.path_and_query().and_then(|target| concealed.redacted(target.as_str()));
            if let Some(target) = target.and_then(|target| target.parse().ok()) {
                seen.uri = target;
            }
        }
        Some(seen)
    }
}

/// Who ended a response before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// The client disconnected or cancelled the request.
    Client,
    /// The server's response was incomplete.
    Server,
    /// The gateway, at a timeout or to evict the connection.
    Timeout,
}

impl Aborted {
    /// Returns who aborted a response whose body ended this way.
    pub fn by(end: End) -> Option<Self> {
        match end {
            End::Complete => None,
            End::Failed(BodyErrorKind::TimedOut) => Some(Self::Timeout),
            End::Failed(_) => Some(Self::Server),
            // Bodies are dropped when their client disconnects.
            End::Dropped => Some(Self::Client),
        }
    }

    /// Returns the name in logs and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Timeout => "timeout",
        }
    }
}

impl Line {
    /// Records the headers of the response, if any are logged.
    pub fn record_response(&mut self, headers: &HeaderMap) {
        self.headers = self.log.keeps_headers().then(|| headers.clone());
    }

    /// Writes the line of a request that ended at `now`. `aborted` is who aborted the response, if it is incomplete.
    pub fn write(&self, exchange: &Exchange, aborted: Option<Aborted>, now: Instant) {
        let duration = now.saturating_duration_since(exchange.started);
        let summary = exchange.summary();
        let internal = |name: &str| name.ends_with("@internal");
        if (summary.service.is_some_and(internal) || internal(exchange.router())) && !self.log.add_internals {
            return;
        }
        let count = self.log.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.log.filters.keep(exchange.status(), summary.retries, duration) {
            return;
        }
        let redacted = self.seen.redacted(exchange);
        let seen = redacted.as_ref().unwrap_or(&self.seen);
        let entry = line::Entry {
            seen,
            exchange,
            summary: &summary,
            headers: self.headers.as_ref(),
            aborted,
            duration,
            count,
        };
        let (log, modes) = (&*self.log, &self.log.modes);
        if log.expression.as_ref().is_some_and(|filter| !filter.keeps(&entry, modes, self.seen.facts)) {
            return;
        }
        let facts = &self.seen.sampling_facts;
        if log.sampling.as_ref().is_some_and(|sampling| !sampling.keeps(&entry, modes, facts)) {
            return;
        }
        log.write(&entry);
    }
}

/// Returns a duration in nanoseconds.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tidegate_core::{Body, Connection, Context, RouteInfo, ServerInfo};

    use super::*;

    fn request(target: &str, headers: &[(&str, &str)]) -> Request {
        let mut builder = http::Request::builder().uri(target).header("host", "h.test:8080");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (head, ()) = builder.body(()).unwrap().into_parts();
        let peer = "127.0.0.1:5000".parse().unwrap();
        let mut exchange = Exchange::begin(Arc::new(Connection::plain(peer)), Version::HTTP_11);
        exchange.set_route(route("s@file"));
        Request::new(head, Body::empty(), Context::of(Arc::new(exchange)))
    }

    fn route(service: &str) -> Arc<RouteInfo> {
        Arc::new(RouteInfo { router: "r@file".into(), service: service.into(), ..RouteInfo::default() })
    }

    fn control() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    struct Fixture {
        log: Arc<AccessLog>,
        directory: tempfile::TempDir,
    }

    impl Fixture {
        fn open(change: impl FnOnce(&mut settings::AccessLog)) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file_path = directory.path().join("logs/access.log").display().to_string();
            let mut settings = settings::AccessLog { file_path, ..Default::default() };
            change(&mut settings);
            Self { log: AccessLog::open(&settings, control().handle()).unwrap(), directory }
        }

        fn answer(&self, request: Request, status: u16, body: &'static str) {
            let mut line = self.log.begin(&request, true);
            let exchange = request.context.exchange;
            exchange.claim("eve\n\" x");
            let server = ServerInfo { id: 1, url: "http://s:80".into(), address: "s:80".into() };
            let attempt = exchange.attempt(&"s@file".into(), Some(&Arc::new(server))).unwrap();
            attempt.answer(status, Some(body.len() as u64));
            exchange.answer(status, None);
            exchange.add_sent(body.len());
            line.record_response(&HeaderMap::new());
            line.write(&exchange, None, Instant::now());
        }

        fn text(&self) -> String {
            self.log.flush();
            std::fs::read_to_string(self.directory.path().join("logs/access.log")).unwrap()
        }
    }

    #[test]
    fn the_common_format_has_traefiks_columns() {
        let log = Fixture::open(|settings| {
            settings.fields.headers.names.insert("User-Agent".into(), "keep".into());
            settings.fields.headers.names.insert("referer".into(), "redact".into());
        });
        log.answer(request("/p?q=1", &[("user-agent", "a\"b\\"), ("referer", "secret")]), 201, "hello");
        let text = log.text();
        let (before, after) = (text.split(" [").next().unwrap(), text.split("] ").nth(1).unwrap());
        assert_eq!(before, "127.0.0.1 - eve\\n\\\"\\x20x");
        let (columns, time) = after.rsplit_once(' ').unwrap();
        let expected = r#""GET /p?q=1 HTTP/1.1" 201 5 "REDACTED" "a\"b\\" 1 "r@file" "http://s:80""#;
        assert_eq!(columns, expected);
        assert!(time.ends_with("ms\n"));
    }

    #[test]
    fn json_has_traefiks_fields() {
        let log = Fixture::open(|settings| {
            settings.format = "json".into();
            settings.fields.headers.default_mode = "keep".into();
            settings.fields.names.insert("StartLocal".into(), "drop".into());
            settings.fields.query_parameters.default_mode = "drop".into();
        });
        log.answer(
            request("/p?q=1", &[("x-forwarded-for", "9.9.9.9, 8.8.8.8"), ("a", "1"), ("a", "2")]),
            200,
            "hi",
        );
        let text = log.text();
        let sorted: std::collections::BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&sorted).unwrap() + "\n", text);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, value) in [
            ("ClientHost", "9.9.9.9".into()),
            ("ClientPort", "5000".into()),
            ("RequestPath", "/p".into()),
            ("RequestHost", "h.test".into()),
            ("RequestPort", "8080".into()),
            ("DownstreamContentSize", 2.into()),
            ("RouterName", "r@file".into()),
            ("RetryAttempts", 0.into()),
            ("entryPointName", "web".into()),
            ("request_A", "1,2".into()),
            ("level", "info".into()),
            ("msg", serde_json::Value::from("")),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        assert!(
            line["Duration"].is_u64()
                && line.get("StartLocal").is_none()
                && line.get("request_Host").is_none()
        );
    }

    #[test]
    fn aborted_requests_are_marked() {
        let log = Fixture::open(|settings| settings.format = "json".into());
        for (path, status, aborted) in [("/a", 499, Aborted::Client), ("/b", 200, Aborted::Server)] {
            let request = request(path, &[]);
            let line = log.log.begin(&request, true);
            request.context.exchange.answer(status, None);
            line.write(&request.context.exchange, Some(aborted), Instant::now());
        }
        let lines: Vec<serde_json::Value> =
            log.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let seen = lines.iter().map(|line| {
            assert_eq!(line["DownstreamAborted"], true);
            (line["DownstreamStatus"].as_u64().unwrap(), line["DownstreamAbortedBy"].as_str().unwrap())
        });
        assert_eq!(seen.collect::<Vec<_>>(), [(499, "client"), (200, "server")]);
    }

    #[test]
    fn an_expression_filters_by_fields_and_rules() {
        for (expression, kept) in [
            ("DownstreamStatus >= 500 || Duration > 1h && !PathPrefix(`/health`)", &["/b"][..]),
            ("!PathPrefix(`/health`)", &["/a?q=1", "/b"]),
            ("Path(`/a`) || request_user-agent =~ `(?i)BOT`", &["/a?q=1", "/health"]),
            ("RequestPath == `/a?q=1` && RouterName =~ `^r@` && ServiceURL != ``", &["/a?q=1"]),
            (
                "RequestPort == 8080 && RequestHost == `h.test` && ClientPort > 4999",
                &["/a?q=1", "/b", "/health"],
            ),
            ("ClientIP(`10.0.0.0/8`) || DownstreamAborted || TLSVersion != ``", &[]),
            ("RequestCount == 2 && Overhead < 1h && DownstreamContentSize == 4", &["/b"]),
            ("request_A == `1,2` || downstream_X == `y`", &["/a?q=1"]),
        ] {
            let log = Fixture::open(|settings| {
                settings.format = "json".into();
                settings.filters.expression = expression.into();
            });
            log.answer(request("/a?q=1", &[("a", "1"), ("a", "2")]), 200, "fine");
            log.answer(request("/b", &[]), 500, "fine");
            log.answer(request("/health", &[("user-agent", "some bot")]), 200, "fine");
            let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
            let lines: Vec<_> = log.text().lines().map(line).collect();
            let paths: Vec<&str> = lines.iter().map(|line| line["RequestPath"].as_str().unwrap()).collect();
            assert_eq!(paths, kept, "{expression}");
            assert!(lines.iter().all(|line| line.get("request_A").is_none()), "no header is logged for it");
        }
    }

    #[test]
    fn an_expression_narrows_the_other_filters() {
        let log = Fixture::open(|settings| {
            settings.filters.status_codes = vec!["500-599".into()];
            settings.filters.expression = "!Path(`/b`)".into();
        });
        log.answer(request("/a", &[]), 200, "");
        log.answer(request("/b", &[]), 500, "");
        log.answer(request("/c", &[]), 500, "");
        assert!(log.text().lines().count() == 1 && log.text().contains("/c"), "{}", log.text());
        let wrong = settings::AccessLogFilters { expression: "Staus > 1".into(), ..Default::default() };
        let error = AccessLog::open(
            &settings::AccessLog { filters: wrong, ..Default::default() },
            control().handle(),
        )
        .err()
        .unwrap();
        assert!(
            error.to_string().starts_with("accessLog.filters.expression: column 1: Staus is not a field"),
            "{error}"
        );
    }

    #[test]
    fn a_template_determines_the_line() {
        let log = Fixture::open(|settings| {
            settings.format = "template".into();
            settings.template = "{{{RequestHost}}} \"{request_User-Agent}\" {RequestPath} {DownstreamStatus} \
                                 {request_Cookie} {request_none} {ClientUsername} {duration} {DownstreamAborted}"
                .into();
            settings.fields.headers.names.insert("cookie".into(), "redact".into());
        });
        log.answer(request("/p?q=1", &[("user-agent", "a\" \tb"), ("cookie", "secret")]), 201, "");
        let text = log.text();
        let (start, end) = text.split_once(" eve").unwrap();
        assert_eq!(start, "{h.test} \"a\\\" \\tb\" /p?q=1 201 REDACTED -");
        let rest = end.strip_prefix("\\n\\\" x ").unwrap().strip_suffix(" false\n").unwrap();
        assert!(rest.parse::<u64>().is_ok(), "{rest}");
    }

    fn sampled(rate: f64, rules: &[(&str, f64)]) -> Fixture {
        let rules = rules.iter().map(|(expression, rate)| settings::AccessLogSamplingRule {
            expression: (*expression).to_owned(),
            rate: *rate,
        });
        let sampling = settings::AccessLogSampling { rate, rules: rules.collect() };
        Fixture::open(|settings| settings.sampling = Some(sampling))
    }

    #[test]
    fn sampling_logs_a_part_evenly_and_rules_determine_other_rates() {
        let rules = [("DownstreamStatus >= 500", 1.0), ("PathPrefix(`/health`)", 0.0)];
        let log = sampled(0.1, &rules);
        for number in 0..1000 {
            log.answer(request(&format!("/page/{number}"), &[]), 200, "");
            log.answer(request("/health", &[]), if number == 7 { 503 } else { 200 }, "");
        }
        let text = log.text();
        let pages = text.matches("/page/").count();
        assert!((95..=105).contains(&pages), "{pages}");
        assert_eq!(text.matches("/health").count(), 1);
        assert!(!sampled(1.0, &[]).log.keeps_headers());
    }

    #[test]
    fn a_request_with_an_identifier_is_sampled_alike_everywhere() {
        let logs = [sampled(0.5, &[]), sampled(0.5, &[])];
        let paths = logs.each_ref().map(|log| {
            // The numbers of requests differ.
            if std::ptr::eq(log, &logs[1]) {
                log.answer(request("/other", &[]), 200, "");
            }
            for number in 0..400 {
                let request = request(&format!("/page/{number}"), &[]);
                request.context.exchange.set_request_id(&format!("id-{number}"));
                log.answer(request, 200, "");
            }
            let path = |line: &str| line.split(' ').find(|word| word.starts_with("/page")).map(str::to_owned);
            log.text().lines().filter_map(path).collect::<Vec<_>>()
        });
        assert_eq!(paths[0], paths[1]);
        assert!((150..=250).contains(&paths[0].len()), "{}", paths[0].len());
    }

    #[test]
    fn rates_out_of_range_are_refused() {
        for rate in [-0.1, 1.1, f64::NAN] {
            let sampling = settings::AccessLogSampling { rate, ..Default::default() };
            let error = check_sampling(&sampling).unwrap_err().to_string();
            assert!(error.starts_with("rate: ") && error.contains("from 0 to 1"), "{error}");
        }
        let rule = settings::AccessLogSamplingRule { expression: "Staus > 1".into(), rate: 1.0 };
        let sampling = settings::AccessLogSampling { rules: vec![rule], ..Default::default() };
        let error = check_sampling(&sampling).unwrap_err().to_string();
        assert!(error.starts_with("rules[0].expression: column 1: Staus is not a field"), "{error}");
    }

    #[test]
    fn the_file_is_rotated() {
        let log = Fixture::open(|settings| {
            settings.max_size = 1;
            settings.compress = true;
        });
        let path = format!("/{}", "a".repeat(16_000));
        for _ in 0..70 {
            log.answer(request(&path, &[]), 200, "");
        }
        log.log.flush();
        let Fixture { log, directory } = log;
        // The writer ends, and with it the thread that compresses.
        drop(log);
        let files = std::fs::read_dir(directory.path().join("logs")).unwrap();
        let mut names: Vec<String> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        let [rotated, current] = &*names else { panic!("{names:?}") };
        assert!(rotated.starts_with("access-2") && rotated.ends_with(".log.gz") && current == "access.log");
    }

    #[test]
    fn internal_services_and_filtered_requests_are_not_logged() {
        let log = Fixture::open(|settings| settings.filters.status_codes = vec!["500-599".into()]);
        log.answer(request("/ok", &[]), 200, "");
        log.answer(request("/bad", &[]), 502, "");
        let ping = request("/ping", &[]);
        ping.context.exchange.enter_route(route("ping@internal"));
        ping.context.exchange.reach_service();
        ping.context.exchange.answer(502, None);
        log.log.begin(&ping, true).write(&ping.context.exchange, None, Instant::now());
        let text = log.text();
        assert!(text.contains("/bad") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn reopening_follows_a_moved_file() {
        let log = Fixture::open(|_| {});
        log.answer(request("/first", &[]), 200, "");
        log.log.flush();
        let path = log.directory.path().join("logs/access.log");
        std::fs::rename(&path, path.with_extension("1")).unwrap();
        log.log.reopen();
        log.answer(request("/second", &[]), 200, "");
        assert!(log.text().contains("/second") && !log.text().contains("/first"));
    }
}
