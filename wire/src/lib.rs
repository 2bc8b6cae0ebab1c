//! Codecs for the protocols that the gateway parses and writes itself, without I/O.
//!
//! This crate opens no sockets, never waits, and knows neither a runtime nor an HTTP library nor the rest of
//! the gateway, so every parser can be tested and fuzzed with plain bytes, whole and in pieces.
//!
//! | module | reads | writes |
//! |---|---|---|
//! | [`http1::server`], [`http1::client`] | HTTP/1 connections | the same |
//! | [`http2::scan`] | frame headers of an HTTP/2 client | – |
//! | [`http3::frame`], [`http3::qpack`], [`http3::head`] | HTTP/3 frames, header blocks, request heads | frames, header blocks |
//! | [`client_hello`] | server name and protocols of a TLS client | – |
//! | [`proxy_protocol`] | PROXY headers | PROXY headers |
//! | [`postgres`] | PostgreSQL's request for TLS | the same |
//! | [`target`] | hosts and targets | escapes |

pub mod client_hello;
pub mod http1;
pub mod http2;
pub mod http3;
pub mod postgres;
pub mod proxy_protocol;
pub mod target;
