//! Tests of the store with fake servers; see tests/it/programs/rate_limit_redis.rs for a real one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_core::store::{Bucket, MAX_KEY, MAX_VALUE, StoreError, Turn};
use tidegate_core::values::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Closes the connection instead of replying.
const CLOSE: &str = "close";

type Answer = Box<dyn Fn(&[String]) -> Option<String> + Send + Sync>;

/// A server that replies with a function, or not at all if it returns `None`.
struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    connections: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Fake {
    async fn start(answer: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer).await
    }

    async fn start_at(
        address: &str,
        answer: impl Fn(&[String]) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let answer: Arc<Answer> = Arc::new(Box::new(answer));
        let (asked, connections) = (Arc::<Mutex<Vec<Vec<String>>>>::default(), Arc::<AtomicUsize>::default());
        let (seen, count) = (asked.clone(), connections.clone());
        let serving = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(stream, answer.clone(), seen.clone()));
            }
        });
        Self { address, asked, connections, serving }
    }

    fn asked(&self, word: &str) -> usize {
        self.asked.lock().iter().filter(|words| words[0] == word).count()
    }

    fn stop(self) -> String {
        self.serving.abort();
        self.address
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Answer>, seen: Arc<Mutex<Vec<Vec<String>>>>) {
    let mut buffer = Vec::new();
    loop {
        while let Some((words, length)) = command(&buffer) {
            buffer.drain(..length);
            let answer = answer(&words);
            seen.lock().push(words);
            if answer.as_deref() == Some(CLOSE) {
                return;
            }
            if let Some(answer) = answer
                && stream.write_all(answer.as_bytes()).await.is_err()
            {
                return;
            }
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Returns the words of the first command, and its length.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let text = std::str::from_utf8(bytes).expect("text");
    let line = |at: usize| text[at..].find("\r\n").map(|end| (&text[at..at + end], at + end + 2));
    let (head, mut at) = line(0)?;
    let mut words = Vec::new();
    for _ in 0..head[1..].parse().expect("a number") {
        let (length, begin) = line(at)?;
        let end = begin + length[1..].parse::<usize>().expect("a number");
        words.push(text.get(begin..end)?.to_owned());
        text.get(end..end + 2)?;
        at = end + 2;
    }
    Some((words, at))
}

const IN: &str = "*2\r\n:1\r\n:0\r\n";
const OVER: &str = "*2\r\n:0\r\n:1500\r\n";
const BUCKET: Bucket =
    Bucket { interval: Duration::from_micros(1500), burst: 3, ahead: Duration::from_micros(750) };
/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn options(endpoints: &[&str]) -> StoreOptions {
    StoreOptions {
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
        tls: None,
        username: Secret::default(),
        password: Secret::default(),
        db: 0,
        pool_size: 4,
        min_idle: 0,
        read_timeout: PATIENCE,
        write_timeout: PATIENCE,
        dial_timeout: PATIENCE,
        sentinel: None,
    }
}

fn store(options: &StoreOptions) -> Arc<dyn SharedStore> {
    Stores::new(Handle::current()).draft().get(options).expect("valid options")
}

async fn take(store: &Arc<dyn SharedStore>, key: &str) -> Result<Turn, StoreError> {
    store.take(key, &BUCKET, PATIENCE).await
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_script_is_sent_once_and_then_referenced() {
    let known = Arc::new(AtomicUsize::new(0));
    let loaded = known.clone();
    let fake = Fake::start(move |words| match words[0].as_str() {
        "EVAL" => {
            loaded.store(1, Ordering::Relaxed);
            Some(IN.into())
        }
        _ if known.load(Ordering::Relaxed) == 0 => Some("-NOSCRIPT No matching script.\r\n".into()),
        _ => Some(OVER.into()),
    })
    .await;
    let store = store(&options(&[&fake.address]));
    assert_eq!(take(&store, "k").await, Ok(Turn::In(Duration::ZERO)));
    assert_eq!(take(&store, "k").await, Ok(Turn::Over(Duration::from_micros(1500))));
    assert_eq!((fake.asked("EVAL"), fake.asked("EVALSHA")), (1, 2));
    let asked = fake.asked.lock();
    assert_eq!(asked[2][2..], ["1", "k", "1500", "3000", "750"]);
}

#[tokio::test]
async fn connections_log_in_and_select_the_database_and_errors_hide_passwords() {
    let fake = Fake::start(|words| match words[0].as_str() {
        "AUTH" if words[2] != "right" => Some("-WRONGPASS invalid username-password pair\r\n".into()),
        "AUTH" | "SELECT" => Some("+OK\r\n".into()),
        _ => Some(IN.into()),
    })
    .await;
    let with = |password: &str| StoreOptions {
        username: "me".into(),
        password: password.into(),
        db: 3,
        ..options(&[&fake.address])
    };
    assert!(take(&store(&with("right")), "k").await.is_ok());
    assert_eq!(fake.asked.lock()[1], ["SELECT", "3"]);
    let error = take(&store(&with("hunter2")), "k").await.unwrap_err().to_string();
    assert!(error.contains("WRONGPASS") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn stores_with_equal_options_share_connections_while_in_use() {
    let fake = Fake::start(|_| Some(IN.into())).await;
    let stores = Stores::new(Handle::current());
    let options = options(&[&fake.address]);
    let draft = stores.draft();
    let get = |draft: &Draft, options: &StoreOptions| draft.get(options).expect("valid options");
    let (one, two) = (get(&draft, &options), get(&draft, &options));
    assert!(Arc::ptr_eq(&one, &two));
    let other = get(&draft, &StoreOptions { db: 1, ..options.clone() });
    assert!(!Arc::ptr_eq(&one, &other));
    assert!(!Arc::ptr_eq(&one, &get(&stores.draft(), &options)), "the draft is not live yet");
    draft.finish().apply();
    let next = stores.draft();
    assert!(Arc::ptr_eq(&one, &get(&next, &options)));
    for _ in 0..3 {
        assert!(take(&one, "k").await.is_ok() && take(&two, "k").await.is_ok());
    }
    assert_eq!(fake.connections.load(Ordering::Relaxed), 1);
    drop((one, two, other));
    next.finish().apply();
    assert!(stores.known.lock().is_empty());
}

#[tokio::test]
async fn concurrent_requests_share_a_few_connections() {
    let fake = Fake::start(|_| Some(IN.into())).await;
    let store = store(&options(&[&fake.address]));
    let asking = (0..500).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { take(&store, &format!("k{n}")).await.is_ok() })
    });
    for one in asking.collect::<Vec<_>>() {
        assert!(one.await.expect("no panic"));
    }
    assert!(fake.connections.load(Ordering::Relaxed) <= 4);
    assert_eq!(fake.asked("EVALSHA"), 500);
}

#[tokio::test]
async fn idle_connections_stay_open_if_configured() {
    let fake = Fake::start(|_| Some(IN.into())).await;
    let store = store(&StoreOptions { min_idle: 3, ..options(&[&fake.address]) });
    assert!(take(&store, "k").await.is_ok());
    eventually("three connections", async || fake.connections.load(Ordering::Relaxed) == 3).await;
}

#[tokio::test]
async fn a_lost_server_fails_fast_and_is_used_again_when_it_returns() {
    let fake = Fake::start(|_| Some(IN.into())).await;
    let store = store(&options(&[&fake.address]));
    assert!(take(&store, "k").await.is_ok());
    let address = fake.stop();
    eventually("it is missed", async || take(&store, "k").await.is_err()).await;
    // No request waits for reconnects: the second error equals the first.
    let error = take(&store, "k").await.unwrap_err().to_string();
    assert!(error.contains(&address), "{error}");
    let fake = Fake::start_at(&address, |words| match words[0].as_str() {
        "PING" => Some("+PONG\r\n".into()),
        _ => Some(IN.into()),
    })
    .await;
    eventually("it is used again", async || take(&store, "k").await.is_ok()).await;
    assert!(fake.asked("PING") >= 1);
}

#[tokio::test]
async fn only_one_request_waits_for_a_silent_server() {
    let silent = Arc::new(AtomicUsize::new(1));
    let says = silent.clone();
    let fake = Fake::start(move |words| match words[0].as_str() {
        _ if silent.load(Ordering::Relaxed) == 1 => None,
        "PING" => Some("+PONG\r\n".into()),
        _ => Some(IN.into()),
    })
    .await;
    let store =
        store(&StoreOptions { read_timeout: Duration::from_millis(200), ..options(&[&fake.address]) });
    let error = store.take("k", &BUCKET, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("deadline"), "{error}");
    for _ in 0..100 {
        assert!(take(&store, "k").await.is_err());
    }
    assert_eq!(fake.asked("EVALSHA"), 1, "the others neither sent nor waited");
    says.store(0, Ordering::Relaxed);
    eventually("it is used again", async || take(&store, "k").await.is_ok()).await;
}

#[tokio::test]
async fn another_endpoint_is_used_after_a_failure() {
    let replica =
        Fake::start(|_| Some("-READONLY You can't write against a read only replica.\r\n".into())).await;
    let master = Fake::start(|_| Some(IN.into())).await;
    let gone = Fake::start(|_| None).await.stop();
    let store = store(&options(&[&gone, &replica.address, &master.address]));
    eventually("nobody listens there", async || TcpStream::connect(&gone).await.is_err()).await;
    for _ in 0..5 {
        assert!(take(&store, "k").await.is_ok());
    }
    assert_eq!(master.asked("EVALSHA"), 5);
    assert!(replica.asked("EVALSHA") <= 1, "the failed server is not tried first again");
}

#[tokio::test]
async fn redirections_of_a_cluster_are_followed_and_remembered() {
    let holder = Fake::start(|_| Some(IN.into())).await;
    let importing = Fake::start(|words| match words[0].as_str() {
        "ASKING" => Some("+OK\r\n".into()),
        _ => Some(OVER.into()),
    })
    .await;
    let (moved, ask) = (holder.address.clone(), importing.address.clone());
    let first = Fake::start(move |words| {
        // The slots of these keys.
        Some(match words[3].as_str() {
            "foo" => format!("-MOVED 12182 {moved}\r\n"),
            _ => format!("-ASK 1 {ask}\r\n"),
        })
    })
    .await;
    let store = store(&options(&[&first.address]));
    for _ in 0..3 {
        assert_eq!(take(&store, "foo").await, Ok(Turn::In(Duration::ZERO)));
    }
    assert_eq!((first.asked("EVALSHA"), holder.asked("EVALSHA")), (1, 3));
    for _ in 0..2 {
        assert!(matches!(take(&store, "bar").await, Ok(Turn::Over(_))));
    }
    assert_eq!(importing.asked("ASKING"), 2, "this once only");
    assert_eq!(first.asked("EVALSHA"), 3);
}

/// A server that closes the connection on the first command, and accepts all writes after that.
async fn closing_once() -> Fake {
    let closed = AtomicUsize::new(0);
    Fake::start(move |words| match words[0].as_str() {
        _ if closed.fetch_add(1, Ordering::Relaxed) == 0 => Some(CLOSE.into()),
        "SET" => Some("+OK\r\n".into()),
        _ => Some(":1\r\n".into()),
    })
    .await
}

#[tokio::test]
async fn a_compare_and_set_that_may_have_run_is_not_repeated() {
    let fake = closing_once().await;
    let set = store(&options(&[&fake.address]));
    assert_eq!(set.set("k", b"v", PATIENCE, PATIENCE).await, Ok(()));
    assert_eq!(fake.asked("SET"), 2);
    let fake = closing_once().await;
    let compared = store(&options(&[&fake.address]));
    assert!(compared.compare_and_set("k", None, b"v", PATIENCE, PATIENCE).await.is_err());
    assert_eq!(fake.asked("EVALSHA"), 1);
    assert_eq!(compared.compare_and_set("k", None, b"v", PATIENCE, PATIENCE).await, Ok(true));
}

#[tokio::test]
async fn invalid_keys_and_values_are_rejected_locally() {
    let fake = Fake::start(|_| Some("+OK\r\n".into())).await;
    let store = store(&options(&[&fake.address]));
    let (long, large) = ("k".repeat(MAX_KEY + 1), vec![b'v'; MAX_VALUE + 1]);
    for (key, value, expiry, word) in [
        ("", &b"v"[..], PATIENCE, "a key has 0 bytes"),
        (&long, b"v", PATIENCE, "a key has 1025 bytes"),
        ("k", b"", PATIENCE, "a value has 0 bytes"),
        ("k", &large, PATIENCE, "a value has 1048577 bytes"),
        ("k", b"v", Duration::ZERO, "expires immediately"),
    ] {
        let error = store.set(key, value, expiry, PATIENCE).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
        let error = store.compare_and_set(key, Some(b"o"), value, expiry, PATIENCE).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(store.get(&long, PATIENCE).await.is_err());
    assert!(store.compare_and_set("k", Some(b""), b"v", PATIENCE, PATIENCE).await.is_err());
    assert!(store.compare_and_set("k", Some(&large), b"v", PATIENCE, PATIENCE).await.is_err());
    assert_eq!(fake.asked.lock().len(), 0);
    assert_eq!(store.set("k", b"v", PATIENCE, PATIENCE).await, Ok(()));
    assert_eq!(fake.asked.lock()[0], ["SET", "k", "v", "PX", "20000"]);
}

#[tokio::test]
async fn invalid_endpoints_are_rejected() {
    let draft = Stores::new(Handle::current()).draft();
    for endpoint in ["http://h:1", "h:x", ""] {
        let error = draft.get(&options(&[endpoint])).err().expect("refused");
        assert!(error.to_string().contains("endpoints"), "{error}");
    }
}
