//! TCP routing and forwarding.
//!
//! [`Routes::decide`] inspects the first bytes of a connection and chooses a TCP route or HTTP. [`forward`]
//! copies its bytes. State that outlives a configuration (health, round robins) is owned by the [`Registry`];
//! services are built in a [`Draft`].

mod copy;
mod draft;
mod forward;
mod health;
mod index;
mod middlewares;
mod pipe;
mod postgres;
mod registry;
mod round_robin;
mod route;
pub mod rule;
mod server;
mod service;
mod transport;

pub use copy::Socket;
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
