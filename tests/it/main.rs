//! The gateway from outside, in process: one binary, one file per subject.

mod docker;
mod docs;
mod hostile;
mod reload;
mod support;
mod tidy;
