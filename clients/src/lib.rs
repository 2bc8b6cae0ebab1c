//! Outgoing clients: name resolution, connections, and protocols.
//!
//! Connections to container engines, agents, stores and certificate authorities use these clients.
//! Connections to servers use [`dial`] and [`tls`]. This crate is independent of how its clients are used.

pub mod connect;
pub mod consul;
pub mod dial;
pub mod http;
pub mod ldap;
pub mod loopback;
pub mod otlp;
pub mod peer_state;
pub mod redis;
pub mod tls;

/// An option with an invalid value.
#[derive(Clone, Debug, thiserror::Error)]
#[error("option `{option}`: {message}")]
pub struct OptionError {
    /// The name of the option.
    pub option: &'static str,
    /// The error.
    pub message: String,
}

impl OptionError {
    /// Returns an error about an option.
    pub fn new(option: &'static str, message: impl Into<String>) -> Self {
        Self { option, message: message.into() }
    }
}
