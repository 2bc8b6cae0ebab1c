//! Services, which route requests to servers.
//!
//! A [`Service`] handles requests: a load balancer over servers, a composite of other
//! services, or the files of a directory. State that
//! outlives a configuration (connections, health, balances) is owned by the [`Registry`]; services are built
//! in a [`Draft`].

mod balance;
mod check;
mod check_error;
mod draft;
mod failover;
mod health;
mod hold;
mod load_balancer;
mod mirror;
mod preview;
mod registry;
mod server;
mod static_files;
mod sticky;
#[cfg(test)]
mod tests;
mod weighted;

use std::collections::BTreeMap;

use tidegate_core::{BoxFuture, Handler, Request, Response};

pub use draft::{Counters, Draft, Effects};
pub use preview::{Choice, Preview, ServerPreview};
pub use registry::Registry;
pub(crate) use static_files::StaticService;
pub(crate) use sticky::cookie_name;

/// A service that routers and other services can refer to.
pub trait Service: Handler {
    /// Returns true if a server or child is up.
    fn is_up(&self) -> bool;

    /// Returns `UP` or `DOWN` by server URL, for services with servers.
    fn server_status(&self) -> BTreeMap<String, &'static str> {
        BTreeMap::new()
    }

    /// Returns the number of requests that wait for a server.
    fn held(&self) -> usize {
        0
    }

    /// Handles a request, but does not let it wait for a server. If it was not sent to any, it is returned in `unsent`.
    fn try_call<'a>(&'a self, request: Request, _unsent: &'a mut Option<Request>) -> BoxFuture<'a, Response> {
        self.call(request)
    }

    /// Returns what the service would do with a request, without sending it or taking a turn.
    fn preview(&self, _request: &Request) -> Preview {
        Preview::Own
    }
}
