//! The life of a process: start, readiness, signals, files that change under it, and an end that loses nothing.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::frames::{Frames, Outcome};
use crate::support::{Backend, Client, Gateway, eventually, get, get_with, pause_for};

/// The real program, with a folder of its own.
struct Program {
    child: Child,
    folder: tempfile::TempDir,
}

impl Program {
    fn start(flags: &[&str], routes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("routes")).unwrap();
        std::fs::write(folder.path().join("routes/routes.yml"), routes).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["--entryPoints.web.address=127.0.0.1:0", "--entryPoints.traefik.address=127.0.0.1:0"])
            .args(["--ping=true", "--log.level=INFO", "--log.format=json", "--log.noColor=true"])
            .arg(format!("--providers.file.directory={}", folder.path().join("routes").display()))
            .arg(format!("--accessLog.filePath={}", folder.path().join("access.log").display()))
            .args(flags)
            .env("TIDEGATE_CONFIGFILE", "")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let program = Self { child, folder };
        eventually("it is ready", || {
            let log = program.log();
            log.contains("every provider has delivered") && log.matches("listening").count() >= 2
        });
        program
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self, entry_point: &str) -> SocketAddr {
        let log = self.log();
        let mark = format!("\"entry_point\":\"{entry_point}\"");
        let line = log.lines().find(|line| line.contains("listening") && line.contains(&mark));
        let line = line.unwrap_or_else(|| panic!("no line for {entry_point}:\n{log}"));
        let (_, rest) = line.split_once("\"address\":\"").unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the program has ended", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn slow() -> Backend {
    Backend::with(|_, stream| {
        use std::io::Write as _;
        pause_for(Duration::from_millis(2));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789").is_ok()
    })
}

#[test]
fn sigterm_under_load_cuts_no_request_and_loses_no_log_line() {
    let backend = slow();
    let mut program = Program::start(&[], &Gateway::one_service(&backend.url()));
    let (address, told) = (program.address("web"), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let told = told.clone();
            std::thread::spawn(move || {
                let (mut client, mut done) = (Client::connect(address), 0);
                loop {
                    // The second pause is longer than any request: the connection is idle when the signal comes.
                    client.send("GET /load HTTP/1.1\r\nHost: h\r\n\r\n");
                    let answer = client.read().expect("a request was cut");
                    assert!(answer.status == 200 && answer.text() == "0123456789", "{answer:?}");
                    done += 1;
                    if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                        assert!(told.load(Ordering::SeqCst), "told to go before the signal");
                        return done;
                    }
                }
            })
        })
        .collect();
    eventually("there is load", || backend.seen().len() > 200);
    told.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    program.signal("TERM");
    let done: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(program.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
    let lines = std::fs::read_to_string(program.path("access.log")).unwrap().lines().count();
    assert_eq!(lines, done, "access log lines and answered requests");
}

#[test]
fn sighup_reads_files_again_and_sigusr1_opens_the_log_again() {
    let backend = Backend::echo("a");
    let program = Program::start(&["--providers.file.watch=false"], &Gateway::one_service(&backend.url()));
    let address = program.address("web");
    assert_eq!(get(address, "h", "/one").status, 200);
    std::fs::write(program.path("routes/routes.yml"), "http: {}").unwrap();
    program.signal("HUP");
    eventually("the file was read again", || get(address, "h", "/two").status == 404);
    let (log, old) = (program.path("access.log"), program.path("access.log.1"));
    eventually("the line is written", || text(&log).contains("/one"));
    std::fs::rename(&log, &old).unwrap();
    program.signal("USR1");
    eventually("the file is there again", || log.exists());
    assert_eq!(get(address, "h", "/three").status, 404);
    eventually("the new file is written", || text(&log).contains("/three"));
    assert!(!text(&old).contains("/three"));
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_port_in_use_is_an_error_at_startup() {
    let program = Program::start(&[], "http: {}");
    let address = program.address("web");
    let second = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg(format!("--entryPoints.web.address={address}"))
        .env("TIDEGATE_CONFIGFILE", "")
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(
        error.contains(&format!("entryPoints.web: cannot listen on {address}: Address already in use")),
        "{error}"
    );
    let log = program.log();
    for entry_point in ["web", "traefik"] {
        assert_eq!(log.matches(&format!("\"entry_point\":\"{entry_point}\"")).count(), 1, "{log}");
    }
    assert_eq!(log.matches("provider started").count(), 1, "{log}");
}

#[test]
fn ping_reports_the_shutdown_while_connections_are_accepted() {
    let grace = ["web", "traefik"]
        .map(|name| format!("--entryPoints.{name}.transport.lifeCycle.requestAcceptGraceTimeout=1s"));
    let backend = Backend::echo("a");
    let flags = [&*grace[0], &*grace[1], "--ping.terminatingStatusCode=410"];
    let mut program = Program::start(&flags, &Gateway::one_service(&backend.url()));
    let (web, own) = (program.address("web"), program.address("traefik"));
    assert_eq!((get(own, "h", "/ping").status, get(own, "h", "/ready").status), (200, 200));
    program.signal("TERM");
    eventually("ping says so", || get(own, "h", "/ping").status == 410);
    assert_eq!(get(own, "h", "/ready").status, 503);
    assert_eq!(get(web, "h", "/").status, 200, "new connections are served in the grace time");
    assert!(program.wait().success());
}

#[test]
fn requests_are_aborted_after_the_grace_time() {
    let backend = Backend::with(|_, _| {
        pause_for(Duration::from_secs(15));
        false
    });
    let flags = ["--entryPoints.web.transport.lifeCycle.graceTimeOut=300ms"];
    let mut program = Program::start(&flags, &Gateway::one_service(&backend.url()));
    let mut client = Client::connect(program.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the request is under way", || !backend.seen().is_empty());
    let begun = Instant::now();
    program.signal("TERM");
    assert!(program.wait().success());
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
    assert!(client.read().is_err());
    assert!(text(&program.path("access.log")).contains(" 499 "), "{}", text(&program.path("access.log")));
}

#[test]
fn a_replaced_users_file_is_used_without_a_change_of_routes() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    // Both by SHA-1: `test:test`, then `test:secret`.
    std::fs::write(&users, "test:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n").unwrap();
    let gateway = Gateway::serve(&format!(
        "http:\n  routers:\n    r: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [auth]}}\n  middlewares:\n    auth: {{basicAuth: {{usersFile: '{}'}}}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        users.display(),
        backend.url()
    ));
    let status = |credentials: &str| {
        get_with(gateway.web(), "h", "/", &format!("Authorization: Basic {credentials}\r\n")).status
    };
    let (old, new) = ("dGVzdDp0ZXN0", "dGVzdDpzZWNyZXQ=");
    assert_eq!((status(old), status(new)), (200, 401));
    std::fs::write(folder.path().join("new"), "test:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n").unwrap();
    std::fs::rename(folder.path().join("new"), &users).unwrap();
    eventually("the new password is taken", || status(new) == 200);
    assert_eq!(status(old), 401);
}

#[test]
fn ready_waits_for_the_first_state_of_every_provider() {
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes");
    let flags = [
        "--entryPoints.traefik.address=127.0.0.1:0".to_owned(),
        "--ping=true".to_owned(),
        format!("--providers.file.directory={}", routes.display()),
    ];
    let settings = tidegate::settings::load(&flags, &[]).unwrap().settings;
    let options = tidegate::gateway::Options { workers: 1, ..Default::default() };
    let gateway = tidegate::gateway::Gateway::start(settings, options).unwrap();
    let own = gateway.addresses()["traefik"];
    let ready = || get(own, "h", "/ready");
    eventually("the folder that is not there is told", || !gateway.snapshot().report.problems.is_empty());
    assert_eq!((ready().status, ready().text()), (503, "waiting for file".to_owned()));
    assert_eq!(get(own, "h", "/ping").status, 200, "alive it is");
    std::fs::create_dir(&routes).unwrap();
    std::fs::write(routes.join("a.yml"), "http: {}").unwrap();
    eventually("it is ready", || ready().status == 200);
}

/// A certificate for `cert.test` and its key, in PEM.
fn certificate() -> (rcgen::Certificate, String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["cert.test".into()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    (made.cert, chain, key)
}

/// True when the gateway shows this certificate for `cert.test`.
fn shows(address: SocketAddr, certificate: &rcgen::Certificate) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut session =
        rustls::ClientConnection::new(Arc::new(config), "cert.test".try_into().unwrap()).unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    while session.is_handshaking() {
        if session.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn a_replaced_certificate_is_used_without_a_change_of_routes() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        std::fs::write(folder.path().join("new"), text).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join(name)).unwrap();
    };
    let (old, chain, key) = certificate();
    put("cert.pem", &chain);
    put("key.pem", &key);
    let place = folder.path().display();
    let gateway = Gateway::serve(&format!(
        "tls: {{certificates: [{{certFile: '{place}/cert.pem', keyFile: '{place}/key.pem'}}]}}\n"
    ));
    assert!(shows(gateway.web(), &old));
    let (new, chain, key) = certificate();
    put("key.pem", &key);
    // The other half comes after the files were looked at: until then the old certificate is shown.
    eventually("the mismatch is told", || {
        assert!(shows(gateway.web(), &old), "a half-replaced pair costs nothing");
        !gateway.problems().is_empty()
    });
    assert!(shows(gateway.web(), &old), "a half-replaced pair costs nothing");
    put("cert.pem", &chain);
    eventually("the new certificate is shown", || shows(gateway.web(), &new));
    assert_eq!(gateway.problems(), [""; 0]);
}

#[test]
fn at_debug_libraries_log_only_if_the_filter_lists_them() {
    let backend = Backend::echo("a");
    for (filter, frames) in [("", false), ("h2=DEBUG", true)] {
        let filter = format!("--log.filter={filter}");
        let flags = ["--log.level=DEBUG", filter.as_str()];
        let program = Program::start(&flags, &Gateway::one_service(&backend.url()));
        let mut client = Frames::connect(program.address("web"));
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")];
        assert!(client.request(1, &fields));
        assert_eq!(client.outcome(1), Outcome::Status(200));
        if frames {
            eventually("frames are logged", || program.log().contains("\"frame\":"));
        }
        let log = program.log();
        assert_eq!(log.contains("\"frame\":"), frames, "{log}");
    }
}

/// An engine with a container of which everything is as usual, one whose environment has another form, and one
/// whose labels cannot be read.
fn engine(secret: &'static str, server: &str) -> Backend {
    let labels = json!({
        "traefik.http.routers.a.rule": "Host(`a.test`)",
        "traefik.http.services.a.loadbalancer.server.url": server,
    });
    let details = move |name: &str| {
        let environment = match name {
            "odd" => json!(format!("PASSWORD={secret}")),
            _ => json!([format!("PASSWORD={secret}")]),
        };
        let labels = match name {
            "usual" => labels.clone(),
            "odd" => json!({}),
            _ => json!([secret]),
        };
        json!({
            "Id": name, "Name": format!("/{name}"), "State": {"Status": "running"},
            "Config": {"Env": environment, "Labels": labels, "Cmd": [secret]},
        })
    };
    let names = ["usual", "odd", "broken"];
    Backend::with(move |seen, stream| {
        let target = seen.target();
        if target.contains("/events") {
            let event = json!({"Type": "container", "Action": {"new": secret}, "Actor": {"ID": "usual"}});
            let event = format!("{event}\n");
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            return stream.write_all(format!("{head}{:x}\r\n{event}\r\n", event.len()).as_bytes()).is_ok();
        }
        let inspected = names.iter().find(|name| target.ends_with(&format!("/containers/{name}/json")));
        let body = match inspected {
            Some(name) => details(name).to_string(),
            None if target.contains("/containers/json") => {
                let entry = |name: &&str| json!({"Id": name, "Names": [format!("/{name}")], "Command": secret, "State": "other"});
                names.iter().map(entry).collect::<serde_json::Value>().to_string()
            }
            None => "OK".to_owned(),
        };
        let head = format!("HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).is_ok()
    })
}

#[test]
fn no_level_shows_the_environment_of_containers_or_the_password_of_the_engine() {
    let secret = "correct-horse";
    let server = Backend::echo("a");
    for (level, filter) in
        [("DEBUG", ""), ("TRACE", "bollard=TRACE,bollard::docker=TRACE,b=TRACE,hyper=TRACE")]
    {
        let engine = engine(secret, &server.url());
        let flags = [
            format!("--log.level={level}"),
            format!("--log.filter={filter}"),
            format!("--providers.docker.endpoint=tcp://{}", engine.address),
            "--providers.docker.username=user".to_owned(),
            format!("--providers.docker.password={secret}"),
        ];
        let program = Program::start(&flags.each_ref().map(String::as_str), "");
        let web = program.address("web");
        eventually("the container is known", || get(web, "a.test", "/").header("X-Backend") == Some("a"));
        eventually("the event is handled, and the container inspected again", || {
            engine.seen().iter().filter(|seen| seen.target().contains("/containers/json")).count() > 1
        });
        eventually("the unreadable labels are reported", || {
            program.log().contains("`Config.Labels` cannot be read")
        });
        let log = program.log();
        assert!(!log.contains(secret), "{level}: {log}");
        // user:correct-horse
        assert!(!log.contains("dXNlcjpjb3JyZWN0LWhvcnNl"), "{level}: {log}");
    }
}
