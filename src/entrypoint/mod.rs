//! Entry points: listen, accept connections, and read requests from them.
//!
//! `listen` accepts a connection, `hold` keeps it until the first configuration is complete, and `dispatch` detects its
//! protocol. `http1` and `http2` serve HTTP over TCP, `http3` HTTP over QUIC, and `tcp` everything else. Requests of all
//! versions of HTTP are handled in [`http`].

mod clock;
mod conn_limit;
mod connection;
mod dispatch;
mod header_budget;
mod hold;
pub mod http;
mod http1;
mod http2;
mod http3;
mod linger;
mod listen;
mod listener;
mod passed;
mod ports;
mod prefixed;
mod shutdown;
mod tcp;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::HeaderValue;
use tokio::runtime::Handle;

use crate::observability::metrics::{Metrics, OpenConnections};
use crate::observability::tracing::Tracer;
use crate::observability::{Requests, Statistics};
use crate::opening::Opening;
use crate::settings::{EntryPoint, Settings};
use crate::snapshot::SnapshotHandle;
use crate::udp;
use crate::worker::{self, Workers};
use conn_limit::ConnectionLimiter;
pub use conn_limit::raise_descriptor_limit;
use header_budget::HeaderBudget;
use listener::{Listener, Shared};
pub use passed::Passed;
use ports::{Binder, BoundListener, BoundUdp};
use shutdown::Phase;
use tidegate_core::BuildError;

/// How long idle connections are kept when the gateway stops, as a request may be in flight.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// Why the entry points could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option is invalid.
    #[error("entryPoints.{entry_point}: {message}")]
    Option {
        /// Name of the entry point.
        entry_point: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// An address cannot be listened on.
    #[error("entryPoints.{entry_point}: cannot listen on {address}: {error}")]
    Bind {
        /// Name of the entry point.
        entry_point: String,
        /// The address as configured.
        address: String,
        /// The error of the system.
        error: io::Error,
    },
    /// A worker thread or its runtime cannot be created.
    #[error("cannot start workers: {0}")]
    Worker(#[from] io::Error),
}

/// Options that are not in the settings.
#[derive(Default)]
pub struct Options {
    /// Number of workers; 0 for [`worker::count`].
    pub workers: usize,
    /// The access log.
    pub log: Option<Arc<crate::observability::access_log::AccessLog>>,
    /// The audit log.
    pub audit: Option<Arc<crate::observability::AuditLog>>,
    /// Metrics, if there are any.
    pub metrics: Option<Arc<Metrics>>,
    /// Traces requests, if there is tracing.
    pub tracer: Option<Arc<Tracer>>,
    /// Recent requests, if they are recorded.
    pub requests: Option<Arc<Requests>>,
    /// Statistics of requests, if there are any.
    pub statistics: Option<Arc<Statistics>>,
    /// Decides when clients are first served.
    pub opening: Arc<Opening>,
    /// Sockets opened by a supervisor.
    pub passed: Passed,
}

/// All running entry points.
pub struct EntryPoints {
    listeners: Vec<(Arc<Listener>, SocketAddr)>,
    points: Vec<(Arc<udp::Listener>, SocketAddr)>,
    workers: Workers,
    terminating: Arc<AtomicBool>,
}

impl EntryPoints {
    /// Checks all options, binds all addresses, and starts to serve the current snapshot. If any of this fails, nothing
    /// is served. The routes of an entry point have the same index in a snapshot as the entry point in the settings.
    pub fn start(
        settings: &Settings,
        snapshots: SnapshotHandle,
        options: Options,
    ) -> Result<Self, StartError> {
        let count = if options.workers == 0 { worker::count() } else { options.workers };
        let workers = Workers::start(count)?;
        let largest_head = settings.entry_points.values().map(|point| point.http.max_header_bytes).max();
        let shared = Shared {
            snapshots,
            log: options.log,
            audit: options.audit,
            metrics: options.metrics,
            tracer: options.tracer,
            requests: options.requests,
            statistics: options.statistics,
            opening: options.opening,
            hostname: hostname(),
            balance: workers.balance(),
            room: ConnectionLimiter::new(),
            heads: HeaderBudget::new(largest_head.unwrap_or(0)),
        };
        let passed = assign_passed(options.passed, settings);
        let mut binder = Binder { settings, shared: &shared, passed, workers: workers.len() };
        let (mut listeners, mut points) = (Vec::new(), Vec::new());
        for (index, (name, options)) in settings.entry_points.iter().enumerate() {
            if options.is_udp() {
                points.push(binder.point(index, name, options)?);
            } else {
                listeners.push(binder.listener(index, name, options)?);
            }
        }
        binder.passed.warn_of_unused();
        let mut running =
            Self { listeners: Vec::new(), points: Vec::new(), workers, terminating: Arc::default() };
        for bound in listeners {
            let serves = settings.entry_points.get(&*bound.listener.name).map(serves).unwrap_or_default();
            running.serve_listener(bound, &serves)?;
        }
        for bound in points {
            running.serve_udp(bound);
        }
        Ok(running)
    }

    /// Returns the runtimes of the data plane, by the names of their threads.
    pub(crate) fn runtimes(&self) -> Vec<(String, Handle)> {
        (0..self.workers.len())
            .map(|index| (format!("worker-{index}"), self.workers.handle(index).clone()))
            .collect()
    }

    /// Returns the connections of the entry points by name.
    pub(crate) fn watched_connections(&self) -> Vec<(String, Arc<dyn OpenConnections>)> {
        let listeners = self.listeners.iter();
        listeners.map(|(listener, _)| (listener.name.to_string(), listener.watched.clone())).collect()
    }

    fn serve_listener(&mut self, bound: BoundListener, serves: &str) -> Result<(), StartError> {
        let BoundListener { listener, address, listeners, http3: sockets } = bound;
        if let Some(sockets) = sockets {
            let failed = |error: BuildError| StartError::Option {
                entry_point: listener.name.to_string(),
                message: format!("http3: {error}"),
            };
            http3::serve(&listener, sockets, &self.workers).map_err(failed)?;
        }
        tracing::info!(entry_point = %listener.name, %address, serves, "listening");
        for (number, socket) in listeners.into_iter().enumerate() {
            let accepting = listener.accepting.track_future(listen::accept_loop(listener.clone(), socket));
            spawn_vital(self.workers.handle(number % self.workers.len()), accepting);
        }
        listener.accepting.close();
        listener.endpoints.close();
        self.listeners.push((listener, address));
        Ok(())
    }

    fn serve_udp(&mut self, bound: BoundUdp) {
        let BoundUdp { point, address, sockets } = bound;
        tracing::info!(entry_point = %point.name, %address, serves = "UDP", "listening");
        for (number, socket) in sockets.into_iter().enumerate() {
            spawn_vital(self.workers.handle(number % self.workers.len()), point.clone().serve(socket));
        }
        self.points.push((point, address));
    }

    /// Returns the address of each entry point by name.
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        let listeners =
            self.listeners.iter().map(|(listener, address)| (listener.name.to_string(), *address));
        listeners
            .chain(self.points.iter().map(|(point, address)| (point.name.to_string(), *address)))
            .collect()
    }

    /// Returns the number of open client connections of each entry point by name.
    pub fn connections(&self) -> BTreeMap<String, usize> {
        self.listeners
            .iter()
            .map(|(listener, _)| (listener.name.to_string(), listener.connections()))
            .collect()
    }

    /// Returns the flag that is set when [`Self::shutdown`] starts, which `/ping` reports.
    pub fn terminating(&self) -> Arc<AtomicBool> {
        self.terminating.clone()
    }

    /// Stops gracefully: accepts connections for another `requestAcceptGraceTimeout`, then lets open ones finish
    /// (including upgraded ones) for at most `graceTimeOut`, and closes the rest.
    pub async fn shutdown(mut self) {
        self.terminating.store(true, Ordering::Relaxed);
        let stopping = self.listeners.iter().map(|(listener, _)| stop(listener));
        let silencing = self.points.iter().map(|(point, _)| point.stop());
        tokio::join!(futures_util::future::join_all(stopping), futures_util::future::join_all(silencing));
        // Joining threads blocks briefly.
        let _ = tokio::task::spawn_blocking(move || self.workers.stop()).await;
    }
}

/// Runs a task whose panic ends the process: a socket of a group that nothing reads would lose its share of the
/// clients.
fn spawn_vital(worker: &Handle, task: impl Future<Output = ()> + Send + 'static) {
    let running = worker.spawn(task);
    worker.spawn(async move {
        if running.await.is_err_and(|error| error.is_panic()) {
            tracing::error!("an accept loop panicked: aborting");
            std::process::abort();
        }
    });
}

/// Describes what an entry point serves, for the log.
fn serves(options: &EntryPoint) -> String {
    let http = &options.http;
    let redirect = http.redirections.as_ref().and_then(|redirections| redirections.entry_point.as_ref());
    match (redirect, &http.tls) {
        (Some(redirect), _) => format!("redirects to {}", redirect.to),
        (None, Some(_)) => "HTTPS".into(),
        (None, None) => "HTTP, and HTTPS for routers with `tls`".into(),
    }
}

async fn stop(listener: &Listener) {
    if !listener.accept_grace.is_zero() {
        tokio::time::sleep(listener.accept_grace).await;
    }
    listener.shutdown.enter(Phase::Draining);
    let drained = async {
        // Connections in the accept queue are served, too.
        listener.accepting.wait().await;
        if tokio::time::timeout(IDLE_GRACE.min(listener.grace / 2), listener.connections.drained())
            .await
            .is_err()
        {
            listener.shutdown.enter(Phase::ClosingIdle);
            listener.connections.drained().await;
        }
        listener.endpoints.wait().await;
    };
    if tokio::time::timeout(listener.grace, drained).await.is_err() {
        let connections = listener.connections();
        tracing::warn!(entry_point = %listener.name, connections, "closing connections after graceTimeOut");
    }
}

/// Assigns the sockets of a supervisor to entry points.
fn assign_passed(mut passed: Passed, settings: &Settings) -> Passed {
    let listening = |(name, options): (&String, &EntryPoint)| {
        Some((name.clone(), listen::parse_address(&options.address).ok()?.port(), options.is_udp()))
    };
    passed.assign(&settings.entry_points.iter().filter_map(listening).collect::<Vec<_>>());
    passed
}

/// Returns the name of this machine, for `X-Forwarded-Server`.
fn hostname() -> Option<HeaderValue> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    HeaderValue::from_str(name.trim()).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
