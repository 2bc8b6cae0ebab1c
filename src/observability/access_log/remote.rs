//! Lines as log records for a collector (`accessLog.otlp`).

use std::io;
use std::time::SystemTime;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use serde_json::{Map, Value as Json};
use tidegate_clients::otlp::{Queue, Sender, attribute};
use tidegate_core::TraceContext;
use tokio::runtime::Handle;

use crate::observability::otlp_logs::{attribute_of, body, nanoseconds, start};
use crate::settings::OtlpLog;

/// Severity of all lines: `SEVERITY_NUMBER_INFO`.
const INFO: i32 = 9;
/// Keys of JSON lines that a record has elsewhere.
const ELSEWHERE: [&str; 3] = ["level", "msg", "time"];
/// Keys of JSON lines with the time of the request, which is a number in attributes.
const STARTS: [&str; 2] = ["StartLocal", "StartUTC"];

/// A line on its way to the collector.
pub(super) struct Record {
    /// When the request began and ended.
    pub(super) times: (SystemTime, SystemTime),
    /// The line in JSON.
    pub(super) json: Vec<u8>,
    /// The line in the configured format, if that is another one.
    pub(super) other: Option<Vec<u8>>,
    pub(super) trace: Option<TraceContext>,
}

impl Record {
    fn size(&self) -> usize {
        self.json.len() + self.other.as_ref().map_or(0, Vec::len)
    }

    /// Returns the record that Traefik would send: the fields of JSON as attributes, and the line as body.
    fn into_record(self) -> LogRecord {
        let fields: Map<String, Json> = serde_json::from_slice(&self.json).unwrap_or_default();
        let began = i64::try_from(nanoseconds(self.times.0)).unwrap_or(i64::MAX);
        let fields = fields.into_iter().filter(|(name, _)| !ELSEWHERE.contains(&name.as_str()));
        let attributes = fields.filter_map(|(name, value)| match STARTS.contains(&name.as_str()) {
            true => Some(attribute(&name, Value::IntValue(began))),
            false => attribute_of(&name, value),
        });
        let attributes = attributes.collect();
        let line = self.other.unwrap_or(self.json);
        let ended = nanoseconds(self.times.1);
        let (trace_id, span_id) = self.trace.map_or_else(Default::default, |trace| {
            (trace.trace_id.to_be_bytes().into(), trace.span_id.to_be_bytes().into())
        });
        LogRecord {
            time_unix_nano: ended,
            observed_time_unix_nano: ended,
            severity_number: INFO,
            severity_text: "info".into(),
            body: body(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()),
            attributes,
            flags: self.trace.is_some_and(|trace| trace.is_sampled).into(),
            trace_id,
            span_id,
            ..LogRecord::default()
        }
    }
}

/// Sends lines to a collector.
pub(super) struct Remote {
    queue: Queue<Record>,
    sender: Sender<Record>,
}

impl Remote {
    /// Starts the task that sends lines.
    pub(super) fn start(options: &OtlpLog, control: &Handle) -> io::Result<Self> {
        let queue = start(options, control, Record::size, Record::into_record);
        let queue = queue.map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("accessLog.otlp: {error}"))
        })?;
        Ok(Self { sender: queue.sender(), queue })
    }

    /// Queues a line, or counts it as lost.
    pub(super) fn send(&self, record: Record) {
        self.sender.send(record);
    }

    pub(super) fn lost(&self) -> u64 {
        self.sender.dropped()
    }

    /// Sends what is waiting, for at most a second.
    pub(super) async fn stop(&self) {
        self.queue.stop().await;
    }
}
