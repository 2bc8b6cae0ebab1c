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

/// An image with nothing but a shell, made from the machine's own static busybox.
fn image() -> String {
    let name = "tidegate-test:busybox".to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy("/bin/busybox", folder.path().join("sh")).expect("a static /bin/busybox");
    let tar = folder.path().join("image.tar");
    let files = folder.path().display().to_string();
    let packed = Command::new("tar")
        .args(["-C", &files, "--transform", "s,^sh,bin/sh,", "-cf", &tar.display().to_string(), "sh"])
        .status();
    assert!(packed.expect("tar runs").success());
    run(&["import", "-c", "EXPOSE 8080", &tar.display().to_string(), &name]);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Docker Engine"]
async fn a_real_engine() {
    let image = image();
    let name = format!("tidegate-test-{}", std::process::id());
    let endpoint = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let options = docker::Options {
        endpoint,
        constraints: format!("Label(`tidegate.test`,`{name}`)"),
        ..docker::Options::default()
    };
    let (sender, mut updates) = mpsc::channel(64);
    let _handle = start("docker", Arc::new(docker::build(options).expect("valid options")), sender);
    assert!(updates.recv().await.expect("a first update").ready);

    let mark = format!("tidegate.test={name}");
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
