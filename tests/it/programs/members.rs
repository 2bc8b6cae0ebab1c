//! Gateways that are members of one cluster, over a real Consul agent or a real Redis.

use serde_json::Value;

use crate::cache_operated::OPERATOR;
use crate::support::outside::{Consul, Redis};
use crate::support::{Gateway, eventually, get_with};

/// Where members meet.
pub enum Store {
    Consul(Consul),
    Redis(Redis),
}

impl Store {
    pub fn consul() -> Self {
        Self::Consul(Consul::start("").ready())
    }

    /// What it has survives a restart, as it does in Consul.
    pub fn redis() -> Self {
        Self::Redis(Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]))
    }

    pub fn flag(&self) -> String {
        match self {
            Self::Consul(consul) => format!("--cluster.consul.address={}", consul.address),
            Self::Redis(redis) => format!("--cluster.redis.endpoints={}", redis.address),
        }
    }

    pub fn kill(&mut self) {
        match self {
            Self::Consul(consul) => consul.kill(),
            Self::Redis(redis) => redis.kill(),
        }
    }

    pub fn run(&mut self) {
        match self {
            Self::Consul(consul) => {
                consul.run();
                consul.wait();
            }
            Self::Redis(redis) => redis.run(),
        }
    }
}

/// Waits until all gateways see each other.
pub fn meet(gateways: &[Gateway]) {
    for gateway in gateways {
        eventually("all see all", || {
            shown(gateway)["members"].as_array().is_some_and(|all| all.len() == gateways.len())
        });
    }
}

pub fn shown(gateway: &Gateway) -> Value {
    let answer = get_with(gateway.address("traefik"), "gw", "/api/cluster", OPERATOR);
    serde_json::from_str(&answer.text()).unwrap()
}

/// The number of the last announcement that a gateway knows.
pub fn number(gateway: &Gateway) -> u64 {
    let shown = shown(gateway);
    let own = shown["members"].as_array().unwrap().iter().find(|one| one["self"] == true).unwrap();
    own["announcement"].as_u64().unwrap()
}
