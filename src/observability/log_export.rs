//! Sends the log of the process to a collector (`log.otlp`).
//!
//! A separate thread does this. What is logged on that thread, by the client or by libraries below it, is not
//! sent: each message to the collector would cause the next one.

use std::cell::Cell;
use std::io;
use std::time::SystemTime;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tidegate_clients::otlp::{Queue, Sender, encoded_size};
use tokio::runtime::{Builder, Runtime};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::log_event::{Fields, source};
use super::otlp_logs::{self, attribute_of};
use crate::settings::OtlpLog;

thread_local! {
    static IS_EXPORTER: Cell<bool> = const { Cell::new(false) };
}

/// The thread that sends the log.
pub(super) struct Export {
    queue: Queue<LogRecord>,
    runtime: Runtime,
}

impl Export {
    /// Starts the thread.
    pub(super) fn start(options: &OtlpLog) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("log-export")
            .on_thread_start(|| IS_EXPORTER.set(true))
            .enable_all()
            .build()?;
        let queue = otlp_logs::start(options, runtime.handle(), encoded_size, |record| record);
        let queue = queue.map_err(|error| io::Error::other(format!("log.otlp: {error}")))?;
        Ok(Self { queue, runtime })
    }

    /// Returns what hands events to the thread. `with_callers` adds the places where they are logged.
    pub(super) fn layer(&self, with_callers: bool) -> ExportLayer {
        ExportLayer { sender: self.queue.sender(), with_callers }
    }

    /// Sends what is waiting, for at most a second. Blocks.
    pub(super) fn stop(&self) {
        self.runtime.block_on(self.queue.stop());
    }
}

/// Hands events to the queue.
pub(super) struct ExportLayer {
    sender: Sender<LogRecord>,
    with_callers: bool,
}

impl<S: Subscriber> Layer<S> for ExportLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // A thread without storage is ending: what it logs is not the exporter's.
        if !IS_EXPORTER.try_with(Cell::get).unwrap_or(false) {
            self.sender.send(record(event, self.with_callers));
        }
    }
}

/// Returns an event as a record, like Traefik's.
fn record(event: &Event<'_>, with_caller: bool) -> LogRecord {
    let fields = Fields::of(event);
    let metadata = event.metadata();
    // `SeverityNumber` of the data model.
    let severity_number = match *metadata.level() {
        Level::TRACE => 1,
        Level::DEBUG => 5,
        Level::INFO => 9,
        Level::WARN => 13,
        Level::ERROR => 17,
    };
    let caller = with_caller.then(|| metadata.file().zip(metadata.line())).flatten();
    let caller = caller.map(|(file, line)| ("caller", format!("{}:{line}", source(file)).into()));
    let all = fields.others.into_iter().chain(caller);
    let now = otlp_logs::nanoseconds(SystemTime::now());
    LogRecord {
        time_unix_nano: now,
        observed_time_unix_nano: now,
        severity_number,
        severity_text: metadata.level().as_str().to_ascii_lowercase(),
        body: otlp_logs::body(fields.message),
        attributes: all.filter_map(|(name, value)| attribute_of(name, value)).collect(),
        ..LogRecord::default()
    }
}
