//! Buckets and values in Redis, across redirections and failovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_clients::OptionError;
use tidegate_clients::connect::Tls;
use tidegate_clients::redis::{
    Database, Sentinel, ServerError, ServerErrorKind, Value, connector, error_text, redirection,
};
use tidegate_core::BoxFuture;
use tidegate_core::building::ClientTls;
use tidegate_core::store::{Bucket, Draw, Drawn, SharedStore, StoreError, StoreOptions, Turn};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::cluster::Map;
use super::command::{self, Operation};
use super::error::{CommandError, NodeError};
use super::node::Node;
use super::pipeline::ServerAddress;

/// Maximum number of attempts for one operation: retries, redirections, and the full script.
const MAX_ATTEMPTS: usize = 8;
/// Minimum interval of logging the same failure.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A Redis server, several redundant ones, the one that sentinels name, or a Redis Cluster.
pub(super) struct RedisStore {
    options: Arc<StoreOptions>,
    control: Handle,
    endpoints: Vec<Arc<Node>>,
    /// Index of the preferred endpoint.
    preferred: AtomicUsize,
    map: Mutex<Map>,
    complained: Mutex<Option<Instant>>,
}

impl RedisStore {
    /// Returns a store, without connecting.
    pub(super) fn new(options: &StoreOptions, control: Handle) -> Result<Self, OptionError> {
        let shared = Arc::new(options.clone());
        let endpoints = options.endpoints.iter().map(|endpoint| node(endpoint, &shared, &control));
        Ok(Self {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            options: shared,
            control,
            preferred: AtomicUsize::new(0),
            map: Mutex::default(),
            complained: Mutex::default(),
        })
    }

    /// Returns true if it has these options.
    pub(super) fn has(&self, options: &StoreOptions) -> bool {
        *self.options == *options
    }

    /// Returns the preferred endpoint.
    fn endpoint(&self) -> Arc<Node> {
        self.endpoints[self.preferred.load(Ordering::Relaxed) % self.endpoints.len()].clone()
    }

    /// Switches to another endpoint, unless that has already happened.
    fn switch_from(&self, node: &Arc<Node>) -> Arc<Node> {
        self.map.lock().forget(node);
        let now = self.preferred.load(Ordering::Relaxed);
        if Arc::ptr_eq(&self.endpoints[now % self.endpoints.len()], node) {
            // On failure, another task has done the same.
            let _ = self.preferred.compare_exchange(now, now + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.endpoint()
    }

    /// Returns the node of a redirection. A moved slot is recorded.
    fn follow(&self, error: &ServerError) -> Result<Arc<Node>, CommandError> {
        let (slot, address) =
            redirection(error).ok_or_else(|| CommandError::Redirection(error_text(error)))?;
        let mut map = self.map.lock();
        let node = map.get_or_insert(&address, || node(&address, &self.options, &self.control))?;
        if error.kind() == Some(ServerErrorKind::Moved) {
            map.set(slot, &node);
        }
        Ok(node)
    }

    /// Runs an operation on the server that has the key.
    async fn run(&self, key: &str, question: &Operation<'_>, end: Instant) -> Result<Value, CommandError> {
        let known = self.map.lock().node(key);
        let mut node = known.unwrap_or_else(|| self.endpoint());
        let (mut whole, mut asking, mut left) = (false, false, 0);
        let attempts = MAX_ATTEMPTS.max(self.endpoints.len() + 2);
        let mut last = CommandError::TooManyAttempts(attempts);
        for _ in 0..attempts {
            let was_failing = node.failing().is_some();
            let command = question.encode(key, whole);
            let outcome = node.send(&command, asking, end).await;
            asking = false;
            let Ok(answer) = outcome else {
                node.fail(&NodeError::DeadlineExceeded);
                return Err(unanswered(&node, NodeError::DeadlineExceeded));
            };
            let error = match answer {
                Ok(Value::ServerError(error)) => error,
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    last = unanswered(&node, error);
                    // It may have been executed.
                    if !was_failing && !question.is_idempotent() {
                        return Err(last);
                    }
                    // A closed connection does not mean that the server is down: try a new one.
                    if node.failing().is_some() {
                        left += 1;
                        node = self.switch_from(&node);
                    }
                    if left > self.endpoints.len() {
                        return Err(last);
                    }
                    continue;
                }
            };
            use ServerErrorKind as Kind;
            match error.kind() {
                Some(Kind::NoScript) => whole = true,
                Some(Kind::Moved) => node = self.follow(&error)?,
                Some(Kind::Ask) => (node, asking) = (self.follow(&error)?, true),
                Some(
                    Kind::ReadOnly
                    | Kind::BusyLoading
                    | Kind::MasterDown
                    | Kind::ClusterDown
                    | Kind::TryAgain,
                ) => {
                    last = refused(&node, &error);
                    if error.kind() == Some(Kind::ReadOnly) && node.find_again() {
                        continue;
                    }
                    left += 1;
                    node = self.switch_from(&node);
                    if left >= self.endpoints.len() {
                        return Err(last);
                    }
                }
                _ => return Err(refused(&node, &error)),
            }
        }
        Err(last)
    }

    /// Runs an operation until `deadline` and decodes the reply. Logs failures, except errors of the caller.
    async fn run_and_decode<T>(
        &self,
        key: &str,
        question: Operation<'_>,
        deadline: Duration,
        read: impl Fn(Value) -> Result<T, CommandError>,
    ) -> Result<T, StoreError> {
        question.check(key).map_err(|error| StoreError::Invalid { reason: error.to_string() })?;
        let answer = self.run(key, &question, Instant::now() + deadline).await.and_then(read);
        answer.map_err(|error| {
            self.log_failure(question.failure(), &error);
            StoreError::Unavailable { reason: error.to_string() }
        })
    }

    fn log_failure(&self, failure: &str, error: &CommandError) {
        let mut complained = self.complained.lock();
        if complained.is_none_or(|before| before.elapsed() >= LOG_INTERVAL) {
            *complained = Some(Instant::now());
            tracing::error!("{failure}: {error}");
        }
    }
}

impl SharedStore for RedisStore {
    fn take<'a>(
        &'a self,
        key: &'a str,
        bucket: &'a Bucket,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Turn, StoreError>> {
        Box::pin(self.run_and_decode(key, Operation::Take(bucket), deadline, command::decode_turn))
    }

    fn draw<'a>(
        &'a self,
        draws: &'a [Draw],
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<Drawn>, StoreError>> {
        let Some(first) = draws.first() else { return Box::pin(std::future::ready(Ok(Vec::new()))) };
        let decode = |reply| command::decode_drawn(reply, draws.len());
        Box::pin(self.run_and_decode(&first.key, Operation::Draw(draws), deadline, decode))
    }

    fn get<'a>(
        &'a self,
        key: &'a str,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(self.run_and_decode(key, Operation::Get, deadline, command::decode_value))
    }

    fn set<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.run_and_decode(key, Operation::Set { value, expiry }, deadline, command::decode_done))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<&'a [u8]>,
        value: &'a [u8],
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let question = Operation::CompareAndSet { expected, value, expiry };
        Box::pin(self.run_and_decode(key, question, deadline, command::decode_was_set))
    }

    fn add_member<'a>(
        &'a self,
        key: &'a str,
        member: &'a str,
        most: usize,
        expiry: Duration,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let question = Operation::AddMember { member, most, expiry };
        Box::pin(self.run_and_decode(key, question, deadline, command::decode_added))
    }

    fn members<'a>(
        &'a self,
        key: &'a str,
        most: usize,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        let question = Operation::Members { most };
        Box::pin(self.run_and_decode(key, question, deadline, command::decode_members))
    }
}

fn node(endpoint: &str, options: &Arc<StoreOptions>, control: &Handle) -> Result<Arc<Node>, OptionError> {
    let tls = options.tls.as_ref().map(|tls: &ClientTls| Tls {
        ca: tls.ca.clone(),
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        insecure_skip_verify: tls.insecure_skip_verify,
    });
    let connector = connector("endpoints", endpoint, tls.as_ref())?;
    let sentinel = options.sentinel.as_ref().map(|sentinel| {
        let database = Database {
            endpoints: options.endpoints.clone(),
            username: options.username.expose().to_owned(),
            password: options.password.clone(),
            db: options.db,
            tls,
            sentinel: None,
        };
        let sentinel = Sentinel {
            master_name: sentinel.master_set.clone(),
            username: sentinel.username.expose().to_owned(),
            password: sentinel.password.clone(),
            ..Sentinel::default()
        };
        (sentinel, database)
    });
    let address = ServerAddress { connector, options: options.clone(), sentinel };
    Ok(Node::new(address, control.clone()))
}

fn unanswered(node: &Node, source: NodeError) -> CommandError {
    CommandError::Node { endpoint: node.endpoint().to_owned(), source }
}

fn refused(node: &Node, error: &ServerError) -> CommandError {
    CommandError::Refused { endpoint: node.endpoint().to_owned(), answer: error_text(error) }
}
