//! The gateway from outside, in process: one binary, one file per subject.

#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod api;
mod docker;
mod docs;
mod hostile;
mod reload;
mod support;
mod tidy;
