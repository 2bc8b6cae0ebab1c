//! Accepts requests with an API key.

pub mod key;
