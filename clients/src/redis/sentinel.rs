//! Discovers servers with Redis Sentinel.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::cmd;
use serde::{Deserialize, Serialize};
use tidegate_core::values::{Secret, is_default};
use tokio::time::{Instant, timeout};

use super::Database;
use super::connection::{Connection, Login, RedisError};
use crate::OptionError;
use crate::connect::Connector;

/// Timeout for measuring the latency of a server.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Failure to find the server to read.
#[derive(Debug, thiserror::Error)]
pub enum SentinelError {
    /// The sentinel does not reply, or replies with an error.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The sentinel does not monitor a master with this name.
    #[error("{endpoint}: unknown master `{name}`")]
    UnknownMaster {
        /// The endpoint of the sentinel.
        endpoint: String,
        /// The name of the master.
        name: String,
    },
    /// The address of a server is invalid.
    #[error(transparent)]
    Address(#[from] OptionError),
    /// Only replicas may be used, and none of them is up.
    #[error("the master `{name}` has no available replica")]
    NoReplica {
        /// The name of the master.
        name: String,
    },
    /// None of the candidates replied in time.
    #[error("none of the servers replied")]
    NoAnswer,
}

/// Options of sentinels (Traefik's `providers.redis.sentinel`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Sentinel {
    /// Name of the master.
    pub master_name: String,
    /// User name for the sentinels.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password for the sentinels.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// Read from the master or replica with the lowest latency.
    #[serde(skip_serializing_if = "is_default")]
    pub latency_strategy: bool,
    /// Read from a random master or replica.
    #[serde(skip_serializing_if = "is_default")]
    pub random_strategy: bool,
    /// Read from a replica.
    #[serde(skip_serializing_if = "is_default")]
    pub replica_strategy: bool,
    /// Read from a replica that is disconnected from its master if there is no other.
    #[serde(skip_serializing_if = "is_default")]
    pub use_disconnected_replicas: bool,
}

impl Sentinel {
    /// Validates the options.
    pub(super) fn check(&self) -> Result<(), OptionError> {
        let bad = |option, message: &str| Err(OptionError::new(option, message));
        if self.master_name.is_empty() {
            return bad("sentinel.masterName", "is required");
        }
        let strategies = [self.latency_strategy, self.random_strategy, self.replica_strategy];
        if strategies.iter().filter(|on| **on).count() > 1 {
            return bad(
                "sentinel",
                "`latencyStrategy`, `randomStrategy` and `replicaStrategy` exclude each other",
            );
        }
        Ok(())
    }

    /// Returns true if a server other than the master may be chosen.
    pub fn has_strategy(&self) -> bool {
        self.latency_strategy || self.random_strategy || self.replica_strategy
    }

    /// Queries a sentinel for the server to use.
    pub async fn find(&self, sentinel: &Connector, database: &Database) -> Result<Connector, SentinelError> {
        let login = Login { username: &self.username, password: &self.password, db: 0 };
        let mut connection = Connection::open(sentinel, login).await?;
        let name = self.master_name.as_str();
        let master: Option<Address> =
            connection.query(cmd("SENTINEL").arg("get-master-addr-by-name").arg(name)).await?;
        let master = master.ok_or_else(|| SentinelError::UnknownMaster {
            endpoint: sentinel.endpoint().to_owned(),
            name: name.to_owned(),
        })?;
        let reach = |(host, port): &Address| {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            database.connector(&format!("{host}:{port}"))
        };
        if !self.has_strategy() {
            return Ok(reach(&master)?);
        }
        let mut candidates = self.usable(connection.query(cmd("SENTINEL").arg("replicas").arg(name)).await?);
        if !self.replica_strategy {
            candidates.push(master);
        }
        if candidates.is_empty() {
            return Err(SentinelError::NoReplica { name: name.to_owned() });
        }
        if self.latency_strategy {
            return self.nearest(&candidates, &reach, database).await;
        }
        Ok(reach(&candidates[fastrand::usize(..candidates.len())])?)
    }

    /// Returns the addresses of replicas that are up. Includes disconnected ones only if there is no other
    /// and `useDisconnectedReplicas` is set.
    fn usable(&self, replicas: Vec<Properties>) -> Vec<Address> {
        let get = |replica: &Properties, key: &str| replica.get(key).cloned().unwrap_or_default();
        let address = |replica: &Properties| (get(replica, "ip"), get(replica, "port"));
        let up = |replica: &&Properties| {
            let flags = get(replica, "flags");
            !["s_down", "o_down", "disconnected"].iter().any(|flag| flags.split(',').any(|own| own == *flag))
        };
        let linked = |replica: &&Properties| get(replica, "master-link-status") != "err";
        let connected: Vec<_> = replicas.iter().filter(up).filter(linked).map(address).collect();
        if connected.is_empty() && self.use_disconnected_replicas {
            return replicas.iter().filter(up).map(address).collect();
        }
        connected
    }

    async fn nearest(
        &self,
        candidates: &[Address],
        reach: &impl Fn(&Address) -> Result<Connector, OptionError>,
        database: &Database,
    ) -> Result<Connector, SentinelError> {
        let mut best: Option<(Duration, Connector)> = None;
        for candidate in candidates {
            let connector = reach(candidate)?;
            let begun = Instant::now();
            let ping = async {
                let mut connection = Connection::open(&connector, database.login()).await?;
                connection.query::<()>(&cmd("PING")).await
            };
            let took = match timeout(PING_TIMEOUT, ping).await {
                Ok(Ok(_)) => begun.elapsed(),
                _ => continue,
            };
            if best.as_ref().is_none_or(|(least, _)| took < *least) {
                best = Some((took, connector));
            }
        }
        best.map(|(_, connector)| connector).ok_or(SentinelError::NoAnswer)
    }
}

/// Host and port.
type Address = (String, String);
/// The description of a server by a sentinel.
type Properties = HashMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_down_or_disconnected_are_skipped() {
        let replica = |port: &str, flags: &str, link: &str| -> Properties {
            [("ip", "10.0.0.1"), ("port", port), ("flags", flags), ("master-link-status", link)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        };
        let ports = |sentinel: &Sentinel, replicas: Vec<Properties>| {
            sentinel.usable(replicas).into_iter().map(|(_, port)| port).collect::<Vec<_>>()
        };
        let strict = Sentinel::default();
        let all = vec![
            replica("1", "slave", "ok"),
            replica("2", "slave,s_down", "ok"),
            replica("3", "slave", "err"),
        ];
        assert_eq!(ports(&strict, all.clone()), ["1"]);
        assert_eq!(ports(&strict, all[1..].to_vec()), [""; 0]);
        let lenient = Sentinel { use_disconnected_replicas: true, ..Sentinel::default() };
        assert_eq!(ports(&lenient, all[1..].to_vec()), ["3"]);
        assert_eq!(ports(&lenient, all), ["1"]);
    }

    #[test]
    fn strategies_exclude_each_other() {
        let named = Sentinel { master_name: "m".into(), ..Sentinel::default() };
        assert!(named.check().is_ok());
        assert!(Sentinel::default().check().is_err());
        let both = Sentinel { latency_strategy: true, random_strategy: true, ..named };
        assert!(both.check().is_err());
    }
}
