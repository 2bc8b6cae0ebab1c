//! HTTP routers: which requests go where.

use serde::{Deserialize, Serialize};
use tidegate_core::reference::Reference;
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};

use crate::tls::Domain;

/// The language of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleSyntax {
    /// `v3`.
    V3,
    /// `v2`, which is taken where it means the same as `v3`.
    V2,
    /// `default`: `v3`, as Traefik has it at its own routers.
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
    /// Names of the entry points that serve it; empty for the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_points: Vec<String>,
    /// Middlewares, first to last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
    /// Middlewares of its entry points that it is not to have, or `*` for none of them. A name without provider stands
    /// for those of all providers. Tidegate's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_middlewares: Vec<String>,
    /// The service.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    /// Which requests it takes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Routers that this one is a child of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<String>,
    /// The language of the rule; empty for that of the settings.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub rule_syntax: Word<RuleSyntax>,
    /// Higher goes first; 0 means the length of the rule in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
    /// Present: only TLS connections; absent: only plain-text ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouterTls>,
    /// What is logged, counted and traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observability: Option<Observability>,
    /// How long its requests may take. Tidegate's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
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

/// A router's `timeouts`. What is not set (or 0) follows the entry point, or is without limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Timeouts {
    /// The whole request: from its head to the last byte of the answer.
    #[serde(skip_serializing_if = "is_default")]
    pub request: Duration,
    /// Without progress while its body is read; in place of the entry point's `readTimeout`.
    #[serde(skip_serializing_if = "is_default")]
    pub request_body: Duration,
    /// Fewest bytes of its body in a second, while we wait for them; in place of the entry point's `minBodyRate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_body_rate: Option<u64>,
    /// From the end of the request to the head of the answer.
    #[serde(skip_serializing_if = "is_default")]
    pub response: Duration,
    /// Without progress while the server sends the body of the answer.
    #[serde(skip_serializing_if = "is_default")]
    pub response_body: Duration,
}

/// Per-router observability. Unset fields follow the entry point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
