//! What a service would do with a request, found out without sending it or taking a turn.

use std::sync::Arc;

use http::Uri;
use tidegate_core::Next;

use super::Service;

/// What a service would do with a request.
pub enum Preview {
    /// A service of the gateway responds.
    Own,
    /// One of these servers responds.
    Servers(Vec<ServerPreview>, Choice),
    /// One of these services responds, in the order of the options; those without weight are left out.
    Services(Vec<Arc<dyn Service>>, Choice),
    /// The service is behind middlewares of its own.
    Behind(Next, Arc<dyn Service>),
}

/// Which member is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Next(usize),
    /// One of several, at random.
    Random,
    /// None is usable.
    Nobody,
}

/// A server of a service.
pub struct ServerPreview {
    /// Its URL.
    pub url: String,
    /// `up`, `unproven` (no health check has completed), `refused` (it refused a connection recently) or `down`.
    pub state: &'static str,
    /// Its share of requests relative to the other servers; 0 without traffic.
    pub weight: f64,
    /// Number of requests in flight.
    pub in_flight: usize,
    /// The target that it would receive; `None` if that of the request is kept.
    pub target: Option<Uri>,
    /// The host that it would receive; `None` if that of the request is kept.
    pub host: Option<String>,
}

impl From<Option<usize>> for Choice {
    fn from(index: Option<usize>) -> Self {
        index.map_or(Self::Nobody, Self::Next)
    }
}
