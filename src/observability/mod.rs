//! The access log and the process log.

pub mod access_log;
pub mod log;
pub(crate) mod log_file;
pub mod metrics;
pub(crate) mod observers;
pub mod tracing;

pub use access_log::AccessLog;
pub(crate) use observers::Observers;
