//! Tidegate: an auto-discovering gateway that uses Traefik v3's configuration unchanged.
//!
//! The modules follow the flow. Configuration: [`settings`], [`configuration`], [`snapshot`]. Requests:
//! [`entrypoint`], [`tls`], [`router`], [`service`], [`upstream`]. In addition: [`observability`],
//! [`internal`] services, and [`worker`] threads.

pub mod acme;
mod announcements;
pub mod cli;
pub mod cluster;
pub mod configuration;
pub mod entrypoint;
mod explain;
pub mod gateway;
mod handover;
pub mod identity;
pub mod internal;
mod live;
pub mod maintenance;
pub mod observability;
pub mod opening;
mod output;
pub mod router;
mod saved;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod store;
pub mod tcp;
pub mod tls;
pub mod udp;
pub mod upstream;
pub mod worker;
