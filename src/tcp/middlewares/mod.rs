//! TCP middlewares, which accept or close the connections of a router.
//!
//! To add one, write a file, a line in [`build`] and a variant of [`TcpMiddleware`].

mod in_flight_conn;
mod ip_allow_list;
mod ip_white_list;

use std::any::Any;
use std::sync::Arc;

use tidegate_config::tcp::TcpMiddleware;
use tidegate_core::occupancy::Limit;
use tidegate_core::{BuildError, Connection};

/// A TCP middleware.
pub trait Middleware: Send + Sync {
    /// Accepts a connection, or returns why it is rejected. The permit is held until the connection ends.
    fn admit(&self, connection: &Connection) -> Result<Option<Permit>, &'static str>;

    /// Returns what it holds, if it limits its clients.
    fn limit(&self) -> Option<&dyn Limit> {
        None
    }
}

/// A resource that a connection holds, released on drop.
pub type Permit = Box<dyn Any + Send>;

/// Builds a middleware from its options.
pub fn build(options: &TcpMiddleware) -> Result<Arc<dyn Middleware>, BuildError> {
    match options {
        TcpMiddleware::InFlightConn { amount } => Ok(Arc::new(in_flight_conn::InFlightConn::new(*amount))),
        TcpMiddleware::IpAllowList(options) => Ok(Arc::new(ip_allow_list::IpAllowList::new(options)?)),
        TcpMiddleware::IpWhiteList(options) => ip_white_list::build(options),
    }
}
