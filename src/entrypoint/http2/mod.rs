//! HTTP/2 over TCP: connections of the HTTP library, with deadlines and limits of our own.

pub(in crate::entrypoint) mod connection;
pub(in crate::entrypoint) mod progress;
mod service;
mod watched_stream;
