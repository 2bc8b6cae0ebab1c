//! Certificate resolvers: where certificates come from, and how domains are validated (Traefik's
//! `certificatesResolvers`).

use serde::{Deserialize, Serialize};
pub use tidegate_acme::options::*;

/// `certificatesResolvers.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CertificatesResolver {
    /// Certificates by ACME (RFC 8555).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// Why it obtains no certificates; empty if it works.
    #[serde(skip)]
    pub out: String,
}

impl CertificatesResolver {
    /// Disables the resolver but keeps its name.
    pub(super) fn take_out(&mut self, why: String) {
        self.acme = None;
        if self.out.is_empty() {
            self.out = why;
        }
    }

    /// Returns the entry point for HTTP challenges.
    pub fn http_entry_point(&self) -> Option<&str> {
        self.acme.as_ref()?.http_challenge.as_ref().map(|http| http.entry_point.as_str())
    }
}
