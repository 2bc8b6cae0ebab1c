//! The outgoing clients: names become addresses, addresses connections, and connections are spoken on.
//!
//! What the gateway keeps up with other programs (engines, agents, stores, certificate authorities) goes through here,
//! and so does how servers are reached: by [`dial`] and [`tls`]. This crate knows nothing of what is asked for or why.

pub mod connect;
pub mod consul;
pub mod dial;
pub mod http;
pub mod redis;
pub mod tls;

/// An option whose value cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("option `{option}`: {message}")]
pub struct OptionError {
    /// The option, as it is written.
    pub option: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl OptionError {
    /// An error about this option.
    pub fn new(option: &'static str, message: impl Into<String>) -> Self {
        Self { option, message: message.into() }
    }
}
