//! Tests of the Docker provider with a fake engine.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_config::Provided;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};

use super::*;
use crate::{Handle, Update};

mod engines;

/// Called before a list is answered.
type Hook = Box<dyn FnOnce(&Engine) + Send>;

#[derive(Clone)]
struct Engine {
    containers: Arc<Mutex<Vec<Value>>>,
    events: broadcast::Sender<String>,
    garbage: Arc<Mutex<bool>>,
    requests: Arc<Mutex<Vec<String>>>,
    /// The minor versions of the API that it accepts; the last one is offered, unless it forbids `/_ping`.
    versions: Arc<Mutex<std::ops::RangeInclusive<u32>>>,
    forbids_ping: Arc<Mutex<bool>>,
    /// Whether it stops in the middle of a list.
    stalls: Arc<Mutex<bool>>,
    /// Answered instead of the list of containers.
    list: Arc<Mutex<Option<String>>>,
    hook: Arc<Mutex<Option<Hook>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    async fn start() -> (Self, u16) {
        Self::start_with(None).await
    }

    async fn start_with(tls: Option<rustls::ServerConfig>) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let engine = Self {
            containers: Arc::default(),
            events: broadcast::channel(16).0,
            garbage: Arc::default(),
            requests: Arc::default(),
            versions: Arc::new(Mutex::new(24..=44)),
            forbids_ping: Arc::default(),
            stalls: Arc::default(),
            list: Arc::default(),
            hook: Arc::default(),
            authorizations: Arc::default(),
        };
        let serving = engine.clone();
        let tls = tls.map(Arc::new);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serving, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serving.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await {
                                serving.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        (engine, port)
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = Vec::new();
        loop {
            while !buffer.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let request = String::from_utf8_lossy(&buffer).into_owned();
            buffer.clear();
            let path = request.split(' ').nth(1).unwrap_or("").to_owned();
            self.requests.lock().push(path.clone());
            let wants =
                request.lines().filter(|line| line.to_ascii_lowercase().starts_with("authorization:"));
            self.authorizations.lock().extend(wants.map(str::to_owned));
            let (status, body) = self.answer(&path);
            if path.contains("/events") && status != "400 Bad Request" {
                return self.stream_events(stream).await;
            }
            let version = match path.ends_with("/_ping") && !*self.forbids_ping.lock() {
                true => format!("Api-Version: 1.{}\r\n", self.versions.lock().end()),
                false => String::new(),
            };
            let stalls = *self.stalls.lock() && path.contains("/containers/json");
            let length = if stalls { body.len() + 1 } else { body.len() };
            let head = format!("HTTP/1.1 {status}\r\n{version}Content-Length: {length}\r\n\r\n");
            if stream.write_all((head + &body).as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, path: &str) -> (&'static str, String) {
        if *self.garbage.lock() {
            return ("200 OK", "<html>".into());
        }
        if path.ends_with("/_ping") {
            let forbidden = *self.forbids_ping.lock();
            return if forbidden { ("403 Forbidden", "no".into()) } else { ("200 OK", "OK".into()) };
        }
        if let Some(version) = path.strip_prefix("/v1.").and_then(|rest| rest.split('/').next())
            && !version.parse().is_ok_and(|minor| self.versions.lock().contains(&minor))
        {
            let message = format!("client version 1.{version} is not supported");
            return ("400 Bad Request", json!({"message": message}).to_string());
        }
        if path.contains("/containers/json") {
            let hook = self.hook.lock().take();
            let list = self.list.lock().clone().unwrap_or_else(|| self.listed());
            if let Some(hook) = hook {
                hook(self);
            }
            return ("200 OK", list);
        }
        let containers = self.containers.lock();
        let found = containers
            .iter()
            .find(|c| path.ends_with(&format!("/containers/{}/json", c["Id"].as_str().unwrap_or(""))));
        let text = |c: &Value| c["Raw"].as_str().map_or_else(|| c.to_string(), str::to_owned);
        found.map_or(("404 Not Found", "{}".into()), |c| ("200 OK", text(c)))
    }

    fn listed(&self) -> String {
        let entry = |c: &Value| json!({"Id": c["Id"], "Names": [c["Name"]], "State": c["State"]["Status"], "Labels": c["Config"]["Labels"], "NetworkSettings": c["NetworkSettings"]});
        self.containers.lock().iter().map(entry).collect::<Value>().to_string()
    }

    async fn stream_events(self, mut stream: impl AsyncWrite + Unpin) {
        let mut events = self.events.subscribe();
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        while let Ok(event) = events.recv().await {
            if event == "cut" {
                return;
            }
            let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    fn set(&self, containers: &[Value]) {
        *self.containers.lock() = containers.to_vec();
    }

    fn emit(&self, action: &str, id: &str) {
        let event = json!({"Type": "container", "Action": action, "Actor": {"ID": id, "Attributes": {"signal": "15"}}});
        let _ = self.events.send(event.to_string());
    }
}

fn container(id: &str, ip: &str, labels: &Value) -> Value {
    json!({
        "Id": id, "Name": format!("/{id}"),
        "State": {"Status": "running", "StartedAt": "1"},
        "Config": {"Labels": labels, "ExposedPorts": null},
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Ports": {"80/tcp": null}, "Networks": {"bridge": {"IPAddress": ip}}},
    })
}

struct Running {
    _handle: Handle,
    updates: mpsc::Receiver<Update>,
}

impl Running {
    fn start(options: Options) -> Self {
        let (sender, updates) = mpsc::channel(16);
        let provider = Arc::new(build(options).expect("valid options"));
        Self { _handle: crate::start("docker", provider, sender), updates }
    }

    fn at(port: u16) -> Self {
        Self::start(Options { endpoint: format!("tcp://127.0.0.1:{port}"), ..Options::default() })
    }

    async fn next(&mut self) -> Update {
        let next = tokio::time::timeout(Duration::from_secs(20), self.updates.recv());
        next.await.expect("in time").expect("an update")
    }
}

fn urls(state: &Provided, service: &str) -> Vec<String> {
    let balancer = state.config.http.services.get(service).and_then(|service| service.load_balancer.as_ref());
    balancer
        .map(|balancer| balancer.servers.iter().map(|server| server.url.clone()).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn containers_are_added_stopped_and_removed() {
    let (engine, port) = Engine::start().await;
    engine.set(&[container("a", "10.0.0.1", &json!({}))]);
    let mut running = Running::at(port);
    let first = running.next().await;
    assert!(first.ready);
    assert_eq!(first.state.config.http.routers["a"].rule, "Host(`a`)");
    assert_eq!(urls(&first.state, "a"), ["http://10.0.0.1:80"]);
    let both = [container("a", "10.0.0.1", &json!({})), container("b", "10.0.0.2", &json!({}))];
    engine.set(&both);
    engine.emit("start", "b");
    let state = running.next().await.state;
    assert_eq!(urls(&state, "b"), ["http://10.0.0.2:80"]);
    let inspected = engine.requests.lock().iter().filter(|path| path.ends_with("/containers/a/json")).count();
    assert_eq!(inspected, 1, "one that did not change is not inspected again");
    // Asked to stop: the server is removed immediately and not restored by a refresh, while the route stays.
    engine.emit("kill", "a");
    let state = running.next().await.state;
    assert_eq!(urls(&state, "a"), Vec::<String>::new());
    assert!(state.config.http.routers.contains_key("a"));
    engine.set(&both[1..]);
    engine.emit("die", "a");
    let state = running.next().await.state;
    assert!(!state.config.http.routers.contains_key("a"));
    assert_eq!(urls(&state, "b"), ["http://10.0.0.2:80"]);
    assert!(engine.requests.lock().iter().any(|path| path.starts_with("/v1.44/containers/json")));
}

#[tokio::test]
async fn a_lost_engine_changes_nothing_and_is_reconnected() {
    let (engine, port) = Engine::start().await;
    engine.set(&[container("a", "10.0.0.1", &json!({}))]);
    let mut running = Running::at(port);
    running.next().await;
    // It sends garbage for a while, and then returns with another container.
    *engine.garbage.lock() = true;
    let _ = engine.events.send("cut".into());
    while !engine.requests.lock().iter().skip(4).any(|path| path.contains("/containers/json")) {
        tokio::task::yield_now().await;
    }
    assert!(running.updates.try_recv().is_err(), "the last known state stays");
    engine.set(&[container("b", "10.0.0.2", &json!({}))]);
    *engine.garbage.lock() = false;
    let update = running.next().await;
    assert!(update.ready);
    assert_eq!(update.state.config.http.routers.keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn an_unreachable_engine_is_reported_and_not_ready() {
    let socket = tempfile::tempdir().expect("a folder").path().join("none.sock");
    let endpoint = format!("unix://{}", socket.display());
    let update = Running::start(Options { endpoint, ..Options::default() }).next().await;
    assert!(!update.ready);
    assert!(update.state.problems[0].message.contains("cannot connect"), "{:?}", update.state.problems);
}

#[tokio::test]
async fn the_first_state_waits_for_starting_containers() {
    let (engine, port) = Engine::start().await;
    let created = |name: &str, when: time::OffsetDateTime| {
        let mut container = container(name, "", &json!({}));
        container["State"]["Status"] = json!("created");
        container["Created"] =
            json!(when.format(&time::format_description::well_known::Rfc3339).expect("a time"));
        container
    };
    let now = time::OffsetDateTime::now_utc();
    let old = created("old", now - time::Duration::hours(1));
    let mut hidden = created("hidden", now);
    hidden["Config"]["Labels"] = json!({"traefik.enable": "false"});
    engine.set(&[container("a", "10.0.0.1", &json!({})), created("b", now), old.clone(), hidden.clone()]);
    let mut running = Running::at(port);
    let first = running.next().await;
    assert!(!first.ready);
    assert_eq!(urls(&first.state, "a"), ["http://10.0.0.1:80"]);
    let both = [container("a", "10.0.0.1", &json!({})), container("b", "10.0.0.2", &json!({})), old, hidden];
    engine.set(&both);
    engine.emit("start", "b");
    let update = loop {
        let update = running.next().await;
        if !urls(&update.state, "b").is_empty() {
            break update;
        }
    };
    assert!(update.ready);
    assert_eq!(urls(&update.state, "b"), ["http://10.0.0.2:80"]);
    // A container that is never started does not block forever.
    engine.set(&[created("b", time::OffsetDateTime::now_utc())]);
    let mut other = Running::at(port);
    assert!(!other.next().await.ready);
    assert!(other.next().await.ready);
}

#[tokio::test]
async fn containers_are_selected_by_labels_and_constraints() {
    let (engine, port) = Engine::start().await;
    let mut unhealthy = container("sick", "10.0.0.3", &json!({}));
    unhealthy["State"]["Health"] = json!({"Status": "unhealthy"});
    let mut stopped = container("stopped", "", &json!({"traefik.docker.allownonrunning": "true"}));
    stopped["State"]["Status"] = json!("exited");
    engine.set(&[
        container("off", "10.0.0.1", &json!({"traefik.enable": "false"})),
        container(
            "p-svc-1",
            "10.0.0.2",
            &json!({"com.docker.compose.project": "p", "com.docker.compose.service": "svc"}),
        ),
        unhealthy,
        stopped,
        json!({"Id": "odd", "Name": 7}),
    ]);
    let state = Running::at(port).next().await.state;
    assert_eq!(state.config.http.routers.keys().collect::<Vec<_>>(), ["stopped", "svc-p"]);
    assert_eq!(urls(&state, "svc-p"), ["http://10.0.0.2:80"]);
    assert_eq!(urls(&state, "stopped"), Vec::<String>::new());
    assert_eq!(state.problems, []);
}

/// Returns a CA certificate, and a certificate it issued for 127.0.0.1 with its key, all as PEM.
fn authority() -> (String, String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut options = rcgen::CertificateParams::new(Vec::new()).expect("options");
    options.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = options.self_signed(&key).expect("an authority");
    let issuer = rcgen::Issuer::new(options, key);
    let own = rcgen::KeyPair::generate().expect("a key");
    let options = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("options");
    let certificate = options.signed_by(&own, &issuer).expect("a certificate");
    (root.pem(), certificate.pem(), own.serialize_pem())
}

#[tokio::test]
async fn tls_engines_get_the_client_certificate_and_password() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let (root, certificate, key) = authority();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
        )
        .expect("a server");
    let (engine, port) = Engine::start_with(Some(server)).await;
    engine.set(&[container("a", "10.0.0.1", &json!({}))]);
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let tls = Tls { ca: root, cert: certificate, key, ..Tls::default() };
    let options = Options { endpoint, username: "u".into(), password: "p".into(), ..Options::default() };
    // The connection fails without the client certificate, and without the CA.
    let nameless = Options {
        tls: Some(Tls { cert: String::new(), key: String::new(), ..tls.clone() }),
        ..options.clone()
    };
    assert!(!Running::start(nameless).next().await.ready);
    let trustless = Options { tls: Some(Tls { ca: String::new(), ..tls.clone() }), ..options.clone() };
    assert!(!Running::start(trustless).next().await.ready);
    let update = Running::start(Options { tls: Some(tls), ..options }).next().await;
    assert!(update.ready, "{:?}", update.state.problems);
    assert_eq!(urls(&update.state, "a"), ["http://10.0.0.1:80"]);
    assert!(
        engine.authorizations.lock().iter().all(|line| line.ends_with("Basic dTpw")),
        "{:?}",
        engine.authorizations
    );
    assert!(!engine.authorizations.lock().is_empty());
}

/// Labels of a container of the Compose service `svc`, with the rule of its router.
fn compose_labels(rule: &str) -> Value {
    json!({
        "com.docker.compose.project": "p", "com.docker.compose.service": "svc",
        "traefik.http.routers.web.rule": rule,
        "traefik.http.routers.web.middlewares": "strip",
        "traefik.http.middlewares.strip.stripprefix.prefixes": "/x",
        "traefik.http.services.web.loadbalancer.server.port": "80",
    })
}

#[tokio::test]
async fn routes_of_a_recreated_container_are_kept_until_its_replacement_runs() {
    let (engine, port) = Engine::start().await;
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let keep_routes = tidegate_core::values::Duration::from_secs(600);
    engine.set(&[container("p-svc-1", "10.0.0.1", &compose_labels("Host(`a`)"))]);
    let mut running = Running::start(Options { endpoint, keep_routes, ..Options::default() });
    let state = running.next().await.state;
    assert_eq!((urls(&state, "web").len(), state.kept.len()), (1, 0));
    // As Compose does it: the new one is created under another name, and the old one stopped and removed.
    let mut new = container("0123_p-svc-1", "10.0.0.2", &compose_labels("Host(`b`)"));
    new["State"]["Status"] = json!("created");
    engine.emit("kill", "p-svc-1");
    let state = running.next().await.state;
    assert_eq!((urls(&state, "web").len(), state.kept.len()), (0, 0));
    engine.set(std::slice::from_ref(&new));
    engine.emit("die", "p-svc-1");
    let state = running.next().await.state;
    assert_eq!(state.config.http.routers["web"].rule, "Host(`a`)");
    assert_eq!(state.config.http.routers["web"].middlewares, ["strip"]);
    assert!(state.config.http.middlewares.contains_key("strip"));
    assert_eq!((urls(&state, "web").len(), state.kept.len(), state.problems.len()), (0, 3, 0));
    // The connection is lost meanwhile.
    let _ = engine.events.send("cut".into());
    // The new one has a health check, which has not succeeded yet.
    new["State"] = json!({"Status": "running", "StartedAt": "2", "Health": {"Status": "starting"}});
    new["Name"] = json!("/p-svc-1");
    engine.set(std::slice::from_ref(&new));
    let state = running.next().await.state;
    assert_eq!(state.config.http.routers["web"].rule, "Host(`b`)", "its labels are the truth");
    assert_eq!((urls(&state, "web").len(), state.kept.len()), (0, 3));
    new["State"]["Health"] = json!({"Status": "healthy"});
    engine.set(std::slice::from_ref(&new));
    while engine.events.receiver_count() == 0 {
        tokio::task::yield_now().await;
    }
    engine.emit("health_status: healthy", "0123_p-svc-1");
    let state = running.next().await.state;
    assert_eq!(urls(&state, "web"), ["http://10.0.0.2:80"]);
    assert_eq!((state.kept.len(), state.problems.len()), (0, 0));
}

#[tokio::test]
async fn kept_routes_end_without_an_event() {
    let (engine, port) = Engine::start().await;
    let endpoint = format!("tcp://127.0.0.1:{port}");
    let too_long = tidegate_core::values::Duration::from_secs(3601);
    assert!(build(Options { keep_routes: too_long, ..Options::default() }).is_err());
    let keep_routes = tidegate_core::values::Duration::from_millis(50);
    engine.set(&[container("a", "10.0.0.1", &json!({}))]);
    let mut running = Running::start(Options { endpoint, keep_routes, ..Options::default() });
    running.next().await;
    engine.set(&[]);
    engine.emit("destroy", "a");
    let state = running.next().await.state;
    assert!(state.config.http.routers.contains_key("a") && urls(&state, "a").is_empty());
    assert_eq!(*running.next().await.state, Provided::default());
}
