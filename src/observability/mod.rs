//! The access log and the process log, metrics, and the record of recent requests.

pub mod access_log;
pub mod log;
pub(crate) mod log_file;
pub mod metrics;
pub(crate) mod observers;
pub mod requests;
pub mod tracing;

pub use access_log::AccessLog;
pub(crate) use observers::Observers;
pub use requests::Requests;
