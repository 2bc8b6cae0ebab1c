//! Tests that compiling changes nothing until its effects are applied.

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

/// A server that answers health checks with a configurable status and counts them by path.
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
                // Fails if the check was aborted.
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

    /// Returns a configuration with this server and a health check of this path, or none.
    fn config(&self, check: Option<&str>) -> String {
        self.config_with(check, "")
    }

    /// Returns the same configuration with an unused middleware.
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

    /// Waits until a check of this path that started after this call has been answered.
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
fn live_health_checks_continue_if_effects_are_dropped() {
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
fn health_checks_are_replaced_and_stopped_when_effects_are_applied() {
    let (world, server) = (World::new(&["web"]), Checked::start(503));
    let live = world.compile(&server.config(Some("/live")));
    until(|| server.is_down(&live));
    let (next, effects) = world.draft(&server.config(Some("/other")), Some(&live));
    effects.apply();
    server.until_checked("/other");
    assert!(server.is_down(&next), "its state is kept");
    let (last, effects) = world.draft(&server.config(None), Some(&next));
    effects.apply();
    assert!(!server.is_down(&last), "no longer checked");
}

#[test]
fn unused_services_are_not_contacted() {
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
fn a_panic_does_not_affect_the_live_snapshot() {
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
fn live_tcp_servers_do_not_change_if_effects_are_dropped() {
    let world = World::new(&["web"]);
    let live = world.compile(&tcp_config("1s", r#", "healthCheck": {"interval": "5ms"}"#));
    let service = live.snapshot.tcp_services["s@file"].clone();
    until(|| !service.is_up());
    let unchecked = tcp_service(&world.draft(&tcp_config("1s", ""), Some(&live)));
    assert!(!unchecked.is_up() && !service.is_up(), "they share the server");
    let live = world.compile_after(&tcp_config("1s", ""), Some(&live));
    let service = live.snapshot.tcp_services["s@file"].clone();
    assert!(service.is_up(), "no longer checked");
    let slow = tcp_service(&world.draft(&tcp_config("2s", ""), Some(&live)));
    let again = tcp_service(&world.draft(&tcp_config("1s", ""), Some(&live)));
    let server = |service: &Arc<dyn tcp::Service>| service.choose().unwrap().server;
    assert!(!Arc::ptr_eq(&server(&service), &server(&slow)));
    assert!(Arc::ptr_eq(&server(&service), &server(&again)), "the live one is still known");
}
