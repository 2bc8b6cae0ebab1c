//! Configuration in Consul's key-value store (Traefik's `providers.consul`).
//!
//! Changes are followed with blocking queries. While no agent responds, the last known configuration stays in
//! force.

mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_clients::OptionError;
use tidegate_clients::connect::Tls;
use tidegate_clients::consul::{Address, Agent, AgentError, Answer};
use tidegate_clients::http::escape;
use tidegate_core::values::Secret;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::kv::Tree;
use crate::own_keys::OwnKeys;
use crate::{Describe, Error, Provider, Session};
use watch::{News, Root};

/// Options of `providers.consul`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// Agents; if one fails, the next one is used.
    pub endpoints: Vec<String>,
    /// The root key; with `traefik`, keys below `tidegate` are read too.
    pub root_key: String,
    /// ACL token; defaults to `CONSUL_HTTP_TOKEN`.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub token: Secret,
    /// Consul namespaces, each a separate instance (`@consul-<namespace>`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Admin partition of Consul Enterprise; defaults to that of the agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub partition: String,
    /// TLS options for the agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: vec!["127.0.0.1:8500".into()],
            root_key: "traefik".into(),
            token: Secret::default(),
            namespaces: Vec::new(),
            partition: String::new(),
            tls: None,
        }
    }
}

impl Describe for Options {
    fn place(&self) -> String {
        self.endpoints.join(",")
    }

    fn split(self) -> Vec<(String, Self)> {
        if self.namespaces.is_empty() {
            return vec![(String::new(), self)];
        }
        let one = |name: &String| (name.clone(), Self { namespaces: vec![name.clone()], ..self.clone() });
        self.namespaces.iter().map(one).collect()
    }
}

/// Builds the provider for the first of its namespaces, or without one.
pub fn build(options: Options) -> Result<Consul, Error> {
    let agent = |endpoint: &String| {
        let agent = Agent::new(&Address {
            option: "endpoints",
            address: endpoint,
            scheme: "",
            tls: options.tls.as_ref(),
            token: &options.token,
            basic: None,
            datacenter: "",
            namespace: options.namespaces.first().map_or("", String::as_str),
            partition: &options.partition,
            wait: Duration::ZERO,
        });
        agent.map(Arc::new)
    };
    let agents: Vec<Arc<Agent>> = options.endpoints.iter().map(agent).collect::<Result<_, _>>()?;
    if agents.is_empty() {
        let message = "expected at least one, such as `127.0.0.1:8500`";
        return Err(OptionError::new("endpoints", message).into());
    }
    let tree = Tree::new(&options.root_key)?;
    let filled = tree.roots().iter().map(|_| Mutex::default()).collect();
    Ok(Consul { agents, turn: AtomicUsize::new(0), tree, filled })
}

/// The Consul KV provider.
pub struct Consul {
    agents: Vec<Arc<Agent>>,
    /// Index of the next agent.
    turn: AtomicUsize,
    tree: Tree,
    /// The last response with keys, for each root.
    filled: Vec<Mutex<Option<Filled>>>,
}

/// A response with keys.
#[derive(Clone)]
struct Filled {
    index: u64,
    /// One of the keys.
    key: String,
}

impl Provider for Consul {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        self.follow(session).boxed()
    }
}

/// A key as returned by Consul.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    /// In base64; null if empty.
    value: Option<String>,
}

/// Failure to read the keys below a root.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    /// The agent does not respond, or responds with an error.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent no longer lists any keys, which is not plausible.
    #[error("all keys below `{root}` are gone, but {why}: assuming that the ACL token has no permissions")]
    Distrusted {
        /// The root.
        root: String,
        /// Why it is not plausible.
        #[source]
        why: Doubt,
    },
}

/// Why an empty list of keys is not plausible.
#[derive(Debug, thiserror::Error)]
enum Doubt {
    /// The index has not changed since the last list, so nothing was deleted.
    #[error("none was deleted")]
    NoneDeleted,
    /// One of the keys still exists.
    #[error("`{key}` exists")]
    Exists {
        /// The key.
        key: String,
    },
    /// The token has no permission to read one of the keys.
    #[error(transparent)]
    Refused(AgentError),
}

struct Watch {
    news: mpsc::Receiver<News>,
    /// Aborted on drop.
    _tasks: JoinSet<()>,
}

impl Consul {
    /// Follows one agent until it fails.
    async fn follow(&self, mut session: Session) -> Result<(), Error> {
        let agent = &self.agents[self.turn.load(Ordering::Relaxed) % self.agents.len()];
        let own = session.own_keys().clone();
        let mut watch = self.watch(agent, &own);
        let mut known: Vec<Option<Vec<Decoded>>> = self.tree.roots().iter().map(|_| None).collect();
        loop {
            let (root, answer) = tokio::select! {
                told = watch.news.recv() => match told {
                    Some(told) => told,
                    None => return Err(Error::Source("the watchers have stopped".into())),
                },
                () = session.reload_asked() => {
                    known.fill(None);
                    watch = self.watch(agent, &own);
                    continue;
                }
            };
            let pairs = match answer {
                Ok(mut answer) => {
                    if let Some(pairs) = &mut answer.value {
                        pairs.retain(|pair| !self.tree.is_own(&pair.key, &own));
                    }
                    self.accept_keys(agent, root, answer).await
                }
                Err(error) => Err(error.into()),
            };
            let pairs = pairs.map_err(|error| {
                self.turn.fetch_add(1, Ordering::Relaxed);
                Error::at("Consul", agent.endpoint(), error)
            })?;
            let pairs = Some(pairs.into_iter().map(decoded).collect());
            // Keys written by a gateway are not configuration.
            if known[root] == pairs {
                continue;
            }
            known[root] = pairs;
            if known.iter().all(Option::is_some) {
                let all = known.iter().flatten().flatten();
                let state =
                    self.tree.read(all.map(|(key, value)| (key.as_str(), Ok(value.as_slice()))), &own);
                session.deliver(state).await?;
            }
        }
    }

    /// Returns the keys in a response. Lists omit keys that the token may not read. So an empty list after
    /// one with keys is accepted only if something was deleted, which increases the index, and if a query for
    /// one of the keys returns that it does not exist: without permission, such a query is rejected.
    async fn accept_keys(
        &self,
        agent: &Agent,
        root: usize,
        answer: Answer<Vec<Pair>>,
    ) -> Result<Vec<Pair>, ReadError> {
        let pairs = answer.value.unwrap_or_default();
        let filled = self.filled[root].lock().clone();
        if pairs.is_empty()
            && let Some(filled) = filled
        {
            let refused = |why| Err(ReadError::Distrusted { root: self.tree.roots()[root].clone(), why });
            if answer.index <= filled.index {
                return refused(Doubt::NoneDeleted);
            }
            let path: Vec<String> = filled.key.split('/').map(escape).collect();
            let path = format!("/v1/kv/{}", path.join("/"));
            match agent.ask::<Vec<Pair>>(&path, "").await {
                Ok(answer) if answer.value.is_none() => {}
                Ok(_) => return refused(Doubt::Exists { key: filled.key }),
                Err(error) if error.is_refusal() => return refused(Doubt::Refused(error)),
                Err(error) => return Err(error.into()),
            }
        }
        *self.filled[root].lock() =
            pairs.first().map(|pair| Filled { index: answer.index, key: pair.key.clone() });
        Ok(pairs)
    }

    /// Starts one task per root.
    fn watch(&self, agent: &Arc<Agent>, own_keys: &Arc<OwnKeys>) -> Watch {
        let (sender, news) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        for (number, key) in self.tree.roots().iter().enumerate() {
            let steps: Vec<String> = key.split('/').map(escape).collect();
            let root = Root {
                agent: agent.clone(),
                number,
                key: key.clone(),
                path: format!("/v1/kv/{}/", steps.join("/")),
                news: sender.clone(),
            };
            tasks.spawn(root.follow(own_keys.clone()));
        }
        Watch { news, _tasks: tasks }
    }
}

/// A key and its value.
type Decoded = (String, Vec<u8>);

fn decoded(pair: Pair) -> Decoded {
    // Consul does not return invalid base64; it becomes a value that is not UTF-8.
    let value = STANDARD.decode(pair.value.unwrap_or_default()).unwrap_or_else(|_| vec![0xff]);
    (pair.key, value)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tokio::sync::watch;

    use super::*;
    use crate::testing::{Reply, Request, Running, Server, eventually, urls};

    #[derive(Default)]
    struct Store {
        pairs: BTreeMap<String, String>,
        refuse: Option<(u16, &'static str)>,
        /// The token has no permissions: lists are empty, and queries for single keys are rejected.
        unauthorized: bool,
    }

    struct Fake {
        server: Server,
        store: Arc<Mutex<Store>>,
        index: watch::Sender<u64>,
    }

    impl Fake {
        async fn start() -> Self {
            let store: Arc<Mutex<Store>> = Arc::default();
            let (index, indexes) = watch::channel(5);
            let known = store.clone();
            let server =
                Server::start(move |request| answer(known.clone(), indexes.clone(), request).boxed()).await;
            Self { server, store, index }
        }

        fn set(&self, pairs: &[(&str, &str)]) {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            self.store.lock().pairs = pairs.collect();
            self.index.send_modify(|index| *index += 1);
        }
    }

    async fn answer(store: Arc<Mutex<Store>>, mut indexes: watch::Receiver<u64>, request: Request) -> Reply {
        let asked: u64 = request.query.get("index").and_then(|text| text.parse().ok()).unwrap_or(0);
        if asked > 0 {
            let _ = indexes.wait_for(|now| *now != asked).await;
        }
        let index = vec![("X-Consul-Index", indexes.borrow().to_string())];
        let store = store.lock();
        if let Some((status, text)) = store.refuse {
            return (status, Vec::new(), text.into());
        }
        let root = request.path.trim_start_matches("/v1/kv/");
        let keys = request.query.contains_key("keys");
        let recurse = keys || request.query.contains_key("recurse");
        if store.unauthorized {
            return match recurse {
                true => (404, index, String::new()),
                false => (403, Vec::new(), "Permission denied".into()),
            };
        }
        let fits = |key: &str| if recurse { key.starts_with(root) } else { key == root };
        let fitting = store.pairs.iter().filter(|(key, _)| fits(key));
        let pairs: Vec<Value> = fitting
            .map(|(key, value)| {
                if keys {
                    return json!(key);
                }
                let value = (!value.is_empty()).then(|| STANDARD.encode(value));
                json!({"Key": key, "Value": value, "Flags": 0})
            })
            .collect();
        if pairs.is_empty() {
            (404, index, String::new())
        } else {
            (200, index, Value::from(pairs).to_string())
        }
    }

    const URL: &str = "traefik/http/services/s/loadBalancer/servers/0/url";

    #[tokio::test]
    async fn keys_are_followed_across_failures() {
        let fake = Fake::start().await;
        fake.set(&[("traefik/", ""), (URL, "http://10.0.0.1")]);
        let address = format!("127.0.0.1:{}", fake.server.port);
        let options = Options { endpoints: vec![address], token: "t".into(), ..Options::default() };
        let mut running = Running::start(build(options).expect("valid options"));
        assert_eq!(urls(&running.next().await.state, "s"), ["http://10.0.0.1"]);
        fake.set(&[(URL, "http://10.0.0.2"), ("tidegate/http/routers/r/rule", "Path(`/`)")]);
        // The two roots are delivered one after the other.
        let both = |state: &tidegate_config::Provided| {
            state.config.http.routers.contains_key("r") && urls(state, "s") == ["http://10.0.0.2"]
        };
        running.until(both).await;
        fake.store.lock().refuse = Some((403, "ACL not found"));
        let before = fake.server.requests.lock().len();
        fake.index.send_modify(|index| *index += 1);
        eventually("it is refused twice", || fake.server.requests.lock().len() >= before + 2).await;
        fake.store.lock().refuse = None;
        fake.set(&[(URL, "http://10.0.0.3")]);
        let state = running.until(|state| urls(state, "s") == ["http://10.0.0.3"]).await;
        assert_eq!(state.problems, []);
        // Without permissions everything seems to be gone, but the index has not changed.
        eventually("both block", || {
            let requests = fake.server.requests.lock();
            requests.iter().rev().take(2).all(|request| request.query.contains_key("index"))
        })
        .await;
        let pairs = std::mem::take(&mut fake.store.lock().pairs);
        fake.server.cut();
        fake.server.mend();
        let before = fake.server.requests.lock().len();
        eventually("it is asked again and again", || fake.server.requests.lock().len() >= before + 4).await;
        assert!(running.updates.try_recv().is_err(), "the last state stays");
        fake.store.lock().pairs = pairs;
        fake.set(&[(URL, "http://10.0.0.4")]);
        running.until(|state| urls(state, "s") == ["http://10.0.0.4"]).await;
        fake.set(&[]);
        running.until(|state| state.config.http.services.is_empty()).await;
        assert!(fake.server.requests.lock().iter().all(|request| request.headers["x-consul-token"] == "t"));
    }

    #[tokio::test]
    async fn lost_permissions_do_not_delete_the_configuration() {
        let fake = Fake::start().await;
        fake.set(&[("traefik/", ""), (URL, "http://10.0.0.1")]);
        let address = format!("127.0.0.1:{}", fake.server.port);
        let options = Options { endpoints: vec![address], token: "t".into(), ..Options::default() };
        let mut running = Running::start(build(options).expect("valid options"));
        running.next().await;
        // Meanwhile something is written below the root, which increases the index of the empty list.
        fake.store.lock().unauthorized = true;
        fake.set(&[(URL, "http://10.0.0.2")]);
        let single = || {
            let requests = fake.server.requests.lock();
            let is_single = |query: &HashMap<String, String>| {
                !query.contains_key("recurse") && !query.contains_key("keys")
            };
            requests.iter().filter(|request| is_single(&request.query)).count()
        };
        eventually("a key is asked for twice", || single() >= 2).await;
        assert!(running.updates.try_recv().is_err(), "the last state stays");
        fake.store.lock().unauthorized = false;
        fake.set(&[(URL, "http://10.0.0.3")]);
        running.until(|state| urls(state, "s") == ["http://10.0.0.3"]).await;
        fake.set(&[]);
        running.until(|state| state.config.http.services.is_empty()).await;
    }

    #[tokio::test]
    async fn the_next_endpoint_is_used_if_one_fails() {
        let (one, two) = (Fake::start().await, Fake::start().await);
        one.store.lock().refuse = Some((500, "No cluster leader"));
        two.set(&[("edge/http/routers/r/rule", "Path(`/`)")]);
        let endpoints = [&one, &two].map(|fake| format!("127.0.0.1:{}", fake.server.port)).to_vec();
        let options = Options { endpoints, root_key: "edge".into(), ..Options::default() };
        let mut running = Running::start(build(options).expect("valid options"));
        running.until(|state| state.config.http.routers.contains_key("r")).await;
        assert!(one.server.requests.lock().len() <= 2);
    }
}
