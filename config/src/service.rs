//! HTTP services: handle requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::reference::Reference;
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};

use crate::delay::Delay;
use crate::hold::Hold;
use crate::static_files::StaticFiles;

/// Traefik's `http.services.<name>`: exactly one of the kinds, with optional middlewares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Service {
    /// Middlewares for every request to this service, whatever the router.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<Reference>,
    /// Servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Weighted choice among other services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<Weighted>,
    /// Choice among other services by a hash of the client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highest_random_weight: Option<HighestRandomWeight>,
    /// One service, with its requests copied to others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirroring: Option<Mirroring>,
    /// One service, with another as a fallback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// The files of a directory. Not in Traefik.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_files: Option<StaticFiles>,
}

/// Servers and how to choose among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadBalancer {
    /// Keeps a client on its server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// The servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Server>,
    /// How a server is chosen; `wrr` if empty.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub strategy: Word<Strategy>,
    /// Time in which the share of a new or recovered server grows to its full size; zero for at once. Not in
    /// Traefik.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub slow_start: Duration,
    /// Lets requests wait while no server is usable. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Checks the servers actively.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<ServerHealthCheck>,
    /// Observes the outcome of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_health_check: Option<PassiveHealthCheck>,
    /// Sends the client's `Host` header to the server instead of the server's own.
    pub pass_host_header: bool,
    /// How responses are forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_forwarding: Option<ResponseForwarding>,
    /// Name of the transport; the default one if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub servers_transport: String,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            sticky: None,
            servers: Vec::new(),
            strategy: Strategy::Wrr.into(),
            slow_start: Duration::default(),
            hold: None,
            health_check: None,
            passive_health_check: None,
            pass_host_header: true,
            response_forwarding: Some(ResponseForwarding::default()),
            servers_transport: String::new(),
        }
    }
}

/// How a server is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// `wrr`: weighted round robin with evenly spread turns.
    Wrr,
    /// `p2c`: the less loaded of two random servers.
    P2c,
    /// `hrw`: the highest weighted hash of client address and server, so that clients keep their server.
    Hrw,
    /// `leasttime`: the shortest mean response time, multiplied by the pending requests, by weight.
    LeastTime,
    /// `leastConnections`: the fewest requests in flight, by weight. Not in Traefik.
    LeastConnections,
}

impl Vocabulary for Strategy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("wrr", Self::Wrr),
        ("p2c", Self::P2c),
        ("hrw", Self::Hrw),
        ("leasttime", Self::LeastTime),
        ("leastConnections", Self::LeastConnections),
        ("leastconnections", Self::LeastConnections),
    ];
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Server {
    /// `http://`, `https://` or `h2c://`, host and port.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Share of the requests; 1 by default, 0 or less disables the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// Prepends the path of `url` to that of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub preserve_path: bool,
}

/// Stickiness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Sticky {
    /// By a cookie, the only way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<StickyCookie>,
}

/// The cookie that names a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StickyCookie {
    /// Name; derived from the service's name if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Sent only over TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub secure: bool,
    /// Hidden from scripts.
    #[serde(skip_serializing_if = "is_default")]
    pub http_only: bool,
    /// Which cross-site requests include it; empty leaves that to the browser.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub same_site: Word<SameSite>,
    /// Lifetime in seconds; 0 for a session cookie, negative to delete it.
    #[serde(skip_serializing_if = "is_default")]
    pub max_age: i64,
    /// Path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
}

impl Default for StickyCookie {
    fn default() -> Self {
        Self {
            name: String::new(),
            secure: false,
            http_only: false,
            same_site: Word::EMPTY,
            max_age: 0,
            path: Some("/".into()),
            domain: String::new(),
        }
    }
}

/// Which cross-site requests include a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `none`: all.
    None,
    /// `lax`: those that follow a link.
    Lax,
    /// `strict`: none.
    Strict,
}

impl Vocabulary for SameSite {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("lax", Self::Lax), ("strict", Self::Strict)];
    const IGNORES_CASE: bool = true;
}

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServerHealthCheck {
    /// Scheme to use instead of the server's.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub scheme: Word<CheckScheme>,
    /// Protocol of the check; `http` if empty.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub mode: Word<CheckMode>,
    /// Relative URL; required for `http`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Method.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The expected status; 0 for any 2xx or 3xx.
    #[serde(skip_serializing_if = "is_default")]
    pub status: u16,
    /// Port to use instead of the server's.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u16,
    /// Interval between checks.
    pub interval: Duration,
    /// Interval for a server that is down; `interval` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_interval: Option<Duration>,
    /// Timeout of one check.
    pub timeout: Duration,
    /// `Host` header of the check.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Follows redirects.
    pub follow_redirects: bool,
    /// Headers of the check.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Default for ServerHealthCheck {
    fn default() -> Self {
        Self {
            scheme: Word::EMPTY,
            mode: CheckMode::Http.into(),
            path: String::new(),
            method: String::new(),
            status: 0,
            port: 0,
            interval: Duration::from_secs(30),
            unhealthy_interval: None,
            timeout: Duration::from_secs(5),
            hostname: String::new(),
            follow_redirects: true,
            headers: BTreeMap::new(),
        }
    }
}

/// The protocol of an active health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckMode {
    /// `http`: requests the URL of the option `path`.
    Http,
    /// `grpc`: the gRPC health checking protocol, v1.
    Grpc,
}

impl Vocabulary for CheckMode {
    const WORDS: &'static [(&'static str, Self)] = &[("http", Self::Http), ("grpc", Self::Grpc)];
}

/// The scheme of an active health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckScheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
    /// `h2c`: HTTP/2 without TLS.
    H2c,
}

impl Vocabulary for CheckScheme {
    const WORDS: &'static [(&'static str, Self)] =
        &[("http", Self::Http), ("https", Self::Https), ("h2c", Self::H2c)];
}

/// A passive health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PassiveHealthCheck {
    /// Time window in which failures are counted and, unless `ejection_time` is set, for which a server is
    /// then ejected.
    pub failure_window: Duration,
    /// Number of failures that eject a server.
    pub max_failed_attempts: u32,
    /// Duration of the first ejection; `failure_window` by default. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection_time: Option<Duration>,
    /// Maximum duration after repeated ejections; `ejection_time` by default. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<Duration>,
    /// Maximum share of the service's servers that may be ejected at once, in percent; all by default. Not in
    /// Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejected_percent: Option<u8>,
}

impl Default for PassiveHealthCheck {
    fn default() -> Self {
        Self {
            failure_window: Duration::from_secs(10),
            max_failed_attempts: 1,
            ejection_time: None,
            max_ejection_time: None,
            max_ejected_percent: None,
        }
    }
}

/// How responses are forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResponseForwarding {
    /// Traefik's buffer time. Tidegate forwards every chunk at once, whatever the value.
    pub flush_interval: Delay,
}

impl Default for ResponseForwarding {
    fn default() -> Self {
        Self { flush_interval: Delay::Limited(Duration(std::time::Duration::from_millis(100))) }
    }
}

/// A service inside another, with its weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WeightedService {
    /// Name of the service.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub name: Reference,
    /// Share of the requests; 1 by default, 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

impl Default for WeightedService {
    fn default() -> Self {
        Self { name: Reference::default(), weight: Some(1) }
    }
}

/// If present, a composite service reports the health of its children.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {}

/// Weighted choice among other services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Weighted {
    /// The services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<WeightedService>,
    /// Keeps a client on its service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Reports the children's health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// Choice among other services by a hash of the client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HighestRandomWeight {
    /// The services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<WeightedService>,
    /// Reports the children's health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// One service, with its requests copied to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Mirroring {
    /// The service that responds.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    /// Copies bodies too.
    pub mirror_body: bool,
    /// Maximum length of copied bodies in bytes; -1 for unlimited.
    pub max_body_size: i64,
    /// The services that receive copies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// Reports the health of `service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

impl Default for Mirroring {
    fn default() -> Self {
        Self {
            service: Reference::default(),
            mirror_body: true,
            max_body_size: -1,
            mirrors: Vec::new(),
            health_check: None,
        }
    }
}

/// A service that receives copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Mirror {
    /// Name of the service.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub name: Reference,
    /// Share of the requests that are copied, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub percent: u8,
}

/// One service, with another as a fallback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Failover {
    /// The service.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    /// The fallback.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub fallback: Reference,
    /// Reports the children's health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Statuses that count as failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<FailoverErrors>,
}

/// Which responses activate the fallback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FailoverErrors {
    /// Maximum length of a request body that is kept for the fallback, in bytes; -1 for unlimited.
    pub max_request_body_bytes: i64,
    /// Status codes and ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<String>,
}

impl Default for FailoverErrors {
    fn default() -> Self {
        Self { max_request_body_bytes: -1, status: Vec::new() }
    }
}
