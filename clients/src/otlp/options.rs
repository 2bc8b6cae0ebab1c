//! The options of a connection to a collector (Traefik's `otlp`).

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tidegate_core::values::{Secret, is_default};

use crate::OptionError;
use crate::connect::Tls;

/// `otlp`: where telemetry is sent; over HTTP to the default endpoint if neither is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Otlp {
    /// Over gRPC; takes precedence over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
    /// Over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
}

/// `otlp.grpc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Grpc {
    /// `host:port` of the collector.
    pub endpoint: String,
    /// Connects without TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure: bool,
    /// TLS towards the collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Metadata to send with every call.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
}

impl Default for Grpc {
    fn default() -> Self {
        Self { endpoint: "localhost:4317".into(), insecure: false, tls: None, headers: BTreeMap::new() }
    }
}

/// `otlp.http`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Http {
    /// URL of the collector; without a path, the signal's default path is used.
    pub endpoint: String,
    /// TLS towards the collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Headers to send with every request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
}

impl Default for Http {
    fn default() -> Self {
        Self { endpoint: "https://localhost:4318".into(), tls: None, headers: BTreeMap::new() }
    }
}

/// Reads the configured headers. Their values never appear in errors.
pub(super) fn headers(
    configured: &BTreeMap<String, Secret>,
    option: &'static str,
) -> Result<HeaderMap, OptionError> {
    let mut headers = HeaderMap::new();
    for (name, value) in configured {
        let parsed = HeaderName::try_from(name.as_str())
            .map_err(|_| OptionError::new(option, format!("invalid header name `{name}`")))?;
        let mut value = HeaderValue::try_from(value.expose())
            .map_err(|_| OptionError::new(option, format!("invalid value of header `{name}`")))?;
        value.set_sensitive(true);
        headers.append(parsed, value);
    }
    Ok(headers)
}
