//! The log of the process and the access log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::values::Duration;

/// `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Log {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR`, `FATAL` or `PANIC`.
    pub level: String,
    /// `common` or `json`.
    pub format: String,
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
            level: "ERROR".into(),
            format: "common".into(),
            file_path: String::new(),
            no_color: false,
            filter: String::new(),
        }
    }
}

/// `accessLog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLog {
    /// File instead of standard output.
    pub file_path: String,
    /// `common`, `genericCLF` or `json`.
    pub format: String,
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
            format: "common".into(),
            buffering_size: 0,
            add_internals: false,
            filters: AccessLogFilters::default(),
            fields: AccessLogFields::default(),
        }
    }
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

/// `accessLog.fields`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogFields {
    /// `keep` or `drop`.
    pub default_mode: String,
    /// The same by field.
    pub names: BTreeMap<String, String>,
    /// Headers.
    pub headers: AccessLogHeaders,
    /// Query parameters.
    pub query_parameters: AccessLogQuery,
}

impl Default for AccessLogFields {
    fn default() -> Self {
        Self {
            default_mode: "keep".into(),
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
    /// `keep`, `drop` or `redact`.
    pub default_mode: String,
    /// The same by header.
    pub names: BTreeMap<String, String>,
}

impl Default for AccessLogHeaders {
    fn default() -> Self {
        Self { default_mode: "drop".into(), names: BTreeMap::new() }
    }
}

/// `accessLog.fields.queryParameters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogQuery {
    /// `keep` or `drop`.
    pub default_mode: String,
}

impl Default for AccessLogQuery {
    fn default() -> Self {
        Self { default_mode: "keep".into() }
    }
}
