//! Buckets that gateways share through Redis, and what happens while it is unavailable.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use serde::{Deserialize, Serialize};
use tidegate_core::building::ClientTls;
use tidegate_core::store::{Bucket, SharedStore, StoreOptions, StoreSentinel, Turn};
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{BuildContext, BuildError};

use super::buckets::Ticket;
use super::{Local, RateLimit, bucket};

/// Prefix of all keys. Traefik's is `rate:` with other values, so both can use one Redis.
const PREFIX: &str = "tidegate:rate:";
/// Connections to a server when `poolSize` is 0. Commands are pipelined, so a few suffice.
const POOL_SIZE: usize = 4;
const MAX_CONNECTIONS: i64 = 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer timeouts are capped, so that sums cannot overflow.
const MAX_TIMEOUT: StdDuration = StdDuration::from_secs(3600);
const DEADLINE: Duration = Duration::from_millis(500);

/// `rateLimit.redis`: the store of shared buckets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Redis {
    /// Servers as `host:port`: nodes of one Redis Cluster, or alternatives for failover. With `sentinel`, the
    /// sentinels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// TLS for the connection to Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// User name.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub username: Secret,
    /// Password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// Database number.
    #[serde(skip_serializing_if = "is_default")]
    pub db: i64,
    /// Uses sentinels to find the server. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<StoreSentinel>,
    /// Connections to each server under load; 0 means 4.
    #[serde(skip_serializing_if = "is_default")]
    pub pool_size: i64,
    /// Idle connections to keep open.
    #[serde(skip_serializing_if = "is_default")]
    pub min_idle_conns: i64,
    /// Maximum number of connections to each server; 0 means `poolSize`.
    #[serde(skip_serializing_if = "is_default")]
    pub max_active_conns: i64,
    /// Timeout for a reply; 0 means 3 s.
    pub read_timeout: Duration,
    /// Timeout for a write; 0 means 3 s.
    pub write_timeout: Duration,
    /// Timeout for connecting; 0 means 5 s.
    pub dial_timeout: Duration,
    /// Maximum time that a request waits for Redis. Not in Traefik.
    #[serde(skip_serializing_if = "is_default_deadline")]
    pub deadline: Duration,
    /// What happens to requests while Redis is unavailable: `deny` (500, as in Traefik), `allow`, or `local`
    /// (each gateway counts on its own). Not in Traefik.
    #[serde(skip_serializing_if = "is_deny")]
    pub on_failure: Word<FailureMode>,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            endpoints: vec!["localhost:6379".into()],
            tls: None,
            username: Secret::default(),
            password: Secret::default(),
            db: 0,
            sentinel: None,
            pool_size: 0,
            min_idle_conns: 0,
            max_active_conns: 0,
            read_timeout: READ_TIMEOUT,
            write_timeout: WRITE_TIMEOUT,
            dial_timeout: DIAL_TIMEOUT,
            deadline: DEADLINE,
            on_failure: FailureMode::Deny.into(),
        }
    }
}

fn is_default_deadline(deadline: &Duration) -> bool {
    *deadline == DEADLINE
}

fn is_deny(on_failure: &Word<FailureMode>) -> bool {
    on_failure.known() == Some(FailureMode::Deny)
}

/// What happens to requests while Redis is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureMode {
    /// `deny`: they get 500.
    Deny,
    /// `allow`: they pass.
    Allow,
    /// `local`: each gateway counts on its own.
    Local,
}

impl Vocabulary for FailureMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("deny", Self::Deny), ("allow", Self::Allow), ("local", Self::Local)];
}

impl Redis {
    /// Returns how long a request waits for Redis, and what happens while it is unavailable.
    pub(crate) fn behaviour(&self) -> Result<(StdDuration, FailureMode), BuildError> {
        let mode = self.on_failure.meaning();
        let mode = mode.map_err(|error| BuildError::new(format!("redis.onFailure: {error}")))?;
        if self.deadline.is_zero() {
            return Err(BuildError::new("redis.deadline: expected a time longer than zero"));
        }
        Ok((self.deadline.0.min(MAX_TIMEOUT), mode.unwrap_or(FailureMode::Deny)))
    }

    /// Returns how to connect.
    pub(crate) fn store_options(&self, context: &BuildContext<'_>) -> Result<StoreOptions, BuildError> {
        if self.endpoints.is_empty() {
            return Err(BuildError::new("redis.endpoints: expected at least one, such as `127.0.0.1:6379`"));
        }
        if self.db < 0 {
            return Err(BuildError::new("redis.db: expected 0 or more"));
        }
        if self.sentinel.as_ref().is_some_and(|sentinel| sentinel.master_set.is_empty()) {
            return Err(BuildError::new("redis.sentinel.masterSet: is required"));
        }
        let pool_size = match connections("poolSize", self.pool_size)? {
            0 => POOL_SIZE,
            size => size,
        };
        let min_idle = connections("minIdleConns", self.min_idle_conns)?;
        let pool_size = match connections("maxActiveConns", self.max_active_conns)? {
            0 => pool_size.max(min_idle),
            most => pool_size.min(most),
        };
        let or = |given: Duration, usual: Duration| {
            (if given.is_zero() { usual } else { given }).0.min(MAX_TIMEOUT)
        };
        Ok(StoreOptions {
            endpoints: self.endpoints.clone(),
            tls: self.tls.as_ref().map(|tls| with_files(tls, context)).transpose()?,
            username: self.username.clone(),
            password: self.password.clone(),
            db: self.db,
            pool_size,
            min_idle: min_idle.min(pool_size),
            read_timeout: or(self.read_timeout, READ_TIMEOUT),
            write_timeout: or(self.write_timeout, WRITE_TIMEOUT),
            dial_timeout: or(self.dial_timeout, DIAL_TIMEOUT),
            sentinel: self.sentinel.clone(),
        })
    }
}

fn connections(option: &str, number: i64) -> Result<usize, BuildError> {
    if !(0..=MAX_CONNECTIONS).contains(&number) {
        return Err(BuildError::new(format!(
            "redis.{option}: expected a number from 0 to {MAX_CONNECTIONS}"
        )));
    }
    Ok(usize::try_from(number).unwrap_or(0))
}

/// Returns the options with paths replaced by the content of the files, which are watched from now on.
fn with_files(tls: &ClientTls, context: &BuildContext<'_>) -> Result<ClientTls, BuildError> {
    if tls.cert.is_empty() != tls.key.is_empty() {
        return Err(BuildError::new("redis.tls: `cert` and `key` must be given together"));
    }
    let pem = |option: &str, text: &str| -> Result<String, BuildError> {
        if text.is_empty() || text.contains("-----BEGIN") {
            return Ok(text.to_owned());
        }
        let bytes =
            context.file(text).map_err(|error| BuildError::new(format!("redis.tls.{option}: {error}")))?;
        let content = String::from_utf8_lossy(&bytes).into_owned();
        if !content.contains("-----BEGIN") {
            return Err(BuildError::new(format!("redis.tls.{option}: `{text}` is not a PEM file")));
        }
        Ok(content)
    };
    Ok(ClientTls {
        ca: pem("ca", &tls.ca)?,
        cert: pem("cert", &tls.cert)?,
        key: pem("key", &tls.key)?,
        insecure_skip_verify: tls.insecure_skip_verify,
        ca_optional: tls.ca_optional,
    })
}

/// Redis is unavailable, and requests are refused without it.
#[derive(Debug, PartialEq)]
pub(super) struct StoreUnavailable;

/// What to do while the store is unavailable.
enum OnFailure {
    Deny,
    Allow,
    Local(Local),
}

/// Buckets in a store.
pub(super) struct Shared {
    store: Arc<dyn SharedStore>,
    /// Contains the middleware's name: routers that use the same middleware share buckets, as in Traefik.
    prefix: String,
    bucket: Bucket,
    deadline: StdDuration,
    on_failure: OnFailure,
}

impl Shared {
    pub(super) fn new(
        options: &RateLimit,
        redis: &Redis,
        context: &BuildContext<'_>,
    ) -> Result<Self, BuildError> {
        let (deadline, mode) = redis.behaviour()?;
        let on_failure = match mode {
            FailureMode::Deny => OnFailure::Deny,
            FailureMode::Allow => OnFailure::Allow,
            FailureMode::Local => OnFailure::Local(Local::new(options, context)?),
        };
        Ok(Self {
            store: context.store(&redis.store_options(context)?)?,
            prefix: format!("{PREFIX}{}:", context.name),
            bucket: bucket(options),
            deadline,
            on_failure,
        })
    }

    /// Decides whether and when the request is admitted.
    pub(super) async fn admit(&self, source: String) -> Result<Turn, StoreUnavailable> {
        let ticket = Ticket::new(source);
        let key = format!("{}{}", self.prefix, ticket.source());
        match self.store.take(&key, &self.bucket, self.deadline).await {
            Ok(Turn::In(delay)) => Ok(Turn::In(delay.min(self.bucket.ahead))),
            Ok(over) => Ok(over),
            // The store has already logged the error.
            Err(_) => match &self.on_failure {
                OnFailure::Deny => Err(StoreUnavailable),
                OnFailure::Allow => Ok(Turn::In(StdDuration::ZERO)),
                OnFailure::Local(local) => Ok(local.admit(ticket.into_source())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tidegate_core::store::StoreError;
    use tidegate_core::{Body, Middleware, Response};

    use super::*;
    use crate::testing::{self, FakeStore, Service, World, build_in, get, text};

    fn world(answers: Vec<Result<Turn, StoreError>>) -> (World, Arc<FakeStore>) {
        let store = Arc::new(FakeStore { turns: Mutex::new(answers), ..FakeStore::default() });
        let world = World { store: Some(store.clone()), ..World::default() };
        (world, store)
    }

    fn shared(redis: Redis) -> RateLimit {
        RateLimit {
            average: 1,
            period: Duration::from_secs(10),
            burst: 2,
            redis: Some(redis),
            ..RateLimit::default()
        }
    }

    fn failing(on_failure: &str) -> RateLimit {
        shared(Redis { on_failure: on_failure.into(), ..Redis::default() })
    }

    fn ask(middleware: &Arc<dyn Middleware>) -> Response {
        let service = Service(|_| Response::new(Body::full("hello")));
        testing::block_on(testing::run(middleware, get("http://h.test/"), &service))
    }

    #[test]
    fn the_store_decides() {
        let over = Turn::Over(StdDuration::from_micros(9_950_000));
        let (world, store) = world(vec![Ok(over), Ok(Turn::In(StdDuration::from_millis(1)))]);
        let middleware = build_in(&world, shared(Redis::default())).unwrap();
        assert_eq!(ask(&middleware).status(), 200);
        let refused = ask(&middleware);
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "10");
        assert_eq!(refused.headers()["x-retry-in"], "9.95s");
        assert_eq!(text(refused), "Too Many Requests");
        let (key, bucket, deadline) = store.asked.lock().unwrap()[0].clone();
        assert_eq!(key, "tidegate:rate:m@file:127.0.0.1");
        let ahead = StdDuration::from_millis(500);
        assert_eq!(bucket, Bucket { interval: StdDuration::from_secs(10), burst: 2, ahead });
        assert_eq!(deadline, StdDuration::from_millis(500));
    }

    #[test]
    fn while_redis_is_unavailable_on_failure_decides() {
        let middleware = build_in(&world(vec![]).0, failing("deny")).unwrap();
        let answer = ask(&middleware);
        assert_eq!(
            (answer.status().as_u16(), text(answer).as_str()),
            (500, "Could not insert/update bucket\n")
        );
        let middleware = build_in(&world(vec![]).0, failing("allow")).unwrap();
        assert!((0..9).all(|_| ask(&middleware).status() == 200));
        let middleware = build_in(&world(vec![]).0, failing("local")).unwrap();
        let statuses: Vec<u16> = (0..3).map(|_| ask(&middleware).status().as_u16()).collect();
        assert_eq!(statuses, [200, 200, 429]);
    }

    #[test]
    fn no_average_needs_no_store() {
        let (world, store) = world(vec![]);
        let middleware = build_in(&world, RateLimit { average: 0, ..shared(Redis::default()) }).unwrap();
        assert_eq!(ask(&middleware).status(), 200);
        assert!(store.asked.lock().unwrap().is_empty());
    }

    #[test]
    fn invalid_options_are_refused() {
        for (redis, word) in [
            (Redis { endpoints: Vec::new(), ..Redis::default() }, "endpoints"),
            (Redis { db: -1, ..Redis::default() }, "db"),
            (Redis { pool_size: -1, ..Redis::default() }, "poolSize"),
            (Redis { max_active_conns: 5000, ..Redis::default() }, "maxActiveConns"),
            (Redis { min_idle_conns: -2, ..Redis::default() }, "minIdleConns"),
            (Redis { on_failure: "maybe".into(), ..Redis::default() }, "expected `deny`, `allow` or `local`"),
            (Redis { deadline: Duration::from_secs(0), ..Redis::default() }, "deadline"),
            (
                Redis {
                    tls: Some(ClientTls { cert: "x.pem".into(), ..ClientTls::default() }),
                    ..Redis::default()
                },
                "together",
            ),
            (
                Redis {
                    tls: Some(ClientTls { ca: "x.pem".into(), ..ClientTls::default() }),
                    ..Redis::default()
                },
                "tls.ca",
            ),
        ] {
            let error = build_in(&world(vec![]).0, shared(redis)).err().unwrap();
            assert!(error.to_string().starts_with("redis.") && error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn connection_limits_and_timeouts_have_defaults() {
        let options = |redis: Redis| {
            let (world, _) = world(vec![]);
            build_in(&world, shared(redis)).unwrap();
            world.store_options.lock().unwrap().take().unwrap()
        };
        let usual = options(Redis { read_timeout: Duration::from_secs(0), ..Redis::default() });
        assert_eq!((usual.pool_size, usual.min_idle), (4, 0));
        assert_eq!(usual.read_timeout, StdDuration::from_secs(3));
        let endless = options(Redis { dial_timeout: Duration::from_secs(u64::MAX), ..Redis::default() });
        assert_eq!(endless.dial_timeout, MAX_TIMEOUT);
        let many =
            options(Redis { pool_size: 20, max_active_conns: 8, min_idle_conns: 9, ..Redis::default() });
        assert_eq!((many.pool_size, many.min_idle), (8, 8));
        let idle = options(Redis { min_idle_conns: 9, ..Redis::default() });
        assert_eq!((idle.pool_size, idle.min_idle), (9, 9));
    }

    #[test]
    fn tls_files_are_read_and_watched() {
        let (mut world, _) = world(vec![]);
        world.files.insert("ca.pem".into(), b"-----BEGIN CERTIFICATE-----".to_vec());
        let tls = ClientTls { ca: "ca.pem".into(), ..ClientTls::default() };
        build_in(&world, shared(Redis { tls: Some(tls), ..Redis::default() })).unwrap();
        let options = world.store_options.lock().unwrap().take().unwrap();
        assert_eq!(options.tls.unwrap().ca, "-----BEGIN CERTIFICATE-----");
    }

    #[test]
    fn passwords_are_hidden_and_our_options_omitted_by_default() {
        let read = |text: &str| serde_json::from_str::<Redis>(text).unwrap();
        let shown = serde_json::to_string(&read(r#"{"endpoints":["r:1"],"password":"word"}"#)).unwrap();
        assert_eq!(
            shown,
            r#"{"endpoints":["r:1"],"password":"xxxx","readTimeout":"3s","writeTimeout":"3s","dialTimeout":"5s"}"#
        );
        let shown = serde_json::to_string(&read(r#"{"onFailure":"local","deadline":"50ms"}"#)).unwrap();
        assert!(shown.ends_with(r#","deadline":"50ms","onFailure":"local"}"#), "{shown}");
        assert!(!format!("{:?}", read(r#"{"password":"word"}"#)).contains("word\""));
    }
}
