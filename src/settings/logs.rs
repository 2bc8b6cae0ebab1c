//! The log of the process and the access log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_clients::otlp::{Grpc, Http, Otlp};
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};

/// `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Log {
    /// The minimum level.
    pub level: Word<LogLevel>,
    /// The format of a line.
    pub format: Word<LogFormat>,
    /// File to write to instead of standard output.
    pub file_path: String,
    /// Disables colours.
    pub no_color: bool,
    /// Maximum size of the file in megabytes; with 0, 100 if another option of the rotation is set.
    pub max_size: i64,
    /// Number of days after which rotated files are removed; 0 for never.
    pub max_age: i64,
    /// Number of rotated files that are kept; 0 for all.
    pub max_backups: i64,
    /// Compresses rotated files.
    pub compress: bool,
    /// Levels of single targets: `h2=DEBUG,rustls=TRACE`. Third-party crates are logged at INFO at most
    /// unless they are listed here. Not in Traefik.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// Where the log is sent as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpLog>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Error.into(),
            format: LogFormat::Common.into(),
            file_path: String::new(),
            no_color: false,
            max_size: 0,
            max_age: 0,
            max_backups: 0,
            compress: false,
            filter: String::new(),
            otlp: None,
        }
    }
}

/// `log.otlp` and `accessLog.otlp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OtlpLog {
    /// The name of the service.
    pub service_name: String,
    /// Further attributes of the resource.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_attributes: BTreeMap<String, String>,
    /// Over gRPC; takes precedence over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
    /// Over HTTP, also if neither is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
}

impl Default for OtlpLog {
    fn default() -> Self {
        Self { service_name: "traefik".into(), resource_attributes: BTreeMap::new(), grpc: None, http: None }
    }
}

impl OtlpLog {
    /// Returns the connection to the collector.
    pub fn connection(&self) -> Otlp {
        Otlp { grpc: self.grpc.clone(), http: self.http.clone() }
    }
}

/// A log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// `TRACE`.
    Trace,
    /// `DEBUG`.
    Debug,
    /// `INFO`.
    Info,
    /// `WARN`.
    Warn,
    /// `ERROR`.
    Error,
    /// `FATAL`: equivalent to `ERROR`.
    Fatal,
    /// `PANIC`: equivalent to `ERROR`.
    Panic,
}

impl Vocabulary for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("TRACE", Self::Trace),
        ("DEBUG", Self::Debug),
        ("INFO", Self::Info),
        ("WARN", Self::Warn),
        ("ERROR", Self::Error),
        ("FATAL", Self::Fatal),
        ("PANIC", Self::Panic),
    ];
    const IGNORES_CASE: bool = true;
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `common`: for people.
    Common,
    /// `json`: for programs.
    Json,
}

impl Vocabulary for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("common", Self::Common), ("json", Self::Json)];
    const IGNORES_CASE: bool = true;
}

/// `accessLog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLog {
    /// File to write to instead of standard output.
    pub file_path: String,
    /// The format of a line.
    pub format: Word<AccessLogFormat>,
    /// The line of the format `template`. Not in Traefik.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// Number of buffered lines; 0 for none.
    pub buffering_size: usize,
    /// Maximum size of the file in megabytes; with 0, 100 if another option of the rotation is set. Not in Traefik.
    pub max_size: i64,
    /// Number of days after which rotated files are removed; 0 for never. Not in Traefik.
    pub max_age: i64,
    /// Number of rotated files that are kept; 0 for all. Not in Traefik.
    pub max_backups: i64,
    /// Compresses rotated files. Not in Traefik.
    pub compress: bool,
    /// Includes requests to internal services.
    pub add_internals: bool,
    /// Which requests are logged.
    pub filters: AccessLogFilters,
    /// Which part of those is logged. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<AccessLogSampling>,
    /// Which fields are logged.
    pub fields: AccessLogFields,
    /// Where the log is sent, instead of the file or standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpLog>,
    /// Writes lines to the file or standard output even with `otlp`.
    #[serde(skip_serializing_if = "is_default")]
    pub dual_output: bool,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            file_path: String::new(),
            format: AccessLogFormat::Common.into(),
            template: String::new(),
            buffering_size: 0,
            max_size: 0,
            max_age: 0,
            max_backups: 0,
            compress: false,
            add_internals: false,
            filters: AccessLogFilters::default(),
            sampling: None,
            fields: AccessLogFields::default(),
            otlp: None,
            dual_output: false,
        }
    }
}

/// `auditLog`: refusals, sign-ins and changes of keys, as JSON lines. Not in Traefik.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AuditLog {
    /// File to write to instead of standard output.
    pub file_path: String,
    /// Maximum size of the file in megabytes; with 0, 100 if another option of the rotation is set.
    pub max_size: i64,
    /// Number of days after which rotated files are removed; 0 for never.
    pub max_age: i64,
    /// Number of rotated files that are kept; 0 for all.
    pub max_backups: i64,
    /// Compresses rotated files.
    pub compress: bool,
}

/// The format of an access-log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// `common`: the Common Log Format with Traefik's extensions.
    Common,
    /// `genericCLF`: the Common Log Format.
    GenericClf,
    /// `json`: an object.
    Json,
    /// `template`: as described by `accessLog.template`. Not in Traefik.
    Template,
}

impl Vocabulary for AccessLogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("common", Self::Common),
        ("genericCLF", Self::GenericClf),
        ("json", Self::Json),
        ("template", Self::Template),
    ];
    const IGNORES_CASE: bool = true;
}

/// `accessLog.filters`: a request is logged if any of them matches, or if there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogFilters {
    /// Status codes and ranges (`400-499`).
    pub status_codes: Vec<String>,
    /// Requests that were retried.
    pub retry_attempts: bool,
    /// Requests that took at least this long.
    pub min_duration: Duration,
    /// Which of those are logged: an expression over the fields of the log. Not in Traefik.
    pub expression: String,
}

/// `accessLog.sampling`. Not in Traefik.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogSampling {
    /// The part of the requests that is logged, from 0 to 1.
    pub rate: f64,
    /// Other rates for some requests: the first rule that matches determines the rate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AccessLogSamplingRule>,
}

impl Default for AccessLogSampling {
    fn default() -> Self {
        Self { rate: 1.0, rules: Vec::new() }
    }
}

/// An element of `accessLog.sampling.rules`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogSamplingRule {
    /// The requests: an expression over the fields of the log.
    pub expression: String,
    /// The part of them that is logged, from 0 to 1.
    pub rate: f64,
}

impl Default for AccessLogSamplingRule {
    fn default() -> Self {
        Self { expression: String::new(), rate: 1.0 }
    }
}

/// How a field is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldMode {
    /// `keep`: it is written.
    Keep,
    /// `drop`: it is left out.
    Drop,
}

impl Vocabulary for FieldMode {
    const WORDS: &'static [(&'static str, Self)] = &[("keep", Self::Keep), ("drop", Self::Drop)];
    const IGNORES_CASE: bool = true;
}

/// How a header is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderMode {
    /// `keep`: it is written.
    Keep,
    /// `drop`: it is left out.
    Drop,
    /// `redact`: it is written with the value `REDACTED`.
    Redact,
}

impl Vocabulary for HeaderMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("keep", Self::Keep), ("drop", Self::Drop), ("redact", Self::Redact)];
    const IGNORES_CASE: bool = true;
}

/// `accessLog.fields`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogFields {
    /// The default mode.
    pub default_mode: Word<FieldMode>,
    /// Modes of single fields.
    pub names: BTreeMap<String, Word<FieldMode>>,
    /// Headers.
    pub headers: AccessLogHeaders,
    /// Query parameters.
    pub query_parameters: AccessLogQuery,
}

impl Default for AccessLogFields {
    fn default() -> Self {
        Self {
            default_mode: FieldMode::Keep.into(),
            names: BTreeMap::new(),
            headers: AccessLogHeaders::default(),
            query_parameters: AccessLogQuery::default(),
        }
    }
}

/// `accessLog.fields.headers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogHeaders {
    /// The default mode.
    pub default_mode: Word<HeaderMode>,
    /// Modes of single headers.
    pub names: BTreeMap<String, Word<HeaderMode>>,
}

impl Default for AccessLogHeaders {
    fn default() -> Self {
        Self { default_mode: HeaderMode::Drop.into(), names: BTreeMap::new() }
    }
}

/// `accessLog.fields.queryParameters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogQuery {
    /// How the query in `RequestPath` is logged.
    pub default_mode: Word<FieldMode>,
}

impl Default for AccessLogQuery {
    fn default() -> Self {
        Self { default_mode: FieldMode::Keep.into() }
    }
}
