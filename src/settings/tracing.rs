//! Tracing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_clients::otlp::Otlp;

/// `tracing`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tracing {
    /// The name of the service in spans.
    pub service_name: String,
    /// Further attributes of the resource.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_attributes: BTreeMap<String, String>,
    /// The same, by its deprecated name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub global_attributes: BTreeMap<String, String>,
    /// Headers of requests to record.
    pub captured_request_headers: Vec<String>,
    /// Headers of responses to record.
    pub captured_response_headers: Vec<String>,
    /// Query parameters whose values are recorded; others are `REDACTED`.
    pub safe_query_params: Vec<String>,
    /// The fraction of traces to record that begin here, from 0 to 1.
    pub sample_rate: f64,
    /// Includes requests to internal services.
    pub add_internals: bool,
    /// Where spans are sent; to the default endpoint over HTTP if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            service_name: "traefik".into(),
            resource_attributes: BTreeMap::new(),
            global_attributes: BTreeMap::new(),
            captured_request_headers: Vec::new(),
            captured_response_headers: Vec::new(),
            safe_query_params: Vec::new(),
            sample_rate: 1.0,
            add_internals: false,
            otlp: None,
        }
    }
}
