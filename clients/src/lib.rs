//! Outgoing clients: name resolution, connections and TLS towards servers, and small clients for HTTP, Consul and Redis.
//!
//! Everything that the gateway connects to is reached through [`dial`] and [`tls`]. The crate knows no configuration:
//! callers pass values, and decide what to ask.

pub mod connect;
pub mod consul;
pub mod dial;
pub mod http;
pub mod redis;
pub mod tls;

/// An invalid value of an option.
#[derive(Clone, Debug, thiserror::Error)]
#[error("option `{option}`: {message}")]
pub struct OptionError {
    /// The option, as it is written.
    pub option: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl OptionError {
    /// Creates an error about this option.
    pub fn new(option: &'static str, message: impl Into<String>) -> Self {
        Self { option, message: message.into() }
    }
}
