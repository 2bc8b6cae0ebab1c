//! The access log and the process log.

pub mod access_log;
pub mod log;

pub use access_log::AccessLog;
