//! HTTP/1 (RFC 9112).

pub mod framing;
