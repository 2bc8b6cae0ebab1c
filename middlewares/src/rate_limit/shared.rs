//! Buckets that several gateways share through Redis, and what happens while it does not answer.

use std::sync::Arc;
use std::time::Duration as StdDuration;

use serde::{Deserialize, Serialize};
use tidegate_core::building::ClientTls;
use tidegate_core::store::{Bucket, SharedStore, StoreOptions, Turn};
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{BuildContext, BuildError};

use super::buckets::Ticket;
use super::{Local, RateLimit, bucket};

/// What all keys begin with. Traefik's begin with `rate:` and hold something else, so that both can use one Redis.
const PREFIX: &str = "tidegate:rate:";
/// Connections to a server when `poolSize` is 0. Commands are sent together, so a few carry much.
const POOL_SIZE: usize = 4;
const MOST_CONNECTIONS: i64 = 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer times mean the same, and sums of them stay far from the end of what can be counted.
const LONGEST_TIME: StdDuration = StdDuration::from_secs(3600);
const DEADLINE: Duration = Duration::from_millis(500);

/// `rateLimit.redis`: where shared buckets live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Redis {
    /// Servers as `host:port`: nodes of one Redis Cluster, or servers that stand in for one another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// TLS towards Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// User name.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub username: Secret,
    /// Password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    /// Number of the database.
    #[serde(skip_serializing_if = "is_default")]
    pub db: i64,
    /// Connections to each server that are opened under load; 0 means 4.
    #[serde(skip_serializing_if = "is_default")]
    pub pool_size: i64,
    /// Connections that stay open without load.
    #[serde(skip_serializing_if = "is_default")]
    pub min_idle_conns: i64,
    /// Most connections to each server; 0 means `poolSize`.
    #[serde(skip_serializing_if = "is_default")]
    pub max_active_conns: i64,
    /// Longest wait for an answer; 0 means 3 s.
    pub read_timeout: Duration,
    /// Longest wait for a write; 0 means 3 s.
    pub write_timeout: Duration,
    /// Longest wait for a connection; 0 means 5 s.
    pub dial_timeout: Duration,
    /// Longest time that a request waits for Redis. Not in Traefik.
    #[serde(skip_serializing_if = "is_usual_deadline")]
    pub deadline: Duration,
    /// What happens to requests while Redis does not answer: `deny` (500, as in Traefik), `allow`, or `local` (each
    /// gateway counts for itself). Not in Traefik.
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

fn is_usual_deadline(deadline: &Duration) -> bool {
    *deadline == DEADLINE
}

fn is_deny(on_failure: &Word<FailureMode>) -> bool {
    on_failure.known() == Some(FailureMode::Deny)
}

/// What happens to requests while Redis does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureMode {
    /// `deny`: they are answered with 500.
    Deny,
    /// `allow`: they pass.
    Allow,
    /// `local`: each gateway counts for itself.
    Local,
}

impl Vocabulary for FailureMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("deny", Self::Deny), ("allow", Self::Allow), ("local", Self::Local)];
}

impl Redis {
    fn store_options(&self, context: &BuildContext<'_>) -> Result<StoreOptions, BuildError> {
        if self.endpoints.is_empty() {
            return Err(BuildError::new("redis.endpoints: expected at least one, such as `127.0.0.1:6379`"));
        }
        if self.db < 0 {
            return Err(BuildError::new("redis.db: expected 0 or more"));
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
            (if given.is_zero() { usual } else { given }).0.min(LONGEST_TIME)
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
        })
    }
}

fn connections(option: &str, number: i64) -> Result<usize, BuildError> {
    if !(0..=MOST_CONNECTIONS).contains(&number) {
        return Err(BuildError::new(format!(
            "redis.{option}: expected a number from 0 to {MOST_CONNECTIONS}"
        )));
    }
    Ok(usize::try_from(number).unwrap_or(0))
}

/// The options with the content of files instead of their paths. The files are watched from now on.
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
            return Err(BuildError::new(format!("redis.tls.{option}: `{text}` is no PEM file")));
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

/// Redis did not answer, and requests are not let in without it.
#[derive(Debug, PartialEq)]
pub(super) struct Unknown;

/// What happens while the store does not answer.
enum OnFailure {
    Deny,
    Allow,
    Local(Local),
}

/// Buckets in a store.
pub(super) struct Shared {
    store: Arc<dyn SharedStore>,
    /// Name of the middleware: routers that name the same one share buckets, as in Traefik.
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
        let mode = redis.on_failure.meaning();
        let mode = mode.map_err(|error| BuildError::new(format!("redis.onFailure: {error}")))?;
        let on_failure = match mode.unwrap_or(FailureMode::Deny) {
            FailureMode::Deny => OnFailure::Deny,
            FailureMode::Allow => OnFailure::Allow,
            FailureMode::Local => OnFailure::Local(Local::new(options, context)?),
        };
        if redis.deadline.is_zero() {
            return Err(BuildError::new("redis.deadline: expected a time longer than zero"));
        }
        Ok(Self {
            store: context.store(&redis.store_options(context)?)?,
            prefix: format!("{PREFIX}{}:", context.name),
            bucket: bucket(options),
            deadline: redis.deadline.0.min(LONGEST_TIME),
            on_failure,
        })
    }

    /// Whether it is the source's turn, and when.
    pub(super) async fn admit(&self, source: String) -> Result<Turn, Unknown> {
        let ticket = Ticket::new(source);
        let key = format!("{}{}", self.prefix, ticket.source());
        match self.store.take(&key, &self.bucket, self.deadline).await {
            Ok(Turn::In(delay)) => Ok(Turn::In(delay.min(self.bucket.ahead))),
            Ok(over) => Ok(over),
            // The store has told the log.
            Err(_) => match &self.on_failure {
                OnFailure::Deny => Err(Unknown),
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
    use tidegate_core::{Body, BoxFuture, Middleware, Response};

    use super::*;
    use crate::testing::{self, Service, World, build_in, get, text};

    /// Answers as it is told, and remembers what it was asked.
    #[derive(Default)]
    struct Dictated {
        answers: Mutex<Vec<Result<Turn, StoreError>>>,
        asked: Mutex<Vec<(String, Bucket, StdDuration)>>,
    }

    fn nobody<T>() -> Result<T, StoreError> {
        Err(StoreError("nobody is there".into()))
    }

    impl SharedStore for Dictated {
        fn take<'a>(
            &'a self,
            key: &'a str,
            bucket: &'a Bucket,
            deadline: StdDuration,
        ) -> BoxFuture<'a, Result<Turn, StoreError>> {
            self.asked.lock().unwrap().push((key.to_owned(), *bucket, deadline));
            let answer = self.answers.lock().unwrap().pop();
            Box::pin(async move { answer.unwrap_or_else(nobody) })
        }

        fn get<'a>(
            &'a self,
            _: &'a str,
            _: StdDuration,
        ) -> BoxFuture<'a, Result<Option<bytes::Bytes>, StoreError>> {
            Box::pin(async { nobody() })
        }

        fn set<'a>(
            &'a self,
            _: &'a str,
            _: &'a [u8],
            _: StdDuration,
            _: StdDuration,
        ) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async { nobody() })
        }

        fn compare_and_set<'a>(
            &'a self,
            _: &'a str,
            _: Option<&'a [u8]>,
            _: &'a [u8],
            _: StdDuration,
            _: StdDuration,
        ) -> BoxFuture<'a, Result<bool, StoreError>> {
            Box::pin(async { nobody() })
        }
    }

    fn world(answers: Vec<Result<Turn, StoreError>>) -> (World, Arc<Dictated>) {
        let store = Arc::new(Dictated { answers: Mutex::new(answers), ..Dictated::default() });
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
    fn without_an_answer_requests_are_refused_or_let_in_or_counted_here() {
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
    fn no_average_asks_nobody() {
        let (world, store) = world(vec![]);
        let middleware = build_in(&world, RateLimit { average: 0, ..shared(Redis::default()) }).unwrap();
        assert_eq!(ask(&middleware).status(), 200);
        assert!(store.asked.lock().unwrap().is_empty());
    }

    #[test]
    fn options_that_cannot_be_used_are_refused() {
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
    fn limits_of_connections_and_times_have_their_usual_values() {
        let options = |redis: Redis| {
            let (world, _) = world(vec![]);
            build_in(&world, shared(redis)).unwrap();
            world.store_options.lock().unwrap().take().unwrap()
        };
        let usual = options(Redis { read_timeout: Duration::from_secs(0), ..Redis::default() });
        assert_eq!((usual.pool_size, usual.min_idle), (4, 0));
        assert_eq!(usual.read_timeout, StdDuration::from_secs(3));
        let endless = options(Redis { dial_timeout: Duration::from_secs(u64::MAX), ..Redis::default() });
        assert_eq!(endless.dial_timeout, LONGEST_TIME);
        let many =
            options(Redis { pool_size: 20, max_active_conns: 8, min_idle_conns: 9, ..Redis::default() });
        assert_eq!((many.pool_size, many.min_idle), (8, 8));
        let idle = options(Redis { min_idle_conns: 9, ..Redis::default() });
        assert_eq!((idle.pool_size, idle.min_idle), (9, 9));
    }

    #[test]
    fn files_of_tls_are_read_where_they_are_watched() {
        let (mut world, _) = world(vec![]);
        world.files.insert("ca.pem".into(), b"-----BEGIN CERTIFICATE-----".to_vec());
        let tls = ClientTls { ca: "ca.pem".into(), ..ClientTls::default() };
        build_in(&world, shared(Redis { tls: Some(tls), ..Redis::default() })).unwrap();
        let options = world.store_options.lock().unwrap().take().unwrap();
        assert_eq!(options.tls.unwrap().ca, "-----BEGIN CERTIFICATE-----");
    }

    #[test]
    fn passwords_are_not_shown_and_our_own_options_only_when_given() {
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
