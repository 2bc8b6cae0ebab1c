//! The gateway as a process: its routes, and what it uses.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::connect::{EntryPoints, Failure};
use super::servers::Server;

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
    /// Where clients reach it.
    pub entry_points: EntryPoints,
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
    /// Starts this program with routes to these servers, and further flags.
    ///
    /// # Errors
    ///
    /// Fails if it does not start, or does not apply the routes.
    pub async fn start(program: &str, servers: &[Server], flags: &[String]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        std::fs::create_dir(folder.path().join("routes"))?;
        let [web, secure, tcp, udp, api] = [(); 5].map(|()| unused());
        let child = Command::new(program)
            .arg(format!("--entryPoints.web.address={web}"))
            .arg(format!("--entryPoints.websecure.address={secure}"))
            .args(["--entryPoints.websecure.http3=true", "--api.insecure=true", "--metrics.prometheus=true"])
            .arg(format!("--entryPoints.tcp.address={tcp}"))
            .arg(format!("--entryPoints.udp.address={udp}/udp"))
            .arg(format!("--entryPoints.traefik.address={api}"))
            .arg(format!("--providers.file.directory={}", folder.path().join("routes").display()))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let entry_points = EntryPoints { web, secure, tcp, udp };
        let mut gateway = Self { child, folder, entry_points, api, changes: 0 };
        match gateway.route(servers).await {
            Ok(()) => Ok(gateway),
            Err(failure) => Err(format!("{failure}\n{}", gateway.log()).into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the routes, and returns when they are in effect.
    ///
    /// # Errors
    ///
    /// Fails if that takes too long, or the gateway has ended.
    pub async fn route(&mut self, servers: &[Server]) -> Result<(), Failure> {
        self.changes += 1;
        let change = self.changes;
        let (mut list, mut echoes) = (String::new(), String::new());
        for Server { address, echo, .. } in servers {
            write!(list, "{{url: 'http://{address}'}}, ")?;
            write!(echoes, "{{address: '{echo}'}}, ")?;
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
tcp:
  routers:
    echo: {{rule: 'HostSNI(`*`)', service: echo, entryPoints: [tcp]}}
    secure: {{rule: 'HostSNI(`app.test`)', service: echo, entryPoints: [tcp], tls: {{}}}}
  services:
    echo: {{loadBalancer: {{servers: [{echoes}]}}}}
udp:
  routers:
    echo: {{service: echo, entryPoints: [udp]}}
  services:
    echo: {{loadBalancer: {{servers: [{echoes}]}}}}
"
        );
        std::fs::write(self.path("new"), text)?;
        std::fs::rename(self.path("new"), self.path("routes/routes.yml"))?;
        let begun = Instant::now();
        let name = format!("change{change}@file");
        while !self.get("/api/rawdata").await.is_ok_and(|text| text.contains(&name)) {
            if let Some(how) = self.ended() {
                return Err(how.into());
            }
            if begun.elapsed() > MAX_WAIT {
                return Err(format!("routes had no effect after {} s", MAX_WAIT.as_secs()).into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
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

    /// Returns the number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }

    /// Returns how it has ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("the gateway has ended: {status}"))
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
