//! Problems name the label, tag or key that contains the mistake, with a real Consul and Docker Engine.

use std::process::Command;

use crate::problem_locations::wait_for_problem;
use crate::programs::consul::catalog;
use crate::programs::docker::run;
use crate::support::outside::Consul;
use crate::support::{Backend, Gateway, eventually};

/// The labels of a router with a mistake in each of its options, and of a middleware and a service.
const MISTAKES: [(&str, &str); 7] = [
    ("http.routers.r.entrypoints", "web,gone"),
    ("http.routers.r.rule", "Host(`a`"),
    ("http.routers.r.middlewares", "list,missing"),
    ("http.routers.r.service", "nobody"),
    ("http.middlewares.list.ipallowlist.rejectstatuscode", "403"),
    ("http.middlewares.list.ipallowlist.sourcerange", "10.0.0.0/8,10.0.0.x"),
    ("http.services.s.loadbalancer.server.port", "0x50"),
];

/// What is said about the mistakes, and in which of them.
const TOLD: [(&str, &str, usize); 6] = [
    ("r", "entryPoint \"gone\" doesn't exist", 0),
    ("r", "invalid rule", 1),
    ("r", "middleware \"missing@", 2),
    ("r", "the service \"nobody@", 3),
    ("list", "10.0.0.x", 5),
    ("s", "0x50", 6),
];

#[test]
#[ignore = "needs consul"]
fn problems_in_consul_name_the_tag_or_key() {
    let consul = Consul::start("").ready();
    let backend = Backend::echo("a");
    let tags: Vec<String> = MISTAKES.iter().map(|(key, value)| format!("traefik.{key}={value}")).collect();
    let tags: Vec<&str> =
        ["traefik.enable=true"].into_iter().chain(tags.iter().map(String::as_str)).collect();
    consul.register("web", "web1", backend.address, &tags);
    let gateway = catalog(&consul, &[], "");
    for (name, part, place) in TOLD {
        wait_for_problem(&gateway, name, &format!("tag traefik.{}", MISTAKES[place].0), part);
    }
    for (key, value) in MISTAKES.iter().filter(|(key, _)| !key.contains(".server.")) {
        consul.put(&format!("/v1/kv/traefik/{}", key.replace('.', "/")), value);
    }
    let endpoint = format!("--providers.consul.endpoints={}", consul.address);
    let gateway = Gateway::with(&[&endpoint], "");
    for (name, part, place) in TOLD.into_iter().filter(|(name, ..)| *name != "s") {
        wait_for_problem(
            &gateway,
            name,
            &format!("key traefik/{}", MISTAKES[place].0.replace('.', "/")),
            part,
        );
    }
}

/// A container of an image without any port, removed when dropped.
struct Bare(String);

impl Bare {
    /// Starts one of a static busybox that waits.
    fn start(name: &str, arguments: &[&str]) -> Self {
        let image = format!("tidegate-test-bare-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy("/bin/busybox", folder.path().join("busybox")).unwrap();
        let text = "FROM scratch\nCOPY busybox /busybox\nENTRYPOINT [\"/busybox\", \"sleep\", \"600\"]\n";
        std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
        run(Command::new("docker").args(["build", "--quiet", "--tag", &image]).arg(folder.path()));
        let name = format!("tidegate-test-{}-{name}", std::process::id());
        let mut command = Command::new("docker");
        command.args(["run", "--detach", "--init=false", "--name", &name]).args(arguments).arg(&image);
        run(&mut command);
        Self(name)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", &self.0]).output();
    }
}

#[test]
#[ignore = "needs a Docker Engine and a static busybox"]
fn problems_of_containers_name_the_label() {
    let gateway = Gateway::with(
        &["--providers.docker=true", "--providers.docker.constraints=Label(`test`, `places`)"],
        "",
    );
    let labels: Vec<String> =
        MISTAKES.iter().map(|(key, value)| format!("--label=traefik.{key}={value}")).collect();
    let labels: Vec<&str> =
        ["--label=test=places"].into_iter().chain(labels.iter().map(String::as_str)).collect();
    let _container = Bare::start("places", &labels);
    for (name, part, place) in TOLD {
        wait_for_problem(&gateway, name, &format!("places, label traefik.{}", MISTAKES[place].0), part);
    }
    // A port that nobody names is missing at no label.
    let lacking = ["--label=test=places", "--label=traefik.http.routers.lacking.rule=Host(`x`)"];
    let lacking = Bare::start("lacking", &lacking);
    wait_for_problem(&gateway, &lacking.0, "lacking", "port is missing");
}

#[test]
#[ignore = "needs a Docker Engine and a static busybox"]
fn containers_without_labels_are_not_reported() {
    let gateway = Gateway::with(&["--providers.docker=true"], "");
    let quiet = Bare::start("quiet", &[]);
    let asked = Bare::start("asked", &["--label=traefik.enable=true"]);
    eventually("the container that asked is reported", || {
        gateway.problems().iter().any(|one| one.contains(&asked.0) && one.contains("port is missing"))
    });
    let mentioned = |name: &str| {
        gateway.problems().iter().any(|one| one.contains(name))
            || gateway.api("/api/http/routers").contains(name)
    };
    assert!(!mentioned(&quiet.0), "{:?}", gateway.problems());
}

#[test]
#[ignore = "needs a Docker Engine and a static busybox"]
fn a_shared_network_may_be_restarted_without_noise() {
    let flags = [
        "--providers.docker=true",
        "--providers.docker.network=bridge",
        "--providers.docker.constraints=Label(`test`, `shared`)",
    ];
    let gateway = Gateway::with(&flags, "");
    let owner = Bare::start("owner", &["--stop-timeout=1"]);
    let network = format!("--network=container:{}", owner.0);
    let labels = ["--label=test=shared", "--label=traefik.http.services.guest.loadbalancer.server.port=80"];
    let guest = Bare::start("guest", &[&network, labels[0], labels[1]]);
    let served = || gateway.api("/api/http/services/guest@docker").contains("http://1");
    eventually("the guest has a server", served);
    let restart = {
        let name = owner.0.clone();
        std::thread::spawn(move || run(Command::new("docker").args(["restart", &name])))
    };
    let mut gone = false;
    while !restart.is_finished() || !served() {
        gone |= !served();
        let shown = gateway.problems();
        assert!(!shown.iter().any(|one| one.contains(&guest.0)), "{shown:?}");
    }
    restart.join().unwrap();
    assert!(gone, "no request goes to a network that is being restarted");
}
