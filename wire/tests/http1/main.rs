//! HTTP/1: what is accepted and refused, in one piece and in many, and how it compares with other parsers.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod bodies;
mod client;
mod corpus;
mod encoding;
mod properties;
mod requests;
mod responses;
mod server;
mod versus_hyper;
