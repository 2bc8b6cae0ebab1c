//! External programs, started for a single test: a Consul agent, a Redis server.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::backend::unused_address;
use super::{Answer, eventually, raw};

/// Returns a program from where `scripts/tool.sh` installs it, or else from the PATH: the machine's own
/// version may be too old for the tests.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let mut folders = std::iter::once(tools).chain(std::env::split_paths(&path));
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()));
    found.unwrap_or_else(|| panic!("there is no `{name}`: scripts/test.sh installs it"))
}

/// Returns Compose: v2 if `scripts/tool.sh` installed it or it is a plugin of the docker command, or else v1.
pub fn compose() -> Command {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/docker-compose");
    if own.is_file() {
        return Command::new(own);
    }
    let plugin = Command::new("docker").args(["compose", "version"]).output();
    if plugin.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("docker");
        command.arg("compose");
        return command;
    }
    Command::new(program("docker-compose"))
}

/// Prevents others from changing the engine's mode while a test uses its name server, whose records are lost
/// when the engine leaves a swarm (Docker 20.10). `alone` changes it. Works across processes, until dropped.
pub fn engine(alone: bool) -> File {
    let path = std::env::temp_dir().join("tidegate-test-engine.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    if alone { file.lock() } else { file.lock_shared() }.unwrap();
    file
}

/// A running program with its own folder. Killed when dropped.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts it in a folder, with its output in `log`.
    pub fn start(command: &mut Command, folder: &Path) -> Self {
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().unwrap() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Consul agent: one server with persistent data.
pub struct Consul {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    running: Option<Running>,
    /// The value of `X-Consul-Token`.
    pub token: String,
}

impl Consul {
    /// Starts an agent. `extra` are members of its configuration, in JSON.
    pub fn start(extra: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), extra)
    }

    /// Starts an agent in a folder that may contain certificates.
    pub fn start_in(folder: tempfile::TempDir, extra: &str) -> Self {
        let [http, server, serf] = [unused_address(), unused_address(), unused_address()];
        let config = format!(
            r#"{{"datacenter": "dc1", "node_name": "n1", "server": true, "bootstrap": true, "data_dir": "data",
            "bind_addr": "127.0.0.1", "log_level": "warn", "disable_update_check": true,
            "performance": {{"raft_multiplier": 1}}, "connect": {{"enabled": true}},
            "ports": {{"http": {}, "server": {}, "serf_lan": {}, "serf_wan": -1, "dns": -1, "grpc": -1}}}}"#,
            http.port(),
            server.port(),
            serf.port()
        );
        std::fs::write(folder.path().join("agent.json"), config).unwrap();
        // Of two files the later one wins member by member.
        std::fs::write(folder.path().join("further.json"), format!("{{{extra}}}")).unwrap();
        let mut consul = Self { address: http, folder, running: None, token: String::new() };
        consul.run();
        consul
    }

    /// Restarts it after [`Consul::kill`], with its data.
    pub fn run(&mut self) {
        let mut command = Command::new(program("consul"));
        command.args(["agent", "-config-file", "agent.json", "-config-file", "further.json"]);
        self.running = Some(Running::start(&mut command, self.folder.path()));
    }

    /// Runs the agent's own Connect proxy for a service, from `listen` to `target`. Stops when dropped.
    pub fn proxy(&self, service: &str, target: SocketAddr, listen: SocketAddr) -> impl Sized + use<> {
        let mut command = Command::new(program("consul"));
        command.args(["connect", "proxy", "-service", service]);
        command.args(["-http-addr", &self.address.to_string()]);
        command.args(["-service-addr", &target.to_string(), "-listen", &listen.to_string()]);
        let running = Running::start(&mut command, self.folder.path());
        eventually("the proxy listens", || std::net::TcpStream::connect(listen).is_ok());
        running
    }

    /// Waits until it is the leader and knows itself. With ACLs this needs a token.
    pub fn ready(self) -> Self {
        self.wait();
        self
    }

    /// Waits in the same way after a restart.
    pub fn wait(&self) {
        eventually("the agent leads", || {
            self.get("/v1/catalog/nodes").is_some_and(|text| text.contains("n1"))
        });
    }

    /// Kills it like `kill -9`.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Deletes its data, after [`Consul::kill`].
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the body of a response with status 200.
    pub fn get(&self, path: &str) -> Option<String> {
        let answer = self.ask("GET", path, "").ok()?;
        (answer.status == 200).then(|| answer.text())
    }

    /// Writes something; fails when it is refused.
    pub fn put(&self, path: &str, body: &str) -> String {
        let answer = self.ask("PUT", path, body).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.text()
    }

    pub fn delete(&self, path: &str) {
        let answer = self.ask("DELETE", path, "").unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }

    /// Registers an instance with a passing check.
    pub fn register(&self, name: &str, id: &str, at: SocketAddr, tags: &[&str]) {
        let tags: Vec<String> = tags.iter().map(|tag| format!("{tag:?}")).collect();
        let body = format!(
            r#"{{"Name": "{name}", "ID": "{id}", "Address": "{}", "Port": {}, "Tags": [{}],
            "Check": {{"TTL": "1h", "Status": "passing"}}}}"#,
            at.ip(),
            at.port(),
            tags.join(",")
        );
        self.put("/v1/agent/service/register", &body);
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
        let token = match self.token.as_str() {
            "" => String::new(),
            token => format!("X-Consul-Token: {token}\r\n"),
        };
        let length = body.len();
        // `raw` takes it for granted that somebody listens.
        std::net::TcpStream::connect(self.address)?;
        raw(
            self.address,
            format!(
                "{method} {path} HTTP/1.1\r\nHost: consul\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
            ),
        )
    }
}

/// Creates a certificate authority, and certificates for a server at 127.0.0.1 and for a client, in a folder:
/// `consul-agent-ca.pem`, `dc1-server-consul-0.pem`, `dc1-client-consul-0.pem`, and keys `…-key.pem`.
pub fn certificates(folder: &Path) {
    for arguments in [&["ca", "create"][..], &["cert", "create", "-server"], &["cert", "create", "-client"]] {
        let mut command = Command::new(program("consul"));
        let output = command.arg("tls").args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A Redis server without persistent data.
pub struct Redis {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl Redis {
    /// Starts a server with these arguments.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), unused_address(), arguments)
    }

    /// Starts a server at this address, in a folder that may contain files.
    pub fn start_in(folder: tempfile::TempDir, address: SocketAddr, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self { address, folder, arguments, running: None };
        redis.run();
        redis
    }

    /// Starts a sentinel that watches this master under the name `m`.
    pub fn sentinel(&self) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), unused_address());
        let config = folder.path().join("sentinel.conf");
        let text = format!(
            "port {}\nsentinel monitor m 127.0.0.1 {} 1\nsentinel down-after-milliseconds m 500\n\
             sentinel failover-timeout m 2000\n",
            address.port(),
            self.address.port()
        );
        std::fs::write(&config, text).unwrap();
        Self::start_in(folder, address, &[&config.display().to_string(), "--sentinel"])
    }

    /// Restarts it after [`Redis::kill`].
    pub fn run(&mut self) {
        let mut command = Command::new(program("redis-server"));
        command.args(&self.arguments);
        if !self.arguments.iter().any(|argument| argument == "--sentinel") {
            command.args(["--save", "", "--bind", &self.address.ip().to_string()]);
            if !self.arguments.iter().any(|argument| argument == "--tls-port") {
                command.args(["--port", &self.address.port().to_string()]);
            }
        }
        self.running = Some(Running::start(&mut command, self.folder.path()));
        eventually("Redis listens", || std::net::TcpStream::connect(self.address).is_ok());
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Runs a command with `redis-cli`.
    pub fn command(&self, arguments: &[&str]) -> String {
        self.try_command(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Runs a command that may fail: a replica that becomes the master closes its connections.
    pub fn try_command(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program("redis-cli"));
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["-h", &host, "-p", &port]).args(arguments);
        let output = command.current_dir(self.folder.path()).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Returns true when it is a master.
    pub fn is_master(&self) -> bool {
        self.try_command(&["ROLE"]).is_ok_and(|role| role.starts_with("master"))
    }
}

/// Starts the nodes of a Redis Cluster that covers all slots.
pub fn cluster(nodes: usize) -> Vec<Redis> {
    let nodes: Vec<Redis> = (0..nodes)
        .map(|_| {
            let bus = unused_address().port().to_string();
            Redis::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
        })
        .collect();
    let mut create = vec!["--cluster".to_owned(), "create".to_owned()];
    create.extend(nodes.iter().map(|node| node.address.to_string()));
    create.push("--cluster-yes".into());
    nodes[0].command(&create.iter().map(String::as_str).collect::<Vec<_>>());
    eventually("every slot has a node", || {
        nodes.iter().all(|node| node.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    });
    nodes
}

/// An etcd server with persistent data.
pub struct Etcd {
    pub address: SocketAddr,
    peer: SocketAddr,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    running: Option<Running>,
}

impl Etcd {
    /// Starts a server with these arguments.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), unused_address(), arguments)
    }

    /// Starts a server at this address, in a folder that may contain certificates.
    pub fn start_in(folder: tempfile::TempDir, address: SocketAddr, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut etcd = Self { address, peer: unused_address(), folder, arguments, running: None };
        etcd.run();
        etcd
    }

    /// Restarts it after [`Etcd::kill`], with its data.
    pub fn run(&mut self) {
        let scheme =
            if self.arguments.iter().any(|argument| argument == "--cert-file") { "https" } else { "http" };
        let (client, peer) = (format!("{scheme}://{}", self.address), format!("http://{}", self.peer));
        let mut command = Command::new(program("etcd"));
        command.args(["--data-dir", "data", "--log-level", "error", "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]).args(&self.arguments);
        self.running = Some(Running::start(&mut command, self.folder.path()));
        eventually("etcd listens", || std::net::TcpStream::connect(self.address).is_ok());
    }

    /// Waits until it has a leader and responds.
    pub fn ready(self) -> Self {
        self.wait();
        self
    }

    /// Waits in the same way after a restart.
    pub fn wait(&self) {
        eventually("etcd answers", || self.ask("/v3/kv/range", r#"{"key": "YQ=="}"#).contains("revision"));
    }

    /// Kills it like `kill -9`.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Sends any request and returns the body of the response.
    pub fn ask(&self, path: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        raw(self.address, request).map(|answer| answer.text()).unwrap_or_default()
    }

    /// Writes a key.
    pub fn put(&self, key: &str, value: &str) {
        let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let body = format!(r#"{{"key": "{}", "value": "{}"}}"#, encode(key), encode(value));
        let answer = self.ask("/v3/kv/put", &body);
        assert!(answer.contains("revision"), "{key}: {answer}");
    }

    /// Deletes all keys in a range, whose end is exclusive.
    pub fn delete(&self, from: &str, to: &str) {
        let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let body = format!(r#"{{"key": "{}", "range_end": "{}"}}"#, encode(from), encode(to));
        let answer = self.ask("/v3/kv/deleterange", &body);
        assert!(answer.contains("deleted"), "{from}: {answer}");
    }
}
