//! The gateway as a process: its routes, and what it uses.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long the gateway may take to start, or to apply routes.
const MAX_WAIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What the gateway uses at some time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Resident memory in KiB.
    pub memory: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Open connections of clients, those of the API excluded.
    pub connections: u64,
}

/// A running gateway. Killed when dropped.
pub struct Gateway {
    child: Child,
    folder: tempfile::TempDir,
    /// The entry point for HTTP.
    pub web: SocketAddr,
    /// The entry point for HTTPS and HTTP/3.
    pub secure: SocketAddr,
    api: SocketAddr,
    /// How often routes have been written.
    pub changes: u64,
}

/// A port that is unused for TCP and UDP.
fn unused() -> SocketAddr {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

impl Gateway {
    /// Starts this program with routes to these servers.
    pub async fn start(program: &str, servers: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        std::fs::create_dir(folder.path().join("routes")).unwrap();
        let [web, secure, api] = [unused(), unused(), unused()];
        let child = Command::new(program)
            .arg(format!("--entryPoints.web.address={web}"))
            .arg(format!("--entryPoints.websecure.address={secure}"))
            .args(["--entryPoints.websecure.http3=true", "--api.insecure=true", "--metrics.prometheus=true"])
            .arg(format!("--entryPoints.traefik.address={api}"))
            .arg(format!("--providers.file.directory={}", folder.path().join("routes").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut gateway = Self { child, folder, web, secure, api, changes: 0 };
        gateway.route(servers).await;
        gateway
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the routes, and returns when they are in effect.
    pub async fn route(&mut self, servers: &[SocketAddr]) {
        self.changes += 1;
        let change = self.changes;
        let mut list = String::new();
        for server in servers {
            write!(list, "{{url: 'http://{server}'}}, ").unwrap();
        }
        let text = format!(
            "http:
  routers:
    app: {{rule: 'PathPrefix(`/`)', service: app, entryPoints: [web], middlewares: [mark]}}
    secure: {{rule: 'PathPrefix(`/`)', service: app, entryPoints: [websecure], middlewares: [mark], tls: {{}}}}
    change{change}: {{rule: 'Host(`change{change}.test`)', service: app}}
  middlewares:
    mark: {{headers: {{customResponseHeaders: {{X-Change: '{change}'}}}}}}
  services:
    app: {{loadBalancer: {{servers: [{list}]}}}}
"
        );
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path("routes/routes.yml")).unwrap();
        let begun = Instant::now();
        let name = format!("change{change}@file");
        while !self.get("/api/rawdata").await.is_ok_and(|text| text.contains(&name)) {
            assert!(begun.elapsed() < MAX_WAIT, "the routes have no effect:\n{}", self.log());
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.api).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.api);
        stream.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Returns what it uses now.
    pub async fn sample(&self) -> Sample {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        let field = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let metrics = self.get("/metrics").await.unwrap_or_default();
        let is_counted =
            |line: &&str| line.starts_with("traefik_open_connections{") && !line.contains("\"traefik\"");
        let values = metrics
            .lines()
            .filter(is_counted)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Sample {
            at: Instant::now(),
            memory: field("VmRSS:"),
            threads: field("Threads:"),
            descriptors: std::fs::read_dir(process.join("fd")).map_or(0, Iterator::count),
            connections: values.sum(),
        }
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }

    /// Returns whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// Stops it as on SIGTERM. Returns whether it ended without an error.
    pub fn stop(&mut self) -> bool {
        let id = self.child.id().to_string();
        let signalled = Command::new("kill").arg(id).status().is_ok_and(|status| status.success());
        signalled && self.child.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
