//! The Docker provider against a real engine: `DOCKER_HOST`, or the usual socket.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_config::Provided;
use tidegate_providers::{Update, docker, start};
use tokio::sync::mpsc;

/// Runs a command of the Docker client and gives its output.
fn run(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("the docker client runs");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.0]).output();
    }
}

/// An image with nothing but a shell, made from the machine's own static busybox; it may expose a port.
fn image(tag: &str, port: Option<&str>) -> String {
    let name = format!("tidegate-test:{tag}");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy("/bin/busybox", folder.path().join("sh")).expect("a static /bin/busybox");
    let tar = folder.path().join("image.tar");
    let files = folder.path().display().to_string();
    let packed = Command::new("tar")
        .args(["-C", &files, "--transform", "s,^sh,bin/sh,", "-cf", &tar.display().to_string(), "sh"])
        .status();
    assert!(packed.expect("tar runs").success());
    let tar = tar.display().to_string();
    let expose = port.map(|port| format!("EXPOSE {port}"));
    let change = expose.iter().flat_map(|expose| ["-c", expose.as_str()]);
    run(&["import"].into_iter().chain(change).chain([tar.as_str(), &name]).collect::<Vec<_>>());
    name
}

fn servers(state: &Provided, service: &str) -> usize {
    let balancer = state.config.http.services.get(service).and_then(|service| service.load_balancer.as_ref());
    balancer.map_or(0, |balancer| balancer.servers.len())
}

async fn until(updates: &mut mpsc::Receiver<Update>, wanted: impl Fn(&Provided) -> bool) -> Arc<Provided> {
    let search = async {
        loop {
            let state = updates.recv().await.expect("an update").state;
            if wanted(&state) {
                return state;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), search).await.expect("in time")
}

/// Follows the containers that are marked with this name, in this network.
fn follow(mark: &str, network: &str) -> (mpsc::Receiver<Update>, tidegate_providers::Handle) {
    let endpoint = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let options = docker::Options {
        endpoint,
        constraints: format!("Label(`test`,`{mark}`)"),
        network: network.into(),
        ..docker::Options::default()
    };
    let (sender, updates) = mpsc::channel(64);
    let docker = Arc::new(docker::build(options).expect("valid options"));
    (updates, start("docker", docker, sender))
}

/// Starts a container that waits.
fn waiting(name: &str, mark: &str, image: &str, arguments: &[&str]) -> Container {
    let mark = format!("test={mark}");
    let mut all = vec!["run", "--detach", "--stop-timeout", "1", "--name", name, "--label", &mark];
    all.extend(arguments);
    all.extend([image, "/bin/sh", "-c", "while :; do sleep 1; done"]);
    let container = Container(name.to_owned());
    run(&all);
    container
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Docker Engine"]
async fn a_container_that_nobody_asked_for_is_not_a_mistake() {
    let image = image("portless", None);
    let name = format!("tidegate-test-portless-{}", std::process::id());
    let (mut updates, _handle) = follow(&name, "");
    let (quiet, asked) = (format!("{name}-quiet"), format!("{name}-asked"));
    let _quiet = waiting(&quiet, &name, &image, &[]);
    let _asked = waiting(&asked, &name, &image, &["--label", "traefik.enable=true"]);
    let state = until(&mut updates, |state| !state.problems.is_empty()).await;
    assert_eq!(state.problems.len(), 1, "{:?}", state.problems);
    let shown = state.problems[0].to_string();
    assert!(shown.contains(&asked) && shown.contains("port is missing"), "{shown}");
    assert_eq!(state.config.http.routers.keys().collect::<Vec<_>>(), [&asked]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Docker Engine"]
async fn a_shared_network_is_restarted_without_noise() {
    let image = image("busybox", Some("8080"));
    let name = format!("tidegate-test-shared-{}", std::process::id());
    let (mut updates, _handle) = follow(&name, "bridge");
    let (owner, guest) = (format!("{name}-owner"), format!("{name}-guest"));
    let _owner = waiting(&owner, "nobody", &image, &[]);
    let network = format!("container:{owner}");
    let _guest = waiting(&guest, &name, &image, &["--network", &network, "--label", "traefik.enable=true"]);
    until(&mut updates, |state| servers(state, &guest) == 1).await;
    let restart = tokio::task::spawn_blocking(move || run(&["restart", &owner]));
    for wanted in [0, 1] {
        until(&mut updates, |state| {
            assert_eq!(state.problems, []);
            servers(state, &guest) == wanted
        })
        .await;
    }
    restart.await.expect("restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Docker Engine"]
async fn a_real_engine() {
    let image = image("busybox", Some("8080"));
    let name = format!("tidegate-test-{}", std::process::id());
    let (mut updates, _handle) = follow(&name, "");
    assert!(updates.recv().await.expect("a first update").ready);

    let mark = format!("test={name}");
    let rule = "traefik.http.routers.r.rule=Host(`engine.test`)";
    // The shell ignores the signal for three seconds: the server must be gone long before it is.
    let script = "trap 'sleep 3; exit 0' TERM; while :; do sleep 1; done";
    let container = Container(name.clone());
    run(&["create", "--name", &name, "-l", &mark, "-l", rule, &image, "/bin/sh", "-c", script]);
    run(&["start", &name]);
    let started = Instant::now();
    let state = until(&mut updates, |state| servers(state, &name) == 1).await;
    eprintln!("live {:?} after the start", started.elapsed());
    let router = &state.config.http.routers["r"];
    assert_eq!((router.rule.as_str(), router.service.as_str()), ("Host(`engine.test`)", name.as_str()));

    let stopping = name.clone();
    let stop = tokio::task::spawn_blocking(move || run(&["stop", "-t", "10", &stopping]));
    let state = until(&mut updates, |state| servers(state, &name) == 0).await;
    assert!(state.config.http.routers.contains_key("r"), "the route stays while it stops");
    assert!(!stop.is_finished(), "the server went before the container did");
    until(&mut updates, |state| !state.config.http.routers.contains_key("r")).await;
    stop.await.expect("stopped");
    run(&["start", &name]);
    until(&mut updates, |state| servers(state, &name) == 1).await;
    drop(container);
    until(&mut updates, |state| state.config.http.routers.is_empty()).await;
}
