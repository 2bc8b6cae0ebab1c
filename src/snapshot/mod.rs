//! A compiled configuration: immutable, taken once by each request and kept to its end.

mod attach;
mod builder;
mod compile;
mod conditional;
mod diagnostics;
mod effects;
mod files;
mod middlewares;
pub mod report;
mod resolver;
mod routers;
pub(crate) mod routes;
mod services;
mod syntax;
mod tasks;
mod tcp;
#[cfg(test)]
mod tests;
mod tls_hosts;
mod udp;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_core::{Next, RouteInfo};

use crate::router::Index;
use crate::service::Service;
use crate::settings::EntryPointObservability;
use crate::tls::{HostOptions, NamedOptions, TlsStore};
pub use compile::{Compiled, Environment, compile};
pub use effects::Effects;
pub use files::Files;
use report::Report;

/// What one configuration compiles to.
pub struct Snapshot {
    /// Counts up with each swap.
    pub generation: u64,
    /// The routes of each entry point, in the order of the settings.
    pub entry_points: Vec<Routes>,
    /// Certificates and TLS options.
    pub tls: Arc<TlsStore>,
    /// Every service, by qualified name; broken ones are absent.
    pub services: BTreeMap<String, Arc<dyn Service>>,
    /// Every TCP service that a router uses, by qualified name; broken ones are absent.
    pub tcp_services: BTreeMap<String, Arc<dyn crate::tcp::Service>>,
    /// What became of each object.
    pub report: Arc<Report>,
}

/// The routes of one entry point.
pub struct Routes {
    /// Routes for plain-text connections.
    pub plain: Index<Route>,
    /// Routes for TLS connections.
    pub tls: Index<Route>,
    /// TCP routes, when there are any.
    pub tcp: Option<Arc<crate::tcp::Routes>>,
    /// The UDP route, when there is one.
    pub udp: Option<Arc<crate::udp::Route>>,
    /// TLS options by host.
    pub tls_options: HostOptions,
}

impl Snapshot {
    /// The TLS options that apply to a host at an entry point; see [`HostOptions::of`]. `None`: there is no such entry point.
    pub fn tls_options_of(&self, entry_point: usize, host: &str) -> Option<&Arc<NamedOptions>> {
        self.entry_points.get(entry_point).map(|routes| routes.tls_options.of(host))
    }
}

/// What a request is given to, once its router is known.
pub struct Route {
    /// Router, service and middlewares by name, as logs and metrics show them.
    pub info: Arc<RouteInfo>,
    /// The middlewares, first to last (the entry point's, the router's), and the service behind them. A broken router has
    /// a service that answers 503.
    pub chain: Next,
    /// How long its requests may take, when it says so.
    pub timeouts: Option<Timeouts>,
    /// What is logged, counted and traced.
    pub observability: EntryPointObservability,
    /// Its TLS options, when they are not the default: requests on a connection with others are refused (421).
    pub tls_options: Option<Arc<NamedOptions>>,
}

/// Ten years: longer ones are as good as this, and can be added to any time.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long the requests of a router may take. `None`: as long as the entry point lets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole request: from its head to the last byte of the answer.
    pub request: Option<Duration>,
    /// Without progress while its body is read.
    pub request_body: Option<Duration>,
    /// Fewest bytes of its body in a second.
    pub min_body_rate: Option<u64>,
    /// From the end of the request to the head of the answer.
    pub response: Option<Duration>,
    /// Without progress while the server sends the body of the answer.
    pub response_body: Option<Duration>,
}

impl Timeouts {
    /// As a router gives them; `None` when it gives none.
    fn of(options: Option<&tidegate_config::router::Timeouts>) -> Option<Self> {
        let options = options?;
        let given = |duration: tidegate_core::values::Duration| {
            (!duration.is_zero()).then_some(duration.0.min(LONGEST_TIMEOUT))
        };
        let timeouts = Self {
            request: given(options.request),
            request_body: given(options.request_body),
            min_body_rate: options.min_body_rate,
            response: given(options.response),
            response_body: given(options.response_body),
        };
        (timeouts != Self::default()).then_some(timeouts)
    }
}

/// The current snapshot, shared by everything that serves requests.
#[derive(Clone)]
pub struct SnapshotHandle(Arc<ArcSwap<Snapshot>>);

impl SnapshotHandle {
    /// A handle on a first snapshot.
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self(Arc::new(ArcSwap::new(first)))
    }

    /// The current snapshot, to keep for one request.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// A handle that keeps nothing alive, for what a snapshot itself holds.
    pub fn downgrade(&self) -> WeakSnapshotHandle {
        WeakSnapshotHandle(Arc::downgrade(&self.0))
    }

    /// Replaces the snapshot. Open requests finish on the one they began with.
    pub fn store(&self, next: Arc<Snapshot>) {
        self.0.store(next);
    }
}

/// A [`SnapshotHandle`] that keeps nothing alive.
#[derive(Clone, Default)]
pub struct WeakSnapshotHandle(Weak<ArcSwap<Snapshot>>);

impl WeakSnapshotHandle {
    /// The handle, unless the gateway is gone.
    pub fn upgrade(&self) -> Option<SnapshotHandle> {
        self.0.upgrade().map(SnapshotHandle)
    }
}
