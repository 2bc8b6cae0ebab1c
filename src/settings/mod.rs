//! Settings, which are fixed while the process runs (Traefik's static configuration).
//!
//! They come from a file, the environment and flags; later sources override earlier ones key by key.

mod acme;
mod address;
mod api;
mod check;
mod cluster;
mod entry_point;
mod expand;
mod identity;
mod load;
mod logs;
mod metrics;
mod providers;
mod response_details;
mod tracing;
mod traefik;

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use tidegate_config::Problem;
use tidegate_config::router::RuleSyntax;
use tidegate_config::tcp::{Delay, TcpServersTransport};
use tidegate_config::transport::{ForwardingTimeouts, Spiffe};
use tidegate_core::values::{Timeout, is_default};
use tidegate_core::word::Word;

pub use acme::*;
pub use address::{Address, AddressError, Protocol};
pub use api::{Api, Ping, RecentRequests, Statistics};
pub use cluster::*;
pub use entry_point::*;
pub use identity::{Identity, IdentityHeaders, IdentityToken};
pub use load::{Loaded, load};
pub use logs::*;
pub use metrics::{Datadog, InfluxDb2, Metrics, OtlpMetrics, Prometheus, StatsD};
pub use providers::{LastState, Providers};
pub use response_details::{ProxyStatus, ServerTiming};
pub use tracing::Tracing;

/// The entry point for the gateway's own services: the API and `/ping`.
pub const INTERNAL_ENTRY_POINT: &str = "traefik";

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Settings for the whole process.
    pub global: Global,
    /// Rule syntax and TLS strictness.
    pub core: Core,
    /// Default transport for servers.
    pub servers_transport: DefaultTransport,
    /// Default transport for TCP servers.
    pub tcp_servers_transport: DefaultTcpTransport,
    /// Entry points by name.
    pub entry_points: BTreeMap<String, EntryPoint>,
    /// Sources of configuration.
    pub providers: Providers,
    /// Certificate resolvers by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates_resolvers: BTreeMap<String, CertificatesResolver>,
    /// The API; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// `/ping`; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Ping>,
    /// OCSP stapling; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<Ocsp>,
    /// The cluster; if absent, this gateway is standalone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// How servers learn who the client is; they do not if absent. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Which directories services of the kind `static` may serve. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub static_files: StaticFiles,
    /// The log of the process itself.
    pub log: Log,
    /// The access log; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// The audit log; disabled if absent. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<AuditLog>,
    /// Metrics; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// Tracing; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Settings without effect, reported as long as the gateway runs.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

impl Settings {
    /// Adds implicit entry points: `http` on `:80` if there are none, and `traefik` on `:8080` if the API,
    /// `/ping`, `/metrics`, the REST provider or the keys of `identity.token` use it.
    pub(crate) fn complete(&mut self) {
        let on = |address: &str| EntryPoint { address: address.into(), ..EntryPoint::default() };
        if self.entry_points.is_empty() {
            self.entry_points.insert("http".into(), on(":80"));
        }
        let api = self.api.as_ref().is_some_and(|api| api.insecure);
        let ping = self
            .ping
            .as_ref()
            .is_some_and(|ping| !ping.manual_routing && ping.entry_point == INTERNAL_ENTRY_POINT);
        let rest = self.providers.rest().any(|(_, rest)| rest.insecure);
        let metrics = self
            .prometheus()
            .is_some_and(|options| !options.manual_routing && options.entry_point == INTERNAL_ENTRY_POINT);
        let identity = self.identity.as_ref().and_then(|identity| identity.token.as_ref());
        let keys =
            identity.is_some_and(|token| !token.manual_routing && token.entry_point == INTERNAL_ENTRY_POINT);
        if api || ping || rest || metrics || keys {
            self.entry_points.entry(INTERNAL_ENTRY_POINT.into()).or_insert_with(|| on(":8080"));
        }
    }

    /// Returns the options of metrics for Prometheus, if they are enabled.
    pub fn prometheus(&self) -> Option<&Prometheus> {
        self.metrics.as_ref()?.prometheus.as_ref()
    }

    /// Returns the names of the entry points for routers that name none: those with `asDefault`, or else all
    /// but `traefik`.
    pub fn default_entry_points(&self) -> Vec<&str> {
        let named = |wanted: fn(&str, &EntryPoint) -> bool| {
            let points = self.entry_points.iter().filter(|(_, point)| !point.is_udp());
            let points = points.filter(move |(name, point)| wanted(name, point));
            points.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
        };
        match named(|name, point| point.as_default && name != INTERNAL_ENTRY_POINT) {
            none if none.is_empty() => named(|name, _| name != INTERNAL_ENTRY_POINT),
            chosen => chosen,
        }
    }
}

/// `ocsp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Ocsp {
    /// Replacement URLs of responders, by the URL in the certificate.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub responder_overrides: BTreeMap<String, String>,
}

/// `staticFiles`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StaticFiles {
    /// Directories that services of the kind `static` may serve, with everything below them, whatever provider
    /// defines the service. If empty, those of files of configuration may serve any, and others none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
}

impl StaticFiles {
    /// Returns true if a directory is one of the roots, or below one.
    pub(crate) fn allows(&self, directory: &str) -> bool {
        let directory = Path::new(directory);
        let is_plain = directory.components().all(|part| !matches!(part, Component::ParentDir));
        is_plain && self.roots.iter().any(|root| directory.starts_with(root))
    }
}

/// `global`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Global {
    /// For compatibility only; Tidegate never checks for a newer version.
    pub check_new_version: bool,
    /// For compatibility only; Tidegate never reports usage.
    pub send_anonymous_usage: bool,
    /// Leaves `X-Forwarded-For` unchanged on all entry points.
    pub not_append_x_forwarded_for: bool,
}

impl Default for Global {
    fn default() -> Self {
        Self { check_new_version: true, send_anonymous_usage: false, not_append_x_forwarded_for: false }
    }
}

/// `core`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Core {
    /// Default syntax of rules without `ruleSyntax`: empty or `v3`, or `v2`.
    pub default_rule_syntax: Word<RuleSyntax>,
    /// Always true in effect: conflicting options fail closed.
    #[serde(rename = "strictTLSOptions")]
    pub strict_tls_options: bool,
}

/// `serversTransport`: the transport of services that name none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DefaultTransport {
    /// Accepts any certificate of a server.
    pub insecure_skip_verify: bool,
    /// Trusted certificates: paths or PEM.
    #[serde(rename = "rootCAs")]
    pub root_cas: Vec<String>,
    /// Idle connections kept per server.
    pub max_idle_conns_per_host: i64,
    /// Timeouts.
    pub forwarding_timeouts: ForwardingTimeouts,
    /// SPIFFE identities. Not supported: with them the transport fails closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Spiffe>,
}

impl Default for DefaultTransport {
    fn default() -> Self {
        Self {
            insecure_skip_verify: false,
            root_cas: Vec::new(),
            max_idle_conns_per_host: 200,
            forwarding_timeouts: ForwardingTimeouts::default(),
            spiffe: None,
        }
    }
}

/// `tcpServersTransport`: the transport of TCP services that name none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DefaultTcpTransport {
    /// Interval between keep-alive probes.
    pub dial_keep_alive: Timeout,
    /// Timeout for connecting.
    pub dial_timeout: Timeout,
    /// How long the other direction stays open after one has ended; unlimited if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_delay: Option<Delay>,
    /// TLS to servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<DefaultTcpTls>,
}

impl Default for DefaultTcpTransport {
    fn default() -> Self {
        let transport = TcpServersTransport::default();
        Self {
            dial_keep_alive: transport.dial_keep_alive,
            dial_timeout: transport.dial_timeout,
            termination_delay: None,
            tls: None,
        }
    }
}

/// `tcpServersTransport.tls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DefaultTcpTls {
    /// Accepts any certificate of a server.
    pub insecure_skip_verify: bool,
    /// Trusted certificates: paths or PEM.
    #[serde(rename = "rootCAs")]
    pub root_cas: Vec<String>,
    /// SPIFFE identities. Not supported: with them the transport fails closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Spiffe>,
}
