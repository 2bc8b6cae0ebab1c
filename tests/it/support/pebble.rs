//! Pebble, the test authority, with its challenge server as DNS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::backend::{Seen, read_request};
use super::outside::program;
use super::{Client, eventually, free_port};

/// Options of Pebble.
pub struct Options {
    /// Environment variables, such as `PEBBLE_WFE_NONCEREJECT`.
    pub variables: Vec<(&'static str, &'static str)>,
    /// Lifetime of certificates in seconds.
    pub validity: u32,
    /// Whether to offer the profile `shortlived`.
    pub short: bool,
    /// Whether to require external account binding, with the key `kid-1`.
    pub eab: bool,
    /// The name server that the authority asks, instead of its own.
    pub name_server: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { variables: Vec::new(), validity: 90 * 86_400, short: false, eab: false, name_server: None }
    }
}

/// The key of `kid-1`.
pub const EAB_KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// A running Pebble. Killed when dropped.
pub struct Pebble {
    options: Options,
    folder: tempfile::TempDir,
    authority: Option<Child>,
    dns: Child,
    port: u16,
    management: u16,
    dns_port: u16,
    dns_management: u16,
    /// Address for HTTP challenges.
    pub http: u16,
    /// Address for TLS challenges.
    pub tls: u16,
}

impl Pebble {
    /// Starts it on free ports.
    pub fn start(options: Options) -> Self {
        let [port, management, dns_port, dns_management, http, tls] = [(); 6].map(|()| free_port());
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("ca.key"), made.signing_key.serialize_pem()).unwrap();
        let dns = Command::new(program("pebble-challtestsrv"))
            .args([
                "-defaultIPv4",
                "127.0.0.1",
                "-defaultIPv6",
                "",
                "-http01",
                "",
                "-https01",
                "",
                "-tlsalpn01",
                "",
            ])
            .args(["-doh", "", "-dnsserver", &format!("127.0.0.1:{dns_port}")])
            .args(["-management", &format!("127.0.0.1:{dns_management}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble-challtestsrv is installed");
        let mut pebble = Self {
            options,
            folder,
            authority: None,
            dns,
            port,
            management,
            dns_port,
            dns_management,
            http,
            tls,
        };
        eventually("the DNS listens", || TcpStream::connect(("127.0.0.1", dns_management)).is_ok());
        pebble.up();
        pebble
    }

    /// Starts or restarts the authority, without any data.
    pub fn up(&mut self) {
        let config = self.folder.path().join("pebble.json");
        let own = |name: &str| self.folder.path().join(name).display().to_string();
        let profile = |name: &str, seconds: u32| {
            format!(r#""{name}": {{"description": "{name}", "validityPeriod": {seconds}}}"#)
        };
        // Of several, Pebble takes any when none is asked for.
        let profiles = match self.options.short {
            true => {
                format!("{}, {}", profile("default", self.options.validity), profile("shortlived", 518_400))
            }
            false => profile("default", self.options.validity),
        };
        let text = format!(
            r#"{{"pebble": {{"listenAddress": "127.0.0.1:{}", "managementListenAddress": "127.0.0.1:{}",
            "certificate": "{}", "privateKey": "{}", "httpPort": {}, "tlsPort": {}, "ocspResponderURL": "",
            "externalAccountBindingRequired": {}, "externalAccountMACKeys": {{"kid-1": "{EAB_KEY}"}},
            "domainBlocklist": ["blocked.test"], "retryAfter": {{"authz": 1, "order": 1}}, "keyAlgorithm": "ecdsa",
            "profiles": {{{}}}}}}}"#,
            self.port,
            self.management,
            own("ca.pem"),
            own("ca.key"),
            self.http,
            self.tls,
            self.options.eab,
            profiles,
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let name_server = self.options.name_server.clone().unwrap_or_else(|| self.dns());
        let mut command = Command::new(program("pebble"));
        command
            .arg("-config")
            .arg(&config)
            .args(["-strict", "-dnsserver", &name_server])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .env("PEBBLE_AUTHZREUSE", "0")
            .envs(self.options.variables.iter().copied())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.authority = Some(command.spawn().expect("pebble is installed"));
        let port = self.management;
        eventually("the authority listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Returns the number of orders since its start.
    pub fn orders(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        log.lines().filter(|line| line.contains("Added order ")).count()
    }

    /// Stops the authority, but not the DNS.
    pub fn down(&mut self) {
        if let Some(mut authority) = self.authority.take() {
            let _ = authority.kill();
            let _ = authority.wait();
        }
    }

    /// Returns a path for `acme.json`.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("acme.json")
    }

    /// Returns flags for a resolver `le` with this challenge (`httpChallenge.entryPoint=web`), and for entry
    /// points that the authority connects to.
    pub fn flags(&self, challenge: &str) -> Vec<String> {
        let le = "--certificatesResolvers.le.acme";
        vec![
            format!("--entryPoints.web.address=127.0.0.1:{}", self.http),
            format!("--entryPoints.secure.address=127.0.0.1:{}", self.tls),
            format!("{le}.caServer=https://localhost:{}/dir", self.port),
            format!("{le}.caCertificates={}", self.folder.path().join("ca.pem").display()),
            format!("{le}.email=ops@example.test"),
            format!("{le}.keyType=EC256"),
            format!("{le}.storage={}", self.storage().display()),
            format!("{le}.{challenge}"),
        ]
    }

    /// Returns the address of the entry point `secure`.
    pub fn secure(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.tls).into()
    }

    /// Returns the address of the DNS.
    pub fn dns(&self) -> String {
        format!("127.0.0.1:{}", self.dns_port)
    }

    /// Sends a command to the DNS: `set-txt`, `{"host": …, "value": …}`.
    pub fn tell_dns(&self, what: &str, json: &str) {
        tell_dns(self.dns_management, what, json);
    }

    /// Returns the management port of the DNS.
    pub fn dns_management(&self) -> u16 {
        self.dns_management
    }

    /// Returns the certificate of its own server.
    fn own_root(&self) -> Arc<RootCertStore> {
        let mut own = RootCertStore::empty();
        let pem = std::fs::read(self.folder.path().join("ca.pem")).unwrap();
        own.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        Arc::new(own)
    }

    /// Returns the root certificate of the authority.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root(0)).unwrap();
        Arc::new(roots)
    }

    /// Returns the root certificate of a chain; the first one is the default.
    pub fn root(&self, chain: usize) -> CertificateDer<'static> {
        let pem = self.management(&self.own_root(), "GET", &format!("/roots/{chain}"), "");
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    /// Starts a server in front of it that records what clients send.
    pub fn recorded(&self) -> Recorder {
        let read = |name| std::fs::read(self.folder.path().join(name)).unwrap();
        let own = vec![CertificateDer::from_pem_slice(&read("ca.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&read("ca.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(own, key)
            .unwrap();
        Recorder::start(config, ([127, 0, 0, 1], self.port).into(), self.own_root())
    }

    /// Sets the renewal window of a certificate.
    pub fn suggest(&self, chain: &str, start: &str, end: &str) {
        let leaf = chain.split_inclusive("-----END CERTIFICATE-----").next().unwrap().replace('\n', "\\n");
        let window = format!(r#"{{\"suggestedWindow\": {{\"start\": \"{start}\", \"end\": \"{end}\"}}}}"#);
        let body = format!(r#"{{"certificate": "{leaf}", "ariResponse": "{window}"}}"#);
        self.management(&self.own_root(), "POST", "/set-renewal-info/", &body);
    }

    fn management(&self, roots: &Arc<RootCertStore>, method: &str, path: &str, body: &str) -> String {
        let mut stream = tls(([127, 0, 0, 1], self.management).into(), "localhost", roots).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        body.to_owned()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.down();
        let _ = self.dns.kill();
        let _ = self.dns.wait();
    }
}

/// A server in front of Pebble, with its certificate.
pub struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stopped: Arc<AtomicBool>,
}

impl Recorder {
    fn start(config: ServerConfig, authority: SocketAddr, roots: Arc<RootCertStore>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let recorder =
            Self { address: listener.local_addr().unwrap(), seen: Arc::default(), stopped: Arc::default() };
        let (config, seen, stopped) = (Arc::new(config), recorder.seen.clone(), recorder.stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let session = ServerConnection::new(config.clone()).unwrap();
                let (seen, roots) = (seen.clone(), roots.clone());
                std::thread::spawn(move || {
                    // It fails when a client goes away, which is the client's business.
                    let _ = forward(StreamOwned::new(session, stream), &seen, authority, &roots);
                });
            }
        });
        recorder
    }

    /// Returns the URL of the directory.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.address.port())
    }

    /// Returns the requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Forwards one request. The connection ends with its answer.
fn forward(
    mut client: StreamOwned<ServerConnection, TcpStream>,
    seen: &Mutex<Vec<Seen>>,
    authority: SocketAddr,
    roots: &Arc<RootCertStore>,
) -> std::io::Result<()> {
    client.sock.set_read_timeout(Some(Duration::from_secs(60)))?;
    let Some(request) = read_request(&mut client, &mut Vec::new()) else { return Ok(()) };
    seen.lock().unwrap().push(request.clone());
    let mut authority = tls(authority, "localhost", roots)?;
    authority.write_all(format!("{}\r\nConnection: close\r\n\r\n", request.head).as_bytes())?;
    authority.write_all(&request.body)?;
    let mut answer = Vec::new();
    authority.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()
}

/// Sends a command to a DNS.
pub fn tell_dns(management: u16, what: &str, json: &str) {
    let mut client = Client::connect(([127, 0, 0, 1], management).into());
    client
        .send(format!("POST /{what} HTTP/1.1\r\nHost: dns\r\nContent-Length: {}\r\n\r\n{json}", json.len()));
    assert_eq!(client.read().unwrap().status, 200, "{what} {json}");
}

/// Returns the certificate for a name; an error if it is not trusted.
pub fn served(address: SocketAddr, name: &str, roots: &Arc<RootCertStore>) -> std::io::Result<Vec<u8>> {
    let stream = tls(address, name, roots)?;
    Ok(stream.conn.peer_certificates().unwrap()[0].to_vec())
}

/// Returns the certificate for a name, trusted or not.
pub fn shown(address: SocketAddr, name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(super::tls::takes_all())
        .with_no_client_auth();
    let stream = handshake(address, name, config).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

/// Returns the status of a request over TLS; an error if the certificate is not trusted.
pub fn get_over_tls(address: SocketAddr, name: &str, roots: &Arc<RootCertStore>) -> std::io::Result<u16> {
    let mut stream = tls(address, name, roots)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| std::io::Error::other(text))
}

/// Repeats a handshake that waits for its certificate until it succeeds. A failed one has reached the
/// gateway's limit: on a busy machine, an order may take longer.
pub fn at_first_handshake(mut handshake: impl FnMut() -> bool) {
    for _ in 0..5 {
        let begun = Instant::now();
        if handshake() {
            return;
        }
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(8), "a handshake failed after {waited:?} already");
    }
    panic!("no certificate in five handshakes");
}

/// Returns routers `r0`, `r1` … with the resolver `le`, one per rule, for one service.
pub fn routes(rules: &[&str], url: &str) -> String {
    let mut text = String::from("http:\n  routers:\n");
    for (number, rule) in rules.iter().enumerate() {
        text.push_str(&format!("    r{number}: {{rule: '{rule}', service: s, tls: {{certResolver: le}}}}\n"));
    }
    text.push_str(&format!("  services:\n    s: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"));
    text
}

/// Returns the names of the certificates in a storage.
pub fn stored(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if text.trim().is_empty() {
        return Vec::new();
    }
    let whole: serde_json::Value = serde_json::from_str(&text).expect("the storage is whole");
    let all = whole["le"]["Certificates"].as_array().cloned().unwrap_or_default();
    all.iter().map(|one| one["domain"]["main"].as_str().unwrap().to_owned()).collect()
}

fn tls(
    address: SocketAddr,
    name: &str,
    roots: &Arc<RootCertStore>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    handshake(address, name, config)
}

fn handshake(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}
