//! Services of a real swarm of one node, with our own image (`scripts/image.sh`).

use std::fs::File;
use std::process::Command;
use std::time::Instant;

use crate::support::backend::unused_address;
use crate::support::outside::engine;
use crate::support::{Gateway, eventually, get, wait_until};

/// A swarm of this node alone; one that was there before is used, and left as it is.
struct Swarm {
    ours: bool,
    _engine: File,
}

impl Swarm {
    fn join() -> Self {
        let engine = engine(true);
        let active = run(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).trim() == "active";
        if !active {
            let listen = unused_address().to_string();
            run(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", &listen]);
        }
        Self { ours: !active, _engine: engine }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        if self.ours {
            let _ = Command::new("docker").args(["swarm", "leave", "--force"]).output();
        }
    }
}

/// A network across the swarm, which is removed when dropped.
struct Network(String);

impl Network {
    fn create() -> Self {
        let name = format!("tidegate-test-{}", std::process::id());
        run(&["network", "create", "--driver", "overlay", &name]);
        Self(name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Tasks that are about to end are still in it.
        wait_until(std::time::Duration::from_secs(10), || {
            let removed = Command::new("docker").args(["network", "rm", &self.0]).output();
            removed.is_ok_and(|output| output.status.success())
        });
    }
}

/// A service that is removed when dropped.
struct Service(String);

impl Service {
    /// A demo backend that is published on the node, so that the tests can reach it from outside its network.
    fn create(name: &str, host: &str, network: &Network) -> Self {
        let name = format!("tidegate-test-{}-{name}", std::process::id());
        let rule = format!("traefik.http.routers.{name}.rule=Host(`{host}`)");
        let port = format!("traefik.http.services.{name}.loadbalancer.server.port=80");
        let published = format!("mode=host,target=80,published={}", unused_address().port());
        let labels = ["--label", "traefik.enable=true", "--label", &rule, "--label", &port];
        let image = ["tidegate:dev", "demo", "backend", "--address=:80", "--name", &name];
        let head = ["service", "create", "--quiet", "--detach", "--name", &name];
        let place = ["--publish", &published, "--network", &network.0];
        run(&[&head[..], &place, &labels, &image].concat());
        Self(name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["service", "rm", &self.0]).output();
    }
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "needs a Docker Engine"]
fn services_of_a_swarm_are_served_and_followed() {
    let _swarm = Swarm::join();
    let network = Network::create();
    let endpoint = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let gateway = Gateway::with(
        &[
            &format!("--providers.swarm.endpoint={endpoint}"),
            "--providers.swarm.exposedByDefault=false",
            "--providers.swarm.useBindPortIP=true",
        ],
        "",
    );
    let begun = Instant::now();
    let one = Service::create("one", "one.test", &network);
    eventually("the service is served", || get(gateway.web(), "one.test", "/").status == 200);
    eprintln!("served {:?} after it was asked for", begun.elapsed());
    let label = format!("traefik.http.routers.{}.rule=Host(`other.test`)", one.0);
    run(&["service", "update", "--quiet", "--detach", "--label-add", &label, &one.0]);
    eventually("the new label counts", || get(gateway.web(), "other.test", "/").status == 200);
    run(&["service", "scale", "--detach", &format!("{}=0", one.0)]);
    eventually("without tasks there is no route", || get(gateway.web(), "other.test", "/").status == 404);
    assert!(gateway.api("/api/overview").contains("\"Swarm\""));
}
