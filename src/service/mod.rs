//! Services: which server a request goes to.
//!
//! A [`Service`] answers requests: a load balancer over servers, or a composite of other services. What must outlive
//! a change of configuration (connections, health, the balance) is owned by the [`Registry`];
//! services are built in a [`Draft`].

mod balance;
mod check;
mod check_error;
mod draft;
mod failover;
mod health;
mod load_balancer;
mod mirror;
mod registry;
mod server;
mod sticky;
#[cfg(test)]
mod tests;
mod weighted;

use std::collections::BTreeMap;

use tidegate_core::Handler;

pub use draft::{Draft, Effects};
pub use registry::Registry;
pub(crate) use sticky::cookie_name;

/// A service that routers and other services can name.
pub trait Service: Handler {
    /// True while it can serve a request: some server, or some child, is up.
    fn is_up(&self) -> bool;

    /// `UP` or `DOWN` by server URL, for services with servers of their own.
    fn server_status(&self) -> BTreeMap<String, &'static str> {
        BTreeMap::new()
    }
}
