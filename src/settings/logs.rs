//! The log of the process and the access log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::values::Duration;
use tidegate_core::word::{Vocabulary, Word};

/// `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Log {
    /// The least severe of what is logged.
    pub level: Word<LogLevel>,
    /// The form of a line.
    pub format: Word<LogFormat>,
    /// File instead of standard output.
    pub file_path: String,
    /// Without colours.
    pub no_color: bool,
    /// Levels of single targets: `h2=DEBUG,rustls=TRACE`. Other crates than ours are logged at INFO at most unless they are
    /// named here. Not in Traefik.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: LogLevel::Error.into(),
            format: LogFormat::Common.into(),
            file_path: String::new(),
            no_color: false,
            filter: String::new(),
        }
    }
}

/// How severe what is logged is.
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
    /// `FATAL`: the same here as `ERROR`.
    Fatal,
    /// `PANIC`: the same here as `ERROR`.
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

/// The form of a line of the log.
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
    /// File instead of standard output.
    pub file_path: String,
    /// The form of a line.
    pub format: Word<AccessLogFormat>,
    /// Lines held back before they are written; 0 for none.
    pub buffering_size: usize,
    /// Log requests to internal services too.
    pub add_internals: bool,
    /// Which requests are logged.
    pub filters: AccessLogFilters,
    /// Which fields are logged.
    pub fields: AccessLogFields,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            file_path: String::new(),
            format: AccessLogFormat::Common.into(),
            buffering_size: 0,
            add_internals: false,
            filters: AccessLogFilters::default(),
            fields: AccessLogFields::default(),
        }
    }
}

/// The form of a line of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// `common`: the Common Log Format, with what Traefik adds.
    Common,
    /// `genericCLF`: the Common Log Format.
    GenericClf,
    /// `json`: an object.
    Json,
}

impl Vocabulary for AccessLogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("common", Self::Common), ("genericCLF", Self::GenericClf), ("json", Self::Json)];
    const IGNORES_CASE: bool = true;
}

/// `accessLog.filters`: a request is logged when any of them holds, or when there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogFilters {
    /// Statuses and ranges (`400-499`).
    pub status_codes: Vec<String>,
    /// Requests that were sent again.
    pub retry_attempts: bool,
    /// Requests that took at least this long.
    pub min_duration: Duration,
    /// Which of those are logged: an expression over the fields of the log. Tidegate's own.
    pub expression: String,
}

/// What becomes of a field of the access log.
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

/// What becomes of a header in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderMode {
    /// `keep`: it is written.
    Keep,
    /// `drop`: it is left out.
    Drop,
    /// `redact`: its name is written, and `REDACTED` as its value.
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
    /// What becomes of fields.
    pub default_mode: Word<FieldMode>,
    /// The same by field.
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
    /// What becomes of headers.
    pub default_mode: Word<HeaderMode>,
    /// The same by header.
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
    /// What becomes of the query in `RequestPath`.
    pub default_mode: Word<FieldMode>,
}

impl Default for AccessLogQuery {
    fn default() -> Self {
        Self { default_mode: FieldMode::Keep.into() }
    }
}
