//! The access log and the process log, metrics, and the record of recent requests.

pub mod access_log;
mod enter;
pub mod log;
mod log_event;
mod log_export;
pub(crate) mod log_file;
pub mod metrics;
pub(crate) mod observers;
mod otlp_logs;
pub mod requests;
pub mod statistics;
pub mod tracing;

pub use access_log::AccessLog;
pub(crate) use observers::Observers;
pub use requests::Requests;
pub use statistics::Statistics;
