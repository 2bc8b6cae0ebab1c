//! The start: ports are there at once, and nobody is answered from an incomplete configuration.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::http3::{Http3, runtime};
use crate::support::{Backend, Client, Gateway, eventually, get, tls};

/// Holds back whatever waits at it, until its other end is dropped.
fn barrier() -> (Sender<()>, Arc<Mutex<Receiver<()>>>) {
    let (release, held) = channel();
    (release, Arc::new(Mutex::new(held)))
}

fn wait_at(barrier: &Mutex<Receiver<()>>) {
    let _ = barrier.lock().unwrap().recv();
}

/// A source for `providers.http` that answers with this configuration once it is released.
fn source(config: String) -> (Sender<()>, Backend) {
    let (release, held) = barrier();
    let source = Backend::with(move |_, stream| {
        wait_at(&held);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            config.len()
        );
        stream.write_all(format!("{head}{config}").as_bytes()).is_ok()
    });
    (release, source)
}

/// A gateway that waits for its HTTP provider longer than the provider itself has patience.
fn waiting(source: &Backend, flags: &[&str]) -> Gateway {
    let endpoint = format!("--providers.http.endpoint={}", source.url());
    let common = ["--providers.startTimeout=50s", "--providers.http.pollTimeout=40s", &endpoint];
    Gateway::unready(&[flags, &common].concat(), "http: {}")
}

/// Routes for HTTP, HTTPS, TCP and UDP.
fn routes(http: &Backend, tcp: SocketAddr, udp: SocketAddr) -> String {
    format!(
        r#"{{
        "http": {{
            "routers": {{
                "plain": {{"rule": "PathPrefix(`/`)", "service": "s", "entryPoints": ["web", "traefik"]}},
                "secure": {{"rule": "PathPrefix(`/`)", "service": "s", "entryPoints": ["web"], "tls": {{}}}}
            }},
            "services": {{"s": {{"loadBalancer": {{"servers": [{{"url": "{}"}}]}}}}}}
        }},
        "tcp": {{
            "routers": {{"r": {{"rule": "HostSNI(`*`)", "service": "s", "entryPoints": ["tcp"]}}}},
            "services": {{"s": {{"loadBalancer": {{"servers": [{{"address": "{tcp}"}}]}}}}}}
        }},
        "udp": {{
            "routers": {{"r": {{"service": "s", "entryPoints": ["dns"]}}}},
            "services": {{"s": {{"loadBalancer": {{"servers": [{{"address": "{udp}"}}]}}}}}}
        }}}}"#,
        http.url()
    )
}

/// A server that speaks first, and one that sends datagrams back.
fn greeter() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, other) = (listener.local_addr().unwrap(), listener.try_clone().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = other.accept() {
            let _ = stream.write_all(b"220 hello\r\n");
        }
    });
    (listener, address)
}

fn mirror() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
            socket.send_to(&bytes[..length], peer).unwrap();
        }
    });
    address
}

#[test]
fn every_kind_of_client_waits_for_a_slow_provider_and_ping_does_not() {
    let backend = Backend::echo("a");
    let (_listener, tcp) = greeter();
    let (release, source) = source(routes(&backend, tcp, mirror()));
    let flags = [
        "--entryPoints.tcp.address=127.0.0.1:0",
        "--entryPoints.dns.address=127.0.0.1:0/udp",
        "--entryPoints.web.http3=true",
        // Its routes would win over ours.
        "--api.dashboard=false",
    ];
    let gateway = waiting(&source, &flags);
    let (web, own) = (gateway.web(), gateway.address("traefik"));
    eventually("the source is asked", || !source.seen().is_empty());
    eventually("the routes of the file are there", || get(own, "h", "/ready").text() == "waiting for http");

    let mut plain = Client::connect(web);
    plain.send("GET /plain HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut part = Client::connect(web);
    part.send("GET /pa");
    let secure = std::thread::spawn(move || {
        let config = Arc::new(tls::client_config(&["http/1.1"], None));
        tls::ask(web, &config, "h.test", "h.test").unwrap().status()
    });
    let quic = std::thread::spawn(move || {
        runtime().block_on(async { Http3::connect(web, "h.test").await.get("https://h.test/").await.status })
    });
    let mut greeted = BufReader::new(TcpStream::connect(gateway.address("tcp")).unwrap());
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.connect(gateway.address("dns")).unwrap();
    datagrams.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    datagrams.send(b"early").unwrap();

    // The gateway's own entry point has a router for everything else, too.
    let mut kept = Client::connect(own);
    for _ in 0..20 {
        kept.send("GET /ping HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(kept.read().unwrap().status, 200);
        assert_eq!(get(own, "h", "/ping").text(), "OK");
        let ready = get(own, "h", "/ready");
        assert_eq!((ready.status, ready.text()), (503, "waiting for http".into()));
    }
    kept.send("GET /other HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(!secure.is_finished() && !quic.is_finished());
    assert_eq!(backend.seen().len(), 0);

    drop(release);
    assert_eq!(plain.read().unwrap().status, 200);
    part.send("rt HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(part.read().unwrap().status, 200);
    assert_eq!(kept.read().unwrap().status, 200, "a request behind a ping waits, too");
    assert_eq!((secure.join().unwrap(), quic.join().unwrap().as_u16()), (200, 200));
    let mut line = String::new();
    greeted.read_line(&mut line).unwrap();
    assert_eq!(line, "220 hello\r\n");
    let mut bytes = [0; 16];
    let length = datagrams.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"early");
    assert_eq!(gateway.problems(), [""; 0]);
}

#[test]
fn ping_is_answered_at_once_on_an_entry_point_that_it_shares() {
    let backend = Backend::echo("a");
    let (_listener, tcp) = greeter();
    let (release, source) = source(routes(&backend, tcp, mirror()));
    let flags = [
        "--ping.entryPoint=web",
        "--entryPoints.web.proxyProtocol.insecure=true",
        "--entryPoints.tcp.address=127.0.0.1:0",
        "--entryPoints.dns.address=127.0.0.1:0/udp",
    ];
    let gateway = waiting(&source, &flags);
    let mut held = Client::connect(gateway.web());
    held.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    for proxy in ["", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"] {
        let mut client = Client::connect(gateway.web());
        // In two parts, so that it is looked at twice.
        client.send(format!("{proxy}GET /pi"));
        client.send("ng HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().text(), "OK");
        // The prefix is ping's, but a target that only looks like it is not answered.
        client.send("GET /pingpong/../x HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(get(gateway.web(), "h", "/ping").status, 200);
        assert_eq!(backend.seen().len(), 0);
    }
    drop(release);
    assert_eq!(held.read().unwrap().status, 200);
}

#[test]
fn a_provider_that_never_answers_is_waited_for_as_long_as_the_option_says() {
    let backend = Backend::echo("a");
    let (_listener, tcp) = greeter();
    let (release, source) = source(routes(&backend, tcp, mirror()));
    let flags = [
        "--providers.startTimeout=300ms",
        &format!("--providers.http.endpoint={}", source.url()),
        "--providers.http.pollTimeout=40s",
    ];
    let routes = Gateway::one_service(&backend.url()).replace("PathPrefix(`/`)", "Host(`file.test`)");
    let gateway = Gateway::unready(&flags, &routes);
    assert_eq!(get(gateway.web(), "file.test", "/").status, 200, "what is there is served");
    assert_eq!(get(gateway.web(), "other.test", "/").status, 404);
    let told = || gateway.problems().iter().any(|problem| problem.contains("provider `http`"));
    eventually("it is a problem", told);
    assert!(gateway.api("/api/problems").contains("providers.startTimeout"));
    drop(release);
    eventually("what comes late is served", || get(gateway.web(), "other.test", "/").status == 200);
    eventually("the problem is over", || !told());
}

/// A source for `providers.http` on this listener, which answers at once.
fn quick_source(listener: TcpListener, config: String) -> Backend {
    Backend::on(listener, move |_, stream| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            config.len()
        );
        stream.write_all(format!("{head}{config}").as_bytes()).is_ok()
    })
}

#[test]
fn a_provider_that_is_away_starts_from_its_last_state() {
    let backend = Backend::echo("a");
    let (_listener, tcp) = greeter();
    let folder = tempfile::tempdir().unwrap();
    let directory = format!("--providers.lastState.directory={}", folder.path().join("states").display());
    let config = routes(&backend, tcp, mirror());
    let source = quick_source(TcpListener::bind("127.0.0.1:0").unwrap(), config.clone());
    {
        let endpoint = format!("--providers.http.endpoint={}", source.url());
        let gateway = Gateway::with(&[&directory, &endpoint], "http: {}");
        assert_eq!(get(gateway.web(), "h", "/").status, 200);
        let saved = folder.path().join("states/http.json");
        eventually("the state is saved", || saved.exists());
        gateway.shutdown();
    }
    let away = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    let endpoint = format!("--providers.http.endpoint=http://{address}");
    let flags =
        [&*directory, &endpoint, "--providers.startTimeout=300ms", "--providers.http.pollInterval=100ms"];
    let gateway = Gateway::unready(&flags, "http: {}");
    // From the first connection on.
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    assert_eq!(get(gateway.address("traefik"), "h", "/ready").status, 200);
    let told = || {
        let problems = gateway.problems();
        problems.iter().any(|problem| problem.contains("serving its last known state of 20"))
    };
    eventually("it is a problem", told);
    let _source =
        quick_source(TcpListener::bind(address).unwrap(), config.replace("PathPrefix(`/`)", "Path(`/new`)"));
    eventually("the source is back", || get(gateway.web(), "h", "/").status == 404);
    assert_eq!(get(gateway.web(), "h", "/new").status, 200);
    eventually("the problem is over", || !told());
    let saved = folder.path().join("states/http.json");
    eventually("it is saved", || std::fs::read_to_string(&saved).unwrap().contains("/new"));
    gateway.shutdown();
    // What others could have written is not served.
    std::fs::set_permissions(&saved, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let endpoint = "--providers.http.endpoint=http://127.0.0.1:1";
    let flags = [&*directory, endpoint, "--providers.startTimeout=300ms"];
    let gateway = Gateway::unready(&flags, "http: {}");
    assert_eq!(get(gateway.web(), "h", "/new").status, 404);
    eventually("it is a problem", || gateway.problems().iter().any(|problem| problem.contains("mode 666")));
}

#[test]
fn handshakes_wait_for_certificates_that_are_stored() {
    use base64::Engine as _;
    let encode = |text: String| base64::prelude::BASE64_STANDARD.encode(text);
    // So many that reading them takes its time.
    let names: Vec<String> = (0..200).map(|number| format!("h{number}.test")).collect();
    let all: Vec<tls::Own> = names.iter().map(|name| tls::certificate(&[name])).collect();
    let stored = |(name, own): (&String, &tls::Own)| {
        serde_json::json!({
            "domain": {"main": name},
            "certificate": encode(own.cert.pem()),
            "key": encode(own.signing_key.serialize_pem()),
            "Store": "default",
        })
    };
    let stored: Vec<_> = names.iter().zip(&all).map(stored).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acme.json");
    std::fs::write(&path, serde_json::json!({"le": {"Certificates": stored}}).to_string()).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let flags = [
        &*format!("--certificatesResolvers.le.acme.storage={}", path.display()),
        "--certificatesResolvers.le.acme.caServer=http://127.0.0.1:1/dir",
        "--certificatesResolvers.le.acme.tlsChallenge=true",
        "--providers.startTimeout=50s",
    ];
    let routes =
        "http: {routers: {r: {rule: 'Host(`h199.test`)', service: noop@internal, tls: {certResolver: le}}}}";
    let gateway = Gateway::unready(&flags, routes);
    let config = Arc::new(tls::client_config(&["http/1.1"], None));
    let seen = tls::ask(gateway.web(), &config, "h199.test", "h199.test").unwrap();
    assert_eq!(&seen.certificate, all[199].cert.der());
}

#[test]
fn held_connections_are_limited_and_those_that_go_away_are_released() {
    let backend = Backend::echo("a");
    let (_listener, tcp) = greeter();
    let (release, source) = source(routes(&backend, tcp, mirror()));
    let flags = [
        "--ping.entryPoint=web",
        "--entryPoints.web.transport.maxConnections=4",
        "--entryPoints.web.transport.respondingTimeouts.readTimeout=2s",
    ];
    let gateway = waiting(&source, &flags);
    for beginning in ["GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HT", "", "\u{16}\u{3}\u{1}"] {
        let gone: Vec<_> = (0..4)
            .map(|_| {
                let mut client = Client::connect(gateway.web());
                client.send(beginning);
                client
            })
            .collect();
        drop(gone);
        // Only when they are gone there is room.
        assert_eq!(get(gateway.web(), "h", "/ping").status, 200, "{beginning:?}");
    }
    // Who is slow is cut off as ever.
    let mut slow = Client::connect(gateway.web());
    slow.send("GET / HTTP/1.1\r\nX: ");
    assert!(slow.is_closed());
    drop(release);
    eventually("all are served", || get(gateway.web(), "h", "/").status == 200);
}

/// An engine on a socket, with one container, whose list is held back.
fn slow_engine(path: &Path, backend: &Backend) -> (Sender<()>, Receiver<()>) {
    let (release, held) = barrier();
    let (ask, asked) = channel();
    let listener = UnixListener::bind(path).unwrap();
    let labels = format!(
        r#"{{"traefik.enable": "true", "traefik.http.routers.c.rule": "PathPrefix(`/`)", "traefik.http.services.c.loadbalancer.server.port": "{}"}}"#,
        backend.address.port()
    );
    let networks = r#"{"Networks": {"bridge": {"IPAddress": "127.0.0.1", "NetworkID": "n"}}}"#;
    let list = format!(
        r#"[{{"Id": "c1", "Names": ["/c"], "State": "running", "Status": "Up", "Labels": {labels}, "NetworkSettings": {networks}}}]"#
    );
    let one = format!(
        r#"{{"Id": "c1", "Name": "/c", "State": {{"Status": "running", "StartedAt": "2026-01-01T00:00:00Z"}}, "Config": {{"Labels": {labels}}}, "HostConfig": {{"NetworkMode": "bridge"}}, "NetworkSettings": {networks}}}"#
    );
    let answers = Arc::new((list, one));
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let (held, answers, ask) = (held.clone(), answers.clone(), ask.clone());
            std::thread::spawn(move || engine_answers(stream, &held, &answers, &ask));
        }
    });
    (release, asked)
}

fn engine_answers(
    stream: UnixStream,
    held: &Mutex<Receiver<()>>,
    (list, one): &(String, String),
    ask: &Sender<()>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|length| length > 0) {
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        let target = head.split(' ').nth(1).unwrap().to_owned();
        head.clear();
        let body = if target.contains("/containers/json") {
            let _ = ask.send(());
            wait_at(held);
            list.as_str()
        } else if target.contains("/containers/") {
            one
        } else if target.contains("/events") {
            let _ = writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let _ = reader.read_to_end(&mut Vec::new());
            return;
        } else {
            "[]"
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn clients_wait_for_a_slow_engine() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let (release, asked) = slow_engine(&path, &backend);
    let endpoint = format!("--providers.docker.endpoint=unix://{}", path.display());
    let gateway = Gateway::unready(&["--providers.startTimeout=50s", &endpoint], "http: {}");
    asked.recv_timeout(Duration::from_secs(60)).expect("the engine is asked");
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(gateway.web())).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    assert_eq!(get(gateway.address("traefik"), "h", "/ping").status, 200);
    assert_eq!(backend.seen().len(), 0);
    drop(release);
    for client in &mut clients {
        assert_eq!(client.read().unwrap().status, 200);
    }
    assert_eq!(gateway.problems(), [""; 0]);
}

#[test]
fn a_start_without_slow_providers_does_not_wait() {
    let backend = Backend::echo("a");
    let gateway = Gateway::unready(&["--providers.startTimeout=50s"], &Gateway::one_service(&backend.url()));
    // At once, and from the first connection on.
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    let never = Gateway::unready(
        &["--providers.startTimeout=0s", "--providers.docker.endpoint=unix:///nowhere/docker.sock"],
        "http: {}",
    );
    assert_eq!(get(never.web(), "h", "/").status, 404);
}

/// A Consul whose switches put `all@file` in maintenance. It answers for them once it is released.
fn consul() -> (Sender<()>, Backend) {
    let (release, held) = barrier();
    let value = |value: &serde_json::Value| STANDARD.encode(value.to_string());
    let switch = json!({"version": 5, "origin": "gw-2", "by": "a", "switch": {"since": 1, "by": "a"}});
    let switches = json!({"version": 1, "switches": {"routers": {"all@file": switch}}});
    let key = |name: &str, content: &serde_json::Value| {
        let key = format!("tidegate/cluster/c/announcements/{name}");
        json!({"Key": key, "Value": value(content), "ModifyIndex": 5})
    };
    let head = key("head", &json!({"series": "s", "number": 0}));
    let list = json!([head, key("maintenance", &switches)]).to_string();
    let consul = Backend::with(move |seen, stream| {
        if !seen.target().starts_with("/v1/kv/tidegate/cluster/c/announcements/") {
            return stream.write_all(b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n").is_ok();
        }
        wait_at(&held);
        let length = list.len();
        let head = format!("HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{list}").as_bytes()).is_ok()
    });
    (release, consul)
}

#[test]
fn clients_wait_for_the_switches_of_the_cluster() {
    let backend = Backend::echo("a");
    let (release, consul) = consul();
    let address = format!("--cluster.consul.address={}", consul.address);
    let flags = ["--providers.startTimeout=50s", "--cluster.name=c", &address];
    let gateway = Gateway::unready(&flags, &Gateway::one_service(&backend.url()));
    let web = gateway.web();
    eventually("every provider has delivered", || {
        get(gateway.address("traefik"), "h", "/ready").status == 200
    });
    let client = std::thread::spawn(move || get(web, "h", "/").status);
    eventually("the switches are asked for", || {
        consul.seen().iter().any(|seen| seen.target().contains("/announcements/"))
    });
    drop(release);
    assert_eq!(client.join().unwrap(), 503);
    assert_eq!(backend.seen().len(), 0);
}

#[test]
fn saved_switches_count_while_the_cluster_is_away() {
    let backend = Backend::echo("a");
    let (_release, consul) = consul();
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("@maintenance.json");
    std::fs::write(&saved, r#"{"version": 1, "routers": {"all@file": {"since": 1}}}"#).unwrap();
    std::fs::set_permissions(&saved, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let address = format!("--cluster.consul.address={}", consul.address);
    let directory = format!("--providers.lastState.directory={}", folder.path().display());
    let flags = ["--providers.startTimeout=300ms", "--cluster.name=c", &address, &directory];
    let routes = Gateway::one_service(&backend.url());
    let routes = routes
        .replace("  services:", "    other: {rule: 'Host(`other`)', service: a, priority: 99}\n  services:");
    let gateway = Gateway::unready(&flags, &routes);
    assert_eq!(get(gateway.web(), "h", "/").status, 503);
    assert_eq!(get(gateway.web(), "other", "/").status, 200, "the wait is bounded");
}
