//! TCP and UDP: routers, services, middlewares and transports.

use serde::{Deserialize, Serialize};
use tidegate_core::reference::Reference;
use tidegate_core::values::{Duration, Timeout, is_default};
use tidegate_core::word::Word;

use crate::Map;
pub use crate::delay::Delay;
use crate::router::RuleSyntax;
use crate::service::HealthCheck;
use crate::tls::{CertificateFiles, Domain};
use crate::transport::Spiffe;

/// The `tcp` part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tcp {
    /// Match connections and send them to services.
    pub routers: Map<TcpRouter>,
    /// Handle connections.
    pub services: Map<TcpService>,
    /// Decide which connections are accepted.
    pub middlewares: Map<TcpMiddleware>,
    /// Configure connections to servers.
    pub servers_transports: Map<TcpServersTransport>,
}

/// The `udp` part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Udp {
    /// Receive sessions and send them to services.
    pub routers: Map<UdpRouter>,
    /// Handle sessions.
    pub services: Map<UdpService>,
}

/// `tcp.routers.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the same as in an HTTP router")]
pub struct TcpRouter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_points: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub rule_syntax: Word<RuleSyntax>,
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TcpRouterTls>,
}

/// A TCP router's `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpRouterTls {
    /// Forwards the connection still encrypted.
    pub passthrough: bool,
    /// Name of the TLS options.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub options: Reference,
    /// Name of the resolver.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_resolver: String,
    /// Names of the certificates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<Domain>,
}

/// `tcp.services.<name>`: exactly one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpService {
    /// Servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<TcpLoadBalancer>,
    /// Weighted choice among other services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<TcpWeighted>,
}

/// TCP servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpLoadBalancer {
    /// The servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<TcpServer>,
    /// Name of the transport.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub servers_transport: String,
    /// Deprecated: PROXY protocol to the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Deprecated: milliseconds the other direction stays open after one has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_delay: Option<i64>,
    /// Checks the servers actively.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<TcpHealthCheck>,
}

/// One TCP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpServer {
    /// `host:port`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Connects with TLS.
    #[serde(skip_serializing_if = "is_default")]
    pub tls: bool,
}

/// Which PROXY protocol to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyProtocol {
    /// 1 or 2.
    pub version: u8,
}

impl Default for ProxyProtocol {
    fn default() -> Self {
        Self { version: 2 }
    }
}

/// A TCP health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the same as in an HTTP health check")]
pub struct TcpHealthCheck {
    #[serde(skip_serializing_if = "is_default")]
    pub port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub send: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expect: String,
    pub interval: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_interval: Option<Duration>,
    pub timeout: Duration,
}

impl Default for TcpHealthCheck {
    fn default() -> Self {
        Self {
            port: 0,
            send: String::new(),
            expect: String::new(),
            interval: Duration::from_secs(30),
            unhealthy_interval: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// TCP services by weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpWeighted {
    /// The services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<crate::service::WeightedService>,
    /// Reports the children's health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// `tcp.middlewares.<name>`: exactly one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TcpMiddleware {
    /// Limits the connections per peer address.
    InFlightConn {
        /// Maximum number of connections.
        #[serde(skip_serializing_if = "is_default")]
        amount: i64,
    },
    /// Allows only certain addresses.
    IpAllowList(TcpIpAllowList),
    /// Deprecated name of `IpAllowList`.
    IpWhiteList(TcpIpAllowList),
}

/// Addresses that may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpIpAllowList {
    /// Addresses and ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_range: Vec<String>,
}

/// `tcp.serversTransports.<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpServersTransport {
    /// Interval between keep-alive probes; 0 for 15 s, negative for none, as in Go.
    pub dial_keep_alive: Timeout,
    /// Timeout for connecting; 0 for none. A negative one expires at once, as in Go.
    pub dial_timeout: Timeout,
    /// PROXY protocol to the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How long the other direction stays open after one has ended; negative for unlimited.
    pub termination_delay: Delay,
    /// TLS to the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TcpTransportTls>,
}

impl Default for TcpServersTransport {
    fn default() -> Self {
        Self {
            dial_keep_alive: Timeout::from_secs(15),
            dial_timeout: Timeout::from_secs(30),
            proxy_protocol: None,
            termination_delay: Delay::Limited(Duration::from_millis(100)),
            tls: None,
        }
    }
}

/// TLS to TCP servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the same as in an HTTP servers transport")]
pub struct TcpTransportTls {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_skip_verify: bool,
    #[serde(rename = "rootCAs", skip_serializing_if = "Vec::is_empty")]
    pub root_cas: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    #[serde(rename = "peerCertURI", skip_serializing_if = "String::is_empty")]
    pub peer_cert_uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Spiffe>,
}

/// `udp.routers.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UdpRouter {
    /// Names of the entry points.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entry_points: Vec<String>,
    /// The service.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
}

/// `udp.services.<name>`: exactly one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UdpService {
    /// Servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<UdpLoadBalancer>,
    /// Other services by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<TcpWeighted>,
}

/// UDP servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UdpLoadBalancer {
    /// The servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<UdpServer>,
}

/// One UDP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UdpServer {
    /// `host:port`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
}
