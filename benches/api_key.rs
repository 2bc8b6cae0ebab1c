//! Times a check of an API key, and measures what 100,000 keys cost: loading, memory, look-up.
//!
//! `cargo bench -p tidegate-config --bench api_key` prints times; with valgrind, also the instructions of a check, as the
//! difference of two runs of itself in callgrind.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use tidegate_config::Config;
use tidegate_config::decode::decode_config;
use tidegate_config::formats;
use tidegate_core::announced::PurgesHandle;
use tidegate_core::building::{Resolver, State, StateKey, Task};
use tidegate_core::ldap::{LdapClient, LdapOptions};
use tidegate_core::store::{SharedStore, StoreOptions};
use tidegate_core::{
    Access, Body, BoxFuture, Build, BuildContext, BuildError, Clock, Connection, Consumers, ConsumersHandle,
    Context, Handler, HttpClient, Middleware, Next, Request, Response,
};
use tidegate_middlewares::api_key::ApiKey;
use tidegate_middlewares::api_key::key::NewKey;

const KEYS: usize = 100_000;
const CHECKS: usize = 200_000;
const FEW: usize = 1_000;
const MANY: usize = 5_000;

/// What the middleware is built with: a directory of consumers.
struct World(ConsumersHandle);

impl Resolver for World {
    fn service(&self, name: &str) -> Result<Arc<dyn Handler>, BuildError> {
        Err(BuildError::new(name))
    }
    fn middleware(&self, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        Err(BuildError::new(name))
    }
    fn access(&self, _: &str) -> Option<Access> {
        None
    }
    fn file(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        Err(BuildError::new(path))
    }
    fn client(&self) -> Arc<dyn HttpClient> {
        panic!("no middleware here sends requests")
    }
    fn ldap(&self, _: &LdapOptions) -> Result<Arc<dyn LdapClient>, BuildError> {
        Err(BuildError::new("not available"))
    }
    fn store(&self, _: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError> {
        Err(BuildError::new("there is no store"))
    }
    fn clock(&self) -> Clock {
        Clock::System
    }
    fn consumers(&self) -> ConsumersHandle {
        self.0.clone()
    }
    fn announced_purges(&self) -> PurgesHandle {
        PurgesHandle::default()
    }
    fn state(&self, _: &StateKey) -> Option<State> {
        None
    }
    fn keep_state(&self, _: StateKey, _: State) {}
    fn spawn(&self, label: String, _: BoxFuture<'static, ()>) -> Task {
        panic!("no middleware here has the task {label}")
    }
}

struct Service;

impl Handler for Service {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        black_box(&request);
        Box::pin(std::future::ready(Response::new(Body::empty())))
    }
}

/// Returns keys, and a file with a consumer for each.
fn keys(count: usize) -> (Vec<NewKey>, String) {
    let keys: Vec<NewKey> =
        (0..count).map(|_| NewKey::generate("tg").unwrap_or_else(|error| panic!("{error}"))).collect();
    let mut text = "http:\n  consumers:\n".to_owned();
    for (number, key) in keys.iter().enumerate() {
        let sha256: String = key.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("{{id: {}, sha256: {sha256}, scopes: [read]}}", key.id);
        text.push_str(&format!("    c{number}: {{groups: [g], credentials: {{apiKeys: [{key}]}}}}\n"));
    }
    (keys, text)
}

/// Returns the directory of the consumers in a file, and their options, which a gateway keeps as well.
fn load(text: &str) -> (Consumers, Config) {
    let node =
        formats::read_large("consumers.yml", text.as_bytes()).unwrap_or_else(|problem| panic!("{problem}"));
    let provided = decode_config(&node);
    let entry = |(name, consumer): (&String, &Arc<tidegate_config::consumer::Consumer>)| {
        let entry = consumer.entry(&format!("{name}@file"), None, None, &|_| unreachable!("no files"));
        entry.1.unwrap_or_else(|error| panic!("{error}"));
        Arc::new(entry.0)
    };
    let entries: Vec<_> = provided.config.http.consumers.iter().map(entry).collect();
    (Consumers::new(&entries).0, provided.config)
}

/// Returns a chain with the middleware, if there are consumers.
fn chain(consumers: Option<Consumers>) -> Next {
    let middleware = consumers.map(|consumers| {
        let world = World(ConsumersHandle::default());
        world.0.store(Arc::new(consumers));
        let built = ApiKey::default().build(&BuildContext::new("key@file", &world));
        built.unwrap_or_else(|error| panic!("{error}"))
    });
    Next::new(middleware, Next::service(Arc::new(Service)))
}

/// Sends requests with keys in turn.
fn run(next: &Next, keys: &[String], count: usize) {
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let connection = Arc::new(Connection::plain(peer));
    for key in keys.iter().cycle().take(count) {
        let builder = http::Request::get("/").header("host", "h").header("x-api-key", key);
        let (head, ()) = builder.body(()).unwrap_or_else(|error| panic!("{error}")).into_parts();
        let request = Request::new(head, Body::empty(), Context::new(connection.clone()));
        let response = next.run(request).now_or_never();
        assert!(response.is_some());
        black_box(response);
    }
}

/// Returns the memory of the process in bytes.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// Instructions of the whole program with this many requests.
fn instructions(kind: &str, count: usize) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.args([kind, &count.to_string()]).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Sends requests with a key that is valid, or that nobody has, or to a chain without the middleware.
fn run_kind(kind: &str, count: usize) {
    let (new, text) = keys(100);
    let known: Vec<String> = new.iter().map(|key| key.text.expose().to_owned()).collect();
    let unknown: Vec<String> = keys(100).0.iter().map(|key| key.text.expose().to_owned()).collect();
    match kind {
        "none" => run(&chain(None), &known, count),
        "unknown" => run(&chain(Some(load(&text).0)), &unknown, count),
        _ => run(&chain(Some(load(&text).0)), &known, count),
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark reports to whoever runs it")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [kind, count] = arguments.as_slice() {
        return run_kind(kind, count.parse().unwrap_or(FEW));
    }
    let (new, text) = keys(KEYS);
    let known: Vec<String> = new.iter().map(|key| key.text.expose().to_owned()).collect();
    let unknown: Vec<String> = keys(1_000).0.iter().map(|key| key.text.expose().to_owned()).collect();
    drop(new);
    let (before, begun) = (memory(), Instant::now());
    let (consumers, options) = load(&text);
    let (took, peak) = (begun.elapsed(), memory());
    // What the first pass has freed is used again, so this is what remains.
    let again = load(&text);
    let (peak, kept) = (peak.saturating_sub(before) >> 20, memory().saturating_sub(peak) >> 20);
    drop((options, again));
    println!(
        "{KEYS} keys: {} MiB of YAML, loaded in {took:?}, {peak} MiB of memory while loading, {kept} MiB kept",
        text.len() >> 20
    );
    let (none, with) = (chain(None), chain(Some(consumers)));
    let timed = |next: &Next, keys: &[String]| {
        run(next, keys, FEW);
        let begun = Instant::now();
        run(next, keys, CHECKS);
        begun.elapsed() / CHECKS as u32
    };
    let plain = timed(&none, &known);
    for (what, keys) in
        [("valid keys, all in turn", &known[..]), ("one valid key", &known[..1]), ("unknown keys", &unknown)]
    {
        println!("{what}: {:?} per check", timed(&with, keys).saturating_sub(plain));
    }
    let each =
        |kind: &str| Some((instructions(kind, MANY)? - instructions(kind, FEW)?) / (MANY - FEW) as u64);
    match each("none") {
        None => println!("instructions: valgrind is needed"),
        Some(none) => {
            for kind in ["valid", "unknown"] {
                let instructions = each(kind).map(|each| each.saturating_sub(none)).unwrap_or_default();
                println!("{kind} key: {instructions} instructions per check");
            }
        }
    }
}
