//! HTTP/1 on the client's side: a driver of the codec without I/O (`tidegate_wire::http1::server`).
//!
//! One future serves a connection. It reads a head, polls the handling of the request and the body of its response, and
//! writes them; there is no other task, and no channel. What the body of a request reads is shared with it ([`io`]).

pub(in crate::entrypoint) mod connection;
mod io;
mod request;
mod response;

pub(in crate::entrypoint) use io::Stream;
