//! HTTP services: where requests go.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::reference::Reference;
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};

use crate::delay::Delay;

/// Traefik's `http.services.<name>`: exactly one of the five kinds, and middlewares before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Service {
    /// Middlewares that every request to this service passes, whatever the router.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<Reference>,
    /// Servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Other services by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<Weighted>,
    /// Other services by a hash of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highest_random_weight: Option<HighestRandomWeight>,
    /// One service, and copies of its requests to others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirroring: Option<Mirroring>,
    /// One service, and another when it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
}

/// Servers, and how one is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LoadBalancer {
    /// Keeps a client on its server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// The servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Server>,
    /// How one is chosen; empty is `wrr`.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub strategy: Word<Strategy>,
    /// Time in which the share of a server that is new or back grows to its whole; zero for at once. Tidegate's own.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub slow_start: Duration,
    /// Asks the servers how they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<ServerHealthCheck>,
    /// Watches how requests fare.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive_health_check: Option<PassiveHealthCheck>,
    /// Sends the client's `Host` to the server, instead of the server's own.
    pub pass_host_header: bool,
    /// How answers are passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_forwarding: Option<ResponseForwarding>,
    /// Name of the transport; empty for the default one.
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
    /// `wrr`: weighted round robin, with each server's turns spread evenly.
    Wrr,
    /// `p2c`: the less busy of two that chance picks.
    P2c,
    /// `hrw`: the highest of weighted hashes of client address and server, so that a client stays with its server.
    Hrw,
    /// `leasttime`: the shortest mean response time, times the requests that wait, by weight.
    LeastTime,
    /// `leastConnections`: the fewest requests under way, by weight. Tidegate's own.
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
    /// Share of the requests; unset is 1, 0 or less takes the server out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// Puts the path of `url` before the request's.
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
    /// Name; empty for one made from the service's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Only over TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub secure: bool,
    /// Hidden from scripts.
    #[serde(skip_serializing_if = "is_default")]
    pub http_only: bool,
    /// For which requests from other sites a browser sends it; empty leaves that to the browser.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub same_site: Word<SameSite>,
    /// Seconds; 0 for a session cookie, negative to delete at once.
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

/// For which requests from other sites a browser sends a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `none`: for all.
    None,
    /// `lax`: for those that follow a link.
    Lax,
    /// `strict`: for none.
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
    /// Scheme instead of the server's.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub scheme: Word<CheckScheme>,
    /// What is asked; empty is `http`.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub mode: Word<CheckMode>,
    /// Relative URL; required for `http`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Method.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The one status that counts as well; 0 for 2xx and 3xx.
    #[serde(skip_serializing_if = "is_default")]
    pub status: u16,
    /// Port instead of the server's.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u16,
    /// Time between checks.
    pub interval: Duration,
    /// The same for a server that is down; unset is `interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_interval: Option<Duration>,
    /// Time for one check.
    pub timeout: Duration,
    /// `Host` header of the check.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Follow redirects.
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

/// What an active health check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckMode {
    /// `http`: the URL of the option `path`.
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
    /// Time in which failures add up, and, unless `ejection_time` is set, for which a server is then left out.
    pub failure_window: Duration,
    /// Failures that take a server out.
    pub max_failed_attempts: u32,
    /// For how long a server is left out the first time; unset is `failure_window`. Tidegate's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection_time: Option<Duration>,
    /// The longest that it is left out, when it fails time and again; unset is always `ejection_time`. Tidegate's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<Duration>,
    /// Most servers of the service that may be left out at one time, in percent; unset is all. Tidegate's own.
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

/// How answers are passed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResponseForwarding {
    /// Traefik's buffer time. Tidegate passes every piece on at once, whatever stands here.
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
    /// Share of the requests; unset is 1, 0 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

impl Default for WeightedService {
    fn default() -> Self {
        Self { name: Reference::default(), weight: Some(1) }
    }
}

/// Presence makes a composite service report the health of its children.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {}

/// Other services by weight.
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

/// Other services by a hash of the client's address.
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

/// One service, and copies of its requests to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Mirroring {
    /// The service that answers.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    /// Copy bodies too.
    pub mirror_body: bool,
    /// Largest body that is copied, in bytes; -1 for any.
    pub max_body_size: i64,
    /// The services that get copies.
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

/// A service that gets copies.
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

/// One service, and another when it is down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Failover {
    /// The service.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    /// What is used instead.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub fallback: Reference,
    /// Reports the children's health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Statuses that count as down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<FailoverErrors>,
}

/// When an answer makes the fallback take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FailoverErrors {
    /// Largest request body that is kept for the second try, in bytes; -1 for any.
    pub max_request_body_bytes: i64,
    /// Statuses and ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<String>,
}

impl Default for FailoverErrors {
    fn default() -> Self {
        Self { max_request_body_bytes: -1, status: Vec::new() }
    }
}
