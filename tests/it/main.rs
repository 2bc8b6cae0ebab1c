//! The gateway from outside, in process: one binary, one file per subject.

#![allow(unreachable_pub, missing_docs, clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod acme;
mod acme_dns;
mod acme_faults;
mod api;
mod bad_input;
mod balance;
mod commands;
mod consul;
mod dashboard;
mod details;
mod docker;
mod docs;
mod drain;
mod framing;
mod framing_answers;
mod grpc_health;
mod hostile;
mod hostile_faults;
mod hostile_http2;
mod hostile_middlewares;
mod hostile_slow;
mod http3;
mod http3_limits;
mod interim;
mod life;
mod protocols;
mod redis;
mod reload;
mod services;
mod sockets;
mod stream_programs;
mod suites;
mod support;
mod swarm;
mod tcp;
mod tidy;
mod tls;
mod tls_resumption;
mod tunnels;
mod udp;
