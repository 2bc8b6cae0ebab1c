//! HTTP/3 (RFC 9114) and its header compression, QPACK (RFC 9204).

pub mod frame;
pub mod head;
pub mod qpack;
mod tables;
