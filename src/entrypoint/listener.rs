//! A running entry point: its checked options, and what its connections share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http2;
use hyper_util::rt::TokioExecutor;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::{BuildError, Reason};
use tokio_util::task::TaskTracker;

use super::clock::Limits;
use super::conn_limit::{ConnectionLimit, ConnectionLimiter, OpenConnection};
use super::header_budget::HeaderBudget;
use super::http::aliases::Aliases;
use super::http::forwarded::ForwardedRules;
use super::http::proxy_status::ProxyStatus;
use super::http::server_timing::ServerTiming;
use super::http::target::TargetRules;
use super::linger::CONNECTION_WINDOW;
use super::shutdown::Shutdown;
use crate::identity::OwnHeaders;
use crate::observability::metrics::{ConnectionStates, EntryPointMeter, Metrics, OpenConnections};
use crate::observability::tracing::Tracer;
use crate::observability::{Requests, Statistics};
use crate::opening::Opening;
use crate::settings::{EntryPoint, EntryPointObservability, ProxyProtocol, Settings};
use crate::snapshot::SnapshotHandle;
use crate::tcp::Routes;
use crate::tls::TlsStore;
use crate::worker::Balance;

/// Maximum time for a request head or a TLS handshake, even if `readTimeout` is longer.
const MAX_HEAD_TIME: Duration = Duration::from_secs(10);
/// Maximum number of TLS handshakes in progress over TCP. Each uses some tens of kilobytes.
const MAX_HANDSHAKES: usize = 8192;
/// By how much an HTTP/1 head may exceed `maxHeaderBytes`, as in Go, which reads that much ahead.
const HEADER_SLACK: usize = 4096;
/// By how much an HTTP/2 or HTTP/3 head may exceed it, as in Go, which reserves the overhead of ten fields.
const LIST_SLACK: usize = 320;
/// HTTP/2: flow-control window of a request body.
const STREAM_WINDOW: u32 = 512 * 1024;
/// HTTP/2: maximum number of buffered bytes of a response.
const SEND_BUFFER: usize = 64 * 1024;
/// HTTP/2: size of the encoder's header table, in bytes (RFC 9113 section 6.5.2).
const DEFAULT_TABLE: u32 = 4096;
/// HTTP/2: maximum number of streams reset before they were accepted, and of streams reset for the client's errors.
const MAX_RESETS: usize = 100;

/// A running entry point.
pub(super) struct Listener {
    /// Index in the settings, and in each snapshot.
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    pub(super) target: TargetRules,
    pub(super) aliases: Aliases,
    /// Headers that only the gateway may set.
    pub(super) own: OwnHeaders,
    pub(super) forwarded: ForwardedRules,
    proxy: Option<Trust>,
    pub(super) limits: Limits,
    /// Timeout of TLS handshakes.
    pub(super) handshake: Duration,
    handshakes: Arc<AtomicUsize>,
    pub(super) http2: http2::Builder<TokioExecutor>,
    /// Maximum size of a request head over HTTP/3, in bytes.
    pub(super) max_header_bytes: usize,
    /// Maximum number of open streams per connection.
    pub(super) max_streams: u32,
    /// `Alt-Svc` of responses over TLS, if HTTP/3 is served.
    pub(super) alternative: Option<HeaderValue>,
    pub(super) max_requests: u64,
    pub(super) max_time: Option<Duration>,
    pub(super) accept_grace: Duration,
    pub(super) grace: Duration,
    pub(super) snapshots: SnapshotHandle,
    /// Decides when clients are first served.
    pub(super) opening: Arc<Opening>,
    /// The loops that accept connections.
    pub(super) accepting: TaskTracker,
    /// The endpoints of HTTP/3, which end after their connections.
    pub(super) endpoints: TaskTracker,
    /// Whether `/ping` and `/ready` are served before that.
    pub(super) early: bool,
    pub(super) log: Option<Arc<crate::observability::access_log::AccessLog>>,
    pub(super) audit: Option<Arc<crate::observability::AuditLog>>,
    pub(super) meter: Option<Arc<EntryPointMeter>>,
    pub(super) tracer: Option<Arc<Tracer>>,
    /// Recent requests, if they are recorded.
    pub(super) requests: Option<Arc<Requests>>,
    /// Statistics of requests, if there are any.
    pub(super) statistics: Option<Arc<Statistics>>,
    /// Adds `Proxy-Status` to responses, if enabled.
    pub(super) proxy_status: Option<ProxyStatus>,
    /// Adds `Server-Timing` to responses to requests with a token, if enabled.
    pub(super) server_timing: Option<ServerTiming>,
    /// Whether errors may have another form than Traefik's.
    pub(super) has_error_pages: bool,
    /// What is observed of requests without a route.
    pub(super) observability: EntryPointObservability,
    pub(super) balance: Balance,
    pub(super) shutdown: Shutdown,
    /// Open connections and their limit.
    pub(super) connections: Arc<ConnectionLimit>,
    /// The same, for metrics and debugging.
    pub(super) watched: Arc<dyn OpenConnections>,
    pub(super) heads: Arc<HeaderBudget>,
    /// Maximum size of an HTTP/1 request head, in bytes.
    pub(super) largest_head: usize,
}

struct Trust {
    all: bool,
    ranges: IpRanges,
}

/// A handshake in progress, counted until dropped.
pub(super) struct Handshaking(Arc<AtomicUsize>);

/// The connections of an entry point, as metrics see them.
struct WatchedConnections {
    connections: Arc<ConnectionLimit>,
    handshakes: Arc<AtomicUsize>,
}

impl WatchedConnections {
    /// Returns the connections of an entry point, and has metrics watch them.
    fn watch(
        name: &str,
        shared: &Shared,
        connections: &Arc<ConnectionLimit>,
        handshakes: &Arc<AtomicUsize>,
    ) -> Arc<dyn OpenConnections> {
        let (connections, handshakes) = (connections.clone(), handshakes.clone());
        let watched: Arc<dyn OpenConnections> = Arc::new(Self { connections, handshakes });
        if let Some(metrics) = &shared.metrics {
            metrics.watch_connections(name, watched.clone());
        }
        watched
    }
}

impl OpenConnections for WatchedConnections {
    fn open(&self) -> usize {
        self.connections.open()
    }

    fn states(&self) -> ConnectionStates {
        let (idle, stalled) = self.connections.inactive();
        ConnectionStates { idle, stalled, handshaking: self.handshakes.load(Ordering::Relaxed) }
    }
}

/// What all entry points of the process share.
pub(super) struct Shared {
    pub(super) snapshots: SnapshotHandle,
    pub(super) opening: Arc<Opening>,
    pub(super) log: Option<Arc<crate::observability::access_log::AccessLog>>,
    pub(super) audit: Option<Arc<crate::observability::AuditLog>>,
    pub(super) metrics: Option<Arc<Metrics>>,
    pub(super) tracer: Option<Arc<Tracer>>,
    pub(super) requests: Option<Arc<Requests>>,
    pub(super) statistics: Option<Arc<Statistics>>,
    pub(super) hostname: Option<HeaderValue>,
    pub(super) balance: Balance,
    pub(super) room: Arc<ConnectionLimiter>,
    pub(super) heads: Arc<HeaderBudget>,
}

impl Trust {
    fn new(options: &ProxyProtocol) -> Result<Self, BuildError> {
        let invalid = |error| BuildError::new(format!("proxyProtocol.trustedIPs: {error}"));
        let ranges = IpRanges::parse(&options.trusted_ips).map_err(invalid)?;
        Ok(Self { all: options.insecure, ranges })
    }
}

impl Listener {
    /// Counts the response to a head that is refused before there is a request.
    pub(super) fn count_refused(&self, reason: Reason) {
        if let Some(meter) = self.meter.as_ref().filter(|_| self.observability.metrics) {
            meter.count_refused(reason);
        }
    }

    /// Returns true if anything reads how long routing and the response took.
    pub(in crate::entrypoint) fn keeps_times(&self) -> bool {
        self.requests.is_some() || self.statistics.is_some() || self.server_timing.is_some()
    }

    /// Checks the options of the entry point `name`, which has this `index` in the settings.
    pub(super) fn new(
        index: usize,
        name: &str,
        settings: &Settings,
        options: &EntryPoint,
        shared: &Shared,
    ) -> Result<Self, BuildError> {
        let append = !settings.global.not_append_x_forwarded_for;
        let forwarded = ForwardedRules::new(&options.forwarded_headers, append, shared.hostname.clone())
            .map_err(|error| BuildError::new(format!("forwardedHeaders.{error}")))?;
        let proxy = options.proxy_protocol.as_ref().map(Trust::new).transpose()?;
        let proxy_status = options.http.proxy_status.as_ref().map(ProxyStatus::new).transpose()?;
        let server_timing = options.http.server_timing.as_ref().map(ServerTiming::new).transpose()?;
        let limits = limits(options);
        let connections =
            shared.room.connections(options.transport.max_connections, shared.balance.workers());
        let handshakes = Arc::<AtomicUsize>::default();
        let watched = WatchedConnections::watch(name, shared, &connections, &handshakes);
        let (accept_grace, grace) = options.transport.life_cycle.graces();
        Ok(Self {
            index,
            name: name.into(),
            target: TargetRules::new(&options.http),
            aliases: Aliases::new(&options.http)?,
            own: OwnHeaders::of(settings),
            forwarded,
            proxy,
            proxy_status,
            server_timing,
            has_error_pages: options.http.error_pages.is_some(),
            handshake: limits.head.unwrap_or(MAX_HEAD_TIME),
            handshakes,
            limits,
            http2: http2_builder(options)?,
            max_header_bytes: options.http.max_header_bytes.saturating_add(LIST_SLACK),
            max_streams: options.http2.max_concurrent_streams,
            alternative: None,
            max_requests: u64::try_from(options.transport.keep_alive_max_requests).unwrap_or(0),
            max_time: options.transport.keep_alive_max_time.limit(),
            accept_grace,
            grace,
            snapshots: shared.snapshots.clone(),
            opening: shared.opening.clone(),
            accepting: TaskTracker::new(),
            endpoints: TaskTracker::new(),
            early: settings
                .ping
                .as_ref()
                .is_some_and(|ping| !ping.manual_routing && ping.entry_point == name),
            log: shared.log.clone(),
            audit: shared.audit.clone(),
            requests: shared.requests.clone(),
            statistics: shared.statistics.clone(),
            observability: options.observability.clone(),
            tracer: shared.tracer.clone(),
            meter: shared.metrics.as_ref().map(|metrics| Arc::new(EntryPointMeter::new(metrics, name))),
            balance: shared.balance.clone(),
            shutdown: Shutdown::default(),
            connections,
            watched,
            heads: shared.heads.clone(),
            largest_head: options.http.max_header_bytes.saturating_add(HEADER_SLACK),
        })
    }

    /// Returns true if a peer may send a PROXY header.
    pub(super) fn trusts_proxy(&self, peer: IpAddr) -> bool {
        self.proxy.as_ref().is_some_and(|trust| trust.all || trust.ranges.contains(peer))
    }

    /// Counts a TLS handshake. Returns `None` if there are too many.
    pub(super) fn begin_handshake(&self) -> Option<Handshaking> {
        Handshaking::begin(&self.handshakes, MAX_HANDSHAKES)
    }

    /// Returns true if a PROXY header of a peer must be refused: only others may send one, and a server would trust it.
    pub(super) fn refuses_proxy(&self, peer: IpAddr) -> bool {
        self.proxy.is_some() && !self.trusts_proxy(peer)
    }

    /// Returns the TCP routes of the entry point and their certificates, if there are routes.
    pub(super) fn tcp_routes(&self) -> Option<(Arc<Routes>, Arc<TlsStore>)> {
        let snapshot = self.snapshots.load();
        let routes = snapshot.entry_points.get(self.index)?.tcp.clone()?;
        Some((routes, snapshot.tls.clone()))
    }

    /// Counts a connection on a worker.
    pub(super) fn count(&self, worker: usize) -> OpenConnection {
        self.connections.take(self.balance.count(worker))
    }

    /// Returns the number of open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.open()
    }
}

impl Handshaking {
    /// Counts a handshake. Returns `None` if there are already `max`.
    pub(super) fn begin(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let counted = Self(count.clone());
        (count.fetch_add(1, Ordering::Relaxed) < max).then_some(counted)
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn limits(options: &EntryPoint) -> Limits {
    let timeouts = &options.transport.responding_timeouts;
    let read = timeouts.read_timeout.limit();
    Limits {
        head: read.map(|read| read.min(MAX_HEAD_TIME)),
        body: read,
        rate: timeouts.body_rate(),
        idle: timeouts.idle(),
        write: timeouts.write_timeout.limit(),
    }
}

fn http2_builder(options: &EntryPoint) -> Result<http2::Builder<TokioExecutor>, BuildError> {
    if options.http2.max_concurrent_streams == 0 {
        return Err(BuildError::new("http2.maxConcurrentStreams is 0: expected a positive number"));
    }
    if options.http2.max_encoder_header_table_size != DEFAULT_TABLE {
        return Err(BuildError::new(format!(
            "unsupported http2.maxEncoderHeaderTableSize {}: expected {DEFAULT_TABLE}",
            options.http2.max_encoder_header_table_size
        )));
    }
    let list = options.http.max_header_bytes.saturating_add(LIST_SLACK);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(options.http2.max_concurrent_streams)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .header_table_size(options.http2.max_decoder_header_table_size)
        .max_send_buf_size(SEND_BUFFER)
        .enable_connect_protocol()
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS);
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_limited() {
        let count = Arc::new(AtomicUsize::new(0));
        let first = Handshaking::begin(&count, 2);
        let second = Handshaking::begin(&count, 2);
        assert!(first.is_some() && second.is_some());
        assert!(Handshaking::begin(&count, 2).is_none());
        drop(first);
        assert!(Handshaking::begin(&count, 2).is_some());
        assert_eq!(count.load(Ordering::Relaxed), 1, "the second is still in progress");
    }
}
