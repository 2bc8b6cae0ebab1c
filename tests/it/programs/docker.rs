//! Labelled containers on a real Docker Engine, with our own image (`scripts/image.sh`).

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::support::outside::compose as compose_command;
use crate::support::pebble::{Options, Pebble, get_over_tls};
use crate::support::{Gateway, eventually, get, raw};

const IMAGE: &str = "tidegate:dev";

/// A container that is removed when dropped.
pub struct Container(pub String);

impl Container {
    /// Starts a demo backend with these labels.
    pub fn start(name: &str, labels: &[&str]) -> Self {
        let name = format!("tidegate-test-{}-{name}", std::process::id());
        let mut command = Command::new("docker");
        command.args(["run", "--detach", "--rm", "--name", &name, "--expose", "80"]);
        for label in labels {
            command.args(["--label", label]);
        }
        command.args([IMAGE, "demo", "backend", "--address=:80", "--name", &name]);
        run(&mut command);
        Self(name)
    }

    pub fn stop(self) {
        run(Command::new("docker").args(["stop", "--time", "5", &self.0]));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", &self.0]).output();
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn docker_gateway() -> Gateway {
    Gateway::with(&["--providers.docker=true", "--providers.docker.exposedByDefault=false"], "")
}

#[test]
#[ignore = "needs a Docker Engine"]
fn two_docker_providers_have_names_and_options_of_their_own() {
    let container = |host: &str, side: &str| {
        let rule = format!("traefik.http.routers.same.rule=Host(`{host}`)");
        Container::start(side, &["traefik.enable=true", &format!("side={side}"), &rule])
    };
    let (_one, _two) = (container("left.test", "left"), container("right.test", "right"));
    let endpoint = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let mut flags = Vec::new();
    for side in ["left", "right"] {
        let option = format!("--providers.instances.{side}side.docker");
        flags.push(format!("{option}.endpoint={endpoint}"));
        flags.push(format!("{option}.exposedByDefault=false"));
        flags.push(format!("{option}.constraints=Label(`side`, `{side}`)"));
    }
    let gateway = Gateway::with(&flags.iter().map(String::as_str).collect::<Vec<_>>(), "");
    for side in ["left", "right"] {
        let host = format!("{side}.test");
        eventually("both are served", || get(gateway.web(), &host, "/").status == 200);
        let router = gateway.api(&format!("/api/http/routers/same@{side}side"));
        assert!(router.contains(&host), "{router}");
    }
}

/// Requests one after another on several threads until stopped; keeps what was wrong with any of them.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Every request must get a whole 200.
    fn on(address: std::net::SocketAddr, host: &str, threads: usize) -> Self {
        let host = host.to_owned();
        Self::with(threads, move || {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            match raw(address, request) {
                Ok(answer) if answer.status == 200 && answer.complete => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    }

    /// Makes requests with `request`, which says what was wrong.
    pub fn with(threads: usize, request: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let request = Arc::new(request);
        let threads = (0..threads)
            .map(|_| {
                let (stop, done, request) = (stop.clone(), done.clone(), request.clone());
                std::thread::spawn(move || {
                    let mut failures = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        failures.extend(request().err());
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                    failures
                })
            })
            .collect();
        Self { stop, done, threads }
    }

    /// Waits until `more` further requests are done.
    pub fn pass(&self, more: usize) {
        let goal = self.done.load(Ordering::SeqCst) + more;
        eventually("the load goes on", || self.done.load(Ordering::SeqCst) >= goal);
    }

    /// Stops, and fails when any request did.
    pub fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let failures: Vec<String> =
            self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let done = self.done.load(Ordering::SeqCst);
        assert!(failures.is_empty(), "{} of {done} requests failed: {:?}", failures.len(), failures.first());
        done
    }
}

#[test]
#[ignore = "needs a Docker Engine and pebble"]
fn a_label_becomes_a_certificate() {
    let pebble = Pebble::start(Options::default());
    let mut flags = pebble.flags("tlsChallenge=true");
    flags.extend(["--providers.docker=true", "--providers.docker.exposedByDefault=false"].map(str::to_owned));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let _gateway = Gateway::with(&flags, "");
    let roots = pebble.roots();
    let _container = Container::start(
        "secure",
        &[
            "traefik.enable=true",
            "traefik.http.routers.secure.rule=Host(`label.test`)",
            "traefik.http.routers.secure.entrypoints=secure",
            "traefik.http.routers.secure.tls.certresolver=le",
        ],
    );
    eventually("the certificate", || {
        get_over_tls(pebble.secure(), "label.test", &roots).is_ok_and(|status| status == 200)
    });
}

#[test]
#[ignore = "needs a Docker Engine"]
fn a_labelled_container_is_served_and_goes_with_its_container() {
    let gateway = docker_gateway();
    assert_eq!(get(gateway.web(), "one.test", "/").status, 404);
    let container =
        Container::start("one", &["tidegate.enable=true", "tidegate.http.routers.one.rule=Host(`one.test`)"]);
    let started = Instant::now();
    eventually("the container is served", || get(gateway.web(), "one.test", "/").status == 200);
    eprintln!("served {:?} after `docker run` returned", started.elapsed());
    container.stop();
    eventually("the route is gone", || get(gateway.web(), "one.test", "/").status == 404);
}

#[test]
#[ignore = "needs a Docker Engine"]
fn two_containers_share_a_service() {
    let gateway = docker_gateway();
    let labels = [
        "traefik.enable=true",
        "traefik.http.routers.two.rule=Host(`two.test`)",
        "traefik.http.services.two.loadbalancer.server.port=80",
    ];
    let containers = [Container::start("two-a", &labels), Container::start("two-b", &labels)];
    for container in &containers {
        eventually("both containers answer", || {
            get(gateway.web(), "two.test", "/").text().contains(&container.0)
        });
    }
}

#[test]
#[ignore = "needs a Docker Engine"]
fn replacing_every_container_loses_no_request() {
    let gateway = docker_gateway();
    let labels = [
        "tidegate.enable=true",
        "tidegate.http.routers.roll.rule=Host(`roll.test`)",
        "tidegate.http.services.roll.loadbalancer.server.port=80",
    ];
    let start = |round: usize, place: &str| Container::start(&format!("roll-{round}{place}"), &labels);
    let mut running = vec![start(0, "a"), start(0, "b")];
    for container in &running {
        eventually("the first containers answer", || {
            get(gateway.web(), "roll.test", "/").text().contains(&container.0)
        });
    }
    let load = Load::on(gateway.web(), "roll.test", 4);
    for round in 1..4 {
        for place in ["a", "b"] {
            load.pass(50);
            running.remove(0).stop();
            let next = start(round, place);
            eventually("the new container answers", || {
                get(gateway.web(), "roll.test", "/").text().contains(&next.0)
            });
            running.push(next);
        }
    }
    load.pass(50);
    let done = load.finish();
    eprintln!("{done} requests, none failed");
}

#[test]
#[ignore = "needs a Docker Engine"]
fn recreating_the_only_container_loses_no_request_if_its_routes_are_kept() {
    const COMPOSE: &str = "
services:
  web:
    image: tidegate:dev
    command: [demo, backend, '--address=:80']
    expose: ['80']
    stop_grace_period: 2s
    labels:
      tidegate.enable: 'true'
      tidegate.http.routers.recreated.rule: Host(`recreated.test`)
      tidegate.http.services.recreated.loadbalancer.server.port: '80'
      tidegate.http.services.recreated.loadbalancer.hold: 10s
";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("compose.yml");
    std::fs::write(&file, COMPOSE).unwrap();
    let project = format!("tidegatetest{}recreated", std::process::id());
    let compose = |arguments: &[&str]| {
        let mut command = compose_command();
        run(command.args(["--project-name", &project, "--file"]).arg(&file).args(arguments))
    };
    struct Down<F: Fn()>(F);
    impl<F: Fn()> Drop for Down<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let _down = Down(|| drop(compose(&["down", "--timeout", "2"])));
    compose(&["up", "-d"]);
    let keep = "--providers.docker.keepRoutes=30s";
    let gateway = Gateway::with(&["--providers.docker.exposedByDefault=false", keep], "");
    eventually("the container is served", || get(gateway.web(), "recreated.test", "/").status == 200);
    let load = Load::on(gateway.web(), "recreated.test", 4);
    for _ in 0..3 {
        load.pass(50);
        compose(&["up", "-d", "--force-recreate"]);
    }
    load.pass(50);
    let done = load.finish();
    eprintln!("{done} requests, none failed");
    compose(&["stop"]);
    let router = || gateway.api("/api/http/routers/recreated@docker");
    eventually("the router is kept", || router().contains("kept until"));
}

#[test]
#[ignore = "needs a Docker Engine"]
fn an_invalid_label_affects_only_its_object() {
    let gateway = docker_gateway();
    let _container = Container::start(
        "bad",
        &[
            "tidegate.enable=true",
            "tidegate.http.routers.good.rule=Host(`good.test`)",
            "tidegate.http.routers.bad.rule=Host(`bad.test`)",
            "tidegate.http.routers.bad.prioritty=5",
        ],
    );
    eventually("the good router serves", || get(gateway.web(), "good.test", "/").status == 200);
    assert_eq!(get(gateway.web(), "bad.test", "/").status, 503);
    let report = gateway.api("/api/http/routers/bad@docker");
    assert!(report.contains("prioritty") && report.contains("tidegate-test-"), "{report}");
}

#[test]
#[ignore = "needs a Docker Engine"]
fn the_compose_file_comes_up_scales_and_stops() {
    let project = format!("tidegatetest{}", std::process::id());
    let port = crate::support::backend::unused_address().port();
    let api = crate::support::backend::unused_address().port();
    let compose = |arguments: &[&str]| {
        run(compose_command()
            .args([
                "--project-name",
                &project,
                "--file",
                concat!(env!("CARGO_MANIFEST_DIR"), "/docker-compose.yml"),
            ])
            .args(arguments)
            .env("WEB_PORT", port.to_string())
            .env("API_PORT", api.to_string()))
    };
    struct Down<F: Fn()>(F);
    impl<F: Fn()> Drop for Down<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    compose(&["up", "-d"]);
    let _down = Down(|| {
        compose(&["down", "--timeout", "5"]);
    });
    let address = ([127, 0, 0, 1], port).into();
    let status = |host: &str, path: &str| {
        raw(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
            .map_or(0, |a| a.status)
    };
    let names = || {
        let answers = (0..12).map(|_| get(address, "whoami.localhost", "/").text());
        let names: std::collections::BTreeSet<String> = answers
            .filter_map(|text| text.lines().find(|l| l.starts_with("Name:")).map(str::to_owned))
            .collect();
        names.len()
    };
    eventually("whoami is served", || status("whoami.localhost", "/") == 200);
    eventually("shop is served", || status("shop.localhost", "/api/x") == 200);
    let load = Load::on(address, "whoami.localhost", 2);
    compose(&["up", "-d", "--scale", "whoami=3"]);
    eventually("three containers answer", || names() == 3);
    load.pass(100);
    compose(&["up", "-d", "--scale", "whoami=1"]);
    eventually("one container answers", || names() == 1);
    load.pass(100);
    compose(&["stop", "shop"]);
    eventually("shop is gone", || status("shop.localhost", "/api/x") == 404);
    let done = load.finish();
    eprintln!("{done} requests while scaling, none failed");
}
