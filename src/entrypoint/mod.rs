//! The doors: listens, accepts, and turns connections into requests.

pub mod strict;
