//! Tests of effects: what compiling leaves as it is until they are applied.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::World;
use crate::snapshot::files::PANICKING;
use crate::snapshot::{Compiled, Effects};
use crate::tcp;

/// A server whose health checks get a status that can be changed, and are counted by path.
struct Checked {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Checked {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (status, paths) = (Arc::new(AtomicU16::new(status)), Arc::<Mutex<Vec<String>>>::default());
        let started =
            Self { address: listener.local_addr().unwrap(), status: status.clone(), paths: paths.clone() };
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(first)) = lines.next() else { continue };
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                paths.lock().push(first.split(' ').nth(1).unwrap().to_owned());
                let status = status.load(Ordering::SeqCst);
                // An aborted check does not wait for its answer.
                let _ =
                    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        started
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn count(&self, path: &str) -> usize {
        self.paths.lock().iter().filter(|seen| *seen == path).count()
    }

    /// A configuration with this server and a health check of this path, or none.
    fn config(&self, check: Option<&str>) -> String {
        self.config_with(check, "")
    }

    /// The same, and another middleware that no router uses.
    fn config_with(&self, check: Option<&str>, middleware: &str) -> String {
        let check = check.map_or(String::new(), |path| {
            format!(r#", "healthCheck": {{"path": "{path}", "interval": "5ms", "timeout": "10s"}}"#)
        });
        format!(
            r#"{{"http": {{
                "routers": {{"r": {{"rule": "Path(`/`)", "service": "s"}}}},
                "services": {{"s": {{"loadBalancer": {{"servers": [{{"url": "{}"}}]{check}}}}}}},
                "middlewares": {{{middleware}}}
            }}}}"#,
            self.url()
        )
    }

    fn is_down(&self, compiled: &Compiled) -> bool {
        compiled.snapshot.services["s@file"].server_status()[&self.url()] == "DOWN"
    }

    /// Waits until a check of this path that has begun after now was answered.
    fn until_checked(&self, path: &str) {
        let before = self.count(path);
        until(|| self.count(path) > before + 2);
    }
}

fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "timed out");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn effects_that_are_dropped_leave_the_live_health_checks_running() {
    let (world, server) = (World::new(&["web"]), Checked::start(503));
    let live = world.compile(&server.config(Some("/live")));
    until(|| server.is_down(&live));
    for other in [None, Some("/other")] {
        let (next, effects) = world.draft(&server.config(other), Some(&live));
        drop(effects);
        assert!(server.is_down(&live) && server.is_down(&next), "they share the server");
        server.until_checked("/live");
    }
    assert_eq!(server.count("/other"), 0);
    server.status.store(200, Ordering::SeqCst);
    until(|| !server.is_down(&live));
}

#[test]
fn effects_replace_and_stop_health_checks_when_they_are_applied() {
    let (world, server) = (World::new(&["web"]), Checked::start(503));
    let live = world.compile(&server.config(Some("/live")));
    until(|| server.is_down(&live));
    let (next, effects) = world.draft(&server.config(Some("/other")), Some(&live));
    effects.apply();
    server.until_checked("/other");
    assert!(server.is_down(&next), "its state is kept");
    let (last, effects) = world.draft(&server.config(None), Some(&next));
    effects.apply();
    assert!(!server.is_down(&last), "nobody checks it any more");
}

#[test]
fn a_service_that_nobody_uses_is_not_contacted() {
    let (world, server) = (World::new(&["web"]), Checked::start(200));
    let router = r#""r": {"rule": "Path(`/`)", "service": "s"}"#;
    let unused = server.config(Some("/unused")).replace(router, "");
    let live = world.compile(&unused);
    assert!(!live.snapshot.services.contains_key("s@file"));
    let used = world.compile_after(&server.config(Some("/used")), Some(&live));
    server.until_checked("/used");
    assert_eq!(server.count("/unused"), 0);
    assert!(!server.is_down(&used));
}

#[test]
fn a_panic_leaves_what_serves_as_it_is() {
    let (world, server) = (World::new(&["web"]), Checked::start(503));
    let live = world.compile(&server.config(Some("/live")));
    until(|| server.is_down(&live));
    for other in [None, Some("/other")] {
        let users = format!(r#""m": {{"basicAuth": {{"usersFile": "{PANICKING}"}}}}"#);
        let config = server.config_with(other, &users);
        let compiled = catch_unwind(AssertUnwindSafe(|| world.draft(&config, Some(&live))));
        assert!(compiled.is_err(), "the test needs a panic");
        assert!(server.is_down(&live));
        server.until_checked("/live");
    }
    assert_eq!(server.count("/other"), 0);
    let next = world.compile_after(&server.config(None), Some(&live));
    assert!(!server.is_down(&next), "the next configuration is served");
}

fn tcp_config(dial_timeout: &str, check: &str) -> String {
    format!(
        r#"{{"tcp": {{"routers": {{"r": {{"rule": "HostSNI(`*`)", "service": "s"}}}},
            "serversTransports": {{"t": {{"dialTimeout": "{dial_timeout}"}}}},
            "services": {{"s": {{"loadBalancer": {{"servers": [{{"address": "127.0.0.1:1"}}], "serversTransport": "t"{check}}}}}}}}}}}"#
    )
}

fn tcp_service((compiled, _): &(Compiled, Effects)) -> Arc<dyn tcp::Service> {
    compiled.snapshot.tcp_services["s@file"].clone()
}

#[test]
fn effects_that_are_dropped_leave_tcp_servers_as_they_are() {
    let world = World::new(&["web"]);
    let live = world.compile(&tcp_config("1s", r#", "healthCheck": {"interval": "5ms"}"#));
    let service = live.snapshot.tcp_services["s@file"].clone();
    until(|| !service.is_up());
    let unchecked = tcp_service(&world.draft(&tcp_config("1s", ""), Some(&live)));
    assert!(!unchecked.is_up() && !service.is_up(), "they share the server");
    let live = world.compile_after(&tcp_config("1s", ""), Some(&live));
    let service = live.snapshot.tcp_services["s@file"].clone();
    assert!(service.is_up(), "nobody checks it any more");
    let slow = tcp_service(&world.draft(&tcp_config("2s", ""), Some(&live)));
    let again = tcp_service(&world.draft(&tcp_config("1s", ""), Some(&live)));
    let server = |service: &Arc<dyn tcp::Service>| service.choose().unwrap();
    assert!(!Arc::ptr_eq(&server(&service), &server(&slow)));
    assert!(Arc::ptr_eq(&server(&service), &server(&again)), "the live one is still known");
}
