//! Configuration in the keys of a Redis database (Traefik's `providers.redis`).
//!
//! Changes are reported by keyspace notifications, which are enabled if necessary. All keys are read
//! periodically in case a notification was lost. While no server responds, the last known configuration stays
//! in force.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tidegate_clients::connect::{Connector, Tls};
use tidegate_clients::redis::{
    Connection, Database, RedisError, Sentinel, SentinelError, Subscription, Value, cmd, from_redis_value,
};
use tidegate_config::formats::entries::EntryError;
use tidegate_core::values::Secret;
use tokio::time::{Instant, sleep, sleep_until};

use crate::kv::{KeyNotText, Tree, shown};
use crate::own_keys::OwnKeys;
use crate::{Describe, Error, Provider, Session};

/// Interval of full reads, regardless of notifications.
const RESYNC: Duration = Duration::from_secs(15);
/// Changes within this time are read together.
const SETTLE: Duration = Duration::from_millis(10);
/// Rest after reading all keys, as a multiple of its duration.
const REST: u32 = 4;
/// Number of keys per request.
const PAGE: usize = 200;
const MAX_KEYS: usize = 500_000;
/// Maximum number of keys without a value whose type is queried.
const MAX_TYPES: usize = 200;
/// Maximum number of reads for one state while keys disappear.
const MAX_READS: usize = 3;

/// Options of `providers.redis`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// Servers, or sentinels; if one fails, the next one is used.
    pub endpoints: Vec<String>,
    /// The root key; with `traefik`, keys below `tidegate` are read too.
    pub root_key: String,
    /// User name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// Number of the database.
    pub db: i64,
    /// TLS options for the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Use sentinels to find the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<Sentinel>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:6379".into()],
            root_key: "traefik".into(),
            username: String::new(),
            password: Secret::default(),
            db: 0,
            tls: None,
            sentinel: None,
        }
    }
}

impl Describe for Options {
    fn place(&self) -> String {
        self.endpoints.join(",")
    }
}

/// Builds the provider.
pub fn build(options: Options) -> Result<Redis, Error> {
    let tree = Tree::new(&options.root_key)?;
    let Options { endpoints, username, password, db, tls, sentinel, .. } = options;
    let database = Database { endpoints, username, password, db, tls, sentinel };
    let endpoints = database.endpoints()?;
    Ok(Redis { endpoints, turn: AtomicUsize::new(0), deaf: AtomicBool::new(false), tree, database })
}

/// Failure to read the keys of a server, or to follow them.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    /// The server does not respond, or responds with an error.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The sentinels name no server.
    #[error(transparent)]
    Sentinel(#[from] SentinelError),
    /// The server is now a replica.
    #[error("the server is no longer the master, but `{role}`")]
    NotMaster {
        /// Its current role.
        role: String,
    },
    /// There are too many keys below the roots.
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
}

/// Why a key has no value.
#[derive(Clone, Debug, thiserror::Error)]
enum ValueError {
    /// The key is not UTF-8.
    #[error(transparent)]
    Key(#[from] KeyNotText),
    /// The key has no string value.
    #[error("it has no value")]
    Missing,
    /// The key holds a value of another type.
    #[error("expected a string, not a {kind}")]
    NotAString {
        /// The type.
        kind: String,
    },
}

/// The Redis provider.
pub struct Redis {
    endpoints: Vec<Connector>,
    /// Index of the next endpoint.
    turn: AtomicUsize,
    /// Whether it was reported that notifications cannot be enabled.
    deaf: AtomicBool,
    tree: Tree,
    database: Database,
}

impl Provider for Redis {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let endpoint = &self.endpoints[self.turn.load(Ordering::Relaxed) % self.endpoints.len()];
            let outcome = self.follow(endpoint, session).await;
            self.turn.fetch_add(1, Ordering::Relaxed);
            outcome
        }
        .boxed()
    }
}

impl Redis {
    /// Follows one server until it fails.
    async fn follow(&self, endpoint: &Connector, mut session: Session) -> Result<(), Error> {
        let failed = |error: ReadError| Error::at("Redis", endpoint.endpoint(), error);
        let found = match &self.database.sentinel {
            Some(sentinel) => {
                Some(sentinel.find(endpoint, &self.database).await.map_err(|error| failed(error.into()))?)
            }
            None => None,
        };
        let server = found.as_ref().unwrap_or(endpoint);
        let login = self.database.login();
        let mut keys = Connection::open(server, login).await.map_err(|error| failed(error.into()))?;
        self.enable_notifications(&mut keys).await;
        // Subscribe before the first read, so that no change is missed.
        let events = Subscription::open(server, login, &self.patterns()).await;
        let mut events = events.map_err(|error| failed(error.into()))?;
        let own_keys = session.own_keys().clone();
        loop {
            let begun = Instant::now();
            let pairs = self.read(&mut keys, &own_keys).await.map_err(failed)?;
            let keys_shown: Vec<_> = pairs.iter().map(|(key, _)| shown(key)).collect();
            let read = keys_shown.iter().zip(&pairs).map(|((key, error), (_, value))| {
                let value = match *error {
                    Some(error) => Err(error.into()),
                    None => value.as_deref().map_err(ValueError::clone),
                };
                (&**key, value.map_err(|error| EntryError::Unavailable(error.into())))
            });
            let state = self.tree.read(read, &own_keys);
            session.deliver(state).await?;
            let rest = begun + begun.elapsed() * (REST + 1);
            let resync = Instant::now() + RESYNC.mul_f64(0.9 + fastrand::f64() * 0.2);
            tokio::select! {
                changed = self.change(&mut events, &own_keys) => {
                    changed.map_err(|error| failed(error.into()))?;
                    self.drain(&mut events, rest).await.map_err(|error| failed(error.into()))?;
                }
                () = sleep_until(resync) => self.check_role(&mut keys).await.map_err(failed)?,
                () = session.reload_asked() => {}
            }
        }
    }

    /// Enables notifications. Unlike Traefik, keeps those that are already enabled.
    async fn enable_notifications(&self, connection: &mut Connection) {
        let outcome = async {
            const FLAGS: &str = "notify-keyspace-events";
            let known: HashMap<String, String> =
                connection.query(cmd("CONFIG").arg("GET").arg(FLAGS)).await?;
            let flags = known.get(FLAGS).map(String::as_str).unwrap_or_default();
            if flags.contains('K') && flags.contains('A') {
                return Ok(());
            }
            let flags = format!("{flags}KA");
            connection.query(cmd("CONFIG").arg("SET").arg(FLAGS).arg(flags)).await
        };
        let outcome: Result<(), RedisError> = outcome.await;
        if let Err(error) = outcome
            && !self.deaf.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "Redis: keyspace notifications cannot be switched on ({error}): unless the server has them on \
                 (`notify-keyspace-events KA`), changes are seen within {RESYNC:?}"
            );
        }
    }

    /// Returns the patterns of the notifications to receive.
    fn patterns(&self) -> Vec<String> {
        let db = self.database.db;
        let pattern = |root: &String| format!("__keyspace@{db}__:{}/*", escape_pattern(root));
        self.tree.roots().iter().map(pattern).collect()
    }

    /// Waits for a notification about a key that was not written by a gateway.
    async fn change(&self, events: &mut Subscription, own_keys: &OwnKeys) -> Result<(), RedisError> {
        loop {
            let channel = events.next().await?;
            let key = channel.split_once("__:").map(|(_, key)| key);
            if !key.is_some_and(|key| self.tree.is_own(key, own_keys)) {
                return Ok(());
            }
        }
    }

    /// Discards notifications until there is a pause and `rest` is over.
    async fn drain(&self, events: &mut Subscription, rest: Instant) -> Result<(), RedisError> {
        let end = rest.max(Instant::now() + SETTLE * 10);
        loop {
            let quiet = tokio::select! {
                event = events.next() => {
                    event?;
                    false
                }
                () = sleep(SETTLE) => true,
            };
            let now = Instant::now();
            if now >= end || (quiet && now >= rest) {
                return Ok(());
            }
        }
    }

    /// Returns an error if the server is no longer the master, so that the current master is used.
    async fn check_role(&self, connection: &mut Connection) -> Result<(), ReadError> {
        let Some(sentinel) = &self.database.sentinel else { return Ok(()) };
        if sentinel.has_strategy() {
            return Ok(());
        }
        // The role, and more that depends on it.
        let parts: Vec<Value> = connection.query(&cmd("ROLE")).await?;
        let role: Option<String> = parts.into_iter().next().and_then(|role| from_redis_value(role).ok());
        match role.as_deref() {
            Some("master") => Ok(()),
            other => Err(ReadError::NotMaster { role: other.unwrap_or("unknown").to_owned() }),
        }
    }

    /// Returns all keys below the roots with their values. If a key disappears meanwhile, a transaction may
    /// have run concurrently, so all keys are read again.
    async fn read(&self, connection: &mut Connection, own_keys: &OwnKeys) -> Result<Vec<Pair>, ReadError> {
        let mut looks = 1;
        loop {
            let (pairs, torn) = self.read_once(connection, own_keys).await?;
            if !torn || looks == MAX_READS {
                return Ok(pairs);
            }
            looks += 1;
        }
    }

    /// Reads all keys once; returns true if a key has disappeared meanwhile.
    async fn read_once(
        &self,
        connection: &mut Connection,
        own_keys: &OwnKeys,
    ) -> Result<(Vec<Pair>, bool), ReadError> {
        // SCAN may return a key twice.
        let mut keys = BTreeSet::new();
        for root in self.tree.roots() {
            let pattern = format!("{}/*", escape_pattern(root));
            let mut cursor = 0;
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
                let (next, found): (u64, Vec<Vec<u8>>) = connection.query(&scan).await?;
                let is_own =
                    |key: &Vec<u8>| std::str::from_utf8(key).is_ok_and(|key| self.tree.is_own(key, own_keys));
                keys.extend(found.into_iter().filter(|key| !is_own(key)));
                if keys.len() > MAX_KEYS {
                    return Err(ReadError::TooManyKeys);
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        let (mut pairs, mut asked, mut torn) = (Vec::with_capacity(keys.len()), 0, false);
        for chunk in keys.chunks(PAGE) {
            let values: Vec<Option<Vec<u8>>> = connection.query(cmd("MGET").arg(chunk)).await?;
            for (key, value) in chunk.iter().zip(values) {
                if let Some(value) = value {
                    pairs.push((key.clone(), Ok(value)));
                    continue;
                }
                asked += 1;
                match self.without_value(connection, key, asked).await? {
                    Some(error) => pairs.push((key.clone(), Err(error))),
                    None => torn = true,
                }
            }
        }
        Ok((pairs, torn))
    }

    /// Returns why a key has no value; `None` if it has just disappeared. Beyond `MAX_TYPES` keys, the type
    /// is not queried: they are reported as a problem and read again soon.
    async fn without_value(
        &self,
        connection: &mut Connection,
        key: &[u8],
        asked: usize,
    ) -> Result<Option<ValueError>, RedisError> {
        if asked > MAX_TYPES {
            return Ok(Some(ValueError::Missing));
        }
        let kind: String = connection.query(cmd("TYPE").arg(key)).await?;
        Ok(match kind.as_str() {
            "none" | "string" => None,
            _ => Some(ValueError::NotAString { kind }),
        })
    }
}

/// A key and its value, or why there is none.
type Pair = (Vec<u8>, Result<Vec<u8>, ValueError>);

/// Escapes the special characters of Redis patterns.
fn escape_pattern(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests;
