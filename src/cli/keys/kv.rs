//! Keys in Consul or Redis, in the layout that the providers read.

use serde_json::Value as Json;
use tidegate_clients::OptionError;
use tidegate_clients::consul::store::{MAX_OPERATIONS, Operation, Options, Refusal, Store as Consul};
use tidegate_clients::redis::{Connection, Database, Master, RedisError, cmd};
use tidegate_config::Problem;
use tidegate_config::formats::keys;
use tidegate_config::tree::Node;
use tidegate_providers::{consul, redis};
use tokio::runtime::Runtime;

use super::edit::{Change, Fields};
use super::error::StoreError;

/// Root that is read, too, if the root is Traefik's.
const OWN_ROOT: &str = "tidegate";
/// Number of keys per request to Redis.
const PAGE: usize = 500;
/// Writes keys, unless others have changed. KEYS are those to check, then those to write. ARGV has the number of checks,
/// for each check `=` and the value, or nothing for a key that must not exist, and the values to write.
const WRITE: &str = "
local checks = tonumber(ARGV[1])
for i = 1, checks do
  local value = redis.call('GET', KEYS[i])
  local expected = ARGV[1 + i]
  if expected == '' then
    if value then return 0 end
  elseif value ~= string.sub(expected, 2) then
    return 0
  end
end
for i = checks + 1, #KEYS do redis.call('SET', KEYS[i], ARGV[1 + i]) end
return 1";

/// A key-value store.
pub(super) struct KvStore {
    kind: Kind,
    root: String,
    runtime: Runtime,
}

enum Kind {
    Consul(Consul),
    Redis(Master),
}

/// The keys below the consumers.
pub(super) struct KvContents {
    pairs: Vec<Pair>,
}

struct Pair {
    key: String,
    value: Vec<u8>,
    /// Counts up with each change, in Consul.
    index: u64,
}

/// What a change does to the store.
struct Write<'a> {
    /// A key that must still be as it was read, or not exist.
    check: (String, Option<&'a Pair>),
    /// Keys and values.
    sets: Vec<(String, String)>,
}

impl KvStore {
    pub(super) fn consul(options: &consul::Options) -> Result<Self, StoreError> {
        if !options.namespaces.is_empty() || !options.partition.is_empty() {
            let message = "keys cannot be stored in namespaces and partitions";
            return Err(OptionError::new("namespaces", message).into());
        }
        let place = Options {
            address: options.endpoints.first().cloned().unwrap_or_default(),
            token: options.token.clone(),
            tls: options.tls.clone(),
            datacenter: String::new(),
        };
        Self::new(Kind::Consul(Consul::new(&place)?), &options.root_key)
    }

    pub(super) fn redis(options: &redis::Options) -> Result<Self, StoreError> {
        let master = Master::new(Database {
            endpoints: options.endpoints.clone(),
            username: options.username.clone(),
            password: options.password.clone(),
            db: options.db,
            tls: options.tls.clone(),
            sentinel: options.sentinel.clone(),
        })?;
        Self::new(Kind::Redis(master), &options.root_key)
    }

    fn new(kind: Kind, root: &str) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self {
            kind,
            root: root.trim_matches('/').to_owned(),
            runtime: runtime.map_err(StoreError::Runtime)?,
        })
    }

    /// Returns the endpoint and the root.
    pub(super) fn place(&self) -> String {
        match &self.kind {
            Kind::Consul(store) => format!("Consul at {}, key {}", store.endpoint(), self.root),
            Kind::Redis(master) => format!("Redis at {}, key {}", master.endpoint(), self.root),
        }
    }

    fn roots(&self) -> Vec<&str> {
        if self.root == "traefik" { vec![OWN_ROOT, &self.root] } else { vec![&self.root] }
    }

    /// Returns the tree, what is wrong with it, and the keys.
    pub(super) fn read(&self) -> Result<(Node, Vec<Problem>, KvContents), StoreError> {
        let mut pairs = Vec::new();
        for root in self.roots() {
            let prefix = format!("{root}/http/consumers/");
            pairs.extend(self.runtime.block_on(self.pairs(&prefix))?);
        }
        let shown = pairs.iter().map(|pair| (pair.key.as_str(), Ok(pair.value.as_slice())));
        let read = keys::read(shown, &self.roots());
        Ok((read.node, read.problems, KvContents { pairs }))
    }

    async fn pairs(&self, prefix: &str) -> Result<Vec<Pair>, StoreError> {
        match &self.kind {
            Kind::Consul(store) => {
                let listing = store.read(prefix, true).await;
                let listing =
                    listing.map_err(|error| StoreError::Consul(store.endpoint().to_owned(), error))?;
                let pair = |entry: tidegate_clients::consul::store::Entry| Pair {
                    key: entry.key,
                    value: entry.value,
                    index: entry.index,
                };
                Ok(listing.entries.into_iter().map(pair).collect())
            }
            Kind::Redis(master) => {
                let mut connection = connect(master).await?;
                let pairs = redis_pairs(&mut connection, prefix).await;
                pairs.map_err(|error| StoreError::Redis(master.endpoint().to_owned(), error))
            }
        }
    }

    /// Applies changes in one transaction.
    pub(super) fn apply(&self, contents: &KvContents, changes: &[Change]) -> Result<(), StoreError> {
        let writes: Vec<Write<'_>> =
            changes.iter().map(|change| self.write_of(contents, change)).collect::<Result<_, _>>()?;
        self.runtime.block_on(async {
            match &self.kind {
                Kind::Consul(store) => write_consul(store, &writes).await,
                Kind::Redis(master) => {
                    let mut connection = connect(master).await?;
                    let is_done = write_redis(&mut connection, &writes).await;
                    let is_done =
                        is_done.map_err(|error| StoreError::Redis(master.endpoint().to_owned(), error))?;
                    if is_done { Ok(()) } else { Err(StoreError::Conflict(self.place())) }
                }
            }
        })
    }

    fn write_of<'a>(&self, contents: &'a KvContents, change: &Change) -> Result<Write<'a>, StoreError> {
        match change {
            Change::Add { consumer, fields } => {
                let list = contents.list(&self.roots(), consumer);
                let list = list.unwrap_or_else(|| {
                    format!("{}/http/consumers/{consumer}/credentials/apiKeys", self.root)
                });
                let index = contents.next_index(&list);
                let folder = format!("{list}/{index}");
                Ok(Write { check: (format!("{folder}/id"), None), sets: sets(&folder, fields) })
            }
            Change::Set { consumer, id, fields } => {
                let pair = contents.id(&self.roots(), consumer, id);
                let pair = pair.ok_or_else(|| StoreError::Conflict(self.place()))?;
                let folder = pair.key.rsplit_once('/').map_or("", |(folder, _)| folder);
                Ok(Write { check: (pair.key.clone(), Some(pair)), sets: sets(folder, fields) })
            }
        }
    }
}

impl KvContents {
    /// Returns the steps of a key below a root.
    fn steps<'a>(key: &'a str, roots: &[&str]) -> Option<Vec<&'a str>> {
        let rest = roots.iter().find_map(|root| key.strip_prefix(root)?.strip_prefix('/'))?;
        Some(rest.split('/').collect())
    }

    /// Returns where a consumer's list of keys is, as it is spelt there.
    fn list(&self, roots: &[&str], consumer: &str) -> Option<String> {
        self.pairs.iter().find_map(|pair| {
            let steps = Self::steps(&pair.key, roots)?;
            let [http, consumers, name, credentials, keys, _, ..] = steps[..] else { return None };
            if !is_list(&[http, consumers, credentials, keys]) || name != consumer {
                return None;
            }
            let depth = pair.key.split('/').count() - steps.len() + 5;
            Some(pair.key.split('/').take(depth).collect::<Vec<_>>().join("/"))
        })
    }

    /// Returns the first free index of a list.
    fn next_index(&self, list: &str) -> usize {
        let index = |pair: &Pair| {
            let rest = pair.key.strip_prefix(list)?.strip_prefix('/')?;
            rest.split('/').next()?.parse::<usize>().ok()
        };
        self.pairs.iter().filter_map(index).max().map_or(0, |last| last + 1)
    }

    /// Returns the `id` of a key.
    fn id(&self, roots: &[&str], consumer: &str, id: &str) -> Option<&Pair> {
        self.pairs.iter().find(|pair| {
            let steps = Self::steps(&pair.key, roots).unwrap_or_default();
            let [http, consumers, name, credentials, keys, _, option] = steps[..] else { return false };
            is_list(&[http, consumers, credentials, keys])
                && name == consumer
                && option.eq_ignore_ascii_case("id")
                && pair.value == id.as_bytes()
        })
    }
}

fn is_list(steps: &[&str; 4]) -> bool {
    ["http", "consumers", "credentials", "apiKeys"]
        .iter()
        .zip(steps)
        .all(|(expected, step)| expected.eq_ignore_ascii_case(step))
}

/// Returns one key per option, and one per element of a list.
fn sets(folder: &str, fields: &Fields) -> Vec<(String, String)> {
    let mut sets = Vec::new();
    for (name, value) in fields {
        match value {
            Json::Array(list) => {
                let element = |(index, value): (usize, &Json)| {
                    (format!("{folder}/{name}/{index}"), value.as_str().unwrap_or_default().to_owned())
                };
                sets.extend(list.iter().enumerate().map(element));
            }
            other => sets.push((format!("{folder}/{name}"), other.as_str().unwrap_or_default().to_owned())),
        }
    }
    sets
}

async fn write_consul(store: &Consul, writes: &[Write<'_>]) -> Result<(), StoreError> {
    let mut operations = Vec::new();
    for write in writes {
        let (checked, before) = &write.check;
        for (key, value) in &write.sets {
            let (key, value) = (key.clone(), value.clone().into_bytes());
            operations.push(match key == *checked {
                true => Operation::Swap { key, value, index: before.map_or(0, |pair| pair.index) },
                false => Operation::Set { key, value },
            });
        }
        if let Some(pair) = before {
            operations.push(Operation::Swap {
                key: pair.key.clone(),
                value: pair.value.clone(),
                index: pair.index,
            });
        }
    }
    if operations.len() > MAX_OPERATIONS {
        return Err(StoreError::TooLarge(MAX_OPERATIONS));
    }
    match store.apply(&operations).await {
        Ok(_) => Ok(()),
        Err(Refusal::Store(error)) => Err(StoreError::Consul(store.endpoint().to_owned(), error)),
        Err(refusal) => Err(StoreError::Changed(store.endpoint().to_owned(), refusal)),
    }
}

async fn connect(master: &Master) -> Result<Connection, StoreError> {
    master.connect().await.map_err(|error| StoreError::Unreachable(master.endpoint().to_owned(), error))
}

async fn redis_pairs(connection: &mut Connection, prefix: &str) -> Result<Vec<Pair>, RedisError> {
    let escaped: String = prefix
        .chars()
        .flat_map(|one| "*?[]\\^".contains(one).then_some('\\').into_iter().chain([one]))
        .collect();
    let (mut names, mut cursor) = (std::collections::BTreeSet::new(), 0u64);
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{escaped}*")).arg("COUNT").arg(PAGE);
        let (next, found): (u64, Vec<String>) = connection.query(&scan).await?;
        names.extend(found);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let names: Vec<String> = names.into_iter().collect();
    let mut pairs = Vec::new();
    for page in names.chunks(PAGE) {
        let values: Vec<Option<Vec<u8>>> = connection.query(cmd("MGET").arg(page)).await?;
        let page = page.iter().zip(values);
        pairs
            .extend(page.filter_map(|(key, value)| Some(Pair { key: key.clone(), value: value?, index: 0 })));
    }
    Ok(pairs)
}

/// Returns false if something has changed.
async fn write_redis(connection: &mut Connection, writes: &[Write<'_>]) -> Result<bool, RedisError> {
    let sets = || writes.iter().flat_map(|write| &write.sets);
    let mut eval = cmd("EVAL");
    eval.arg(WRITE).arg(writes.len() + sets().count());
    for write in writes {
        eval.arg(&write.check.0);
    }
    for (key, _) in sets() {
        eval.arg(key);
    }
    eval.arg(writes.len());
    for write in writes {
        let expected = write.check.1.map(|pair| [b"=".as_slice(), &pair.value].concat());
        eval.arg(expected.unwrap_or_default());
    }
    for (_, value) in sets() {
        eval.arg(value);
    }
    Ok(connection.query::<i64>(&eval).await? == 1)
}
