//! What stands between a TCP router and its service: each middleware lets a connection in or closes it.
//!
//! One file each; a new one is a line in [`build`] and a variant of [`TcpMiddleware`].

mod in_flight_conn;
mod ip_allow_list;
mod ip_white_list;

use std::any::Any;
use std::sync::Arc;

use tidegate_config::tcp::TcpMiddleware;
use tidegate_core::{BuildError, Connection};

/// A TCP middleware.
pub trait Middleware: Send + Sync {
    /// Lets a connection in, or says why not. The permit is kept until the connection ends.
    fn admit(&self, connection: &Connection) -> Result<Option<Permit>, &'static str>;
}

/// What a middleware has given out to a connection, returned by dropping it.
pub type Permit = Box<dyn Any + Send>;

/// Checks the options of a middleware and makes it.
pub fn build(options: &TcpMiddleware) -> Result<Arc<dyn Middleware>, BuildError> {
    match options {
        TcpMiddleware::InFlightConn { amount } => Ok(Arc::new(in_flight_conn::InFlightConn::new(*amount))),
        TcpMiddleware::IpAllowList(options) => Ok(Arc::new(ip_allow_list::IpAllowList::new(options)?)),
        TcpMiddleware::IpWhiteList(options) => ip_white_list::build(options),
    }
}
