//! The access log, the audit log and the process log, metrics, and the record of recent requests.

pub mod access_log;
pub mod audit;
mod enter;
pub(crate) mod line_writer;
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
pub use audit::AuditLog;
pub(crate) use observers::Observers;
pub use requests::Requests;
pub use statistics::Statistics;
