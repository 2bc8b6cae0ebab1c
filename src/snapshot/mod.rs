//! A compiled configuration: immutable, loaded once by each request and kept until the request ends.

mod attach;
mod builder;
mod compile;
mod conditional;
mod consumers;
mod diagnostics;
mod effects;
mod error_pages;
mod files;
mod limits;
pub(crate) mod maintenance;
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
use tidegate_core::{Consumers, Middleware, Next, RequestCounters, RouteInfo};
use tidegate_middlewares::error_pages::Renderer as ErrorPages;
use time::OffsetDateTime;

use crate::observability::metrics::{CarryingObject, CountedObject};
use crate::router::Index;
use crate::service::Service;
use crate::settings::EntryPointObservability;
use crate::tls::{HostOptions, NamedOptions, TlsStore};
pub use compile::{Compiled, Environment, compile};
pub use effects::Effects;
pub use files::Files;
pub use limits::ActiveLimit;
pub use maintenance::{InMaintenance, MaintenanceState};
use report::Report;
pub(crate) use routes::begin_span;
use tidegate_core::traffic::TrafficCounters;

/// A compiled configuration.
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
    /// The status of each object.
    pub report: Arc<Report>,
    /// Counters of routers and services, for metrics.
    pub counters: BTreeMap<CountedObject, Arc<RequestCounters>>,
    /// Counters of TCP and UDP routers, services and servers, for metrics.
    pub traffic: BTreeMap<CarryingObject, Arc<TrafficCounters>>,
    /// The directory of consumers.
    pub consumers: Arc<Consumers>,
    /// Limits of routers, for metrics.
    pub limits: Vec<ActiveLimit>,
    /// Middlewares with stored responses, by qualified name.
    pub caches: BTreeMap<String, Arc<dyn Middleware>>,
    /// Middlewares with sessions, by qualified name.
    pub sessions: BTreeMap<String, Arc<dyn Middleware>>,
    /// The routers in maintenance.
    pub maintenance: MaintenanceState,
    /// When it was compiled.
    pub compiled: OffsetDateTime,
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
    /// The form of the gateway's own errors, if it is not that of Traefik.
    pub error_pages: Option<Arc<ErrorPages>>,
}

impl Snapshot {
    /// Returns the TLS options of a host at an entry point; see [`HostOptions::for_host`]. `None` if there is
    /// no such entry point.
    pub fn tls_options_of(&self, entry_point: usize, host: &str) -> Option<&Arc<NamedOptions>> {
        self.entry_points.get(entry_point).map(|routes| routes.tls_options.for_host(host))
    }
}

/// A compiled router.
pub struct Route {
    /// Router, service and middlewares by name, as logs and metrics show them.
    pub info: Arc<RouteInfo>,
    /// The middlewares of the entry point and the router in order, and the service behind them. The service
    /// of a broken router answers 503.
    pub chain: Next,
    /// Timeouts of the router, if it sets any.
    pub timeouts: Option<Timeouts>,
    /// What is logged, counted and traced.
    pub observability: EntryPointObservability,
    /// Its TLS options, if they are not the default: requests on connections with other options get a 421.
    pub tls_options: Option<Arc<NamedOptions>>,
    /// The routes of its child routers, if it has any; one of them handles what passes the middlewares.
    pub children: Option<Arc<Index<Route>>>,
}

/// Timeouts are capped at ten years, so that adding one to an instant cannot overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Timeouts for the requests of a router. `None` leaves the limit to the entry point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// The whole request, from its head to the last byte of the response.
    pub request: Option<Duration>,
    /// Without progress while reading the request body.
    pub request_body: Option<Duration>,
    /// Minimum rate of the request body, in bytes per second.
    pub min_body_rate: Option<u64>,
    /// From the end of the request to the head of the response.
    pub response: Option<Duration>,
    /// Without progress while the server sends the response body.
    pub response_body: Option<Duration>,
}

impl Timeouts {
    /// Returns the timeouts of a router; `None` if it sets none.
    fn from_options(options: Option<&tidegate_config::router::Timeouts>) -> Option<Self> {
        let options = options?;
        let given = |duration: tidegate_core::values::Duration| {
            (!duration.is_zero()).then_some(duration.0.min(MAX_TIMEOUT))
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
    /// Returns a handle to the first snapshot.
    pub fn new(first: Arc<Snapshot>) -> Self {
        Self(Arc::new(ArcSwap::new(first)))
    }

    /// Returns the current snapshot, to keep for one request.
    pub fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Returns a weak handle, for objects that a snapshot owns.
    pub fn downgrade(&self) -> WeakSnapshotHandle {
        WeakSnapshotHandle(Arc::downgrade(&self.0))
    }

    /// Replaces the snapshot. Requests in flight keep the one they started with.
    pub fn store(&self, next: Arc<Snapshot>) {
        self.0.store(next);
    }
}

/// A weak [`SnapshotHandle`].
#[derive(Clone, Default)]
pub struct WeakSnapshotHandle(Weak<ArcSwap<Snapshot>>);

impl WeakSnapshotHandle {
    /// Returns the handle, unless the gateway has been dropped.
    pub fn upgrade(&self) -> Option<SnapshotHandle> {
        self.0.upgrade().map(SnapshotHandle)
    }
}
