//! HTTP/1 and HTTP/2: connections over TCP, with TLS, deadlines and limits.

pub(in crate::entrypoint) mod clock;
pub(in crate::entrypoint) mod connection;
pub(in crate::entrypoint) mod header_budget;
pub(in crate::entrypoint) mod linger;
pub(in crate::entrypoint) mod prefixed;
pub(in crate::entrypoint) mod progress;
pub(in crate::entrypoint) mod watched_stream;
