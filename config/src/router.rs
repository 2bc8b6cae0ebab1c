//! HTTP routers: match requests and send them to services.

use serde::{Deserialize, Serialize};
use tidegate_core::reference::Reference;
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_middlewares::maintenance::Maintenance;

use crate::tls::Domain;

/// The language of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleSyntax {
    /// `v3`.
    V3,
    /// `v2`, accepted where it means the same as `v3`.
    V2,
    /// `default`: `v3`, as shown for Traefik's own routers.
    Default,
}

impl Vocabulary for RuleSyntax {
    const WORDS: &'static [(&'static str, Self)] =
        &[("v3", Self::V3), ("v2", Self::V2), ("default", Self::Default)];
}

/// Traefik's `http.routers.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Router {
    /// Names of its entry points; empty for the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_points: Vec<String>,
    /// Middlewares, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
    /// Middlewares of its entry points to skip, or `*` for all of them. An unqualified name applies to all
    /// providers. Not in Traefik.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_middlewares: Vec<String>,
    /// Who may pass, by identity. Decided after the middlewares. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// The service.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    /// The requests that it matches.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Parents of this router.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<String>,
    /// The language of the rule; empty for the default in the settings.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub rule_syntax: Word<RuleSyntax>,
    /// Higher priorities match first; 0 means the length of the rule in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
    /// If present, the router matches only TLS connections; otherwise only plain-text ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouterTls>,
    /// What is logged, counted and traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observability: Option<Observability>,
    /// Timeouts of its requests. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Whether it is in maintenance. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

/// A router's `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RouterTls {
    /// Name of the TLS options.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub options: Reference,
    /// Name of the resolver that obtains the certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_resolver: String,
    /// Names of the certificates, instead of those in the rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
}

/// A router's `timeouts`. Those not set (or 0) are taken from the entry point, or are unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Timeouts {
    /// Whole request: from its head to the last byte of the response.
    #[serde(skip_serializing_if = "is_default")]
    pub request: Duration,
    /// Without progress while reading its body; replaces the entry point's `readTimeout`.
    #[serde(skip_serializing_if = "is_default")]
    pub request_body: Duration,
    /// Minimum rate of its body in bytes per second while waiting for it; replaces the entry point's
    /// `minBodyRate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_body_rate: Option<u64>,
    /// From the end of the request to the head of the response.
    #[serde(skip_serializing_if = "is_default")]
    pub response: Duration,
    /// Without progress while the server sends the body of the response.
    #[serde(skip_serializing_if = "is_default")]
    pub response_body: Duration,
}

/// Which spans are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceVerbosity {
    /// Spans of the entry point and of requests sent.
    Minimal,
    /// Also those of routers, middlewares, services and retries.
    Detailed,
}

impl Vocabulary for TraceVerbosity {
    const WORDS: &'static [(&'static str, Self)] =
        &[("minimal", Self::Minimal), ("detailed", Self::Detailed)];
    const IGNORES_CASE: bool = true;
}

/// Per-router observability. Unset fields follow the entry point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Observability {
    /// Writes access-log lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_logs: Option<bool>,
    /// Counts in metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<bool>,
    /// Creates spans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<bool>,
    /// Which spans are created. An unknown word means the fewest, as in Traefik, and is reported.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub trace_verbosity: Word<TraceVerbosity>,
}
