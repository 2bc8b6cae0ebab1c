//! Entry points: the ports that clients connect to.

use serde::{Deserialize, Serialize};
use tidegate_config::router::{Observability, RouterTls, TraceVerbosity};
use tidegate_core::values::{Duration, Timeout, is_default};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_middlewares::error_pages::ErrorPages;

use super::response_details::{ProxyStatus, ServerTiming};

/// `entryPoints.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EntryPoint {
    /// `[host]:port[/tcp|/udp]`.
    pub address: String,
    /// Lets routers take precedence over the built-in ACME challenge router.
    #[serde(rename = "allowACMEByPass", skip_serializing_if = "is_default")]
    pub allow_acme_by_pass: bool,
    /// Shares the port with other processes.
    #[serde(skip_serializing_if = "is_default")]
    pub reuse_port: bool,
    /// Used by routers that name no entry point.
    #[serde(skip_serializing_if = "is_default")]
    pub as_default: bool,
    /// Timeouts and life cycle.
    pub transport: EntryPointTransport,
    /// PROXY protocol from trusted peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Peers whose `X-Forwarded-*` headers are trusted.
    pub forwarded_headers: ForwardedHeaders,
    /// HTTP.
    pub http: EntryPointHttp,
    /// HTTP/2.
    pub http2: Http2,
    /// HTTP/3, on the same port over UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http3: Option<Http3>,
    /// UDP.
    pub udp: Udp,
    /// Defaults for routers.
    #[serde(skip_serializing_if = "is_default")]
    pub observability: EntryPointObservability,
}

impl EntryPoint {
    /// Returns true for a UDP entry point.
    pub fn is_udp(&self) -> bool {
        let protocol = self.address.rsplit_once('/').map_or("", |(_, protocol)| protocol);
        protocol.eq_ignore_ascii_case("udp")
    }
}

/// `transport`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EntryPointTransport {
    /// Graceful shutdown.
    pub life_cycle: LifeCycle,
    /// Timeouts for clients.
    pub responding_timeouts: RespondingTimeouts,
    /// Maximum age of a connection; 0 or less for unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_alive_max_time: Timeout,
    /// Maximum number of requests per connection; 0 or less for unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_alive_max_requests: i64,
    /// Maximum number of open connections; 0 for as many as the process has file descriptors for. Not in
    /// Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub max_connections: usize,
}

/// `transport.lifeCycle`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LifeCycle {
    /// How long connections are still accepted after SIGTERM.
    #[serde(skip_serializing_if = "is_default")]
    pub request_accept_grace_timeout: Timeout,
    /// How long open requests may then take to finish.
    pub grace_time_out: Timeout,
}

impl LifeCycle {
    /// Returns how long connections are accepted after the stop signal, and how long requests may then
    /// continue.
    pub fn graces(&self) -> (std::time::Duration, std::time::Duration) {
        let limit = |timeout: Timeout| timeout.limit().unwrap_or_default();
        (limit(self.request_accept_grace_timeout), limit(self.grace_time_out))
    }
}

impl Default for LifeCycle {
    fn default() -> Self {
        Self { request_accept_grace_timeout: Timeout::default(), grace_time_out: Timeout::from_secs(10) }
    }
}

/// Default minimum rate of request bodies in bytes per second: 960 bytes per minute.
const DEFAULT_MIN_RATE: u64 = 16;

/// `transport.respondingTimeouts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RespondingTimeouts {
    /// Maximum time without progress while reading a request; its head must arrive within 10 s. 0 or less for
    /// unlimited.
    pub read_timeout: Timeout,
    /// Minimum rate of a request body in bytes per second while waiting for it; 0 for none. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_body_rate: Option<u64>,
    /// Maximum time from the end of a request's head to the end of its response; 0 or less for unlimited.
    #[serde(skip_serializing_if = "is_default")]
    pub write_timeout: Timeout,
    /// Maximum time that a connection may be idle; 0 for `readTimeout`, negative for unlimited.
    pub idle_timeout: Timeout,
}

impl Default for RespondingTimeouts {
    fn default() -> Self {
        Self {
            read_timeout: Timeout::from_secs(60),
            min_body_rate: None,
            write_timeout: Timeout::default(),
            idle_timeout: Timeout::from_secs(180),
        }
    }
}

impl RespondingTimeouts {
    /// Returns the idle timeout as interpreted by Go; `None` for unlimited.
    pub fn idle(&self) -> Option<std::time::Duration> {
        let own = self.idle_timeout;
        if own == Timeout::default() { self.read_timeout.limit() } else { own.limit() }
    }

    /// Returns the minimum rate of a request body in bytes per second; 0 for none. Without a read timeout
    /// there is no default.
    pub fn body_rate(&self) -> u64 {
        let usual = if self.read_timeout.limit().is_some() { DEFAULT_MIN_RATE } else { 0 };
        self.min_body_rate.unwrap_or(usual)
    }
}

/// `proxyProtocol`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Trusts all peers.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure: bool,
    /// Trusts these peers.
    #[serde(rename = "trustedIPs", skip_serializing_if = "Vec::is_empty")]
    pub trusted_ips: Vec<String>,
}

/// `forwardedHeaders`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ForwardedHeaders {
    /// Trusts all peers.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure: bool,
    /// Trusts these peers.
    #[serde(rename = "trustedIPs", skip_serializing_if = "Vec::is_empty")]
    pub trusted_ips: Vec<String>,
    /// Headers that are kept although `Connection` lists them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connection: Vec<String>,
    /// Leaves `X-Forwarded-For` unchanged.
    #[serde(skip_serializing_if = "is_default")]
    pub not_append_x_forwarded_for: bool,
}

/// `http`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EntryPointHttp {
    /// Redirection of all requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirections: Option<Redirections>,
    /// Middlewares in front of those of every router; qualified names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
    /// Those of them that routers cannot skip with `skipMiddlewares`; `*` for all. Not in Traefik.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_middlewares: Vec<String>,
    /// `tls` for routers that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouterTls>,
    /// Encoded characters that are allowed in paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoded_characters: Option<EncodedCharacters>,
    /// Converts `;` in queries to `%3B` instead of `&`.
    #[serde(skip_serializing_if = "is_default")]
    pub encode_query_semicolons: bool,
    /// Resolves `.` and `..` and merges slashes before routing.
    pub sanitize_path: bool,
    /// Maximum size of a request head in bytes.
    pub max_header_bytes: usize,
    /// What happens to headers that alias another when `_` and `.` are read as `-`: empty or `keep`,
    /// `delete`, `reject`.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub alias_headers_strategy: Word<AliasStrategy>,
    /// Deprecated: the same for `_` only.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub underscore_headers_strategy: Word<AliasStrategy>,
    /// Adds `Proxy-Status` to responses of the gateway and to failures of servers. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_status: Option<ProxyStatus>,
    /// Adds `Server-Timing` to responses to requests with a token. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_timing: Option<ServerTiming>,
    /// Gives the gateway's own errors another form than Traefik's. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_pages: Option<ErrorPages>,
}

impl Default for EntryPointHttp {
    fn default() -> Self {
        Self {
            redirections: None,
            middlewares: Vec::new(),
            required_middlewares: Vec::new(),
            tls: None,
            encoded_characters: None,
            encode_query_semicolons: false,
            sanitize_path: true,
            max_header_bytes: 1_048_576,
            alias_headers_strategy: Word::EMPTY,
            underscore_headers_strategy: Word::EMPTY,
            proxy_status: None,
            server_timing: None,
            error_pages: None,
        }
    }
}

/// What happens to headers that alias another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasStrategy {
    /// `keep`: they pass.
    Keep,
    /// `delete`: they are removed.
    Delete,
    /// `reject`: the request is refused.
    Reject,
}

impl Vocabulary for AliasStrategy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("keep", Self::Keep), ("delete", Self::Delete), ("reject", Self::Reject)];
}

impl EntryPointHttp {
    /// Returns true if routers cannot skip this middleware.
    pub fn requires(&self, middleware: &str) -> bool {
        self.required_middlewares.iter().any(|required| is_named(middleware, required))
    }
}

/// Returns true if `name` refers to this middleware: its name with or without its provider, or `*`.
pub fn is_named(middleware: &str, name: &str) -> bool {
    name == "*" || name == middleware || middleware.rsplit_once('@').is_some_and(|(plain, _)| plain == name)
}

/// `http.redirections`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Redirections {
    /// To another entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_point: Option<RedirectEntryPoint>,
}

/// `http.redirections.entryPoint`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RedirectEntryPoint {
    /// Name of an entry point, or `:port`.
    pub to: String,
    /// Scheme.
    pub scheme: String,
    /// Permanent.
    pub permanent: bool,
    /// Priority of the router that redirects.
    pub priority: i64,
}

impl Default for RedirectEntryPoint {
    fn default() -> Self {
        Self { to: String::new(), scheme: "https".into(), permanent: true, priority: i64::MAX - 1 }
    }
}

/// `http.encodedCharacters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct EncodedCharacters {
    pub allow_encoded_slash: bool,
    pub allow_encoded_back_slash: bool,
    pub allow_encoded_null_character: bool,
    pub allow_encoded_semicolon: bool,
    pub allow_encoded_percent: bool,
    pub allow_encoded_question_mark: bool,
    pub allow_encoded_hash: bool,
}

impl Default for EncodedCharacters {
    fn default() -> Self {
        Self {
            allow_encoded_slash: true,
            allow_encoded_back_slash: true,
            allow_encoded_null_character: true,
            allow_encoded_semicolon: true,
            allow_encoded_percent: true,
            allow_encoded_question_mark: true,
            allow_encoded_hash: true,
        }
    }
}

/// `http2`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Http2 {
    /// Maximum number of open streams per connection.
    pub max_concurrent_streams: u32,
    /// Size of the HPACK table for decoding, in bytes.
    pub max_decoder_header_table_size: u32,
    /// Size of the HPACK table for encoding, in bytes.
    pub max_encoder_header_table_size: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 250,
            max_decoder_header_table_size: 4096,
            max_encoder_header_table_size: 4096,
        }
    }
}

/// `http3`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Http3 {
    /// The port to advertise if clients reach another one; 0 for that of the entry point.
    #[serde(skip_serializing_if = "is_default")]
    pub advertised_port: u16,
}

/// `udp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Udp {
    /// Maximum silence of a session.
    pub timeout: Duration,
}

impl Default for Udp {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3) }
    }
}

/// `observability` of an entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EntryPointObservability {
    /// Writes access-log lines.
    pub access_logs: bool,
    /// Counts in metrics.
    pub metrics: bool,
    /// Creates spans.
    pub tracing: bool,
    /// Which spans are created. An unknown word means the fewest, as in Traefik, and is reported.
    pub trace_verbosity: Word<TraceVerbosity>,
}

impl Default for EntryPointObservability {
    fn default() -> Self {
        Self {
            access_logs: true,
            metrics: true,
            tracing: true,
            trace_verbosity: TraceVerbosity::Minimal.into(),
        }
    }
}

impl EntryPointObservability {
    /// Returns a router's observability, with defaults from this entry point.
    pub fn for_router(&self, router: Option<&Observability>) -> EntryPointObservability {
        let own = router.cloned().unwrap_or_default();
        Self {
            access_logs: own.access_logs.unwrap_or(self.access_logs),
            metrics: own.metrics.unwrap_or(self.metrics),
            tracing: own.tracing.unwrap_or(self.tracing),
            trace_verbosity: if own.trace_verbosity.is_empty() {
                self.trace_verbosity.clone()
            } else {
                own.trace_verbosity
            },
        }
    }
}
