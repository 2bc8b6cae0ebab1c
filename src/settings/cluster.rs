//! Clusters of gateways. Not in Traefik.

use serde::{Deserialize, Serialize};
use tidegate_clients::OptionError;
use tidegate_clients::connect::Tls;
use tidegate_clients::consul::store;
use tidegate_clients::redis;
use tidegate_core::values::{Duration, Secret, is_default};

/// Maximum length of names and identifiers, which are part of keys.
const MAX_NAME_LEN: usize = 128;
/// Consul's limits for sessions.
const MIN_CONSUL_TTL: u64 = 10;
const MAX_TTL: u64 = 86_400;

/// `cluster`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Cluster {
    /// Name of the cluster: gateways with the same name form a cluster.
    pub name: String,
    /// Name of this gateway; the host name if empty.
    pub id: String,
    /// Address of this gateway, for display only.
    pub address: String,
    /// Time without contact after which a gateway is no longer a member.
    pub ttl: Duration,
    /// Members find each other in Consul.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consul: Option<ClusterConsul>,
    /// Members find each other in Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<ClusterRedis>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "tidegate".into(),
            id: String::new(),
            address: String::new(),
            ttl: Duration::from_secs(15),
            consul: None,
            redis: None,
        }
    }
}

/// `cluster.consul`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClusterConsul {
    /// The agent: host and port, or a URL; if empty, `CONSUL_HTTP_ADDR` or the agent on this machine.
    pub address: String,
    /// ACL token; `CONSUL_HTTP_TOKEN` if empty.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub token: Secret,
    /// Datacenter; the agent's own if empty.
    pub datacenter: String,
    /// Root of all keys.
    pub prefix: String,
    /// TLS to the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for ClusterConsul {
    fn default() -> Self {
        Self {
            address: String::new(),
            token: Secret::default(),
            datacenter: String::new(),
            prefix: "tidegate/cluster".into(),
            tls: None,
        }
    }
}

impl ClusterConsul {
    /// Returns the options for connecting.
    pub(crate) fn place(&self) -> store::Options {
        store::Options {
            address: self.address.clone(),
            token: self.token.clone(),
            tls: self.tls.clone(),
            datacenter: self.datacenter.clone(),
        }
    }
}

/// `cluster.redis`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClusterRedis {
    /// Servers, or sentinels; if one fails, the next one is used.
    pub endpoints: Vec<String>,
    /// User name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Its password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// Database number.
    #[serde(skip_serializing_if = "is_default")]
    pub db: i64,
    /// Prefix of all keys.
    pub prefix: String,
    /// TLS to the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Uses sentinels to find the master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<redis::Sentinel>,
}

impl Default for ClusterRedis {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:6379".into()],
            username: String::new(),
            password: Secret::default(),
            db: 0,
            prefix: "tidegate:cluster".into(),
            tls: None,
            sentinel: None,
        }
    }
}

impl ClusterRedis {
    /// Returns the options for connecting.
    pub(crate) fn place(&self) -> redis::Database {
        redis::Database {
            endpoints: self.endpoints.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            db: self.db,
            tls: self.tls.clone(),
            sentinel: self.sentinel.clone(),
        }
    }
}

impl Cluster {
    /// Returns invalid options, and why they are invalid.
    pub(super) fn mistakes(&self) -> Vec<(Vec<&'static str>, String)> {
        let mut found = Vec::new();
        let mut wrong = |path: &[&'static str], message: String| found.push((path.to_vec(), message));
        for (option, text) in [("name", &self.name), ("id", &self.id)] {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if text.len() > MAX_NAME_LEN || !text.bytes().all(fits) || (option == "name" && text.is_empty()) {
                let message =
                    format!("`{text}` cannot stand in a key: expected letters, digits, `.`, `_` and `-`");
                wrong(&[option], message);
            }
        }
        let least = match (&self.consul, &self.redis) {
            (Some(_), None) => MIN_CONSUL_TTL,
            (None, Some(_)) => 1,
            (Some(_), Some(_)) => {
                wrong(
                    &[],
                    "members cannot meet in two places: expected `consul` or `redis`, not both".into(),
                );
                MIN_CONSUL_TTL
            }
            (None, None) => {
                wrong(&[], "nothing says where members meet: expected `consul` or `redis`".into());
                1
            }
        };
        let seconds = self.ttl.0.as_secs();
        if seconds < least || seconds > MAX_TTL {
            wrong(&["ttl"], format!("expected a time from {least} s to a day"));
        }
        if let Some(consul) = &self.consul {
            if consul.prefix.trim_matches('/').is_empty() {
                wrong(&["consul", "prefix"], "expected a key like `tidegate/cluster`".into());
            }
            if let Err(error) = store::Store::new(&consul.place()) {
                // The store has a word of its own for where it is.
                let option = if error.option == "storage" { "address" } else { error.option };
                wrong(&["consul", option], error.message);
            }
        }
        if let Some(redis) = &self.redis
            && let Err(OptionError { option, message }) = redis::Master::new(redis.place())
        {
            wrong(&["redis", option], message);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(cluster: Cluster) -> Vec<String> {
        cluster
            .mistakes()
            .into_iter()
            .map(|(path, message)| format!("{}: {message}", path.join(".")))
            .collect()
    }

    #[test]
    fn a_cluster_needs_exactly_one_store() {
        let consul = || Some(ClusterConsul::default());
        let redis = || Some(ClusterRedis::default());
        assert!(mistakes(Cluster { consul: consul(), ..Cluster::default() }).is_empty());
        assert!(mistakes(Cluster { redis: redis(), ..Cluster::default() }).is_empty());
        assert!(mistakes(Cluster::default())[0].contains("expected `consul` or `redis`"));
        assert!(
            mistakes(Cluster { consul: consul(), redis: redis(), ..Cluster::default() })[0]
                .contains("not both")
        );
    }

    #[test]
    fn invalid_options_are_reported() {
        let base = || Cluster { consul: Some(ClusterConsul::default()), ..Cluster::default() };
        let redis = |redis: ClusterRedis| Cluster { redis: Some(redis), ..Cluster::default() };
        let strategy =
            redis::Sentinel { master_name: "m".into(), replica_strategy: true, ..redis::Sentinel::default() };
        for (cluster, word) in [
            (Cluster { name: String::new(), ..base() }, "name: "),
            (Cluster { id: "a/b".into(), ..base() }, "id: `a/b`"),
            (Cluster { ttl: Duration::from_secs(9), ..base() }, "ttl: expected a time from 10 s"),
            (redis(ClusterRedis { endpoints: Vec::new(), ..ClusterRedis::default() }), "redis.endpoints: "),
            (redis(ClusterRedis { sentinel: Some(strategy), ..ClusterRedis::default() }), "redis.sentinel: "),
        ] {
            let found = mistakes(cluster);
            assert!(found.len() == 1 && found[0].starts_with(word), "{word}: {found:?}");
        }
        let bad = ClusterConsul { address: "ftp://h".into(), prefix: "/".into(), ..ClusterConsul::default() };
        let found = mistakes(Cluster { consul: Some(bad), ..base() });
        assert!(
            found[0].starts_with("consul.prefix: ") && found[1].starts_with("consul.address: "),
            "{found:?}"
        );
    }
}
