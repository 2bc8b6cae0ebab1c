//! Containers that are recreated and swap their addresses, on a real Docker Engine and with its name server, whose
//! answers live for ten minutes: nothing may reach the stranger that gets the address of `api`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::outside::engine;
use crate::support::{eventually, get, pause_for, wait_until};

const IMAGE: &str = "tidegate:dev";
/// How often the containers swap their addresses, unless [`ROUNDS`] says otherwise (`make swaps`: 50).
const SWAPS: usize = 10;
const ROUNDS: &str = "TIDEGATE_SWAPS";
/// The time within which requests must succeed again once `api` is back, and the longest that it may take in a few rounds
/// on a machine that is busy with other tests.
const RECOVERY: Duration = Duration::from_secs(1);
const MAX_RECOVERY: Duration = Duration::from_secs(5);
/// Pause of each client between two requests.
const PAUSE: Duration = Duration::from_millis(5);
/// Kinds of requests whose counts a container reports: HTTP, guards, TCP, Redis.
const COUNTS: usize = 4;

const ROUTES: &str = r"
http:
  routers:
    direct: {rule: 'Path(`/direct`)', service: api}
    fresh: {rule: 'Path(`/fresh`)', service: fresh}
    guarded: {rule: 'Path(`/guarded`)', service: ping@internal, middlewares: [guard]}
    failing: {rule: 'Path(`/failing`)', service: nobody, middlewares: [pages]}
    limited: {rule: 'Path(`/limited`)', service: ping@internal, middlewares: [limit]}
  middlewares:
    guard: {forwardAuth: {address: 'http://api:81/'}}
    pages: {errors: {status: ['502'], service: api, query: /page}}
    limit: {rateLimit: {average: 1000000, burst: 1000000, redis: {endpoints: ['api:6379']}}}
  services:
    api: {loadBalancer: {servers: [{url: 'http://api'}]}}
    fresh: {loadBalancer: {servers: [{url: 'http://api'}], serversTransport: fresh}}
    nobody: {loadBalancer: {servers: [{url: 'http://127.0.0.1:9'}]}}
  serversTransports:
    fresh: {maxIdleConnsPerHost: -1}
tcp:
  routers:
    tcp: {rule: 'HostSNI(`*`)', entryPoints: [tcp], service: api}
  services:
    api: {loadBalancer: {servers: [{address: 'api:82'}]}}
";

fn docker(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(arguments).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn run(arguments: &[&str]) {
    docker(arguments).unwrap_or_else(|error| panic!("{error}"));
}

/// A network with addresses to choose from. It is removed when dropped.
struct Network {
    name: String,
    third: u32,
}

impl Network {
    fn create() -> Self {
        let name = format!("tidegate-test-{}-swaps", std::process::id());
        let mut third = std::process::id() % 256;
        for _ in 0..10 {
            let subnet = format!("10.213.{third}.0/24");
            if docker(&["network", "create", "--subnet", &subnet, &name]).is_ok() {
                return Self { name, third };
            }
            third = (third + 1) % 256;
        }
        panic!("no subnet is free");
    }

    fn address(&self, last: u8) -> IpAddr {
        format!("10.213.{}.{last}", self.third).parse().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = docker(&["network", "rm", &self.name]);
    }
}

/// A container with a fixed address and this machine's programs. It is removed when dropped.
struct Container {
    name: String,
    address: IpAddr,
}

impl Container {
    /// Creates it without starting it.
    fn create(network: &Network, alias: &str, address: IpAddr, volumes: &[String], program: &[&str]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-test-{}-swap-{alias}-{number}", std::process::id());
        let ip = address.to_string();
        let mut all = vec!["create", "--name", &name, "--network", &network.name, "--ip", &ip];
        all.extend(["--network-alias", alias, "--user", "0"]);
        all.extend(["/usr", "/lib", "/lib64"].iter().flat_map(|folder| ["--volume", shared(folder)]));
        all.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
        all.extend(["--entrypoint", program[0], IMAGE]);
        all.extend(&program[1..]);
        run(&all);
        Self { name, address }
    }

    fn start(&self) {
        run(&["start", &self.name]);
    }

    fn remove(self) {
        run(&["rm", "--force", &self.name]);
        std::mem::forget(self);
    }

    /// How many questions of each kind it was asked; `None` until all of its ports are open.
    fn counts(&self) -> Option<[usize; COUNTS]> {
        let text = ask(SocketAddr::new(self.address, 90), "").ok()?;
        let counts: Vec<usize> = text.split(' ').filter_map(|count| count.parse().ok()).collect();
        counts.try_into().ok()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", &self.name]);
    }
}

/// A folder of this machine, at the same place in a container.
fn shared(folder: &str) -> &'static str {
    match folder {
        "/usr" => "/usr:/usr:ro",
        "/lib" => "/lib:/lib:ro",
        _ => "/lib64:/lib64:ro",
    }
}

/// Sends a question over TCP and reads what comes until the end.
fn ask(address: SocketAddr, question: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, RECOVERY)?;
    stream.set_read_timeout(Some(10 * RECOVERY))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What became of a request.
enum Outcome {
    /// `api` was reached.
    Right,
    /// Nobody was. What came instead.
    Failed(String),
    /// Somebody else was, or the request was let in.
    Wrong(String),
}

type Request = fn(&str, SocketAddr) -> Outcome;

/// Asks for a path and judges the answer by its status and text.
fn http(path: &str, gateway: SocketAddr) -> Outcome {
    let answer = get(gateway, "h", path);
    let text = answer.text();
    match (path, answer.status, text.as_str()) {
        ("/direct" | "/fresh", 200, "api") | ("/guarded", 401, _) | ("/limited", 200, _) => Outcome::Right,
        ("/failing", _, "api") => Outcome::Right,
        (_, 500..=504, text) if text != "stranger" => Outcome::Failed(answer.status.to_string()),
        (_, status, text) => Outcome::Wrong(format!("{path}: {status} {text}")),
    }
}

fn tcp(_: &str, gateway: SocketAddr) -> Outcome {
    match ask(SocketAddr::new(gateway.ip(), 8001), "who?") {
        Ok(text) if text == "api" => Outcome::Right,
        Ok(text) if !text.is_empty() => Outcome::Wrong(format!("TCP: {text}")),
        other => Outcome::Failed(format!("{other:?}")),
    }
}

/// One client that asks again and again.
struct Client {
    what: &'static str,
    right: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
    /// What came last where `api` was not reached.
    failure: Arc<Mutex<String>>,
    thread: JoinHandle<()>,
}

impl Client {
    fn start(what: &'static str, request: Request, gateway: SocketAddr, stop: &Arc<AtomicBool>) -> Self {
        let (right, all) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let wrong = Arc::<Mutex<Vec<String>>>::default();
        let failure = Arc::<Mutex<String>>::default();
        let noted = (stop.clone(), right.clone(), all.clone(), wrong.clone(), failure.clone());
        let thread = std::thread::spawn(move || {
            let (stop, right, all, wrong, failure) = noted;
            while !stop.load(Ordering::SeqCst) {
                match request(what, gateway) {
                    Outcome::Right => _ = right.fetch_add(1, Ordering::SeqCst),
                    Outcome::Failed(what) => *failure.lock().unwrap() = what,
                    Outcome::Wrong(what) => wrong.lock().unwrap().push(what),
                }
                all.fetch_add(1, Ordering::SeqCst);
                pause_for(PAUSE);
            }
        });
        Self { what, right, all, wrong, failure, thread }
    }

    fn right(&self) -> usize {
        self.right.load(Ordering::SeqCst)
    }
}

/// How far each client has come, for whoever looks for what went wrong.
fn progress(clients: &[Client]) -> String {
    let one = |client: &Client| {
        let (all, right) = (client.all.load(Ordering::SeqCst), client.right());
        let (failure, wrong) = (client.failure.lock().unwrap(), client.wrong.lock().unwrap());
        let (count, last) = (wrong.len(), wrong.last());
        format!("{}: {right} of {all}, last failure: {failure}, {count} wrong, {last:?}", client.what)
    };
    clients.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn clients(gateway: SocketAddr, stop: &Arc<AtomicBool>) -> Vec<Client> {
    let paths = ["/direct", "/fresh", "/guarded", "/failing", "/limited"];
    let requests = paths.map(|path| (path, http as Request)).into_iter().chain([("tcp", tcp as Request)]);
    requests.map(|(what, request)| Client::start(what, request, gateway, stop)).collect()
}

/// The gateway of these tests in a container, and `api` and the stranger beside it.
struct Setting {
    api: Container,
    stranger: Container,
    gateway: Container,
    network: Network,
    _folder: tempfile::TempDir,
    _engine: File,
}

impl Setting {
    fn start() -> Self {
        let engine = engine(false);
        let network = Network::create();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("routes.yml"), ROUTES).unwrap();
        let volumes = [
            format!("{}:/gateway:ro", env!("CARGO_BIN_EXE_tidegate")),
            format!("{}:/routes:ro", folder.path().display()),
        ];
        let program = [
            "/gateway",
            "--entryPoints.web.address=:8000",
            "--entryPoints.tcp.address=:8001",
            "--ping=true",
            "--providers.file.filename=/routes/routes.yml",
        ];
        let gateway = Container::create(&network, "gateway", network.address(10), &volumes, &program);
        let api = server(&network, "api", network.address(20));
        let stranger = server(&network, "stranger", network.address(21));
        for container in [&api, &stranger, &gateway] {
            container.start();
        }
        let setting = Self { api, stranger, gateway, network, _folder: folder, _engine: engine };
        eventually("the gateway reaches `api`", || {
            TcpStream::connect(setting.web()).is_ok() && get(setting.web(), "h", "/direct").text() == "api"
        });
        setting
    }

    fn web(&self) -> SocketAddr {
        SocketAddr::new(self.gateway.address, 8000)
    }

    /// What the engine's name server says of `api`, and the end of the gateway's log, for whoever looks for what went
    /// wrong.
    fn report(&self) -> String {
        let name = &self.gateway.name;
        let resolved = docker(&["exec", name, "/usr/bin/getent", "ahosts", "api"]);
        let log = Command::new("docker").args(["logs", "--tail", "20", name]).output().unwrap();
        let log = [log.stdout, log.stderr].concat();
        let address = self.api.address;
        format!("`api` has {address}; resolved: {resolved:?}\n{}", String::from_utf8_lossy(&log))
    }

    /// Replaces `api` and the stranger by containers that have each other's address. In every other round `api` is away
    /// while the stranger has its address.
    fn swap(&mut self, round: usize) {
        let api = server(&self.network, "api", self.stranger.address);
        let stranger = server(&self.network, "stranger", self.api.address);
        assert_eq!(self.stranger.counts(), Some([0; COUNTS]), "round {round}: requests at the stranger");
        let old_api = std::mem::replace(&mut self.api, api);
        let old_stranger = std::mem::replace(&mut self.stranger, stranger);
        let (api, stranger) = (&self.api, &self.stranger);
        let stranger_moves = || {
            old_api.remove();
            stranger.start();
        };
        let api_moves = || {
            old_stranger.remove();
            api.start();
        };
        if round.is_multiple_of(2) {
            stranger_moves();
            eventually("the stranger is up", || stranger.counts().is_some());
            api_moves();
        } else {
            std::thread::scope(|scope| {
                scope.spawn(stranger_moves);
                scope.spawn(api_moves);
            });
        }
        eventually("`api` is up", || self.api.counts().is_some());
    }
}

fn server(network: &Network, name: &str, address: IpAddr) -> Container {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs/swapped.py");
    let volumes = [format!("{}:/swapped.py:ro", script.display())];
    Container::create(network, name, address, &volumes, &["/usr/bin/python3", "-SE", "/swapped.py", name])
}

#[test]
#[ignore = "needs a Docker Engine, python3 and redis-server"]
fn no_request_reaches_a_new_owner_of_an_address() {
    let mut setting = Setting::start();
    let stop = Arc::<AtomicBool>::default();
    let clients = clients(setting.web(), &stop);
    let mut recoveries = Vec::new();
    let begun = Instant::now();
    let rounds = std::env::var(ROUNDS).map_or(SWAPS, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        setting.swap(round);
        let back = Instant::now();
        let before: Vec<usize> = clients.iter().map(Client::right).collect();
        let mut slowest = (Duration::ZERO, "");
        for (client, before) in clients.iter().zip(before) {
            let limit = (12 * MAX_RECOVERY).saturating_sub(back.elapsed());
            assert!(
                wait_until(limit, || client.right() != before).is_some(),
                "round {round}: {} does not reach `api`:\n{}\n{}",
                client.what,
                progress(&clients),
                setting.report()
            );
            slowest = slowest.max((back.elapsed(), client.what));
        }
        recoveries.push(slowest);
        eventually("the stranger is up", || setting.stranger.counts().is_some());
    }
    let reached = setting.api.counts().unwrap();
    assert!(reached.iter().all(|count| *count > 0), "the load has reached `api`: {reached:?}");
    assert_eq!(setting.stranger.counts(), Some([0; COUNTS]), "requests at the stranger");
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.thread.join().unwrap();
        let (all, right) = (client.all.load(Ordering::SeqCst), client.right.load(Ordering::SeqCst));
        eprintln!(
            "{}: {all} requests, {right} at `api`, {} without an answer of it",
            client.what,
            all - right
        );
        let wrong = client.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{}: {} wrong of {all}: {:?}", client.what, wrong.len(), wrong.first());
    }
    recoveries.sort_unstable();
    let (median, slowest) = (recoveries[rounds / 2], recoveries[rounds - 1]);
    eprintln!("{rounds} swaps in {:?}; recovery: median {median:?}, slowest {slowest:?}", begun.elapsed());
    let late = recoveries.iter().filter(|(after, _)| *after > RECOVERY).count();
    assert!(late <= rounds / 10 && slowest.0 < MAX_RECOVERY, "{late} late recoveries: {recoveries:?}");
}
