//! Buckets in Redis: one script does all, by the clock of the server, so that every gateway counts alike.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sha1::{Digest, Sha1};
use tidegate_core::BoxFuture;
use tidegate_core::building::ClientTls;
use tidegate_core::store::{Bucket, SharedStore, StoreError, StoreOptions, Turn};
use tidegate_providers::redis_client::{Reply, connector, encode};
use tidegate_providers::{Error, Tls};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::cluster::{Map, redirection};
use super::error::{NodeError, ScriptError};
use super::node::Node;

const SCRIPT: &str = include_str!("bucket.lua");
static DIGEST: LazyLock<String> =
    LazyLock::new(|| Sha1::digest(SCRIPT.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect());
/// Most times that one question is asked: anew, elsewhere, with the whole script.
const MOST_STEPS: usize = 8;
/// The same trouble is not logged more often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A Redis server, several that stand in for one another, or a Redis Cluster.
pub(super) struct RedisStore {
    options: Arc<StoreOptions>,
    control: Handle,
    endpoints: Vec<Arc<Node>>,
    /// Which endpoint is asked first.
    preferred: AtomicUsize,
    map: Mutex<Map>,
    complained: Mutex<Option<Instant>>,
}

impl RedisStore {
    /// A store. Nothing is connected yet.
    pub(super) fn new(options: &StoreOptions, control: Handle) -> Result<Self, Error> {
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

    /// True when it is the one with these options.
    pub(super) fn has(&self, options: &StoreOptions) -> bool {
        *self.options == *options
    }

    /// The endpoint that is asked when nothing better is known.
    fn endpoint(&self) -> Arc<Node> {
        self.endpoints[self.preferred.load(Ordering::Relaxed) % self.endpoints.len()].clone()
    }

    /// From now on another endpoint is asked, unless somebody has seen to that already.
    fn leave(&self, node: &Arc<Node>) -> Arc<Node> {
        self.map.lock().forget(node);
        let now = self.preferred.load(Ordering::Relaxed);
        if Arc::ptr_eq(&self.endpoints[now % self.endpoints.len()], node) {
            // When another was faster it has done the same.
            let _ = self.preferred.compare_exchange(now, now + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.endpoint()
    }

    /// The node that a redirection names. One that has moved is remembered.
    fn follow(&self, error: &str, moved: bool) -> Result<Arc<Node>, ScriptError> {
        let (slot, address) = redirection(error).ok_or_else(|| ScriptError::Redirection(error.to_owned()))?;
        let mut map = self.map.lock();
        let node = map.at(address, || node(address, &self.options, &self.control))?;
        if moved {
            map.set(slot, &node);
        }
        Ok(node)
    }

    /// Runs the script, wherever the key is.
    async fn run(&self, key: &str, bucket: &Bucket, end: Instant) -> Result<Turn, ScriptError> {
        let known = self.map.lock().node(key);
        let mut node = known.unwrap_or_else(|| self.endpoint());
        let (mut whole, mut asking, mut left) = (false, false, 0);
        let attempts = MOST_STEPS.max(self.endpoints.len() + 2);
        let mut last = ScriptError::TooManyAttempts(attempts);
        for _ in 0..attempts {
            let command = command(key, bucket, whole, asking);
            let commands = if asking { 2 } else { 1 };
            asking = false;
            let Ok(answer) = timeout_at(end, node.ask(command, commands)).await else {
                node.fail(&NodeError::DeadlineExceeded);
                return Err(unanswered(&node, NodeError::DeadlineExceeded));
            };
            let error = match answer {
                Ok(Reply::Error(error)) => error,
                Ok(reply) => return turn(reply),
                Err(error) => {
                    last = unanswered(&node, error);
                    // A closed connection says little: a new one will show how the server is.
                    if node.failing().is_some() {
                        left += 1;
                        node = self.leave(&node);
                    }
                    if left > self.endpoints.len() {
                        return Err(last);
                    }
                    continue;
                }
            };
            match error.split(' ').next().unwrap_or_default() {
                "NOSCRIPT" => whole = true,
                "MOVED" => node = self.follow(&error, true)?,
                "ASK" => (node, asking) = (self.follow(&error, false)?, true),
                "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => {
                    last = refused(&node, error);
                    left += 1;
                    node = self.leave(&node);
                    if left >= self.endpoints.len() {
                        return Err(last);
                    }
                }
                _ => return Err(refused(&node, error)),
            }
        }
        Err(last)
    }

    fn complain(&self, error: &ScriptError) {
        let mut complained = self.complained.lock();
        if complained.is_none_or(|before| before.elapsed() >= COMPLAIN_EVERY) {
            *complained = Some(Instant::now());
            tracing::error!("limits in Redis cannot be counted: {error}");
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
        Box::pin(async move {
            self.run(key, bucket, Instant::now() + deadline).await.map_err(|error| {
                self.complain(&error);
                StoreError(error.to_string())
            })
        })
    }
}

fn node(endpoint: &str, options: &Arc<StoreOptions>, control: &Handle) -> Result<Arc<Node>, Error> {
    let tls = options.tls.as_ref().map(|tls: &ClientTls| Tls {
        ca: tls.ca.clone(),
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        insecure_skip_verify: tls.insecure_skip_verify,
    });
    let connector = connector("endpoints", endpoint, tls.as_ref())?;
    Ok(Node::new(connector, options.clone(), control.clone()))
}

fn command(key: &str, bucket: &Bucket, whole: bool, asking: bool) -> Bytes {
    let micros = |time: Duration, times: u32| format!("{}", time.as_nanos() as f64 * f64::from(times) / 1e3);
    let (interval, ahead) = (micros(bucket.interval, 1), micros(bucket.ahead, 1));
    let tolerance = micros(bucket.interval, bucket.burst.saturating_sub(1));
    let (verb, script) = if whole { ("EVAL", SCRIPT) } else { ("EVALSHA", DIGEST.as_str()) };
    let mut out = Vec::with_capacity(script.len() + key.len() + 160);
    if asking {
        encode(&mut out, &["ASKING"]);
    }
    encode(&mut out, &[verb, script, "1", key, &interval, &tolerance, &ahead]);
    out.into()
}

fn unanswered(node: &Node, source: NodeError) -> ScriptError {
    ScriptError::Node { endpoint: node.endpoint().to_owned(), source }
}

fn refused(node: &Node, answer: String) -> ScriptError {
    ScriptError::Refused { endpoint: node.endpoint().to_owned(), answer }
}

fn turn(reply: Reply) -> Result<Turn, ScriptError> {
    let Reply::List(parts) = &reply else { return Err(ScriptError::UnexpectedAnswer) };
    let time = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    match parts.as_slice() {
        [Reply::Integer(1), Reply::Integer(wait)] => Ok(Turn::In(time(*wait))),
        [Reply::Integer(0), Reply::Integer(wait)] => Ok(Turn::Over(time(*wait))),
        _ => Err(ScriptError::UnexpectedAnswer),
    }
}
