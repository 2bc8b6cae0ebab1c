//! The access log and the process log.

pub mod access_log;
pub mod log;
pub mod metrics;

pub use access_log::AccessLog;
