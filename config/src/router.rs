//! HTTP routers: which requests go where.

use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;

use crate::tls::Domain;

/// Traefik's `http.routers.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Router {
    /// Names of the entry points that serve it; empty for the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_points: Vec<String>,
    /// Middlewares, first to last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
    /// The service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Which requests it takes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Routers that this one is a child of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<String>,
    /// `v3`, or empty for the default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule_syntax: String,
    /// Higher goes first; 0 means the length of the rule in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
    /// Present: only TLS connections; absent: only plain-text ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouterTls>,
    /// What is logged, counted and traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observability: Option<Observability>,
}

/// A router's `tls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RouterTls {
    /// Name of the TLS options.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub options: String,
    /// Name of the resolver that obtains the certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_resolver: String,
    /// Names of the certificates, instead of those in the rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
}

/// Per-router observability. Unset fields follow the entry point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Observability {
    /// Write access-log lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_logs: Option<bool>,
    /// Count in metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<bool>,
    /// Make spans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<bool>,
    /// `minimal` or `detailed`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_verbosity: String,
}
