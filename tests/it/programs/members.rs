//! Gateways that are members of one cluster, over a real Consul agent or a real Redis.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::cache_operated::OPERATOR;
use crate::support::outside::{Consul, Redis};
use crate::support::{Backend, Gateway, eventually, get_with};

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

/// Members in front of one server, with a folder for what each keeps.
pub struct Members {
    pub folder: TempDir,
    pub backend: Backend,
    pub store: Store,
}

impl Members {
    pub fn new(store: Store, backend: Backend) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), backend, store }
    }

    /// The folder of a member.
    pub fn path(&self, id: &str) -> PathBuf {
        self.folder.path().join(id)
    }

    /// Starts a member with these routes, which have the middleware `login`, and further flags.
    pub fn start(&self, id: &str, routes: &str, more: &[String]) -> Gateway {
        let audit = self.path(&format!("{id}.log"));
        let own = [
            "--api.middlewares=login@file".to_owned(),
            "--cluster.name=c".to_owned(),
            "--cluster.ttl=10s".to_owned(),
            format!("--cluster.id={id}"),
            self.store.flag(),
            format!("--auditLog.filePath={}", audit.display()),
        ];
        let flags: Vec<&str> = own.iter().chain(more).map(String::as_str).collect();
        Gateway::with(&flags, routes)
    }

    /// Starts three members, which see each other then.
    pub fn start_all(start: impl Fn(&str) -> Gateway) -> Vec<Gateway> {
        let all: Vec<_> = ["gw-1", "gw-2", "gw-3"].into_iter().map(start).collect();
        meet(&all);
        all
    }

    /// The events in the audit log of a member whose names begin so.
    pub fn audited(&self, id: &str, event: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(&format!("{id}.log"))).unwrap_or_default();
        let events = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let is_it = |one: &Value| one["event"].as_str().is_some_and(|name| name.starts_with(event));
        events.filter(is_it).collect()
    }
}

/// Waits until all gateways see each other.
fn meet(gateways: &[Gateway]) {
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
