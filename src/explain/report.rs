//! What would happen to a request, as the API and the command show it. The keys are documented in docs/api.md.

use serde::Serialize;

/// What would happen to a request.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    pub(crate) request: RequestView,
    pub(crate) entry_point: EntryPointView,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<TlsView>,
    /// The choice of a router at each level: one, unless routers are nested.
    pub(crate) routing: Vec<Level>,
    /// The service that it reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<ServiceView>,
    /// The request as the server receives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forwarded: Option<Forwarded>,
    pub(crate) result: Outcome,
}

/// The request.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestView {
    pub(crate) method: String,
    /// Without its query.
    pub(crate) url: String,
    pub(crate) host: String,
    /// The path after normalizing, as routers see it.
    pub(crate) path: String,
    pub(crate) from: String,
    /// Names of its headers.
    pub(crate) headers: Vec<String>,
}

/// The entry point, and why it is this one.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EntryPointView {
    pub(crate) name: String,
    pub(crate) address: String,
    /// `given`, `port` or `guess`.
    pub(crate) chosen_by: &'static str,
}

/// The handshake.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TlsView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_name: Option<String>,
    pub(crate) options: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) options_origin: Option<String>,
    /// `required`, `verified` if the client sends one, or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_certificate: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<CertificateView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
}

/// A certificate.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateView {
    pub(crate) names: Vec<String>,
    pub(crate) issuer: String,
    pub(crate) not_after: String,
    pub(crate) fingerprint: String,
    /// `configured`, `resolver`, `default` or `generated`.
    pub(crate) source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
}

/// The choice of a router.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Level {
    /// Routers in the order of evaluation.
    pub(crate) candidates: Vec<Candidate>,
    /// Number of further candidates, none of which matches.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) omitted: usize,
    /// The router that handles the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) router: Option<RouterView>,
}

/// A router that might handle the request.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Candidate {
    pub(crate) router: String,
    pub(crate) rule: String,
    pub(crate) priority: i64,
    pub(crate) matches: bool,
    /// Whether it is the one that handles the request.
    pub(crate) chosen: bool,
    /// The first condition of the rule that does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<Failed>,
    pub(crate) status: &'static str,
    pub(crate) origin: String,
}

/// A condition that does not hold.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failed {
    pub(crate) condition: String,
    pub(crate) because: String,
}

/// The router that handles the request, and what its middlewares do.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouterView {
    pub(crate) name: String,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<String>,
    pub(crate) origin: String,
    /// Why it still exists although nothing defines it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) maintenance: Option<MaintenanceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert_resolver: Option<String>,
    pub(crate) middlewares: Vec<MiddlewareView>,
}

/// The maintenance of a router.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MaintenanceView {
    /// `configuration` or `switch`.
    pub(crate) source: &'static str,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// The addresses that may pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow: Vec<String>,
}

/// What a middleware does.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MiddlewareView {
    pub(crate) name: String,
    /// The chains that it is part of, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) via: Vec<String>,
    pub(crate) kind: String,
    pub(crate) origin: String,
    /// `passes`, `responds`, `depends` or `notReached`.
    pub(crate) verdict: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changes: Option<Changes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<Answer>,
}

/// What a middleware changes. Values of headers are not shown.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changes {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<Change>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) request_headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) removed_request_headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) response_headers: Vec<String>,
}

/// A value before and after.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// A response of the gateway.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) location: Option<String>,
}

/// A service.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceView {
    pub(crate) name: String,
    /// `loadBalancer`, `weighted`, `highestRandomWeight`, `mirroring`, `failover`, `static` or `internal`.
    pub(crate) kind: &'static str,
    pub(crate) origin: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) middlewares: Vec<MiddlewareView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) servers: Vec<ServerView>,
    /// Number of further servers.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) omitted: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) services: Vec<ChildView>,
    /// How the next server or service is chosen: `next`, `random` or `none` if none is usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) choice: Option<&'static str>,
    /// How requests wait for a usable server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hold: Option<HoldView>,
    /// Why it still exists although nothing defines it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<String>,
}

/// How requests wait for a usable server.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HoldView {
    pub(crate) max_wait: String,
    pub(crate) max_queue: usize,
    /// Number of requests that wait now.
    pub(crate) waiting: usize,
}

/// A server of a service.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServerView {
    pub(crate) url: String,
    /// `up`, `unproven`, `refused` or `down`.
    pub(crate) state: &'static str,
    pub(crate) weight: f64,
    pub(crate) in_flight: usize,
    /// Whether it gets the request.
    pub(crate) next: bool,
}

/// A service that is part of another.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChildView {
    pub(crate) name: String,
    /// `member`, `main`, `mirror` or `fallback`.
    pub(crate) role: &'static str,
    pub(crate) up: bool,
    pub(crate) next: bool,
    /// What it does, if it is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<Box<ServiceView>>,
}

/// The request as the server receives it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Forwarded {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// Who responds in the end.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    /// `server`, `gateway`, `middleware:NAME`, `tcpRouter:NAME` or `handshake`.
    pub(crate) origin: String,
    /// The router that handles it, the innermost of nested ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) router: Option<String>,
    /// The service that it reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// The response, unless a server or a service of the gateway decides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response: Option<Answer>,
    /// What changes the response on its way to the client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) revised: Vec<String>,
    /// False if it depends on more than the request.
    pub(crate) certain: bool,
    /// On what it depends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) depends_on: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
