//! TCP: which router takes a connection, and carrying its bytes to a server.
//!
//! [`Routes::decide`] looks at the first bytes of a connection and says who takes it: a TCP route or HTTP. [`forward`]
//! then carries it. What outlives a change of the configuration (health, turns) belongs to [`Registry`];
//! services are built in a [`Draft`].

mod copy;
mod draft;
mod forward;
mod health;
mod index;
mod middlewares;
mod postgres;
mod registry;
mod round_robin;
mod route;
pub mod rule;
mod server;
mod service;
mod transport;

pub use draft::{Draft, Effects};
pub use forward::{connect, forward};
pub use index::{Entry, Index};
pub use middlewares::{Middleware, Permit, build as middleware};
pub use registry::Registry;
pub use route::{Decision, HttpsNames, Route, Routes, Security};

pub use round_robin::RoundRobin;
pub(crate) use server::split as split_address;
pub use service::Service;
pub use transport::Transport;
