//! Tests that need programs from outside: Docker Engine, Consul, Redis, a browser. `cargo test` leaves them out, and
//! `make test` installs what they need and runs them.

mod access_log;
mod acme;
mod acme_accounts;
mod acme_consul;
mod acme_dns;
mod acme_dns_apis;
mod acme_faults;
mod acme_rfc2136;
mod address_swaps;
mod api_keys;
mod cluster;
mod cluster_page;
mod conflicting_definitions;
mod consul;
mod dashboard;
mod dns_changes;
mod docker;
mod docs;
mod etcd;
mod identity;
mod oidc;
mod packaging;
mod problem_locations;
mod prometheus;
mod protocol_suites;
mod provider_faults;
mod provider_instances;
mod rate_limit_redis;
mod redis;
mod shared_store;
mod store_keys;
mod stream_programs;
mod swarm;
mod traefik_conformance;
mod uploads;
