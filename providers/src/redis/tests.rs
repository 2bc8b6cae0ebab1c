//! Tests of the Redis provider with a fake server; see tests/it/programs/redis.rs for a real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

use super::*;
use crate::testing::{Running, eventually, urls};

#[derive(Clone)]
struct Fake {
    port: u16,
    keys: Arc<Mutex<BTreeMap<String, String>>>,
    commands: Arc<Mutex<Vec<String>>>,
    /// Overrides of replies, by the first words of the command.
    instead: Arc<Mutex<BTreeMap<&'static str, String>>>,
    /// Pushed to subscribers; an empty one closes all connections.
    events: broadcast::Sender<String>,
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let fake = Self {
            port,
            keys: Arc::default(),
            commands: Arc::default(),
            instead: Arc::default(),
            events: broadcast::channel(64).0,
        };
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        fake
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut events = self.events.subscribe();
        let (mut buffer, mut subscribed) = (String::new(), false);
        let mut bytes = [0; 4096];
        loop {
            while let Some((words, length)) = command(&buffer) {
                buffer.drain(..length);
                self.commands.lock().push(words.join(" "));
                subscribed |= words[0] == "PSUBSCRIBE";
                let mut answer = self.answer(&words).into_bytes();
                // Stand-in for a byte that is not UTF-8.
                answer.iter_mut().filter(|byte| **byte == 1).for_each(|byte| *byte = 0xff);
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                read = stream.read(&mut bytes) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(length) => buffer.push_str(&String::from_utf8_lossy(&bytes[..length])),
                },
                event = events.recv() => match event {
                    Ok(event) if !event.is_empty() => {
                        if subscribed && stream.write_all(event.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
            }
        }
    }

    fn answer(&self, words: &[String]) -> String {
        let line = words.join(" ");
        if let Some((_, answer)) = self.instead.lock().iter().find(|(words, _)| line.starts_with(**words)) {
            return answer.clone();
        }
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let keys = self.keys.lock();
        match words[0].as_str() {
            "SCAN" => {
                let root = words[3].trim_end_matches('*');
                let fitting: Vec<&String> = keys.keys().filter(|key| key.starts_with(root)).collect();
                let list: String = fitting.iter().map(|key| bulk(key)).collect();
                format!("*2\r\n{}*{}\r\n{list}", bulk("0"), fitting.len())
            }
            "MGET" => {
                let values: String = words[1..]
                    .iter()
                    .map(|key| match keys.get(&key.replace('\u{fffd}', "\u{1}")) {
                        Some(value) if value != LIST => bulk(value),
                        _ => "$-1\r\n".into(),
                    })
                    .collect();
                format!("*{}\r\n{values}", words.len() - 1)
            }
            "PSUBSCRIBE" => "*3\r\n$10\r\npsubscribe\r\n$1\r\np\r\n:1\r\n".repeat(words.len() - 1),
            "CONFIG" if words[1] == "GET" => format!("*2\r\n{}{}", bulk("notify-keyspace-events"), bulk("x")),
            _ => "+OK\r\n".into(),
        }
    }

    fn set(&self, pairs: &[(&str, &str)]) {
        *self.keys.lock() =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let _ = self.events.send("*4\r\n+pmessage\r\n+p\r\n+c\r\n+set\r\n".into());
    }

    fn options(&self) -> Options {
        Options { endpoints: vec![format!("127.0.0.1:{}", self.port)], ..Options::default() }
    }

    fn asked(&self, command: &str) -> bool {
        self.commands.lock().iter().any(|line| line.starts_with(command))
    }
}

/// Returns the first command in a text, and its length.
fn command(text: &str) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let mut line = || {
        let end = text[at..].find("\r\n")?;
        let line = &text[at..at + end];
        at += end + 2;
        Some(line)
    };
    let count: usize = line()?.strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        line()?;
        words.push(line()?.to_owned());
    }
    Some((words, at))
}

/// Stands for the value of a key that is a list.
const LIST: &str = "(list)";
const URL: &str = "traefik/http/services/s/loadBalancer/servers/0/url";

#[tokio::test]
async fn keys_are_followed_across_reconnects() {
    let fake = Fake::start().await;
    fake.set(&[(URL, "http://10.0.0.1"), ("other", "x")]);
    let mut options = fake.options();
    (options.username, options.password, options.db) = ("u".into(), "p".into(), 3);
    let mut running = Running::start(build(options).expect("valid options"));
    assert_eq!(urls(&running.next().await.state, "s"), ["http://10.0.0.1"]);
    assert!(fake.asked("AUTH u p") && fake.asked("SELECT 3"));
    assert!(fake.asked("CONFIG SET notify-keyspace-events xKA"), "{:?}", fake.commands);
    assert!(fake.asked("PSUBSCRIBE __keyspace@3__:tidegate/* __keyspace@3__:traefik/*"));
    fake.set(&[(URL, "http://10.0.0.2")]);
    running.until(|state| urls(state, "s") == ["http://10.0.0.2"]).await;
    let before = fake.commands.lock().len();
    fake.keys.lock().insert(URL.into(), "http://10.0.0.3".into());
    let _ = fake.events.send(String::new());
    running.until(|state| urls(state, "s") == ["http://10.0.0.3"]).await;
    assert!(fake.commands.lock().len() > before);
    fake.set(&[(URL, "http://10.0.0.3"), ("traefik/http/services/s/loadBalancer/passHostHeader", "maybe")]);
    let state = running.until(|state| !state.problems.is_empty()).await;
    assert_eq!(urls(&state, "s"), ["http://10.0.0.3"], "the last good version");
}

#[tokio::test]
async fn keys_without_text_values_are_reported() {
    let fake = Fake::start().await;
    let (list, odd) = ("traefik/http/routers/r/middlewares/0", "traefik/http/routers/q/service\u{1}");
    let keys = [(list, LIST), ("traefik/http/routers/r/rule", "Path(`/`)"), (odd, "x")];
    fake.instead.lock().insert("TYPE traefik/http/routers/r", "+list\r\n".into());
    fake.set(&keys);
    let mut running = Running::start(build(fake.options()).expect("valid options"));
    let state = running.next().await.state;
    let shown: Vec<String> = state.problems.iter().map(ToString::to_string).collect();
    let lost = [
        "key traefik/http/routers/q/service\u{fffd}: router q: the key is not UTF-8 text".to_owned(),
        format!("key {list}: router r: expected a string, not a list"),
    ];
    assert_eq!(shown, lost);
    assert_eq!(state.config.http.routers["r"].rule, "Path(`/`)");
    // A key that disappears between two commands is not a problem.
    fake.instead.lock().insert("TYPE traefik/http/routers/r", "+none\r\n".into());
    let before = fake.commands.lock().len();
    fake.set(&keys[..2]);
    running.until(|state| state.problems.is_empty()).await;
    // It may have been part of a transaction that was only partially seen.
    let looks = fake.commands.lock()[before..].iter().filter(|line| line.starts_with("SCAN")).count();
    assert!(looks >= MAX_READS, "{looks}");
}

#[tokio::test]
async fn errors_of_the_server_keep_the_last_state() {
    let fake = Fake::start().await;
    fake.set(&[(URL, "http://10.0.0.1")]);
    let mut running = Running::start(build(fake.options()).expect("valid options"));
    running.next().await;
    fake.instead.lock().insert("SCAN", "-LOADING Redis is loading the dataset\r\n".into());
    let before = fake.commands.lock().len();
    fake.set(&[(URL, "http://10.0.0.2")]);
    eventually("it is asked again", || {
        fake.commands.lock()[before..].iter().any(|line| line.starts_with("SCAN"))
    })
    .await;
    assert!(running.updates.try_recv().is_err());
    fake.instead.lock().clear();
    running.until(|state| urls(state, "s") == ["http://10.0.0.2"]).await;
}

#[tokio::test]
async fn a_rejected_login_is_reported() {
    let fake = Fake::start().await;
    fake.instead.lock().insert("AUTH", "-WRONGPASS invalid username-password pair\r\n".into());
    let mut options = fake.options();
    options.password = "wrong".into();
    let mut running = Running::start(build(options).expect("valid options"));
    let update = running.next().await;
    assert!(!update.ready);
    let message = &update.state.problems[0].message;
    assert!(message.contains("WRONGPASS") && !message.contains("`wrong`"), "{message}");
}

#[tokio::test]
async fn sentinels_name_the_server_to_read() {
    let (sentinel, master, replica) = (Fake::start().await, Fake::start().await, Fake::start().await);
    master.set(&[(URL, "http://10.0.0.1")]);
    replica.set(&[(URL, "http://10.0.0.2")]);
    let address = |port: u16| format!("*2\r\n+127.0.0.1\r\n+{port}\r\n");
    sentinel.instead.lock().insert("SENTINEL get-master-addr-by-name m", address(master.port));
    let described =
        format!("*1\r\n*6\r\n+ip\r\n+127.0.0.1\r\n+port\r\n+{}\r\n+flags\r\n+slave\r\n", replica.port);
    sentinel.instead.lock().insert("SENTINEL replicas m", described);
    let mut options = sentinel.options();
    options.sentinel = Some(Sentinel { master_name: "m".into(), ..Sentinel::default() });
    let mut running = Running::start(build(options.clone()).expect("valid options"));
    assert_eq!(urls(&running.next().await.state, "s"), ["http://10.0.0.1"]);
    let strategy = Sentinel { master_name: "m".into(), replica_strategy: true, ..Sentinel::default() };
    options.sentinel = Some(strategy);
    let mut running = Running::start(build(options.clone()).expect("valid options"));
    assert_eq!(urls(&running.next().await.state, "s"), ["http://10.0.0.2"]);
    let strategy = Sentinel { master_name: "m".into(), latency_strategy: true, ..Sentinel::default() };
    options.sentinel = Some(strategy);
    let mut running = Running::start(build(options).expect("valid options"));
    assert_eq!(urls(&running.next().await.state, "s").len(), 1);
    assert!(master.asked("PING") && replica.asked("PING"));
}

#[test]
fn invalid_options_are_rejected() {
    for options in [
        Options { endpoints: Vec::new(), ..Options::default() },
        Options { endpoints: vec!["http://h".into()], ..Options::default() },
        Options { db: -1, ..Options::default() },
        Options { root_key: "/".into(), ..Options::default() },
        Options { sentinel: Some(Sentinel::default()), ..Options::default() },
    ] {
        assert!(build(options.clone()).is_err(), "{options:?}");
    }
    assert_eq!(escape_pattern("a*b[c]?"), r"a\*b\[c\]\?");
}
