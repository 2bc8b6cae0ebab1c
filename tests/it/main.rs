//! The gateway from outside, in process: one binary, one file per subject.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::too_many_lines,
    reason = "tests, some of which are long tables of cases"
)]

mod access_log;
mod acme_consul;
mod acme_faults;
mod acme_orders;
mod api;
mod api_access;
mod api_key;
mod api_key_attacks;
mod api_key_commands;
mod audit_log;
mod bad_input;
mod balance;
mod cache;
mod cache_operated;
mod cache_pages;
mod cache_poisoning;
mod cache_privacy;
mod client_certificate;
mod client_identity;
mod cluster;
mod cluster_page;
mod commands;
mod composite_services;
mod consumers;
mod crowdsec;
mod dashboard;
mod debug_endpoints;
mod docs;
mod dpop;
mod early_hints;
mod error_pages;
mod explain;
mod explain_access;
mod explain_cases;
mod explain_commands;
mod forwarded_for;
mod graceful_shutdown;
mod grpc_health;
mod handover;
mod hmac;
mod hold;
mod http2_attacks;
mod http3;
mod http3_limits;
mod http3_workers;
mod identity;
mod import_cycles;
mod introspection;
mod jwt;
mod jwt_attacks;
mod maintenance;
mod metrics;
mod middleware_attacks;
mod oidc;
mod oidc_attacks;
mod oidc_operator;
mod oidc_sessions;
mod opa;
mod otlp_logs;
mod otlp_metrics;
mod outage;
mod packaging;
mod pausing_clients;
mod plan;
mod problem_locations;
mod process_lifecycle;
mod programs;
mod protocols;
mod provider_instances;
mod rate_limit_redis;
mod reasons;
mod recent_requests;
mod reference;
mod reload;
mod request_attacks;
mod request_framing;
mod request_id;
mod request_targets;
mod response_details;
mod response_framing;
mod revocation;
mod revocation_fetched;
mod router_options;
mod rule_language;
mod server_faults;
mod server_metrics;
mod services;
mod slow_clients;
mod startup;
mod state_metrics;
mod static_files;
mod statistics;
mod support;
mod tcp;
mod tidy;
mod timeouts;
mod tls;
mod tls_resumption;
mod tracing;
mod traefik_parity;
mod traffic_metrics;
mod udp;
mod unix_sockets;
mod unusable_settings;
mod uploads;
mod websocket_tunnels;
