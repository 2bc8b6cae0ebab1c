//! The sources of configuration: one file each, one line each in the list below.
//!
//! A provider delivers its whole state, every time it changes. It never sees a request.

pub mod docker;
pub mod file;

use std::sync::Arc;

use tidegate_config::Provided;
use tokio::sync::mpsc;

/// The whole state of one provider.
#[derive(Clone, Debug)]
pub struct Update {
    /// Name of the provider instance, the part after `@`: `docker`, `file`.
    pub provider: Arc<str>,
    /// Its state. `Arc`, so that an unchanged one is dropped cheaply.
    pub state: Arc<Provided>,
}

/// Where providers send their state.
pub type Updates = mpsc::Sender<Update>;
